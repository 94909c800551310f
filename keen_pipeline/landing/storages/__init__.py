"""The storages that a destination can lie on: one protocol (`storage.Storage`), one small adapter for each.

A file appears whole or not at all; what isn't published is dropped; memory and waits are bounded. smart_open opens bytes wherever
it can hold that, and the services' own clients, which it brings along, do the rest. By the code of smart_open 9.0, and as measured:

- **Reading from S3, Google and Azure: smart_open**, pinned to the version that was found when the file was opened (`IfMatch`,
  `generation`, ETag). Unpinned, each of its readers goes on in the newer object when one is replaced meanwhile.
- **Writing an object of S3 in one request: smart_open** (`multipart_upload=False`). It sends when it is closed, and nothing before.
- **Large objects of S3: boto3.** `MultipartWriter` sends its last part and completes the upload in one call, so that a claim can't
  be proven between the two; when a call fails its upload stays open, and the garbage collector closes, that is completes, it later:
  half a file. One size of part ends at 10,000 parts. It also sends one part at a time while the caller waits.
- **Writing to Google: its own client.** When a call of `BlobWriter` fails and cancelling fails too, the garbage collector completes
  the upload with what had come: half a file.
- **Writing to Azure: its own client.** smart_open numbers blocks 1, 2, 3 for every writer, so that two writers of a blob mix.
- **SFTP: paramiko.** smart_open takes any host key that it hasn't seen, waits for a channel without limit, and writes in place.
- **Local files: Python.** smart_open's opener is `io.open`, and importing it takes 0.6 s.
"""
