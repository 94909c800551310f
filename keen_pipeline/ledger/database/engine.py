"""Opening a ledger's database: dialect settings, and the migrations, run under a lock at the first use."""

from __future__ import annotations

import sqlite3
import time
from pathlib import Path
from typing import Any
from weakref import WeakKeyDictionary

import sqlalchemy as sa

from keen_pipeline.errors import ConfigurationError, LedgerUnavailableError, LedgerVersionError
from keen_pipeline.ledger.database.clock import keep_time
from keen_pipeline.ledger.database.migrate import migrate
from keen_pipeline.ledger.database.transactions import PATIENCE_SECONDS, be_patient, reason_of, sqlite_problem

_BUSY_SECONDS = 30.0
# Of libpq: without them a host that vanished is waited for by the system's own time, which is hours.
_NOTICE_A_DEAD_HOST = {"connect_timeout": 10, "keepalives_idle": 30, "keepalives_interval": 10, "tcp_user_timeout": 60_000}


def open_engine(url: str, *, contract: bool = False, patience_seconds: float = PATIENCE_SECONDS) -> sa.Engine:
    """Open the ledger at a SQLAlchemy URL, creating or migrating its tables if needed; `contract`: see `migrate`.

    `patience_seconds`: how long its users wait for a database that goes away after it was opened.

    Raises ConfigurationError if the URL can't be used, LedgerVersionError if the ledger serves newer code only,
    LedgerUnavailableError if another process keeps a SQLite file locked. No message holds the URL's password.
    """
    shown = "URL"
    try:
        parsed = read_url(url)
        shown = parsed.render_as_string(hide_password=True)
        if parsed.drivername == "postgresql":
            parsed = parsed.set(drivername="postgresql+psycopg")
        engine = sa.create_engine(parsed, **_options(parsed))
        _make_file(engine.url)
    except (sa.exc.NoSuchModuleError, ModuleNotFoundError) as error:
        raise ConfigurationError(
            f"no driver for the ledger {shown}: {error}; install it, for PostgreSQL keen_pipeline[postgres]"
        ) from None
    except (sa.exc.ArgumentError, ValueError):
        raise ConfigurationError(
            "KEEN_PIPELINE_LEDGER_URL is not a SQLAlchemy URL, for example sqlite:///./data/ledger.db or "
            "postgresql://user:password@host/name, with signs such as @ in a password written as %40"
        ) from None
    except OSError as error:  # its folder
        raise ConfigurationError(f"the ledger {shown} can't be opened: {error.filename}: {error.strerror}") from None
    if engine.dialect.name == "sqlite":
        _tune_sqlite(engine)
    keep_time(engine)
    be_patient(engine, patience_seconds)
    try:
        migrate(engine, contract=contract)
    except LedgerVersionError:
        engine.dispose()
        raise
    except sa.exc.DBAPIError as error:
        engine.dispose()
        if isinstance(error.orig, sqlite3.OperationalError) and "locked" in str(error.orig):  # by who creates or migrates it
            raise LedgerUnavailableError(sqlite_problem(engine, error.orig)) from None
        raise ConfigurationError(f"the ledger {shown} can't be opened: {reason_of(error)}") from None
    if engine.dialect.name == "sqlite" and engine.url.database not in (None, "", ":memory:"):
        _watch(engine)
    return engine


def read_url(url: str) -> sa.URL:
    """A SQLAlchemy URL. Raises ArgumentError or ValueError, whose words may hold a part of a password with a colon or @ in it."""
    parsed = sa.make_url(url)
    if "@" in (parsed.host or ""):
        raise ValueError("the host holds an @")
    # As libpq, and many hosts, call it.
    return parsed.set(drivername="postgresql") if parsed.drivername == "postgres" else parsed


# Device and number of the file that an engine has opened; None once another one was found in its place.
_files: WeakKeyDictionary[sa.Engine, tuple[int, int] | None] = WeakKeyDictionary()


def is_replaced(engine: sa.Engine) -> bool:
    """Whether a SQLite ledger's file was removed or replaced since it was opened, as when a backup is put in its place."""
    if engine not in _files:
        return False
    if _files[engine] != _file_of(engine):
        _files[engine] = None  # for good: once it is closed, its number may be given to the next file
    return _files[engine] is None


def _watch(engine: sa.Engine) -> None:
    """Refuse to go on with a file that is no longer the ledger's: nobody else would see what is noted there."""
    _files[engine] = _file_of(engine)

    @sa.event.listens_for(engine, "checkout")
    def _checkout(_connection: Any, _record: Any, _proxy: Any) -> None:
        if is_replaced(engine):
            raise LedgerUnavailableError(
                f"the ledger {engine.url.database} was removed or replaced while this process used it; it goes on with the new one "
                "at its next run or tick"
            )


def _file_of(engine: sa.Engine) -> tuple[int, int] | None:
    try:
        found = Path(str(engine.url.database)).stat()
    except OSError:
        return None
    return found.st_dev, found.st_ino


def _make_file(url: sa.URL) -> None:
    """A new SQLite file is its owner's alone, as it holds addresses and filters; whoever shares it gives others the right to."""
    if url.get_backend_name() == "sqlite" and url.database not in (None, "", ":memory:"):
        file = Path(str(url.database))
        file.parent.mkdir(parents=True, exist_ok=True)
        if not file.exists() and not url.query:
            file.touch(0o600)


def _options(url: sa.URL) -> dict[str, Any]:
    # Values are filters and addresses, which may be personal data: no error shows them.
    options: dict[str, Any] = {"hide_parameters": True}
    if url.get_backend_name() == "sqlite":
        if not url.database or url.database == ":memory:":
            # Each connection would have a memory of its own: all threads take turns on one.
            one = {"poolclass": sa.QueuePool, "pool_size": 1, "max_overflow": 0}
            return {**options, **one, "connect_args": {"check_same_thread": False}}
        if url.database.startswith("~"):
            raise ConfigurationError(f"the ledger sqlite:///{url.database}: `~` is no home folder in a URL; write the whole path")
        return {**options, "connect_args": {"timeout": _BUSY_SECONDS}}
    if url.get_backend_name() == "postgresql":
        # What the ledger is written for, whatever the server's default is.
        options["isolation_level"] = "READ COMMITTED"
    options |= {"pool_pre_ping": True, "pool_size": 5, "max_overflow": 5, "pool_timeout": 30}
    if url.get_driver_name() in ("psycopg", "psycopg2"):
        options["connect_args"] = {name: value for name, value in _NOTICE_A_DEAD_HOST.items() if name not in url.query}
    return options


def _tune_sqlite(engine: sa.Engine) -> None:
    # The driver's own transaction handling begins late and as a reader, which turns two writers into "database is
    # locked"; ours begins every transaction at once as a writer and waits for the other (see SQLAlchemy's pysqlite notes).
    @sa.event.listens_for(engine, "connect")
    def _connect(connection: sqlite3.Connection, _record: Any) -> None:
        connection.isolation_level = None
        _use_wal(connection)
        connection.execute("PRAGMA synchronous=FULL")

    @sa.event.listens_for(engine, "begin")
    def _begin(connection: sa.Connection) -> None:
        reads_only = connection.get_execution_options().get("keen_read", False)
        connection.exec_driver_sql("BEGIN" if reads_only else "BEGIN IMMEDIATE")


def _use_wal(connection: sqlite3.Connection) -> None:
    # SQLite does not wait when two connections turn a new database to WAL at once: the second is told "locked" immediately.
    deadline = time.monotonic() + _BUSY_SECONDS
    while True:
        try:
            connection.execute("PRAGMA journal_mode=WAL")
        except sqlite3.OperationalError as error:
            if "locked" not in str(error) or time.monotonic() > deadline:
                raise
            time.sleep(0.01)
        else:
            return
