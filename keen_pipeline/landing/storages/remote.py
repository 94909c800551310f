"""What the storages behind a network have in common: a landing's bytes are staged here, and leave when they are proven."""

from __future__ import annotations

import io
import os
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, BinaryIO, cast

from keen_pipeline.errors import InvalidInputError
from keen_pipeline.landing.storages.errors import for_a_person, of_temporary_folder, short, unreadable

READ_BYTES = 4 * 1024 * 1024
"""Of an object, held in memory while it is read."""
_WHOLE_PIECE_BYTES = 16 * 1024 * 1024
"""A part of an upload up to this size is held in memory while it is sent; a longer one is read from the disk as it leaves."""


class TemporaryStage(io.FileIO):
    """A staged file in this machine's temporary folder, which is named when it can't be written."""

    def __init__(self, descriptor: int) -> None:
        super().__init__(descriptor, "r+", closefd=False)

    def write(self, data: Any) -> int:
        """As a file does. Raises ConfigurationError when the temporary folder is full."""
        with of_temporary_folder():
            return super().write(data)

    def truncate(self, size: int | None = None) -> int:
        """As a file does."""
        with of_temporary_folder():
            return super().truncate(size)


@contextmanager
def temporary_file() -> Iterator[int]:
    """The descriptor of an empty file without a name in this machine's temporary folder; a crash takes it with it."""
    with of_temporary_folder():
        file = tempfile.TemporaryFile(buffering=0)  # noqa: SIM115 - its errors are told, its user's are not
    with file:
        yield file.fileno()


@contextmanager
def local_stage() -> Iterator[BinaryIO]:
    """An empty file for the bytes of one landing."""
    with temporary_file() as descriptor, TemporaryStage(descriptor) as stage:
        yield cast("BinaryIO", stage)


class StagedReader(io.RawIOBase):
    """Reads `length` bytes of a staged file from `start` on, whatever its own position; the file stays open.

    `at_end` is called whenever the last byte is about to be given.
    """

    def __init__(self, descriptor: int, start: int, length: int, at_end: Callable[[], None] | None = None) -> None:
        self._descriptor, self._start, self.size, self._at_end = descriptor, start, length, at_end
        self._position = 0

    def __len__(self) -> int:
        return self.size

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

    def read(self, size: int | None = -1) -> bytes:
        """As of a file; fewer than `size` bytes only at the end."""
        left = max(self.size - self._position, 0)
        data = exactly(self._descriptor, self._start + self._position, left if size is None or size < 0 else min(size, left))
        self._position += len(data)
        if data and self._position >= self.size and self._at_end is not None:
            self._at_end()
        return data

    def readinto(self, buffer: Any) -> int:
        """As of a file."""
        view = memoryview(buffer).cast("B")
        data = self.read(len(view))
        view[: len(data)] = data
        return len(data)


def exactly(descriptor: int, offset: int, length: int) -> bytes:
    """So many bytes of a staged file, whatever its position. Raises ServiceUnavailableError when it is shorter than it was."""
    pieces, missing = [], length
    with of_temporary_folder():
        while missing and (piece := os.pread(descriptor, missing, offset)):  # one read may give less than was asked for
            pieces.append(piece)
            offset, missing = offset + len(piece), missing - len(piece)
        if missing:
            raise OSError(5, "a staged file is shorter than it was")
    return pieces[0] if len(pieces) == 1 else b"".join(pieces)


def part_of(descriptor: int, offset: int, length: int) -> bytes | StagedReader:
    """One part of an upload as a client takes it: in memory, or a reader of it when it is long."""
    if length <= _WHOLE_PIECE_BYTES:
        return exactly(descriptor, offset, length)
    return StagedReader(descriptor, offset, length)


class RemoteReader(io.RawIOBase):
    """A file behind a network; `failures` are its client's errors, `end` closes what was opened for it.

    What fails is raised as TransferError: the file may be read again from its beginning.
    """

    def __init__(self, uri: str, file: Any, failures: tuple[type[Exception], ...], end: Callable[[], None]) -> None:
        self._uri, self._file, self._failures, self._end = uri, file, failures, end

    def readable(self) -> bool:
        """It is."""
        return True

    def seekable(self) -> bool:
        """It is: Parquet is read from its end."""
        return True

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        """As of a file."""
        try:
            self._file.seek(offset, whence)
            return int(self._file.tell())
        except self._failures as error:
            raise unreadable(self._uri, error) from None

    def tell(self) -> int:
        """As of a file."""
        return int(self._file.tell())

    def readinto(self, buffer: Any) -> int:
        """As of a file."""
        view = memoryview(buffer).cast("B")
        try:
            data = self._file.read(len(view))
        except self._failures as error:
            raise unreadable(self._uri, error) from None
        view[: len(data)] = data
        return len(data)

    def close(self) -> None:
        """Close what was opened for it."""
        if not self.closed:
            self._end()
        super().close()


def reader_of(uri: str, file: Any, failures: tuple[type[Exception], ...]) -> BinaryIO:
    """A buffered reader of an opened file, which closes it."""
    return cast("BinaryIO", io.BufferedReader(RemoteReader(uri, file, failures, file.close), READ_BYTES))


def split(uri: str) -> tuple[str, str]:
    """Bucket (container) and key of an object's URI."""
    bucket, _, key = uri.partition("://")[2].partition("/")
    return bucket, key


def check_inside(root: str, uri: str) -> None:
    """Raises InvalidInputError for what doesn't lie below the root; `..` leads out of it."""
    if not uri.startswith(root.rstrip("/") + "/") or ".." in uri.removeprefix(root).split("/"):
        raise InvalidInputError(f"{short(uri)} does not lie under {short(root)}", field="uri")


def check_size(target: str, size: int, largest: int) -> None:
    """Raises ConfigurationError before anything is sent when the service takes no file of so many bytes."""
    if size > largest:
        raise for_a_person(
            target,
            f"a file of {size:,} bytes is larger than the {largest:,} that the service takes",
            "Land it compressed (csv.gz, csv.zst, parquet) or by shorter partitions.",
        )
