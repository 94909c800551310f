"""The durable log of one collection: every acknowledged event is on disk before the answer.

A log file `<number>.ndjson` holds event lines; each append ends with a line `{"#":[events,crc32]}` over its lines. What follows
the last such line was never acknowledged and is cut off at the next start. A sealed log is folded into a segment.
"""

from __future__ import annotations

import json
import os
import zlib
from collections.abc import Sequence
from pathlib import Path

_MARK = b'{"#":['


class EventLog:
    """The open log of one collection. Not thread-safe: the store holds the collection's lock."""

    def __init__(self, folder: Path, number: int) -> None:
        self.path = folder / f"{number:010d}.ndjson"
        self.number = number
        self.events = 0
        self.bytes = 0
        self._descriptor = os.open(self.path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        sync_folder(folder)

    def append(self, lines: Sequence[str]) -> None:
        """Write event lines and wait until they are on disk. After an OSError nothing of them will be read."""
        payload = ("\n".join(lines) + "\n").encode()
        block = memoryview(payload + b'{"#":[%d,%d]}\n' % (len(lines), zlib.crc32(payload)))
        try:
            written = 0
            while written < len(block):
                written += os.write(self._descriptor, block[written:])
            os.fdatasync(self._descriptor) if hasattr(os, "fdatasync") else os.fsync(self._descriptor)
        except OSError:
            os.ftruncate(self._descriptor, self.bytes)
            os.lseek(self._descriptor, self.bytes, os.SEEK_SET)
            raise
        self.events += len(lines)
        self.bytes += len(block)

    def close(self) -> None:
        """No more appends."""
        os.close(self._descriptor)


def log_numbers(folder: Path) -> list[int]:
    """Numbers of the logs in a folder, oldest first."""
    return sorted(int(path.stem) for path in folder.glob("*.ndjson"))


def log_path(folder: Path, number: int) -> Path:
    """The file of a log."""
    return folder / f"{number:010d}.ndjson"


def repair_log(path: Path) -> int:
    """Cut off what was never acknowledged (a torn append); returns the number of events that stay."""
    events, good, crc, count, position = 0, 0, 0, 0, 0
    with path.open("rb") as file:
        for line in file:
            position += len(line)
            if not line.startswith(_MARK):
                crc, count = zlib.crc32(line, crc), count + 1
                continue
            try:
                said = json.loads(line)["#"] if line.endswith(b"\n") else None
            except ValueError:
                said = None
            if said != [count, crc]:
                break
            events, good, crc, count = events + count, position, 0, 0
    with path.open("r+b") as file:
        file.truncate(good)
        os.fsync(file.fileno())
    return events


def longest_line(path: Path) -> int:
    """The bytes of a log's longest line, its end of line with it."""
    with path.open("rb") as file:
        return max((len(line) for line in file), default=0)


def sync_folder(folder: Path) -> None:
    """Wait until the names in a folder are on disk."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def sync_file(path: Path) -> None:
    """Wait until the bytes of a file are on disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
