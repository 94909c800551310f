"""Where results are kept instead of the service's folder: any smart-open URI, or the store that several services share."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, BinaryIO, Protocol, cast

from keen_pipeline.errors import ConfigurationError, KeenPipelineError, NotFoundError
from keen_pipeline.service.storage.shared.objects import ObjectStore

CHUNK_BYTES = 256 * 1024
_SHARED_FOLDER = "results"


class StorageError(KeenPipelineError):
    """The storage at the results URI did not take, or not give up, a result; it may the next time."""


class ResultPlace(Protocol):
    """Keeps files by name."""

    def put(self, name: str, source: Path) -> None:
        """Copy a local file there. Raises StorageError or RetryableError."""
        ...

    def read(self, name: str, start: int, size: int) -> Iterator[bytes]:
        """Bytes `start` to `start + size` of a file, in chunks. Raises NotFoundError at the first step."""
        ...

    def remove(self, name: str) -> None:
        """Remove a file, where it is there. Raises StorageError or RetryableError where that can't be done now."""
        ...


class UriPlace:
    """A smart-open URI: S3, GCS, Azure, SFTP, a folder.

    smart-open can't remove anything, so who starts the service gives what can: `remove_file`. Without it files stay until the
    storage's own lifecycle rules end them.
    """

    def __init__(self, uri: str, remove_file: Callable[[str], None] | None) -> None:
        self._uri = uri.rstrip("/")
        self._remove_file = remove_file

    def put(self, name: str, source: Path) -> None:
        """Copy a local file there, shown once it is whole. Raises StorageError."""
        # An upload that fails must not be completed by leaving the block: smart-open aborts it when an exception passes.
        try:
            with source.open("rb") as file, self._open(name, "wb") as target:
                shutil.copyfileobj(file, target, CHUNK_BYTES)
        except KeenPipelineError:
            raise
        except Exception as error:
            # Each storage's client has errors of its own; their texts may hold addresses with signatures.
            raise StorageError(f"the storage of results failed ({type(error).__name__})") from error

    def _open(self, name: str, mode: str) -> Any:
        import smart_open  # only where results are kept at a URI

        try:
            return smart_open.open(f"{self._uri}/{name}", mode, compression="disable")
        except (ImportError, NotImplementedError, ValueError) as error:
            # ValueError is also what some storages raise for a missing object.
            if mode == "rb" and isinstance(error, ValueError):
                raise _gone() from None
            raise ConfigurationError(f"service: the results URI can't be used ({type(error).__name__})") from None

    def read(self, name: str, start: int, size: int) -> Iterator[bytes]:
        """Bytes `start` to `start + size` of a file, in chunks. Raises NotFoundError at the first step."""
        try:
            file = cast("BinaryIO", self._open(name, "rb"))
        except OSError:
            raise _gone() from None
        yield from _chunks(file, start, size)

    def remove(self, name: str) -> None:
        """Remove a file, where it is there and this can be done at all. Raises StorageError where not now."""
        if self._remove_file is not None:
            try:
                self._remove_file(name)
            except Exception as error:
                raise StorageError(f"the storage of results failed ({type(error).__name__})") from error


class SharedPlace:
    """A folder of the store that several services share. Every method raises ServiceUnavailableError while that is away."""

    def __init__(self, objects: ObjectStore) -> None:
        self._objects = objects

    def put(self, name: str, source: Path) -> None:
        """Copy a local file there, shown once it is whole."""
        self._objects.put(f"{_SHARED_FOLDER}/{name}", source)

    def read(self, name: str, start: int, size: int) -> Iterator[bytes]:
        """Bytes `start` to `start + size` of a file, in chunks. Raises NotFoundError at the first step."""
        try:
            file = self._objects.open(f"{_SHARED_FOLDER}/{name}")
        except FileNotFoundError:
            raise _gone() from None
        yield from _chunks(file, start, size)

    def remove(self, name: str) -> None:
        """Remove a file, where it is there."""
        self._objects.remove(f"{_SHARED_FOLDER}/{name}")


def _gone() -> NotFoundError:
    return NotFoundError("this result is no longer kept; ask for a new extraction")


def _chunks(file: BinaryIO, start: int, size: int) -> Iterator[bytes]:
    with file:
        if start:
            file.seek(start)
        while size > 0 and (chunk := file.read(min(size, CHUNK_BYTES))):
            size -= len(chunk)
            yield chunk
