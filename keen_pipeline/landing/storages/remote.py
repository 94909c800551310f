"""What the storages behind a network have in common: a landing's bytes are staged here, and leave when they are proven.

smart_open serves S3 alone. Its writers complete half a file where an upload's end can't be told, by the garbage collector, and two
of them on one Azure blob mix their blocks; its readers of Google's and Azure's objects go on in a newer version where they began
in an older one; its SFTP takes any host key. Here the services' own clients are used, each with what makes that impossible.
"""

from __future__ import annotations

import io
import os
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, BinaryIO, cast

from keen_pipeline.errors import TransferError


@contextmanager
def local_stage() -> Iterator[BinaryIO]:
    """An empty file without a name in this machine's temporary folder, which a crash takes with it."""
    with tempfile.TemporaryFile(buffering=0) as file:
        yield cast("BinaryIO", file)


class StagedReader(io.RawIOBase):
    """Reads a staged file from its beginning, whatever its own position; the file stays open."""

    def __init__(self, stage: BinaryIO) -> None:
        self._descriptor = stage.fileno()
        self._position = 0
        self.size = os.fstat(self._descriptor).st_size

    def readable(self) -> bool:
        """It is."""
        return True

    def seekable(self) -> bool:
        """It is, so that a client can send a piece again."""
        return True

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        """As of a file."""
        start = {os.SEEK_SET: 0, os.SEEK_CUR: self._position, os.SEEK_END: self.size}[whence]
        self._position = start + offset
        return self._position

    def tell(self) -> int:
        """As of a file."""
        return self._position

    def readinto(self, buffer: Any) -> int:
        """As of a file."""
        view = memoryview(buffer).cast("B")
        data = os.pread(self._descriptor, len(view), self._position)
        view[: len(data)] = data
        self._position += len(data)
        return len(data)


class RemoteReader(io.RawIOBase):
    """A file behind a network, by its `read(length)`; `failures` are the client's errors, `end` closes what was opened for it.

    What fails is raised as TransferError: the file may be read again from its beginning.
    """

    def __init__(
        self, uri: str, read: Callable[[int], bytes], failures: tuple[type[Exception], ...], end: Callable[[], None] | None = None
    ) -> None:
        self._uri, self._read, self._failures, self._end = uri, read, failures, end

    def readable(self) -> bool:
        """It is."""
        return True

    def readinto(self, buffer: Any) -> int:
        """As of a file."""
        view = memoryview(buffer).cast("B")
        try:
            data = self._read(len(view))
        except self._failures as error:
            kind = type(error).__name__
            raise TransferError(f"{self._uri}: reading it failed ({kind}), or it was replaced meanwhile") from None
        view[: len(data)] = data
        return len(data)

    def close(self) -> None:
        """Close what was opened for it."""
        if not self.closed and self._end is not None:
            self._end()
        super().close()


def split(uri: str) -> tuple[str, str]:
    """Bucket (container) and key of an object's URI."""
    bucket, _, key = uri.partition("://")[2].partition("/")
    return bucket, key


def reader_of(descriptor: int) -> Callable[[int, int], bytes]:
    """`read(offset, length)` of an open file, whatever its position."""

    def read(offset: int, length: int) -> bytes:
        pieces = []
        while length and (piece := os.pread(descriptor, length, offset)):  # one read may give less than was asked for
            pieces.append(piece)
            offset, length = offset + len(piece), length - len(piece)
        return pieces[0] if len(pieces) == 1 else b"".join(pieces)

    return read
