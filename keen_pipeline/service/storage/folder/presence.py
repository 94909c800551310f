"""What must stay where it was found while a service runs: what is written into anything else in its place is lost, or spoils it."""

from __future__ import annotations

import os
from pathlib import Path

from keen_pipeline.errors import InvalidInputError
from keen_pipeline.service.storage.parts import disk_name, name_on_disk
from keen_pipeline.service.storage.places import StorageError


class Presence:
    """A file or a folder that is there. `shown`: its name for people, from the data folder on."""

    def __init__(self, path: Path, shown: str) -> None:
        self._path, self._shown = path, shown
        self._found = _identity(path)

    def check(self) -> None:
        """Raises StorageError if it was removed or replaced since."""
        if _identity(self._path) != self._found:
            raise StorageError(
                f"{self._shown} of the data folder was removed or replaced while the service was running; stop the service,"
                " put back what was there, then start it again"
            )


class Folders:
    """The folders of collections below `root`, which is made if it is missing. `check` raises StorageError if `root` went."""

    def __init__(self, root: Path) -> None:
        root.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._root, self.check = root, Presence(root, root.name).check
        self._known = set(Folders.names(self))

    def names(self) -> list[str]:
        self.check()
        return [name for path in self._root.iterdir() if path.is_dir() and (name := name_on_disk(path.name)) is not None]

    def has(self, name: str) -> bool:
        return name in self._known

    def path(self, name: str) -> Path:
        return self._root / disk_name(name)

    def made(self, name: str) -> Path:
        """The folder of a collection, made if there is none. Raises InvalidInputError if it is another collection's."""
        self.check()
        path = self.path(name)
        if not path.is_dir():
            path.mkdir(mode=0o700)
            self._known.add(name)
            sync(self._root)
        elif name not in self._known:
            raise InvalidInputError(
                f"collection: {name!r} differs from an existing collection only in case, which the data folder's file system"
                " ignores; use the existing name",
                field="collection",
            )
        return path


def sync(path: Path) -> None:
    """Wait until the bytes of a file, or the names in a folder, are on disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _identity(path: Path) -> int | None:
    try:
        return path.stat().st_ino  # without the device, as a disk that was mounted again may be another one
    except (FileNotFoundError, NotADirectoryError):
        return None
