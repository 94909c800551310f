"""What a collection's events lie in: immutable Parquet files of its table, and sealed logs that are in none of them yet."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

from keen_pipeline.errors import ConfigurationError

Kinds = dict[str, dict[str, int]]
"""Per column name the number of values of each kind: string, num, bool, null, array, object, datetime."""

_SAFE = re.compile(r"[A-Za-z0-9-]")


@dataclass(frozen=True)
class DataFile:
    """One file of a table. `first` and `last`: the earliest and the latest event, microseconds since 1970."""

    name: str
    events: int
    first: int
    last: int
    bytes: int

    @property
    def number(self) -> int:
        return oldest_log(self.name)


def oldest_log(name: str) -> int:
    """The number of the oldest log in a file, with which its name begins; 0 for a file that another program wrote.

    It orders the files of a table by arrival.
    """
    digits = name.partition("-")[0]
    return int(digits) if digits.isdecimal() else 0


@dataclass(frozen=True, eq=False)
class LogPart:
    """A file of acknowledged appends, which nothing is appended to any more: the logs `number` to `last_number`.

    `longest`: the bytes of its longest line. `columns`: those that its lines may have.
    """

    path: Path
    number: int
    last_number: int
    events: int
    first: int
    last: int
    bytes: int
    longest: int
    columns: tuple[str, ...] = field(repr=False)


Part = DataFile | LogPart


@dataclass(frozen=True)
class Backlog:
    """What of a collection is in its logs alone. `age`: of the oldest append, in seconds."""

    name: str
    bytes: int
    appends: int
    age: float


def disk_name(name: str) -> str:
    """A collection's name as the name of a folder, on any storage: percent-encoded, with `~` for the percent sign.

    A percent sign itself is decoded by some who read a table by its URI, and not by others.
    """
    return "".join(c if _SAFE.match(c) else "".join(f"~{byte:02X}" for byte in c.encode()) for c in name)


def check_root(root: str) -> str:
    """The root of tables. Raises ConfigurationError for one that deltalake, to which it is a URL, would look for elsewhere."""
    if re.search(r"%[0-9A-Fa-f]{2}|[\\\x00-\x1f]", root):
        raise ConfigurationError(
            f"service: {root!r} can't hold tables: it has a percent sign before two hexadecimal digits, a backslash or a line end;"
            " choose another folder"
        )
    return root


def name_on_disk(folder: str) -> str | None:
    """The collection whose folder has this name, None for a folder that is none of ours."""
    if not re.fullmatch(r"(?:[A-Za-z0-9-]|~[0-9A-F]{2})+", folder):
        return None
    try:
        return re.sub(rb"~([0-9A-F]{2})", lambda found: bytes.fromhex(found[1].decode()), folder.encode()).decode()
    except UnicodeDecodeError:
        return None


def column_order(columns: Iterable[str]) -> list[str]:
    """Column names in the order in which they were given: p2 before p10."""
    return sorted(columns, key=lambda column: int(column[1:]))
