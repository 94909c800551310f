"""What the storages behind a network have in common: a landing's bytes are staged here, and leave when they are proven.

smart_open's own writers are gone round: on some of them an exception, or no more than the garbage collector, completes half a
file, and two landings of one Azure blob would mix their blocks. Its readers are used where they read one version of a file.
"""

from __future__ import annotations

import io
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from typing import BinaryIO, cast


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

    def readinto(self, buffer: object) -> int:
        """As of a file."""
        view = memoryview(buffer).cast("B")  # type: ignore[arg-type]
        data = os.pread(self._descriptor, len(view), self._position)
        view[: len(data)] = data
        self._position += len(data)
        return len(data)


def split(uri: str) -> tuple[str, str]:
    """Bucket (container) and key of an object's URI."""
    bucket, _, key = uri.partition("://")[2].partition("/")
    return bucket, key
