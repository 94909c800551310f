"""Collections, properties, segments and the events that are in no segment yet, in the shared database."""

# ruff: noqa: S608 - only the expression for the time is put together here, everything else is bound
from __future__ import annotations

import json
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from keen_pipeline.errors import RetryableError
from keen_pipeline.service.config import MIB
from keen_pipeline.service.storage.catalog import Segment
from keen_pipeline.service.storage.shared.database import NOW, PostgresDatabase, Statements

_PAYLOAD_BYTES = 16 * MIB  # of events that are read from the database at once
_LEVEL = 1  # the database's log is the narrow part; the fastest level takes most of a batch away already


class OvertakenError(RetryableError):
    """Another process changed the same segments or events first; nothing was changed."""


@dataclass(frozen=True)
class LogRow:
    """One append: some events of a collection, `bytes` of lines. Later ones have larger ids."""

    id: int
    bytes: int


@dataclass(frozen=True)
class Backlog:
    """The events of one collection that are in no segment yet. `age`: of the oldest, in seconds."""

    collection: int
    rows: int
    bytes: int
    age: float


class Moment:
    """The catalogue at one moment."""

    def __init__(self, statements: Statements) -> None:
        self._statements = statements

    def columns(self, collection: int, known: dict[str, str]) -> dict[str, str]:
        """Column names by path, of which some are known already."""
        sql = "SELECT number, path FROM properties WHERE collection = ? AND number >= ? ORDER BY number"
        rows = self._statements.execute(sql, [collection, next_number(known)]).fetchall()
        return {**known, **{bytes(row["path"]).decode(): f"p{row['number']}" for row in rows}}

    def segments(self, collection: int, known: Mapping[str, Segment]) -> list[Segment]:
        """The segments in order of arrival, of which some are known already, by their files."""
        rows = self._statements.execute("SELECT file FROM segments WHERE collection = ? ORDER BY position", [collection])
        files = [row["file"] for row in rows.fetchall()]
        new = [file for file in files if file not in known]
        found = self._statements.execute("SELECT * FROM segments WHERE file = ANY(?)", [new]).fetchall() if new else []
        by_file = {
            r["file"]: Segment(r["file"], r["position"], r["events"], r["first"], r["last"], json.loads(r["kinds"])) for r in found
        }
        return [known[file] if file in known else by_file[file] for file in files]

    def log(self, collection: int) -> list[LogRow]:
        """The appends that are in no segment yet, in order of arrival."""
        rows = self._statements.execute("SELECT id, bytes FROM event_log WHERE collection = ? ORDER BY id", [collection])
        return [LogRow(row["id"], row["bytes"]) for row in rows.fetchall()]

    def write_lines(self, rows: Sequence[LogRow], target: Path) -> None:
        """Write the lines of appends into a file."""
        with target.open("wb") as file:
            for part in _parts(rows):
                sql = "SELECT payload FROM event_log WHERE id = ANY(?) ORDER BY id"
                for row in self._statements.execute(sql, [[one.id for one in part]]).fetchall():
                    file.write(zlib.decompress(row["payload"]))


def _parts(rows: Sequence[LogRow]) -> Iterator[list[LogRow]]:
    part: list[LogRow] = []
    for row in rows:
        part.append(row)
        if sum(one.bytes for one in part) >= _PAYLOAD_BYTES:
            yield part
            part = []
    if part:
        yield part


def next_number(columns: dict[str, str]) -> int:
    """The number of the next column. They are given in this order, so the last of the known ones is the highest."""
    return int(columns[next(reversed(columns))][1:]) + 1 if columns else 0


class SharedCatalogue:
    """The catalogue of all processes. Every change is one transaction that fails where it would undo another process's."""

    def __init__(self, database: PostgresDatabase) -> None:
        self._database = database

    def collections(self) -> dict[str, int]:
        """Ids by name."""
        return {row["name"]: row["id"] for row in self._database.rows("SELECT id, name FROM collections ORDER BY name")}

    def collection(self, name: str) -> int | None:
        """The id of a collection; None where there is none."""
        rows = self._database.rows("SELECT id FROM collections WHERE name = ?", [name])
        return rows[0]["id"] if rows else None

    def add_collection(self, name: str) -> int:
        """Make a collection, unless another process did; returns its id."""
        self._database.rows("INSERT INTO collections (name) VALUES (?) ON CONFLICT DO NOTHING", [name])
        found = self.collection(name)
        assert found is not None
        return found

    @contextmanager
    def moment(self) -> Iterator[Moment]:
        """What is read in the block is of one moment."""
        with self._database.moment() as statements:
            yield Moment(statements)

    def add_columns(self, collection: int, known: dict[str, str], new: Mapping[str, str]) -> bool:
        """Make new properties known. False, and nothing is changed, where there are more than `known` by now."""
        with self._database.transaction() as connection:
            connection.execute("SELECT id FROM collections WHERE id = ? FOR UPDATE", [collection])
            sql = "SELECT 1 AS one FROM properties WHERE collection = ? AND number >= ? LIMIT 1"
            if connection.execute(sql, [collection, next_number(known)]).fetchone() is not None:
                return False
            rows = [(collection, int(column[1:]), path.encode()) for path, column in new.items()]
            connection.executemany("INSERT INTO properties (collection, number, path) VALUES (?, ?, ?)", rows)
        return True

    def append(self, collection: int, lines: Sequence[str]) -> None:
        """Store lines; they are durable when this returns."""
        text = ("\n".join(lines) + "\n").encode()
        sql = f"INSERT INTO event_log (collection, bytes, written, payload) VALUES (?, ?, {NOW}, ?)"
        self._database.rows(sql, [collection, len(text), zlib.compress(text, _LEVEL)])

    def backlogs(self) -> list[Backlog]:
        """What is in no segment yet, for each collection that has such events."""
        sql = (
            f"SELECT collection, count(*) AS rows, sum(bytes)::bigint AS bytes, {NOW} - min(written) AS age"
            " FROM event_log GROUP BY collection"
        )
        return [Backlog(r["collection"], r["rows"], r["bytes"], r["age"]) for r in self._database.rows(sql)]

    def replace(
        self,
        collection: int,
        *,
        old: Sequence[str] = (),
        rows: Sequence[LogRow] = (),
        new: Sequence[Segment],
        name: Callable[[str], str],
    ) -> None:
        """Put new segments in the place of old ones and of appends. `name`: what a file is called in the object store.

        Raises OvertakenError where one of them is gone already, or where a new one's file was removed for its age.
        """
        with self._database.transaction() as connection:

            def remove(sql: str, keys: Sequence[object]) -> None:
                if keys and connection.execute(sql, [list(keys)]).rowcount != len(keys):
                    raise OvertakenError("another process rewrote the same events first; ask again")

            remove("DELETE FROM event_log WHERE id = ANY(?)", [row.id for row in rows])
            remove("DELETE FROM segments WHERE file = ANY(?)", old)
            remove("DELETE FROM loose_files WHERE file = ANY(?)", [name(segment.file) for segment in new])
            values = [(s.file, collection, s.position, s.events, s.first, s.last, json.dumps(s.kinds)) for s in new]
            connection.executemany("INSERT INTO segments VALUES (?, ?, ?, ?, ?, ?, ?)", values)
            self._note_loose(connection, [name(file) for file in old])

    def note_loose(self, file: str) -> None:
        """A file is about to be in the object store, and no segment's yet."""
        with self._database.transaction() as connection:
            self._note_loose(connection, [file])

    @staticmethod
    def _note_loose(connection: Statements, files: Sequence[str]) -> None:
        connection.executemany(f"INSERT INTO loose_files (file, since) VALUES (?, {NOW})", [(file,) for file in files])

    def remove_loose(self, seconds: float, remove: Callable[[str], None]) -> int:
        """Remove files of the object store that have been no segment's for so many seconds, at most twenty; how many went.

        Nobody can take up a file meanwhile: its row is locked, and then gone.
        """
        with self._database.transaction() as connection:
            sql = f"SELECT file FROM loose_files WHERE since < {NOW} - ? ORDER BY since LIMIT 20 FOR UPDATE SKIP LOCKED"
            files = [row["file"] for row in connection.execute(sql, [seconds]).fetchall()]
            for file in files:
                remove(file)
            connection.execute("DELETE FROM loose_files WHERE file = ANY(?)", [files])
        return len(files)
