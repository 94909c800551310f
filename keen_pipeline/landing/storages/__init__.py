"""The storages that a destination can lie on: one protocol (`storage.Storage`), one small adapter for each.

A file appears whole or not at all; what isn't published is dropped; memory and waits are bounded. smart_open opens bytes wherever
it can hold that, and the services' own clients, which it brings along, do the rest. By the code of smart_open 9.0, and as measured:

- **Reading from S3: smart_open**, pinned to the version that was found when the file was opened (`IfMatch`). Unpinned, its readers
  go on in the newer object when one is replaced meanwhile.
- **Reading from Google and Azure: their own clients**, range by range. Of Google's objects smart_open follows the media link, in
  which no version can be named: against fake-gcs-server it went on in the newer object. Its Azure reader asks for the same ranges.
- **Writing an object of S3 in one request: smart_open** (`multipart_upload=False`). It sends when it is closed, and nothing before.
- **Large objects of S3: boto3.** `MultipartWriter` sends its last part and completes the upload in one call, so that a claim can't
  be proven between the two. If its abort fails, the upload stays open, and the garbage collector closes, that is completes, it:
  with the network away for the abort, 6 of 6 MiB of a failed landing appeared a moment later. It has one size of part, so it ends
  at 10,000 parts.
- **Writing to Google: its own client.** If cancelling fails, the garbage collector completes the upload of `BlobWriter` with what
  had come: 2.1 MB of a failed landing appeared likewise.
- **Writing to Azure: its own client.** smart_open numbers blocks 1, 2, 3 for every writer, so that two writers of a blob mix.
- **SFTP: paramiko.** smart_open takes any host key that it hasn't seen, waits for a channel without limit, and writes in place.
- **Local files: Python.** smart_open's opener is `io.open`, and importing it takes 0.6 s.
"""
