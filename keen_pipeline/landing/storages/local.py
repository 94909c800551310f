"""Files of a local folder: written beside their place, synced, renamed, and the folder synced."""

from __future__ import annotations

import os
import secrets
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from typing import BinaryIO, cast

from keen_pipeline.errors import ConfigurationError
from keen_pipeline.landing.storages.options import LocalOptions
from keen_pipeline.landing.transfer.direct import StagedFile

STAGE_SUFFIX = ".landing"
"""A file that is being landed is `.{name}.{random}.landing` in the folder of its place."""


class LocalStorage:
    """A folder of this machine or a mount of it."""

    def __init__(self, root: str, options: LocalOptions) -> None:
        self._root = root
        self._options = options

    @contextmanager
    def stage(self, target: str) -> Iterator[BinaryIO]:
        """An empty, unbuffered file beside `target`; removed at the end where it was not published."""
        place = Path(target)
        staged = place.with_name(f".{place.name}.{secrets.token_hex(8)}{STAGE_SUFFIX}")
        try:
            place.parent.mkdir(parents=True, exist_ok=True)
            file = StagedFile(staged, "x+")
        except OSError as error:
            raise ConfigurationError(f"destination: {place.parent} can't be written ({error.strerror or error})") from error
        try:
            yield cast("BinaryIO", file)
        finally:
            file.close()
            staged.unlink(missing_ok=True)

    def publish(self, stage: BinaryIO, target: str, *, elsewhere: bool = False) -> None:
        """Make the staged bytes the file at `target`: readers see the old whole file or this one."""
        os.fsync(stage.fileno())
        place = Path(target)
        place.parent.mkdir(parents=True, exist_ok=True)
        os.replace(stage.name, place)  # noqa: PTH105 - replaces on Windows too, in one step
        _sync_folder(place.parent)

    def write(self, target: str, data: bytes) -> None:
        """A small file, as whole as a landed one."""
        with self.stage(target) as stage:
            stage.write(data)
            self.publish(stage, target)

    def size(self, target: str) -> int | None:
        """In bytes; None where there is no file."""
        try:
            return os.stat(target).st_size  # noqa: PTH116
        except (FileNotFoundError, NotADirectoryError):
            return None

    def open(self, target: str) -> BinaryIO:
        """A binary reader. Raises FileNotFoundError."""
        return open(target, "rb")  # noqa: PTH123

    def remove(self, target: str) -> None:
        """Remove one file; nothing happens where there is none."""
        Path(target).unlink(missing_ok=True)

    def remove_leftovers(self, older_than: timedelta) -> list[str]:
        """Remove staged files that nobody has written to for `older_than`; returns their paths."""
        oldest = time.time() - older_than.total_seconds()
        removed = []
        for folder, _, names in os.walk(self._root):
            for name in names:
                if not (name.startswith(".") and name.endswith(STAGE_SUFFIX)):
                    continue
                path = os.path.join(folder, name)  # noqa: PTH118 - os.walk gives strings
                try:
                    if os.stat(path).st_mtime < oldest:  # noqa: PTH116
                        os.unlink(path)  # noqa: PTH108
                        removed.append(path)
                except FileNotFoundError:
                    continue  # its landing ended, or another process was quicker
        return sorted(removed)


def _sync_folder(folder: Path) -> None:
    """A rename is only safe from a power cut once its folder is synced. Windows can't, and needn't."""
    if os.name == "nt":
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
