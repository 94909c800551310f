"""The storages that a destination can lie on: one protocol (`storage.Storage`), one small adapter for each.

A file appears whole or not at all; what isn't published is dropped; memory and waits are bounded. smart_open opens objects of S3;
the services' own clients, which it brings along, do what it can't hold. By the code of smart_open 9.0, and as measured:

- **Reading**: its readers go on in the newer object when one is replaced meanwhile. On S3 they can be pinned (`IfMatch`); of
  Google's objects it follows the media link, in which no version can be named; on Azure it asks for the ranges that we ask for.
- **Large objects**: a claim can't be proven between the last part and the completion, which are one call on S3; after a failed
  abort or cancel the garbage collector completes the upload (6 of 6 MiB of a failed landing appeared on S3 a moment later,
  2.1 MB on Google); on Azure it numbers the blocks of every writer alike, so that two writers of a blob mix.
- **SFTP**: it takes any host key that it hasn't seen, waits for a channel without limit, and writes in place.
- **Local files**: its opener is `io.open`, and importing it takes 0.6 s.
"""
