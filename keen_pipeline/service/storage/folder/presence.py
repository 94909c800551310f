"""What must stay where it was found while a service runs: what is written into anything else in its place is lost, or spoils it."""

from __future__ import annotations

from pathlib import Path

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


def _identity(path: Path) -> int | None:
    try:
        return path.stat().st_ino  # without the device, as a disk that was mounted again may be another one
    except (FileNotFoundError, NotADirectoryError):
        return None
