"""The storages under test, each with eyes of its own on what lies there."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from keen_pipeline.collection import Encoding
from keen_pipeline.landing import FileDestination
from keen_pipeline.landing.storages.local import STAGE_SUFFIX


@dataclass
class Place:
    """One root. `look`: everything under it by relative path, hidden files and stages too. `unfinished`: how many stages and
    uploads nobody has ended. `leftovers`: whether a killed landing leaves something that is removed later."""

    root: str
    look: Callable[[], Mapping[str, bytes]]
    unfinished: Callable[[], int]
    transport: dict[str, Any] = field(default_factory=dict)
    leftovers: bool = True
    _made: dict[Encoding, FileDestination] = field(default_factory=dict)

    @property
    def is_local(self) -> bool:
        return "://" not in self.root

    def destination(self, encoding: Encoding = Encoding.CSV) -> FileDestination:
        """Made once: a client of S3 takes a second of the processor."""
        if encoding not in self._made:
            self._made[encoding] = FileDestination(self.root, encoding=encoding, transport=self.transport)
        return self._made[encoding]

    def files(self) -> dict[str, bytes]:
        return dict(self.look())


def folder_place(folder: Path, root: str | None = None, transport: dict[str, Any] | None = None) -> Place:
    """A local folder, or one that a server shows as `root`."""

    def look() -> dict[str, bytes]:
        return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}

    def unfinished() -> int:
        return sum(path.name.endswith(STAGE_SUFFIX) for path in folder.rglob("*"))

    return Place(root or str(folder), look, unfinished, transport or {})
