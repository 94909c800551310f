"""One object's way to S3: small ones in one request, large ones in parts that leave while the rest is still coming.

smart_open's own writer sends one part at a time and holds up the caller meanwhile; here parts are read again from the staged file
by two threads, so that a download goes on beside them, and nothing but `complete` makes the object appear.
"""

from __future__ import annotations

import io
import os
from collections.abc import Callable, Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

PART_BYTES = 8 * 1024 * 1024
"""Of a multipart upload, held in memory while it is sent; S3 allows 10,000 parts, so that a file may have 80 GB."""
PARTS_AT_ONCE = 2


class S3Upload:
    """The object `key` of `bucket`, from bytes that `read(offset, length)` gives. Used by one thread at a time."""

    def __init__(self, client: Any, bucket: str, key: str, read: Callable[[int, int], bytes]) -> None:
        self._client = client
        self._place = {"Bucket": bucket, "Key": key}
        self._read = read
        self._upload: dict[str, str] = {}
        self._parts: list[Future[dict[str, Any]]] = []
        self._threads: ThreadPoolExecutor | None = None

    def grow(self, size: int) -> None:
        """`size` bytes can be read by now: send every part that is whole and not the last. Raises what an earlier part raised."""
        while size > (len(self._parts) + 1) * PART_BYTES:
            _raise_failed(self._parts)
            self._send(PART_BYTES)

    def complete(self, size: int) -> None:
        """The object has `size` bytes: send the rest and make it appear. After an exception it has not appeared."""
        try:
            if size <= PART_BYTES:
                self._client.put_object(**self._place, Body=self._exactly(0, size))
                return
            self.grow(size)
            self._send(size - len(self._parts) * PART_BYTES)
            parts = [part.result() for part in self._parts]
            self._client.complete_multipart_upload(**self._upload, MultipartUpload={"Parts": parts})
        except BaseException:
            self.abort()
            raise
        self._end()

    def abort(self) -> None:
        """Forget what was sent; nothing where nothing was."""
        upload = self._upload
        self._end()
        if upload:
            self._client.abort_multipart_upload(**upload)

    def _end(self) -> None:
        if self._threads is not None:
            # A part that arrives after the abort would stay for ever: wait for those under way.
            self._threads.shutdown(wait=True, cancel_futures=True)
        self._threads, self._upload, self._parts = None, {}, []

    def _send(self, length: int) -> None:
        if self._threads is None:
            self._threads = ThreadPoolExecutor(PARTS_AT_ONCE, thread_name_prefix="landing-part")
            self._upload = {**self._place, "UploadId": self._client.create_multipart_upload(**self._place)["UploadId"]}
        number = len(self._parts)
        self._parts.append(self._threads.submit(self._part, number, length))

    def _part(self, number: int, length: int) -> dict[str, Any]:
        body = self._exactly(number * PART_BYTES, length)
        answer = self._client.upload_part(**self._upload, PartNumber=number + 1, Body=body)
        checks = {name: value for name, value in answer.items() if name.startswith("Checksum") and name != "ChecksumType"}
        return {"PartNumber": number + 1, "ETag": answer["ETag"], **checks}

    def _exactly(self, offset: int, length: int) -> bytes:
        data = self._read(offset, length)
        if len(data) != length:
            raise OSError(5, f"the staged file has {len(data)} of {length} bytes at {offset}")
        return data


class UploadingStage(io.FileIO):
    """A staged file whose parts are uploaded as it grows. Writing at its end and beginning anew are all it is used for."""

    def __init__(self, descriptor: int, upload: S3Upload) -> None:
        super().__init__(descriptor, "r+")
        self._uploading = upload

    def write(self, data: Any) -> int:
        """As a file does; whole parts leave from here, and what one of them raised is raised here."""
        written = super().write(data)
        self._uploading.grow(self.tell())
        return written

    def truncate(self, size: int | None = None) -> int:
        """As a file does; what was uploaded is dropped."""
        self._uploading.abort()
        return super().truncate(size)

    def complete(self) -> None:
        """Make the object appear."""
        self._uploading.complete(self.seek(0, os.SEEK_END))

    def abort(self) -> None:
        """Drop what was uploaded."""
        self._uploading.abort()


def _raise_failed(parts: Iterable[Future[dict[str, Any]]]) -> None:
    for part in parts:
        if part.done():
            part.result()
