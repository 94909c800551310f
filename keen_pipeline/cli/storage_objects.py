"""Where the service keeps what does not lie in its data folder, by the storages of the landing."""

from __future__ import annotations

import uuid
from pathlib import Path
from typing import BinaryIO

from keen_pipeline.errors import ConfigurationError
from keen_pipeline.landing.storages.storage import normal_root, open_storage
from keen_pipeline.service import StorageError

_CHUNK_BYTES = 1024 * 1024


class StorageObjects:
    """The object store below a root URI. Raises ConfigurationError for one that no storage of ours is named by."""

    def __init__(self, uri: str) -> None:
        self._root = normal_root(uri)
        self._storage = open_storage(self._root, {})

    def prove(self) -> None:
        """Raises ConfigurationError where nothing can be written, read and removed there."""
        probe = f"{self._root}/probe-{uuid.uuid4().hex}"
        self._storage.write(probe, b"keen_pipeline")
        with self._storage.open(probe) as file:
            if file.read() != b"keen_pipeline":
                raise ConfigurationError(f"service: {self._root} gives back other bytes than it was given")
        self._storage.remove(probe)

    def put(self, name: str, source: Path) -> None:
        """Make a local file the object of a name: whole, or not at all."""
        target = f"{self._root}/{name}"
        try:
            with source.open("rb") as file, self._storage.stage(target) as stage:
                while chunk := file.read(_CHUNK_BYTES):
                    rest = memoryview(chunk)
                    while rest:  # it is unbuffered, and may take less than it is given
                        rest = rest[stage.write(rest) :]
                self._storage.publish(stage, target)
        except ConfigurationError as error:
            raise StorageError(str(error)) from None

    def open(self, name: str) -> BinaryIO:
        """A binary reader of an object. Raises FileNotFoundError where there is none."""
        try:
            return self._storage.open(f"{self._root}/{name}")
        except ConfigurationError as error:
            raise StorageError(str(error)) from None

    def remove(self, name: str) -> None:
        """Remove an object; nothing happens where there is none."""
        try:
            self._storage.remove(f"{self._root}/{name}")
        except ConfigurationError as error:
            raise StorageError(str(error)) from None
