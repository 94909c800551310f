"""The durable log of one collection in a folder: every acknowledged event is on disk before the answer.

A log file `<number>.ndjson` holds event lines and, before the first of them that needs it, a line `{"+":{"p7":"path"}}` with the
columns of new properties; each append ends with a line `{"#":[lines,crc32]}` over its lines. What follows the last such line was
never acknowledged. A log is read once it is sealed, which is known to the process alone: the next append begins a new file. The
folder is needed at no other time, so no file of it stays open.
"""

from __future__ import annotations

import json
import logging
import os
import re
import threading
import time
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path

from keen_pipeline.service.config import MIB
from keen_pipeline.service.events.incoming import Columns
from keen_pipeline.service.storage.folder.presence import Folders, Presence, sync
from keen_pipeline.service.storage.parts import Backlog, LogPart, column_order

SEAL_BYTES = 16 * MIB

_MARK = b'{"#":['
_NAMES = b'{"+":{'
_NUMBER = re.compile(r"[0-9]{10}(?:[0-9]{2})?").fullmatch  # ten digits in the first layout
_log = logging.getLogger(__name__)


@dataclass
class _File:
    """A log that is being written, or read after a start."""

    number: int
    bytes: int = 0
    events: int = 0
    first: int = 2**63 - 1
    last: int = -(2**63)
    longest: int = 0
    since: float = field(default_factory=time.time)

    def take(self, times: Sequence[int], longest: int, size: int) -> None:
        """Count an append in. `times`: of its events."""
        self.first, self.last = min([self.first, *times]), max([self.last, *times])
        self.events += len(times)
        self.longest = max(self.longest, longest)
        self.bytes += size


class FileLog:
    """The logs of one collection. `columns`: those that its table has, by path. `watermark`: the newest log that is in the table.

    Every method may be called from any thread. Raises OSError, and StorageError if its folder was removed or replaced.
    """

    stale = False

    def __init__(self, folder: Path, columns: Mapping[str, str], watermark: int, max_properties: int) -> None:
        self._folder = folder
        self._presence = Presence(folder, f"{folder.parent.name}/{folder.name}")
        self._max_properties = max_properties
        self._lock = threading.Lock()
        self.columns: dict[str, str] = dict(columns)
        """By path; replaced by each append that adds some, never changed."""
        self._active: _File | None = None
        self._sealed: dict[LogPart, float] = {}  # since when each was written; the same parts for all, who know their facts then
        whole = True
        for before, number in pairwise([watermark, *(number for number in log_numbers(folder) if number > watermark)]):
            path = log_path(folder, number)
            if not whole or number != before + 1:
                # Its lines may have columns that only a log which is missing, or what was cut off of one, gives a name.
                whole = False
                aside = path.rename(path.with_name(f"{path.name}.set-aside-{int(time.time())}"))
                _log.error("a log before this one is missing or damaged; it was set aside", extra={"set_aside": str(aside)})
                continue
            found, names, whole = read_log(path)
            self.columns |= names
            if found.events:
                self._sealed[self._part(found)] = found.since
        self._next = max([watermark, *log_numbers(folder)]) + 1

    def append(self, encode: Callable[[Columns], Sequence[str]]) -> int:
        """Write the lines that `encode` makes and wait until they are on disk; returns their number.

        After an error nothing of them will be read.
        """
        with self._lock:
            known = self.columns
            columns = Columns(known, next_number(known), self._max_properties)
            lines = encode(columns)
            if not lines:
                return 0
            self._write(lines, {name: path for path, name in columns.new.items()})
            if columns.new:
                self.columns = {**known, **columns.new}
            if self._active is not None and self._active.bytes >= SEAL_BYTES:
                self._seal()
            return len(lines)

    def _write(self, lines: Sequence[str], new: Mapping[str, str]) -> None:
        names = [json.dumps({"+": new}, ensure_ascii=False, separators=(",", ":"))] if new else []
        payload = ("\n".join([*names, *lines]) + "\n").encode()
        block = memoryview(payload + b'{"#":[%d,%d]}\n' % (len(names) + len(lines), zlib.crc32(payload)))
        longest = max(len(line) for line in (*names, *lines))
        if longest * 4 > MIB:  # characters; what is near the bound is measured in bytes
            longest = max(len(line.encode()) for line in (*names, *lines))
        self._presence.check()
        active = self._active or self._create()
        descriptor = os.open(log_path(self._folder, active.number), os.O_WRONLY)
        try:
            os.ftruncate(descriptor, active.bytes)  # of an append that failed, and could not be cut off then
            os.lseek(descriptor, active.bytes, os.SEEK_SET)
            written = 0
            while written < len(block):
                written += os.write(descriptor, block[written:])
            getattr(os, "fdatasync", os.fsync)(descriptor)
        except OSError:
            os.ftruncate(descriptor, active.bytes)
            raise
        finally:
            os.close(descriptor)
        active.take([time_of(line) for line in lines], longest + 1, len(block))

    def _create(self) -> _File:
        """Begin a file. It is taken once its name is on disk; one whose name isn't, though it is there, is begun again."""
        log_path(self._folder, self._next).touch(0o600)
        sync(self._folder)
        made = self._active = _File(self._next)
        self._next += 1
        return made

    def _seal(self) -> None:
        if self._active is not None and self._active.events:
            path = log_path(self._folder, self._active.number)
            if path.stat().st_size > self._active.bytes:  # else a disk that became read-only can be read
                os.truncate(path, self._active.bytes)
            self._sealed[self._part(self._active)] = self._active.since
            self._active = None

    def _part(self, f: _File) -> LogPart:
        """A log that is sealed; its columns are among those that are known by then."""
        names = tuple(column_order(self.columns.values()))
        return LogPart(log_path(self._folder, f.number), f.number, f.number, f.events, f.first, f.last, f.bytes, f.longest, names)

    def parts(self, watermark: int) -> list[LogPart]:
        """The logs above a watermark, sealed, oldest first: every append that was acknowledged until now."""
        with self._lock:
            if self._sealed or self._active is not None:
                self._presence.check()
            self._seal()
            return [part for part in self._sealed if part.number > watermark]

    def backlog(self, name: str) -> Backlog:
        with self._lock:
            active = [self._active] if self._active is not None and self._active.events else []
            since = min([*self._sealed.values(), *(file.since for file in active)], default=time.time())
            size = sum(part.bytes for part in self._sealed) + sum(file.bytes for file in active)
            return Backlog(name, size, len(self._sealed), time.time() - since)

    def folded(self, watermark: int) -> None:
        """The logs up to a watermark are in the table. They stay a while, for whoever copies the folder meanwhile."""
        with self._lock:
            done = [part for part in self._sealed if part.number <= watermark]
            for part in done:
                del self._sealed[part]
        for part in done:
            os.utime(part.path)

    def sweep(self, watermark: int, seconds: float) -> None:
        for number in log_numbers(self._folder):
            path = log_path(self._folder, number)
            if number <= watermark and path.stat().st_mtime < time.time() - seconds:
                path.unlink()


class FileLogs(Folders):
    """The logs of all collections, in one folder each. `max_properties`: of one collection.

    Raises StorageError if the folder of them all was removed or replaced, which `check` alone looks at.
    """

    def __init__(self, folder: Path, max_properties: int) -> None:
        super().__init__(folder)
        self._max_properties = max_properties
        self._open: dict[str, FileLog] = {}

    def open(self, name: str, columns: Mapping[str, str], watermark: int) -> FileLog:
        opened = self._open[name] = FileLog(self.made(name), columns, watermark, self._max_properties)
        return opened

    def backlogs(self) -> list[Backlog]:
        return [backlog for name, log in list(self._open.items()) if (backlog := log.backlog(name)).bytes]


def next_number(columns: Mapping[str, str]) -> int:
    return max((int(column[1:]) for column in columns.values()), default=-1) + 1


def log_numbers(folder: Path) -> list[int]:
    """Numbers of the logs in a folder, oldest first."""
    return sorted(int(path.stem) for path in folder.glob("*.ndjson") if _NUMBER(path.stem))


def log_path(folder: Path, number: int) -> Path:
    return folder / f"{number:012d}.ndjson"


def appends(path: Path) -> Iterator[tuple[list[bytes], int]]:
    """The acknowledged appends of a log: the lines of each, and the position behind it."""
    lines, crc, position = list[bytes](), 0, 0
    with path.open("rb") as file:
        for line in file:
            position += len(line)
            if not line.startswith(_MARK):
                lines.append(line)
                crc = zlib.crc32(line, crc)
                continue
            if not line.endswith(b"\n") or _mark(line) != [len(lines), crc]:
                return
            yield lines, position
            lines, crc = [], 0


def read_log(path: Path) -> tuple[_File, dict[str, str], bool]:
    """What a log holds after a start, the columns that it names, by path, and whether these are all that it named.

    What was never acknowledged is cut off. If acknowledged appends follow it, which no crash leaves, it is set aside in a file
    beside the log.
    """
    found, names = _File(int(path.stem), since=path.stat().st_mtime), dict[str, str]()
    for lines, position in appends(path):
        times = []
        for line in lines:
            if line.startswith(_NAMES):
                names |= {text: name for name, text in json.loads(line)["+"].items()}
            else:
                times.append(int(line[5 : line.index(b",")]))
        found.take(times, max(map(len, lines)), position - found.bytes)
    return found, names, found.bytes == path.stat().st_size or _cut(path, found.bytes)


def time_of(line: str) -> int:
    """The time of an event line, which begins with `{"t":<number>,`."""
    return int(line[5 : line.index(",")])


def _mark(line: bytes) -> object:
    try:
        return json.loads(line)["#"]
    except (ValueError, KeyError):
        return None


def _cut(path: Path, size: int) -> bool:
    """Whether nothing that was acknowledged and named a column is gone."""
    whole = True
    with path.open("r+b") as file:
        file.seek(size)
        rest = file.read()
        later = rest.find(b"\n" + _MARK)
        if later >= 0 and b"\n" in rest[later + 1 :]:
            aside = path.with_name(f"{path.name}.from-{size}.set-aside")
            aside.write_bytes(rest)
            aside.chmod(0o600)
            whole = _NAMES not in rest
            _log.error("a log is damaged; what follows was set aside", extra={"log": str(path), "set_aside": str(aside)})
        file.truncate(size)
        os.fsync(file.fileno())
    return whole
