"""The object store that the processes share."""

from __future__ import annotations

from pathlib import Path
from typing import BinaryIO, Protocol


class ObjectStore(Protocol):
    """Whole files under names such as `events/0f3a.parquet`. Every method may be called from any thread.

    Raises ServiceUnavailableError while the storage is away.
    """

    def put(self, name: str, source: Path) -> None:
        """Make a local file the object of a name: whole, or not at all."""
        ...

    def open(self, name: str) -> BinaryIO:
        """A binary, seekable reader of an object. Raises FileNotFoundError where there is none."""
        ...

    def remove(self, name: str) -> None:
        """Remove an object; nothing happens where there is none."""
        ...
