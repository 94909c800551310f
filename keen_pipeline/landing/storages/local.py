"""Files of a local folder: written beside their place, synced, renamed, and the folder synced.

A staged file is locked by the process that writes it. The system gives the lock back however that process ends, so whoever lands
into the folder next removes what a killed one left; on other machines, and if the file system has no locks, its age decides.
"""

from __future__ import annotations

import errno
import fcntl
import hashlib
import io
import logging
import math
import os
import re
import secrets
import socket
import stat
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import timedelta
from functools import cache
from pathlib import Path
from typing import Any, BinaryIO, cast

from keen_pipeline.landing.storages.errors import for_a_person, of_folder, unavailable
from keen_pipeline.landing.storages.remote import StoredReader
from keen_pipeline.landing.storages.storage import Fence, Options, Storage, no_fence
from keen_pipeline.landing.transfer.direct import StagedFile
from keen_pipeline.landing.transfer.workers import copy

STAGE_SUFFIX = ".landing"
"""A file that is being landed is `.{name}.{host}-{random}.landing` in the folder of its place."""
_STAGED = re.compile(r"\..+\.(?:(?P<host>[0-9a-f]{8})-)?[0-9a-f]{16}\.landing", re.DOTALL)  # earlier releases name no host
_LONGEST_NAME = 180  # in characters, so that a staged file's name has at most 255 bytes wherever its place's has
_LOOK_SECONDS = 60.0  # between two looks of one process for leftovers in a folder
_MOST_FOLDERS = 1_000  # that a process remembers to have looked through
_NO_SUCH_SYNC = frozenset({errno.EINVAL, errno.ENOTSUP, errno.EACCES})
_log = logging.getLogger(__name__)


class LocalStorage(Storage):
    """A folder of this machine or a mount of it."""

    def __init__(self, root: str, options: Options) -> None:
        super().__init__(root, options)
        self._looked: dict[Path, float] = {}  # by folder, when it was looked through for leftovers; steady seconds

    @contextmanager
    def stage(self, target: str) -> Iterator[BinaryIO]:
        place = Path(target)
        with of_folder(str(place.parent)):
            _make_folder(place.parent)
            _check_case(Path(self._root), place)
            if self._is_to_look_through(place.parent):
                _remove_leftovers(place.parent, None)
            file = _new_stage(place)
        try:
            yield cast("BinaryIO", file)
        finally:
            with of_folder(target), suppress(FileNotFoundError):
                file.close()
                os.unlink(file.name)  # noqa: PTH108
                _log.info("%s was not published; its staged file is removed", target)

    def publish(self, stage: BinaryIO, target: str, *, fence: Fence = no_fence) -> None:
        place = Path(target)
        with of_folder(target):
            os.fsync(stage.fileno())
            _make_folder(place.parent)
            fence()
            try:
                os.replace(stage.name, place)  # noqa: PTH105
            except FileNotFoundError as error:
                raise unavailable(target, error, "Somebody removed the staged file or its folder meanwhile.") from error
            except OSError as error:
                if error.errno != errno.EXDEV:  # a collection's folder may be a link to another disk than `_quarantine` is on
                    raise
                with io.FileIO(stage.name) as file, self.stage(target) as beside:
                    copy(cast("BinaryIO", file), beside)
                    self.publish(beside, target)
            _sync_folder(place.parent)

    def _is_to_look_through(self, folder: Path) -> bool:
        """Not for every one of many files: a folder of years would be read for each."""
        now = time.monotonic()
        if now - self._looked.get(folder, -math.inf) < _LOOK_SECONDS:
            return False
        if len(self._looked) >= _MOST_FOLDERS:
            self._looked.clear()
        self._looked[folder] = now
        return True

    def size(self, target: str) -> int | None:
        with of_folder(target):
            try:
                return os.stat(target).st_size  # noqa: PTH116
            except (FileNotFoundError, NotADirectoryError):
                return None

    def open(self, target: str) -> BinaryIO:
        try:
            return cast("BinaryIO", io.BufferedReader(StoredReader(target, io.FileIO(target), (OSError,)), 128 * 1024))
        except FileNotFoundError:
            raise
        except OSError as error:
            raise for_a_person(target, f"it can't be read ({error.strerror or type(error).__name__})") from error

    def remove(self, target: str) -> None:
        with of_folder(target):
            Path(target).unlink(missing_ok=True)

    def files(self, folder: str) -> Iterator[tuple[str, int]]:
        home = os.path.realpath(self._root)
        if os.path.commonpath([home, os.path.realpath(folder)]) != home:
            raise for_a_person(folder, "it is a symbolic link that leads out of the destination")
        for path, _, names in os.walk(folder, onerror=_raise_other):
            for name in names:
                with of_folder(path), suppress(FileNotFoundError):  # removed meanwhile
                    found = os.lstat(f"{path}/{name}")
                    if stat.S_ISREG(found.st_mode) and not is_staged(name):
                        yield f"{path}/{name}", found.st_size

    def remove_leftovers(self, older_than: timedelta) -> list[str]:
        """Remove staged files whose process is gone, or that nobody has written to for `older_than`; returns their paths."""
        oldest = time.time() - older_than.total_seconds()
        removed = []
        for folder, _, _ in os.walk(self._root):
            with of_folder(folder):
                removed += _remove_leftovers(Path(folder), oldest)
        return sorted(removed)


class _Stage(StagedFile):
    def __init__(self, place: Path) -> None:
        super().__init__(place.with_name(staged_name(place.name)), "x+")
        self._place = str(place)  # what an error names: it is what a person knows

    def write(self, data: Any) -> int:
        with of_folder(self._place):
            return super().write(data)


def staged_name(name: str) -> str:
    """A name of its own for the staged file of a file of this name."""
    return f".{name[:_LONGEST_NAME]}.{_host()}-{secrets.token_hex(8)}{STAGE_SUFFIX}"


def is_staged(name: str) -> bool:
    """Whether only `staged_name`, of this release or an earlier one, gives a name like this."""
    return _STAGED.fullmatch(name) is not None


@cache
def _host() -> str:
    """Stands for this machine, or container, in names of staged files."""
    try:
        machine = Path("/etc/machine-id").read_text(encoding="ascii")
    except (OSError, UnicodeDecodeError):
        machine = ""
    return hashlib.sha256(f"{socket.gethostname()} {machine}".encode()).hexdigest()[:8]


def _new_stage(place: Path) -> _Stage:
    while True:
        file = _Stage(place)
        # Whoever removes leftovers may have found it between its making and its locking: then it has no name any more.
        if _lock(file.fileno()) is not False and os.fstat(file.fileno()).st_nlink:
            return file
        file.close()


def _lock(descriptor: int) -> bool | None:
    """Whether the lock was free, and is ours now; None if this file system has none."""
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:
        return None
    return True


def _remove_leftovers(folder: Path, oldest: float | None) -> list[str]:
    """Of this folder alone: what no process on this machine holds, and what is older than `oldest`."""
    removed = []
    staged = []
    with suppress(FileNotFoundError), os.scandir(folder) as entries:
        staged = [entry for entry in entries if is_staged(entry.name) and entry.is_file(follow_symlinks=False)]
    for entry in staged:
        try:
            if not _remove_abandoned(entry.path):
                if oldest is None or entry.stat(follow_symlinks=False).st_mtime >= oldest:
                    continue
                os.unlink(entry.path)  # noqa: PTH108
        except FileNotFoundError:
            continue  # its landing ended, or another process was quicker
        _log.info("removed %s, which a landing that died has left", entry.path)
        removed.append(entry.path)
    return removed


def _remove_abandoned(path: str) -> bool:
    """Remove a staged file of this machine that no process holds."""
    match = _STAGED.fullmatch(Path(path).name)
    if match is None or match["host"] != _host():
        return False
    try:
        descriptor = os.open(path, os.O_RDWR | getattr(os, "O_NOFOLLOW", 0))
    except PermissionError:
        return False  # another user's
    try:
        abandoned = _lock(descriptor) is True
        if abandoned:
            os.unlink(path)  # noqa: PTH108 - still locked, so that its maker can't begin to write meanwhile
        return abandoned
    finally:
        os.close(descriptor)


def _make_folder(folder: Path) -> None:
    """With its parents; each new one is synced into the folder above it, up to the first that was there."""
    if folder.is_dir():
        return
    if folder.parent != folder:
        _make_folder(folder.parent)
    folder.mkdir(exist_ok=True)
    _sync_folder(folder.parent)


def _check_case(root: Path, place: Path) -> None:
    """Two collections or properties that differ by case only would replace each other's files on macOS and Windows."""
    path = root
    for name in place.relative_to(root).parts:
        folder, path = path, path / name
        twin = folder / name.swapcase()
        if twin != path and twin.exists() and path.exists() and name not in (names := os.listdir(folder)):  # noqa: PTH208
            other = next((one for one in names if one.lower() == name.lower()), "another name")
            why = f"this disk takes it for {other}, which is there already"
            raise for_a_person(str(path), why, "Land one of the two at another destination, or on a disk that tells A from a.")


def _sync_folder(folder: Path) -> None:
    """A rename is only safe from a power cut once its folder is synced."""
    try:
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
    except OSError as error:
        if error.errno not in _NO_SUCH_SYNC:  # some network file systems sync no folders; one that may not be read can't be
            raise


def _raise_other(error: OSError) -> None:
    if not isinstance(error, FileNotFoundError):
        raise for_a_person(str(error.filename), f"it can't be listed ({error.strerror})") from error
