"""A large object's way to S3, in parts that leave while the rest is still coming.

Parts are read again from the staged file by two threads, so that a download goes on beside them, and nothing but `complete` makes
the object appear.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import AbstractContextManager
from typing import Any

from botocore import exceptions  # type: ignore[import-untyped]

from keen_pipeline.landing.storages.remote import check_size, part_of
from keen_pipeline.landing.storages.storage import Fence, no_fence
from keen_pipeline.landing.transfer.direct import TemporaryFile

PART_BYTES = 8 * 1024 * 1024
"""Of a part of an upload, until the object has 10 GB; from there on parts grow."""
GROWTH = 1250
"""A part is at least a so-many-th of what was sent before: S3 allows 10,000 parts, which then hold more than the largest object."""
LARGEST_OBJECT = 5 * 1024**4
"""In bytes: what S3 allows."""
PARTS_AT_ONCE = 2
_MIB = 1024 * 1024
_log = logging.getLogger(__name__)


def part_bytes(sent: int) -> int:
    """The size of the part that follows the first `sent` bytes.

    >>> part_bytes(0) // 2**20, part_bytes(100 * 2**30) // 2**20
    (8, 82)
    """
    return max(PART_BYTES, -(-sent // GROWTH // _MIB) * _MIB)


class S3Upload:
    """The large object at `target` from the staged file `descriptor`. Used by one thread at a time."""

    def __init__(self, client: Any, target: str, place: dict[str, str], descriptor: int) -> None:
        self._client, self.target, self._place = client, target, place
        self._descriptor = descriptor
        self._upload: dict[str, str] = {}
        self._parts: list[Future[dict[str, Any]]] = []
        self._sent = 0
        self._threads: ThreadPoolExecutor | None = None

    def grow(self, size: int) -> None:
        """`size` bytes can be read by now: send every part that is whole and not the last. Raises what an earlier part raised."""
        check_size(self.target, size, LARGEST_OBJECT)
        while size > self._sent + part_bytes(self._sent):
            for part in self._parts:
                if part.done():
                    part.result()
            self._send(part_bytes(self._sent))

    def complete(self, size: int, fence: Fence = no_fence) -> None:
        """The object has `size` bytes: send the rest and make it appear. After an exception it has not appeared."""
        try:
            self.grow(size)
            self._send(size - self._sent)
            parts = [part.result() for part in self._parts]
            fence()
            self._client.complete_multipart_upload(**self._upload, MultipartUpload={"Parts": parts})
        except BaseException:
            self.abort()
            raise
        self._end()

    def abort(self) -> None:
        """Forget what was sent; nothing happens when nothing was. It never hides why: if S3 refuses, `remove_leftovers` follows."""
        upload = self._upload
        self._end()
        if not upload:
            return
        try:
            self._client.abort_multipart_upload(**upload)
        except (exceptions.ClientError, exceptions.BotoCoreError) as error:
            _log.warning("an upload of %s could not be aborted (%s); it is when leftovers are", self.target, type(error).__name__)
        else:
            _log.info("an upload of %s was aborted", self.target)

    def _end(self) -> None:
        if self._threads is not None:
            # A part that arrives after the abort would stay forever: wait for those under way.
            self._threads.shutdown(wait=True, cancel_futures=True)
        self._threads, self._upload, self._parts, self._sent = None, {}, [], 0

    def _send(self, length: int) -> None:
        if self._threads is None:
            self._threads = ThreadPoolExecutor(PARTS_AT_ONCE, thread_name_prefix="landing-part")
            self._upload = {**self._place, "UploadId": self._client.create_multipart_upload(**self._place)["UploadId"]}
        self._parts.append(self._threads.submit(self._part, len(self._parts) + 1, self._sent, length))
        self._sent += length

    def _part(self, number: int, offset: int, length: int) -> dict[str, Any]:
        body = part_of(self._descriptor, offset, length)
        answer = self._client.upload_part(**self._upload, PartNumber=number, Body=body)
        checks = {name: value for name, value in answer.items() if name.startswith("Checksum") and name != "ChecksumType"}
        return {"PartNumber": number, "ETag": answer["ETag"], **checks}


class UploadingStage(TemporaryFile):
    """A staged file whose parts are uploaded as it grows. Writing at its end and beginning again are all it is used for."""

    def __init__(self, upload: Callable[[int], S3Upload], translated: Callable[[], AbstractContextManager[None]]) -> None:
        super().__init__()
        self.upload, self._translated = upload(self.fileno()), translated

    def write(self, data: Any) -> int:
        """Whole parts leave from here, and what one of them raised is raised here."""
        written = super().write(data)
        with self._translated():
            self.upload.grow(self.tell())
        return written

    def truncate(self, size: int | None = None) -> int:
        """What was uploaded is dropped."""
        with self._translated():
            self.upload.abort()
        return super().truncate(size)
