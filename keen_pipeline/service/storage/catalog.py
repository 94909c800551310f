"""The catalog: which collections, properties and segments there are. SQLite, one transaction per change.

A segment is one immutable Parquet file of events; `position` orders the segments of a collection by arrival. A log number in
`folded_logs` says that its events are in a segment already, should a crash have left the log behind.
"""

from __future__ import annotations

import json
import sqlite3
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from keen_pipeline.errors import ConfigurationError

_SCHEMA_VERSION = 3
_SCHEMA = """
CREATE TABLE collections (id INTEGER PRIMARY KEY AUTOINCREMENT, name TEXT NOT NULL UNIQUE);
CREATE TABLE properties (
    collection INTEGER NOT NULL REFERENCES collections(id), number INTEGER NOT NULL, path TEXT NOT NULL,
    PRIMARY KEY (collection, number), UNIQUE (collection, path));
CREATE TABLE segments (
    file TEXT PRIMARY KEY, collection INTEGER NOT NULL REFERENCES collections(id), position INTEGER NOT NULL,
    events INTEGER NOT NULL, first INTEGER NOT NULL, last INTEGER NOT NULL, kinds TEXT NOT NULL);
CREATE INDEX segments_by_collection ON segments (collection, position);
CREATE TABLE folded_logs (collection INTEGER NOT NULL, number INTEGER NOT NULL, PRIMARY KEY (collection, number));
CREATE TABLE extractions (
    id TEXT PRIMARY KEY, collection TEXT NOT NULL, names TEXT NOT NULL, filters TEXT NOT NULL, start_time TEXT, end_time TEXT,
    email TEXT, status TEXT NOT NULL, created REAL NOT NULL, not_before REAL NOT NULL, finished REAL, events INTEGER, bytes INTEGER,
    message TEXT, mail_status TEXT, mail_attempts INTEGER NOT NULL DEFAULT 0, mail_next REAL,
    options TEXT NOT NULL DEFAULT '{}', turn INTEGER NOT NULL DEFAULT 0);
CREATE INDEX extractions_by_collection ON extractions (collection, created);
CREATE INDEX extractions_by_status ON extractions (status, created);
"""

# From each older version to the next one.
_MIGRATIONS = {
    1: "ALTER TABLE extractions ADD COLUMN options TEXT NOT NULL DEFAULT '{}';",
    2: "ALTER TABLE extractions ADD COLUMN turn INTEGER NOT NULL DEFAULT 0;",
}

Kinds = dict[str, dict[str, int]]
"""Per column name the number of values of each kind: string, num, bool, null, array, object, datetime."""


@dataclass(frozen=True)
class Segment:
    """One immutable file of events. `first` and `last`: the earliest and the latest event, microseconds since 1970."""

    file: str
    position: int
    events: int
    first: int
    last: int
    kinds: Kinds


class SqliteDatabase:
    """The database of one folder: one SQLite connection, shared by threads under a lock; commits are on disk when they return."""

    def __init__(self, path: Path) -> None:
        self._lock = threading.RLock()
        self._connection = sqlite3.connect(path, check_same_thread=False, isolation_level=None)
        self._connection.row_factory = sqlite3.Row
        for pragma in ("journal_mode=WAL", "synchronous=FULL", "foreign_keys=ON"):
            self._connection.execute(f"PRAGMA {pragma}")
        version = self._connection.execute("PRAGMA user_version").fetchone()[0]
        if version == 0:
            self._connection.executescript(f"BEGIN;{_SCHEMA}PRAGMA user_version={_SCHEMA_VERSION};COMMIT;")
        elif version in _MIGRATIONS:
            steps = "".join(_MIGRATIONS[number] for number in range(version, _SCHEMA_VERSION))
            self._connection.executescript(f"BEGIN;{steps}PRAGMA user_version={_SCHEMA_VERSION};COMMIT;")
        elif version != _SCHEMA_VERSION:
            raise ConfigurationError(
                f"service: {path} has schema {version}, this version reads {_SCHEMA_VERSION}; use the version that wrote it"
            )

    @contextmanager
    def transaction(self, lock: str | None = None) -> Iterator[sqlite3.Connection]:
        """One transaction; rolled back where the block raises. They all run one after another, whatever `lock` says."""
        with self._lock:
            self._connection.execute("BEGIN IMMEDIATE")
            try:
                yield self._connection
            except BaseException:
                self._connection.execute("ROLLBACK")
                raise
            self._connection.execute("COMMIT")

    def rows(self, sql: str, parameters: Sequence[Any] = ()) -> list[sqlite3.Row]:
        """All rows of a query."""
        with self._lock:
            return self._connection.execute(sql, parameters).fetchall()

    def now(self) -> float:
        """The time of this machine, in seconds since 1970."""
        return time.time()

    def close(self) -> None:
        """Close the connection."""
        with self._lock:
            self._connection.close()


class Catalog:
    """Collections, properties and segments in the database."""

    def __init__(self, database: SqliteDatabase) -> None:
        self._database = database

    def collections(self) -> dict[str, int]:
        """Ids by name."""
        return {row["name"]: row["id"] for row in self._database.rows("SELECT id, name FROM collections ORDER BY name")}

    def add_collection(self, name: str, columns: Mapping[str, str]) -> int:
        """Make a collection with its first properties; returns its id."""
        with self._database.transaction() as connection:
            collection = connection.execute("INSERT INTO collections (name) VALUES (?)", [name]).lastrowid
            assert collection is not None
            self._add_columns(connection, collection, columns)
        return collection

    def add_columns(self, collection: int, columns: Mapping[str, str]) -> None:
        """Make known new properties: column names by path."""
        with self._database.transaction() as connection:
            self._add_columns(connection, collection, columns)

    @staticmethod
    def _add_columns(connection: sqlite3.Connection, collection: int, columns: Mapping[str, str]) -> None:
        rows = [(collection, int(column[1:]), path) for path, column in columns.items()]
        connection.executemany("INSERT INTO properties (collection, number, path) VALUES (?, ?, ?)", rows)

    def columns(self, collection: int) -> dict[str, str]:
        """Column names by path."""
        rows = self._database.rows("SELECT number, path FROM properties WHERE collection = ? ORDER BY number", [collection])
        return {row["path"]: f"p{row['number']}" for row in rows}

    def segments(self, collection: int) -> list[Segment]:
        """The segments of a collection in order of arrival."""
        rows = self._database.rows("SELECT * FROM segments WHERE collection = ? ORDER BY position", [collection])
        return [Segment(r["file"], r["position"], r["events"], r["first"], r["last"], json.loads(r["kinds"])) for r in rows]

    def folded_logs(self, collection: int) -> set[int]:
        """Numbers of logs whose events are in segments."""
        return {r["number"] for r in self._database.rows("SELECT number FROM folded_logs WHERE collection = ?", [collection])}

    def replace_segments(
        self, collection: int, *, old: Sequence[Segment], new: Sequence[Segment], folded: Sequence[int] = ()
    ) -> None:
        """Put `new` in the place of `old` and note the logs whose events `new` holds; one transaction."""
        with self._database.transaction() as connection:
            connection.executemany("DELETE FROM segments WHERE file = ?", [(s.file,) for s in old])
            rows = [(s.file, collection, s.position, s.events, s.first, s.last, json.dumps(s.kinds)) for s in new]
            connection.executemany("INSERT INTO segments VALUES (?, ?, ?, ?, ?, ?, ?)", rows)
            connection.executemany("INSERT INTO folded_logs VALUES (?, ?)", [(collection, number) for number in folded])

    def forget_folded(self, collection: int, numbers: Sequence[int]) -> None:
        """The logs of these numbers are gone from the disk."""
        with self._database.transaction() as connection:
            connection.executemany(
                "DELETE FROM folded_logs WHERE collection = ? AND number = ?", [(collection, n) for n in numbers]
            )
