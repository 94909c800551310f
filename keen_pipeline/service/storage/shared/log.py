"""The logs of all processes: rows of the catalogue's database, an append each, numbered by collection in the order of commits."""

# ruff: noqa: S608 - only the expression for the time is put together here, everything else is bound
from __future__ import annotations

import secrets
import threading
import time
import weakref
import zlib
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from keen_pipeline.errors import ConfigurationError
from keen_pipeline.service.config import MIB
from keen_pipeline.service.events.incoming import Columns
from keen_pipeline.service.storage.folder.event_log import next_number, time_of
from keen_pipeline.service.storage.parts import Backlog, LogPart, column_order, disk_name
from keen_pipeline.service.storage.shared.database import NOW, CatalogueUnavailableError, PostgresDatabase, Statements

PART_BYTES = 16 * MIB
"""Of the lines that are fetched into one file."""

MAX_PARTS = 16

ANSWER_SECONDS = 20.0
"""How long the database is asked what became of an append, as a restart or a failover of it takes some."""

_ASK_SECONDS = 0.25
_LEVEL = 1  # the database's log is the narrow part; the fastest level takes most of a batch away already


class _StaleError(Exception):
    """Other processes have named properties meanwhile."""


class SharedLog:
    """The appends of one collection. `folder`: where their lines are kept on this machine, as long as they are read."""

    def __init__(self, database: PostgresDatabase, collection: int, folder: Path, name: str, max_properties: int) -> None:
        self._database, self._collection = database, collection
        self._folder, self._name, self._max_properties = folder, name, max_properties
        self._lock = threading.Lock()  # of `columns`
        self._reading = threading.Lock()
        self._parts: list[LogPart] = []
        self._watermark = 0  # the newest seen: a database that was put back while we run must not give out its numbers again
        self.columns: dict[str, str] = {}
        self._server, self.stale = database.server, False
        self._learn()

    def append(self, encode: Callable[[Columns], Sequence[str]]) -> int:
        while True:
            known = self.columns
            columns = Columns(known, next_number(known), self._max_properties)
            lines = encode(columns)
            if not lines:
                return 0
            try:
                self._insert(lines, {name: path for path, name in columns.new.items()}, len(known))
            except _StaleError:
                self._learn()  # each turn knows more, so there are not many
                continue
            if columns.new:
                self._take({**known, **columns.new})
            return len(lines)

    def _insert(self, lines: Sequence[str], new: Mapping[str, str], known: int) -> None:
        text = ("\n".join(lines) + "\n").encode()
        times = [time_of(line) for line in lines]
        token = secrets.token_bytes(16)
        longest = max(len(line.encode()) for line in lines) + 1
        values = [token, len(lines), min(times), max(times), len(text), longest, zlib.compress(text, _LEVEL)]
        committing = False
        try:
            with self._database.transaction() as connection:
                # The row is locked until the commit, so that numbers are committed in their order.
                taken = "RETURNING next_number - 1 AS number, properties"
                sql = f"UPDATE collections SET next_number = greatest(next_number, ?) + 1 WHERE id = ? {taken}"
                row = connection.execute(sql, [self._watermark + 1, self._collection]).fetchone()
                self._check(lost=row is None or row["properties"] < known)
                assert row is not None
                if new:
                    if row["properties"] != known:
                        raise _StaleError
                    self._name_properties(connection, new)
                sql = (
                    "INSERT INTO event_log (collection, number, written, token, events, first, last, bytes, longest, payload)"
                    f" VALUES (?, ?, {NOW}, ?, ?, ?, ?, ?, ?, ?)"
                )
                connection.execute(sql, [self._collection, row["number"], *values])
                committing = True
        except CatalogueUnavailableError:
            if not committing or not self._was_committed(token):
                raise

    def _check(self, *, lost: bool = False) -> None:
        """Raises CatalogueUnavailableError if the database has been put back, as it may call other properties by the same names."""
        if lost or self._database.server != self._server:
            self.stale = True
            raise CatalogueUnavailableError("the catalogue's server is another one, or has started again; ask again", retry_after=1)

    def _name_properties(self, connection: Statements, new: Mapping[str, str]) -> None:
        rows = [(self._collection, int(column[1:]), path.encode()) for column, path in new.items()]
        connection.executemany("INSERT INTO properties (collection, number, path) VALUES (?, ?, ?)", rows)
        sql = "UPDATE collections SET properties = properties + ? WHERE id = ?"
        connection.execute(sql, [len(rows), self._collection])

    def _was_committed(self, token: bytes) -> bool:
        """Whether an append whose answer was lost is there after all. A commit that still runs is waited for, and a database that
        is away for a while: whoever is told of an error sends the same events again.
        """
        deadline = time.monotonic() + ANSWER_SECONDS
        while True:
            try:
                with self._database.transaction() as connection:
                    connection.execute("SELECT id FROM collections WHERE id = ? FOR UPDATE", [self._collection])
                    sql = "SELECT 1 AS one FROM event_log WHERE collection = ? AND token = ?"
                    return connection.execute(sql, [self._collection, token]).fetchone() is not None
            except CatalogueUnavailableError:
                if time.monotonic() > deadline:
                    raise
                time.sleep(_ASK_SECONDS)

    def _learn(self) -> None:
        known = self.columns
        sql = "SELECT number, path FROM properties WHERE collection = ? AND number >= ? ORDER BY number"
        rows = self._database.rows(sql, [self._collection, next_number(known)])
        self._take({**known, **{bytes(row["path"]).decode(): f"p{row['number']}" for row in rows}})

    def _take(self, columns: dict[str, str]) -> None:
        """They only ever become more, so the most are the newest."""
        with self._lock:
            if len(columns) > len(self.columns):
                self.columns = columns

    def parts(self, watermark: int) -> list[LogPart]:
        """Every append above a watermark that was committed until now, in order, as files of this machine."""
        with self._reading:
            self._watermark = max(self._watermark, watermark)
            parts = self._chain(watermark, {part.number: part for part in self._parts if part.path.is_file()})
            self._parts = parts if len(parts) <= MAX_PARTS else self._chain(watermark, {})
            return list(self._parts)

    def _chain(self, watermark: int, known: Mapping[int, LogPart]) -> list[LogPart]:
        """Each part begins where the one before ends, so none is left out, wherever another process's fold ended."""
        parts: list[LogPart] = []
        after = watermark
        while part := known.get(after + 1) or self._fetch(after):
            parts.append(part)
            after = part.last_number
        return parts

    def _fetch(self, after: int) -> LogPart | None:
        """The appends after a number as one file of lines; None if there are none."""
        counted = "SELECT *, sum(bytes) OVER (ORDER BY number) - bytes AS before FROM event_log WHERE collection = ? AND number > ?"
        sql = (
            "SELECT next_number, number, events, first, last, bytes, longest, payload"
            f" FROM collections LEFT JOIN ({counted}) counted ON before < ? WHERE id = ? ORDER BY number"
        )
        rows = self._database.rows(sql, [self._collection, after, PART_BYTES, self._collection])
        self._check(lost=not rows)
        if rows[0]["number"] is None and rows[0]["next_number"] <= after + 1:
            return None
        numbers = [row["number"] for row in rows]
        if numbers != list(range(after + 1, after + 1 + len(rows))):
            raise CatalogueUnavailableError(
                f"{self._name}: appends were removed while they were read; ask again. If it stays so, the storage is another one"
                " than before, or older than the catalogue",
                retry_after=1,
            )
        self._learn()  # the lines may have properties of other processes
        self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)  # whoever tidies the machine may have removed it
        path = self._folder / f"{disk_name(self._name)}.{numbers[0]}.{secrets.token_hex(4)}.ndjson"
        try:
            with path.open("xb") as file:
                path.chmod(0o600)
                for row in rows:
                    file.write(zlib.decompress(row["payload"]))
        except OSError:
            path.unlink(missing_ok=True)
            raise
        part = LogPart(
            path,
            numbers[0],
            numbers[-1],
            sum(row["events"] for row in rows),
            min(row["first"] for row in rows),
            max(row["last"] for row in rows),
            sum(row["bytes"] for row in rows),
            max(row["longest"] for row in rows),
            tuple(column_order(self.columns.values())),
        )
        weakref.finalize(part, path.unlink, missing_ok=True)  # once no snapshot reads it
        return part

    def folded(self, watermark: int) -> None:
        """The appends up to a watermark are in the table; this is what the upkeep of all processes goes by."""
        sql = "UPDATE collections SET folded = greatest(folded, ?) WHERE id = ?"
        self._database.rows(sql, [watermark, self._collection])

    def sweep(self, watermark: int, seconds: float) -> None:
        sql = f"DELETE FROM event_log WHERE collection = ? AND number <= ? AND written < {NOW} - ?"
        self._database.rows(sql, [self._collection, watermark, seconds])


class SharedLogs:
    """The logs in a database. `folder`: for what is read of them, on this machine. `max_properties`: of one collection."""

    def __init__(self, database: PostgresDatabase, folder: Path, max_properties: int) -> None:
        self._database, self._folder, self._max_properties = database, folder, max_properties
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        for left in folder.glob("*.ndjson"):
            left.unlink()

    def names(self) -> list[str]:
        return [row["name"] for row in self._database.rows("SELECT name FROM collections ORDER BY name")]

    def has(self, name: str) -> bool:
        return bool(self._database.rows("SELECT id FROM collections WHERE name = ?", [name]))

    def open(self, name: str, columns: Mapping[str, str], watermark: int) -> SharedLog:
        """The logs of a collection, made if there are none; what its table has already is made known to the database.

        Raises ConfigurationError if the database and the table contradict each other.
        """
        with self._database.transaction() as connection:
            connection.execute("INSERT INTO collections (name) VALUES (?) ON CONFLICT DO NOTHING", [name])
            # If the database was restored from an older copy, new appends must not take numbers that are in the table.
            newer = "next_number = greatest(next_number, ?), folded = greatest(folded, ?)"
            sql = f"UPDATE collections SET {newer} WHERE name = ? RETURNING id"
            row = connection.execute(sql, [watermark + 1, watermark, name]).fetchone()
            assert row is not None
            number: int = row["id"]
            rows = [(number, int(column[1:]), path.encode()) for path, column in columns.items()]
            sql = "INSERT INTO properties (collection, number, path) VALUES (?, ?, ?) ON CONFLICT DO NOTHING"
            connection.executemany(sql, rows)
            sql = "UPDATE collections SET properties = (SELECT count(*) FROM properties WHERE collection = id) WHERE id = ?"
            connection.execute(sql, [number])
        log = SharedLog(self._database, number, self._folder, name, self._max_properties)
        if any(log.columns.get(path) != column for path, column in columns.items()):
            raise ConfigurationError(
                f"service: the catalogue and the table of {name} name its properties differently; restore both"
            )
        return log

    def backlogs(self) -> list[Backlog]:
        sql = (
            f"SELECT name, count(*) AS appends, sum(bytes)::bigint AS bytes, {NOW} - min(written) AS age"
            " FROM event_log JOIN collections ON id = collection WHERE number > folded GROUP BY name"
        )
        return [Backlog(r["name"], r["bytes"], r["appends"], r["age"]) for r in self._database.rows(sql)]
