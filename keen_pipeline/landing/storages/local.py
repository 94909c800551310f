"""Files of a local folder: written beside their place, synced, renamed, and the folder synced.

A staged file has no name until it is published, so that the system removes it however its process ends. A file system that can't do
that, such as most network ones and those of macOS, gives it one; what a killed landing leaves there goes by its age.
"""

from __future__ import annotations

import errno
import io
import logging
import os
import re
import secrets
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import Any, BinaryIO, cast

from keen_pipeline.errors import KeenPipelineError
from keen_pipeline.landing.storages.errors import for_a_person, of_folder, of_system, short, unavailable
from keen_pipeline.landing.storages.remote import StoredReader, read_at
from keen_pipeline.landing.storages.storage import Fence, Leftover, Storage, no_fence
from keen_pipeline.landing.transfer.direct import StagedFile
from keen_pipeline.landing.transfer.workers import copy

STAGE_SUFFIX = ".landing"
"""A file that is being landed is `.{name}.{random}.landing` in the folder of its place, if it has a name."""
_STAGED = re.compile(r"\..+\.(?:[0-9a-f]{8}-)?[0-9a-f]{16}\.landing", re.DOTALL)  # an earlier release named the host too
_LONGEST_NAME = 180  # in characters, so that a staged file's name has at most 255 bytes wherever its place's has
_NO_SUCH_SYNC = frozenset({errno.EINVAL, errno.ENOTSUP, errno.EACCES})
_log = logging.getLogger(__name__)


class LocalStorage(Storage):
    """A folder of this machine or a mount of it."""

    @contextmanager
    def stage(self, target: str) -> Iterator[BinaryIO]:
        place = Path(target)
        with self._translated(str(place.parent)):
            _make_folder(place.parent)
            _check_case(Path(self._root), place)
            file = _Stage(place)
        try:
            yield cast("BinaryIO", file)
        finally:
            with self._translated(target):
                file.drop()

    def publish(self, stage: BinaryIO, target: str, *, fence: Fence = no_fence) -> None:
        place = Path(target)
        with self._translated(target):
            os.fsync(stage.fileno())
            _make_folder(place.parent)
            fence()
            try:
                cast("_Stage", stage).move(place)
            except FileNotFoundError as error:
                raise unavailable(target, error, "Somebody removed its folder meanwhile.") from error
            _sync_folder(place.parent)

    def size(self, target: str) -> int | None:
        with self._translated(target):
            try:
                return os.stat(target).st_size  # noqa: PTH116
            except (FileNotFoundError, NotADirectoryError):
                return None

    def open(self, target: str) -> BinaryIO:
        try:
            file = io.FileIO(target)
            reader = StoredReader(target, os.fstat(file.fileno()).st_size, partial(read_at, file), (OSError,), file.close)
            return cast("BinaryIO", io.BufferedReader(reader, 128 * 1024))
        except FileNotFoundError:
            raise
        except OSError as error:
            raise for_a_person(target, f"it can't be read ({error.strerror or type(error).__name__})") from error

    def remove(self, target: str) -> None:
        with self._translated(target):
            Path(target).unlink(missing_ok=True)

    def files(self, folder: str) -> Iterator[tuple[str, int]]:
        home = os.path.realpath(self._root)
        if os.path.commonpath([home, os.path.realpath(folder)]) != home:
            raise for_a_person(folder, "it is a symbolic link that leads out of the destination")
        for path, _, names in os.walk(folder, onerror=_raise_other):
            for name in names:
                with self._translated(path), suppress(FileNotFoundError):  # removed meanwhile
                    found = os.lstat(f"{path}/{name}")
                    if stat.S_ISREG(found.st_mode) and not is_staged(name):
                        yield f"{path}/{name}", found.st_size

    def _leftovers(self) -> Iterator[Leftover]:
        """Staged files."""
        for folder, _, names in os.walk(self._root):
            for path in (f"{folder}/{name}" for name in names if is_staged(name)):
                with suppress(FileNotFoundError):
                    found = os.lstat(path)
                    if stat.S_ISREG(found.st_mode):
                        yield path, found.st_mtime, partial(os.unlink, path)

    def _error(self, error: Exception, target: str) -> KeenPipelineError:
        return of_system(cast("OSError", error), f"destination {short(target)}", "Free some space there.")


class _Stage(StagedFile):
    """In the folder of `place`, without a name if the file system can do that."""

    def __init__(self, place: Path) -> None:
        self._place = str(place)  # what an error names: it is what a person knows
        self._names: list[Path] = []
        self._is_published = False
        try:
            super().__init__(os.open(place.parent, os.O_RDWR | os.O_TMPFILE, 0o666), "r+")
        except (AttributeError, OSError):  # there is no such thing; whatever else is wrong is wrong with a name too
            self._names.append(place.with_name(staged_name(place.name)))
            super().__init__(self._names[0], "x+")

    def write(self, data: Any) -> int:
        with of_folder(self._place):
            return super().write(data)

    def move(self, place: Path) -> None:
        """Make it the file at `place` in one step."""
        named, beside = self._names[-1:], place.with_name(staged_name(place.name))
        self._names.append(beside)
        try:
            if named:
                os.rename(named[0], beside)  # noqa: PTH104
            else:  # any `src_dir_fd` makes it a link to the file and not to the path, which is one itself
                os.link(f"/proc/self/fd/{self.fileno()}", beside, src_dir_fd=self.fileno())
        except OSError:  # a collection's folder may be a link to another disk than `_quarantine` is on
            self._copy(beside)
        os.replace(beside, place)  # noqa: PTH105
        self._is_published = True

    def drop(self) -> None:
        """Close it; what was not published is gone."""
        self.close()
        for name in self._names:
            name.unlink(missing_ok=True)
        if not self._is_published:
            _log.info("%s was not published; its staged file is removed", self._place)

    def _copy(self, place: Path) -> None:
        self._set_direct(False)
        self.seek(0)
        with io.FileIO(place, "x") as file:
            copy(cast("BinaryIO", self), cast("BinaryIO", file))
            os.fsync(file.fileno())


def staged_name(name: str) -> str:
    """A name of its own for the staged file of a file of this name."""
    return f".{name[:_LONGEST_NAME]}.{secrets.token_hex(8)}{STAGE_SUFFIX}"


def is_staged(name: str) -> bool:
    """Whether only `staged_name`, of this release or an earlier one, gives a name like this."""
    return _STAGED.fullmatch(name) is not None


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
