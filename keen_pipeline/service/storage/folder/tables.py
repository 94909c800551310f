"""Tables in a folder of this machine, and what a copy of that folder may lack when it was taken from a running service."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path

from deltalake import DeltaTable
from deltalake.exceptions import DeltaError

from keen_pipeline.errors import ConfigurationError
from keen_pipeline.service.storage.engine import own_errors
from keen_pipeline.service.storage.folder.event_log import log_numbers
from keen_pipeline.service.storage.folder.presence import Folders, sync
from keen_pipeline.service.storage.parts import DataFile, check_root, disk_name, oldest_log
from keen_pipeline.service.storage.places import StorageError, TablePlace, lost
from keen_pipeline.service.storage.tables import EMPTY, TableState, read_state

_log = logging.getLogger(__name__)


class FolderTables(Folders):
    """The tables below `root`. `logs`: where the logs of the same collections are, for what is read back after a crash.

    `check` raises StorageError if `root` was removed or replaced.
    """

    shared = False

    def __init__(self, root: Path, logs: Path, work: Path) -> None:
        check_root(str(root.absolute()))
        super().__init__(root)
        self._logs, self.work = logs, work

    def names(self) -> list[str]:
        return [name for name in super().names() if any(self.path(name).iterdir())]

    def place(self, name: str) -> TablePlace:
        """Where the table of a collection lies; checked, once for each start. Raises ConfigurationError, StorageError."""
        folder = self.made(name)
        _check(folder, self._logs / disk_name(name))
        return TablePlace(str(folder), {}, partial(_committed, folder / "_delta_log"))

    def publish(self, name: str, files: Sequence[DataFile]) -> None:
        folder = self.path(name)
        with own_errors("writing events"):
            for file in files:
                (self.work / file.name).rename(folder / file.name)
            sync(folder)

    @contextmanager
    def held(self, name: str, files: Sequence[DataFile]) -> Iterator[dict[DataFile, Path]]:
        """Where files are. One that left the table stays for longer than any query lasts.

        Raises StorageError for one that is missing, or shorter.
        """
        folder = self.path(name)
        for file in files:
            if not _is_there(folder, file):
                raise lost(name, file)
        yield {file: folder / file.name for file in files}

    def damaged(self, name: str, file: DataFile) -> StorageError:
        """What to say of a file that can't be read."""
        return lost(name, file, "damaged")

    def close(self) -> None:
        pass


def _committed(log: Path, version: int) -> None:
    """Make what deltalake wrote private, and durable."""
    log.chmod(0o700)
    for path in log.iterdir():
        if path.stat().st_mode & 0o077:
            path.chmod(0o600)
    sync(log / f"{version:020d}.json")
    sync(log)


def _check(folder: Path, logs: Path) -> None:
    """See that the newest version of a table has its files, and go back to one that has.

    A copy of a running folder may hold a commit without the file that it adds, if that came later than the copy's look at the
    folder. Nothing is lost then: the logs it was made of, and the files it replaced, were kept. The commits are set aside.

    If they were not, as after 48 hours, the table stays as it is: whatever reads a lost file says so, and its events can be
    deleted. Raises ConfigurationError if nobody can tell what a file that is there belongs to.
    """
    log = folder / "_delta_log"
    _check_hint(log / "_last_checkpoint")
    versions = sorted((int(path.stem) for path in log.glob("*.json") if path.stem.isdigit()), reverse=True)
    newest = _state(folder, versions[0]) if versions else EMPTY
    states = (newest if version == versions[0] else _state(folder, version) for version in versions)
    whole = next((state for state in states if state and all(_is_there(folder, file) for file in state.files)), None)
    if whole is not None and whole is newest:
        return
    state = whole or EMPTY
    # By the newest version and, as that may be unreadable or all of it away, by the files, of which each is called after the oldest
    # log in it, and by the logs, of which only those go that are in the table.
    there = log_numbers(logs)
    folded = {oldest_log(path.name) for path in folder.glob("*.parquet")} | set(range(1, min(there, default=1)))
    folded |= set(range(1, (newest or EMPTY).watermark + 1))
    reach = whole is not None or not versions or versions[-1] == 0
    if not reach or not {number for number in folded if number > state.watermark} <= set(there):
        if versions and newest:
            _log.error("files of events are lost; what reads them fails", extra={"table": str(folder)})
            return
        raise ConfigurationError(
            f"service: {folder} lacks files of events, or commits that name them, and its logs do not reach back;"
            " restore them, or another copy of the folder"
        )
    if versions:
        _set_aside(log, state.version)


def _check_hint(hint: Path) -> None:
    """Remove a hint to a checkpoint that came later than a copy's look at the folder; without it the checkpoints are listed."""
    with suppress(OSError, ValueError, KeyError, TypeError):
        if not any(hint.parent.glob(f"{json.loads(hint.read_text())['version']:020d}.checkpoint*")):
            hint.unlink()


def _state(folder: Path, version: int) -> TableState | None:
    """A version of a table; None if it can't be read, as it was never whole then."""
    try:
        return read_state(DeltaTable(str(folder), version=version))
    except (DeltaError, OSError):
        return None


def _is_there(folder: Path, file: DataFile) -> bool:
    """Whether a file is there, and as long as its table says."""
    try:
        return (folder / file.name).stat().st_size == file.bytes
    except OSError:
        return False


def _set_aside(log: Path, version: int) -> None:
    aside = log.parent / "_set_aside"
    aside.mkdir(mode=0o700, exist_ok=True)
    moved = []
    for path in sorted(log.iterdir()):
        digits = path.name.split(".", 1)[0]
        if path.name == "_last_checkpoint" or (digits.isdigit() and int(digits) > version):
            path.rename(aside / path.name)
            moved.append(path.name)
    sync(log)
    _log.warning("commits without their files were set aside", extra={"table": str(log.parent), "commits": moved})
