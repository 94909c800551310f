"""Where a service keeps things: what it asks of one folder, or of a PostgreSQL database and an object store."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any, BinaryIO, Literal, Protocol

from keen_pipeline.errors import ServiceUnavailableError
from keen_pipeline.service.events.incoming import EPOCH, Columns
from keen_pipeline.service.storage.parts import Backlog, DataFile, LogPart, disk_name
from keen_pipeline.timeframe import format_instant

FOLDER = "events"


class StorageError(ServiceUnavailableError):
    """A storage refused what it took when the service started, or lost what it was given: a person may mend that."""


def object_name(collection: str, file: DataFile) -> str:
    return f"{FOLDER}/{disk_name(collection)}/{file.name}"


def lost(collection: str, file: DataFile, what: Literal["lost", "damaged"] = "lost") -> StorageError:
    """What to say of a file that its table names, and that is not there or can't be read."""
    first, last = (format_instant(EPOCH + timedelta(microseconds=t)) for t in (file.first, file.last))
    return StorageError(
        f"{collection}: the storage has {what} {object_name(collection, file)}, {file.events} events of {first} to {last};"
        " restore it, or delete the events of that time"
    )


class ObjectStore(Protocol):
    """Whole files under names such as `events/0f3a.parquet`. Every method may be called from any thread.

    Raises ServiceUnavailableError while the storage is away, StorageError if it refuses.
    """

    def put(self, name: str, source: Path) -> None:
        """Make a local file the object of a name: whole, or not at all."""

    def open(self, name: str) -> BinaryIO:
        """A binary, seekable reader of an object. Raises FileNotFoundError if there is none."""

    def remove(self, name: str) -> None:
        """Remove an object; nothing happens if there is none."""


class Connection(Protocol):
    """What a transaction works with. Parameters stand as `?` in the SQL."""

    def execute(self, sql: str, parameters: Sequence[Any] = (), /) -> Any:
        """Run one statement; its rows, by name of column, are read by `fetchone` and `fetchall`, their number is `rowcount`."""


class Database(Protocol):
    """Records, and transactions that are durable when they return. Every method may be called from any thread."""

    def transaction(self, lock: str | None = None) -> AbstractContextManager[Connection]:
        """One transaction; rolled back if the block raises. Those of one `lock` run one after another, in all processes."""

    def rows(self, sql: str, parameters: Sequence[Any] = ()) -> list[Any]:
        """All rows of a query, by name of column."""

    def exclusive(self, name: str, wait: float) -> AbstractContextManager[bool]:
        """Whether no other process holds a name while the block runs. `wait`: for one that does, in seconds."""

    def now(self) -> float:
        """The time, in seconds since 1970, that all processes on this database agree on."""

    def close(self) -> None:
        """Close it; nothing may use it afterwards."""


Exclusive = Callable[[str, float], AbstractContextManager[bool]]
"""As `Database.exclusive`."""


@dataclass(frozen=True)
class TablePlace:
    """Where a table lies. `options`: what deltalake is told of the storage. `committed` is called with each new version."""

    uri: str
    options: dict[str, str]
    committed: Callable[[int], None]


class Log(Protocol):
    """The logs of one collection. `stale`: what it knows may be wrong by now; it has to be opened again.

    Every method may be called from any thread.
    """

    columns: dict[str, str]
    stale: bool

    def append(self, encode: Callable[[Columns], Sequence[str]]) -> int:
        """Store the lines that `encode` makes, which may be called again; they are durable then. Returns their number."""

    def parts(self, watermark: int) -> list[LogPart]:
        """Every append above a watermark that was acknowledged until now, in order."""

    def folded(self, watermark: int) -> None:
        """The logs up to a watermark are in the table."""

    def sweep(self, watermark: int, seconds: float) -> None:
        """Remove logs that have been in the table for so many seconds."""


class Logs(Protocol):
    """Where the logs lie."""

    def names(self) -> list[str]:
        """The collections that have logs."""

    def has(self, name: str) -> bool:
        """Whether a collection has logs."""

    def open(self, name: str, columns: Mapping[str, str], watermark: int) -> Log:
        """The logs of a collection, made if there are none. `columns`, `watermark`: what its table has."""

    def backlogs(self) -> list[Backlog]:
        """The collections of which some appends are in no table yet."""


class Tables(Protocol):
    """Where the tables lie. `work`: the folder in which files are written. `shared`: whether other processes change them."""

    shared: bool
    work: Path

    def names(self) -> list[str]:
        """The collections that have a table, as far as the place can tell."""

    def place(self, name: str) -> TablePlace:
        """Where one lies."""

    def publish(self, name: str, files: Sequence[DataFile]) -> None:
        """Put files from the folder `work` where the table will look for them."""

    def held(self, name: str, files: Sequence[DataFile]) -> AbstractContextManager[dict[DataFile, Path]]:
        """Have files on this machine while the block runs. Raises StorageError for one that is lost."""

    def damaged(self, name: str, file: DataFile) -> StorageError:
        """What to say of a file that is held and can't be read; if it is a copy, the next one who needs it gets another."""

    def close(self) -> None:
        """Nothing is held any more."""
