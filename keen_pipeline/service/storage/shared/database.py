"""The catalogue's database: PostgreSQL, by a few connections that the threads of a process share.

Its tables are in a schema of their own, made by the first process that starts.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import psycopg
from psycopg.conninfo import conninfo_to_dict, make_conninfo
from psycopg.rows import dict_row

from keen_pipeline.errors import ConfigurationError, ServiceUnavailableError
from keen_pipeline.service.storage.folder.state import EXTRACTIONS, LISTED

SCHEMA = "keen_service"
_VERSION = 2
_LOCK = "keen_service:schema"

# A path may be longer than an index takes, and hold characters that TEXT does not. `event_log.payload` is compressed already.
_TABLES = f"""
CREATE TABLE collections (
    id INTEGER GENERATED ALWAYS AS IDENTITY PRIMARY KEY, name TEXT NOT NULL UNIQUE, next_number BIGINT NOT NULL DEFAULT 1,
    folded BIGINT NOT NULL DEFAULT 0, properties INTEGER NOT NULL DEFAULT 0);
CREATE TABLE properties (
    collection INTEGER NOT NULL REFERENCES collections (id), number INTEGER NOT NULL, path BYTEA NOT NULL,
    PRIMARY KEY (collection, number));
CREATE TABLE event_log (
    collection INTEGER NOT NULL REFERENCES collections (id), number BIGINT NOT NULL, written DOUBLE PRECISION NOT NULL,
    token BYTEA NOT NULL, events INTEGER NOT NULL, first BIGINT NOT NULL, last BIGINT NOT NULL, bytes BIGINT NOT NULL,
    longest INTEGER NOT NULL, payload BYTEA NOT NULL, PRIMARY KEY (collection, number));
ALTER TABLE event_log ALTER COLUMN payload SET STORAGE EXTERNAL;
CREATE INDEX event_log_by_token ON event_log (collection, token);
{EXTRACTIONS}
CREATE TABLE request_kinds (kind TEXT PRIMARY KEY, refused_until DOUBLE PRECISION NOT NULL DEFAULT 0);
CREATE TABLE requests (kind TEXT NOT NULL REFERENCES request_kinds (kind), at DOUBLE PRECISION NOT NULL);
CREATE INDEX requests_by_time ON requests (kind, at);
CREATE TABLE credentials (name TEXT PRIMARY KEY, value TEXT NOT NULL);
CREATE TABLE version (number INTEGER NOT NULL);
"""

CONNECTIONS = 8
"""Of one process at most."""

EXCLUSIVE_CONNECTIONS = 4
"""Beside them, each held as long as a fold, a merge or a delete lasts, which need others of the first kind meanwhile."""

WAIT_SECONDS = 30.0
# One that lay idle for longer may be dead, which a question finds out before anything depends on it.
_TRUSTED_SECONDS = 1.0
_POLL_SECONDS = 0.05
_DEFAULTS = {
    "application_name": "keen-pipeline serve",
    "connect_timeout": "10",
    "keepalives_idle": "30",
    "tcp_user_timeout": "60000",
}
# A process that froze must not hold locks for long, and what it commits must be on disk whatever the server's default is.
_SESSION = f"""
SET search_path TO {SCHEMA};
SET statement_timeout = '120s';
SET lock_timeout = '30s';
SET idle_in_transaction_session_timeout = '60s';
SELECT set_config('synchronous_commit', 'on', false) WHERE current_setting('synchronous_commit') = 'off';
"""

NOW = "extract(epoch FROM clock_timestamp())::double precision"
"""The database's time in SQL, seconds since 1970."""

_DbConnection = psycopg.Connection[dict[str, Any]]


class CatalogueUnavailableError(ServiceUnavailableError):
    """The catalogue's database does not answer, or ended a statement; it may do it the next time."""


class Statements:
    """One connection, with parameters as `?`; no SQL of ours holds that sign otherwise, or a percent sign."""

    def __init__(self, connection: _DbConnection) -> None:
        self._connection = connection

    def execute(self, sql: str, parameters: Sequence[Any] = (), /) -> psycopg.Cursor[dict[str, Any]]:
        return self._connection.execute(sql.replace("?", "%s").encode(), parameters)

    def executemany(self, sql: str, rows: Iterable[Sequence[Any]], /) -> None:
        with self._connection.cursor() as cursor:
            cursor.executemany(sql.replace("?", "%s").encode(), rows)


class PostgresDatabase:
    """The catalogue at a URL. Raises ConfigurationError if it can't be used, CatalogueUnavailableError while it is away."""

    def __init__(self, url: str) -> None:
        self._conninfo = _conninfo(url)
        self._slots = threading.BoundedSemaphore(CONNECTIONS)
        self._exclusive_slots = threading.BoundedSemaphore(EXCLUSIVE_CONNECTIONS)
        self._lock = threading.Lock()
        self._idle: list[tuple[float, _DbConnection]] = []
        self._closed = False
        self.server = ""
        """Which start of which server was connected to last: another one may be a standby that was behind, or a backup."""
        try:
            with self._connect() as connection:
                _bring_up(connection)
        except psycopg.Error as error:
            words = (error.diag.message_primary or str(error) or type(error).__name__).strip().splitlines()[-1]
            raise ConfigurationError(f"service: the catalogue can't be used: {self._without_password(words)}") from None

    def _connect(self) -> _DbConnection:
        connection = psycopg.connect(self._conninfo, autocommit=True, row_factory=dict_row)
        connection.execute(_SESSION.encode())
        self.server = str(connection.execute("SELECT pg_postmaster_start_time() AS started").fetchall()[0]["started"])
        return connection

    def _without_password(self, text: str) -> str:
        password = conninfo_to_dict(self._conninfo).get("password")
        return text.replace(str(password), "***") if password else text

    @contextmanager
    def transaction(self, lock: str | None = None) -> Iterator[Statements]:
        """One transaction; rolled back if the block raises. Those of one `lock` run one after another, in all processes."""
        with self._connection() as connection, connection.transaction():
            if lock is not None:
                connection.execute("SELECT pg_advisory_xact_lock(hashtextextended(%s, 0))", [f"{SCHEMA}:{lock}"])
            yield Statements(connection)

    @contextmanager
    def exclusive(self, name: str, wait: float) -> Iterator[bool]:
        """Hold a name that no other process holds while the block runs; false if one still does after `wait` seconds.

        It ends with the connection, so a process that died holds nothing.
        """
        key = [f"{SCHEMA}:{name}"]
        with self._connection(self._exclusive_slots) as connection:
            deadline = time.monotonic() + wait
            sql = "SELECT pg_try_advisory_lock(hashtextextended(%s, 0)) AS ours"
            while not (ours := connection.execute(sql, key).fetchall()[0]["ours"]) and time.monotonic() < deadline:
                time.sleep(_POLL_SECONDS)
            try:
                yield ours
            finally:
                if ours:
                    try:
                        connection.execute("SELECT pg_advisory_unlock(hashtextextended(%s, 0))", key)
                    except psycopg.Error:
                        connection.close()  # one that is gone holds nothing

    def rows(self, sql: str, parameters: Sequence[Any] = ()) -> list[dict[str, Any]]:
        """All rows of one statement, which is a transaction of its own."""
        with self._connection() as connection:
            done = Statements(connection).execute(sql, parameters)
            return done.fetchall() if done.description is not None else []

    def now(self) -> float:
        return float(self.rows(f"SELECT {NOW} AS now")[0]["now"])

    @contextmanager
    def _connection(self, slots: threading.BoundedSemaphore | None = None) -> Iterator[_DbConnection]:
        slots = slots or self._slots
        if not slots.acquire(timeout=WAIT_SECONDS):
            raise CatalogueUnavailableError(f"the catalogue answered nothing for {WAIT_SECONDS:g} s; ask again later")
        connection = None
        try:
            connection = self._take()
            yield connection
        except (psycopg.OperationalError, psycopg.InterfaceError, psycopg.InternalError) as error:  # the last: a standby, read only
            if connection is None or connection.closed:
                self._distrust()
            code = f", {error.sqlstate}" if error.sqlstate else ""
            raise CatalogueUnavailableError(f"the catalogue failed ({type(error).__name__}{code}); ask again later") from None
        finally:
            if connection is not None:
                self._give_back(connection)
            slots.release()

    def _take(self) -> _DbConnection:
        while True:
            with self._lock:
                if self._closed:
                    raise CatalogueUnavailableError("the service is shutting down")
                since, connection = self._idle.pop() if self._idle else (0.0, None)
            if connection is None:
                return self._connect()
            try:
                if time.monotonic() - since > _TRUSTED_SECONDS:
                    connection.execute("SELECT 1")
            except psycopg.OperationalError:
                connection.close()
                continue
            return connection

    def _distrust(self) -> None:
        """If one connection ended, the idle ones may have too."""
        with self._lock:
            self._idle = [(float("-inf"), connection) for _, connection in self._idle]

    def _give_back(self, connection: _DbConnection) -> None:
        with self._lock:
            if not self._closed and connection.info.transaction_status == psycopg.pq.TransactionStatus.IDLE:
                self._idle.append((time.monotonic(), connection))
                return
        connection.close()

    def close(self) -> None:
        """Close the connections that are idle; the others close as they are given back."""
        with self._lock:
            self._closed = True
            idle, self._idle = self._idle, []
        for _, connection in idle:
            connection.close()


def _bring_up(connection: psycopg.Connection[Any]) -> None:
    """Make the tables if they are missing. Raises ConfigurationError if a newer version made them."""
    with connection.transaction():
        connection.execute("SELECT pg_advisory_xact_lock(hashtextextended(%s, 0))", [_LOCK])
        if connection.execute("SELECT to_regclass(%s) AS found", [f"{SCHEMA}.version"]).fetchone() == {"found": None}:
            connection.execute(f"CREATE SCHEMA IF NOT EXISTS {SCHEMA}")
            connection.execute(_TABLES)
            connection.execute("INSERT INTO version VALUES (%s)", [_VERSION])
        row = connection.execute("SELECT number FROM version").fetchone()
        if row != {"number": _VERSION}:
            found = row["number"] if row else "none"
            raise ConfigurationError(
                f"service: the catalogue has schema {found}, this version reads {_VERSION}; use the version that made it, or"
                " extract its events there and load them here"
            )
        connection.execute(LISTED)


def _conninfo(url: str) -> str:
    """What libpq is told. Nothing of a URL is quoted: a password that was not escaped may stand anywhere in it."""
    scheme, mark, rest = url.partition("://")
    if mark != "://" or scheme not in ("postgresql", "postgres", "postgresql+psycopg"):
        raise ConfigurationError("service: the catalogue must be postgresql://user@host:port/database")
    try:
        given = conninfo_to_dict(f"postgresql://{rest}")
    except psycopg.ProgrammingError:
        given = {"host": "@"}
    if "@" in str(given.get("host", "")):
        raise ConfigurationError("service: the catalogue's URL can't be read; write @ as %40 and / as %2F in a password")
    return make_conninfo("", **{**_DEFAULTS, **given})
