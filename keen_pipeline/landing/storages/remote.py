"""What the storages behind a network have in common: a landing's bytes are staged here, and leave when they are proven."""

from __future__ import annotations

import errno
import io
import os
from abc import abstractmethod
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any, BinaryIO, TypeVar, cast

from keen_pipeline.landing.storages.errors import of_temporary_folder, unreadable
from keen_pipeline.landing.storages.storage import Fence, Storage, no_fence

READ_BYTES = 4 * 1024 * 1024
"""Of an object, held in memory while it is read."""
PART_BYTES = 8 * 1024 * 1024
"""What is longer is sent in parts of at least so many bytes; a multiple of 256 KiB, as Google's protocol asks."""
PARTS_AT_ONCE = 2
Sent = TypeVar("Sent")
Ask = Callable[[int, int], bytes]
"""Reads from one place of a file up to another; may give fewer bytes."""
Failures = tuple[type[Exception], ...]


def exactly(descriptor: int, offset: int, length: int) -> bytes:
    """So many bytes of a staged file, whatever its position. Raises ServiceUnavailableError when it is shorter than it was."""
    with of_temporary_folder():
        data = os.pread(descriptor, length, offset)
        if len(data) < length:
            raise OSError(errno.EIO, "a staged file is shorter than it was")
    return data


def in_parts(stage: BinaryIO, size: int, most: int, send: Callable[[int, bytes], Sent]) -> list[Sent]:
    """What `send(number, part)` answers for each of at most `most` parts of a staged file. Memory: PARTS_AT_ONCE of them."""
    length = max(PART_BYTES, -(-size // most))

    def one(number: int) -> Sent:
        return send(number, exactly(stage.fileno(), number * length, min(length, size - number * length)))

    with ThreadPoolExecutor(PARTS_AT_ONCE, thread_name_prefix="landing-part") as threads:
        return list(threads.map(one, range(-(-size // length))))  # after a failure no further one is begun


class StoredReader(io.RawIOBase):
    """`size` bytes of a file, each time by `ask(start, end)`; `end` closes what was opened for it.

    What fails is raised as TransferError: the file may be read again from its beginning. `failures`: its client's errors.
    """

    def __init__(self, uri: str, size: int, ask: Ask, failures: Failures = (), end: Callable[[], object] = lambda: None) -> None:
        self._uri, self._size, self._ask, self._failures, self._end = uri, size, ask, failures, end
        self._position = 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True  # Parquet is read from its end

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        self._position = max(0, offset + {os.SEEK_SET: 0, os.SEEK_CUR: self._position, os.SEEK_END: self._size}[whence])
        return self._position

    def tell(self) -> int:
        return self._position

    def readinto(self, buffer: Any) -> int:
        view = memoryview(buffer).cast("B")
        start, end = self._position, min(self._position + len(view), self._size)
        try:
            data = self._ask(start, end) if end > start else b""
        except self._failures as error:
            raise unreadable(self._uri, error) from None
        view[: len(data)] = data
        self._position += len(data)
        return len(data)

    def close(self) -> None:
        if not self.closed:
            self._end()
            del self._ask  # and what it reads
        super().close()


def read_at(file: Any, start: int, end: int) -> bytes:
    """Some bytes of an open file, maybe fewer."""
    if file.tell() != start:
        file.seek(start)
    return bytes(file.read(end - start))


def split(uri: str) -> tuple[str, str]:
    """Bucket (container) and key of an object's URI."""
    bucket, _, key = uri.partition("://")[2].partition("/")
    return bucket, key


class ObjectStorage(Storage):
    """The objects of a bucket or container, or of a prefix of it: one appears with the request that completes it."""

    def publish(self, stage: BinaryIO, target: str, *, fence: Fence = no_fence) -> None:
        size = stage.seek(0, os.SEEK_END)
        with self._translated(target):
            if size > PART_BYTES:
                self._send(target, stage, size, fence)
                return
            data = exactly(stage.fileno(), 0, size)
            fence()
            self._put(target, data)

    def write(self, target: str, data: bytes) -> None:
        with self._translated(target):
            self._put(target, data)

    def size(self, target: str) -> int | None:
        with self._translated(target):
            found = self._found(target)
        return None if found is None else found[0]

    def open(self, target: str) -> BinaryIO:
        with self._translated(target):
            found = self._found(target)
            ask = None if found is None else self._reader(target, found[1])
        if found is None or ask is None:
            raise FileNotFoundError(target)
        return cast("BinaryIO", io.BufferedReader(StoredReader(target, found[0], ask, self._failures), READ_BYTES))

    def remove(self, target: str) -> None:
        with self._translated(target):
            self._delete(target)

    def files(self, folder: str) -> Iterator[tuple[str, int]]:
        scheme = folder.partition("://")[0]
        bucket, prefix = split(folder + "/")
        with self._translated(folder):
            for key, size in self._listed(bucket, prefix):
                if not key.endswith("/"):
                    yield f"{scheme}://{bucket}/{key}", size

    def _found(self, target: str) -> tuple[int, Any] | None:
        found = self._find(target)
        if found is None:  # to a list a bucket that isn't there is an error, and not only an object that isn't
            next(self._listed(*split(target)), None)
        return found

    @abstractmethod
    def _put(self, target: str, data: bytes) -> None:
        """A small object in one request."""

    @abstractmethod
    def _send(self, target: str, stage: BinaryIO, size: int, fence: Fence) -> None:
        """The first `size` bytes of a staged file as a large object."""

    @abstractmethod
    def _find(self, target: str) -> tuple[int, Any] | None:
        """The bytes of the present version, and what names it."""

    @abstractmethod
    def _reader(self, target: str, version: Any) -> Ask:
        """Of that version alone."""

    @abstractmethod
    def _delete(self, target: str) -> None:
        """Nothing happens when there is no such object."""

    @abstractmethod
    def _listed(self, bucket: str, prefix: str) -> Iterator[tuple[str, int]]:
        """Key and bytes of each object whose key begins so."""
