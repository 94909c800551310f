"""Files of a local folder: written beside their place, synced, renamed, and the folder synced."""

from __future__ import annotations

import errno
import io
import os
import secrets
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any, BinaryIO, cast

from keen_pipeline.errors import ConfigurationError
from keen_pipeline.landing.options import LocalOptions

STAGE_SUFFIX = ".landing"
"""A file that is being landed is `.{name}.{random}.landing` in the folder of its place."""


_PAGE_BYTES = 4096
_DIRECT_BYTES = 1024 * 1024
_O_DIRECT = getattr(os, "O_DIRECT", 0)  # Linux only


class StagedFile(io.FileIO):
    """An unbuffered file whose long writes go to the disk at once, past the system's cache, where system and file allow it.

    The file is synced before it is published anyway; without a copy in the cache a landing needs half the processor's time, and
    leaves the memory to others.
    """

    _possible = _O_DIRECT != 0
    _direct = False

    def write(self, data: Any) -> int:
        """As a file does. The disk takes whole pages from page-aligned memory: all else goes through the cache."""
        length = len(data)
        self._set_direct(length >= _DIRECT_BYTES and length % _PAGE_BYTES == 0 and self.tell() % _PAGE_BYTES == 0)
        try:
            return super().write(data)
        except OSError as error:
            if not self._direct or error.errno != errno.EINVAL:
                raise
        self._set_direct(False)
        self._possible = False
        return super().write(data)

    def _set_direct(self, wanted: bool) -> None:
        if not self._possible or wanted == self._direct:
            return
        import fcntl  # where O_DIRECT is, there is this

        flags = fcntl.fcntl(self.fileno(), fcntl.F_GETFL)
        try:
            fcntl.fcntl(self.fileno(), fcntl.F_SETFL, flags | _O_DIRECT if wanted else flags & ~_O_DIRECT)
        except OSError:
            self._possible = False  # a file system without it, such as one in memory
        else:
            self._direct = wanted


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
