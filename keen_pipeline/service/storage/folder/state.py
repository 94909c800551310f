"""The database of one folder, `state.db`: the records of extractions, nothing that the events need."""

from __future__ import annotations

import logging
import sqlite3
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from pathlib import Path
from typing import Any

from keen_pipeline.errors import ConfigurationError, ServiceUnavailableError
from keen_pipeline.service.storage.engine import RETRY_SECONDS, DiskFullError
from keen_pipeline.service.storage.folder.presence import Presence

WAIT_SECONDS = 10.0
"""For another process that has it locked, such as a backup."""

_VERSION = 5
EXTRACTIONS = """
CREATE TABLE extractions (
    id TEXT PRIMARY KEY, collection TEXT NOT NULL, names TEXT NOT NULL, filters TEXT NOT NULL, start_time TEXT, end_time TEXT,
    email TEXT, status TEXT NOT NULL, created DOUBLE PRECISION NOT NULL, not_before DOUBLE PRECISION NOT NULL,
    finished DOUBLE PRECISION, events BIGINT, bytes BIGINT, message TEXT, mail_status TEXT,
    mail_attempts INTEGER NOT NULL DEFAULT 0, mail_next DOUBLE PRECISION, options TEXT NOT NULL DEFAULT '{}',
    turn INTEGER NOT NULL DEFAULT 0, lost INTEGER NOT NULL DEFAULT 0, holder TEXT, held_until DOUBLE PRECISION NOT NULL DEFAULT 0);
CREATE INDEX extractions_by_status ON extractions (status, created);
"""
LISTED = "CREATE INDEX IF NOT EXISTS extractions_listed ON extractions (collection, (finished IS NOT NULL), created DESC, id DESC)"
"""Both for SQLite and PostgreSQL. The index, at each start: without it all of a collection's are sorted for the few in a list."""

# From each older version to the next one. Where the events were catalogued until version 3, see `migration`.
_MIGRATIONS = {
    1: "ALTER TABLE extractions ADD COLUMN options TEXT NOT NULL DEFAULT '{}';",
    2: "ALTER TABLE extractions ADD COLUMN turn INTEGER NOT NULL DEFAULT 0;",
    3: "".join(f"DROP TABLE IF EXISTS {name};" for name in ("folded_logs", "segments", "properties", "collections")),
    4: "ALTER TABLE extractions ADD COLUMN lost INTEGER NOT NULL DEFAULT 0; ALTER TABLE extractions ADD COLUMN holder TEXT;"
    " ALTER TABLE extractions ADD COLUMN held_until DOUBLE PRECISION NOT NULL DEFAULT 0;",
}
_log = logging.getLogger(__name__)


class SqliteDatabase:
    """One SQLite connection, shared by threads under a lock; commits are on disk when they return.

    Raises ConfigurationError for a database of a newer version, ServiceUnavailableError while it is locked, DiskFullError,
    StorageError if its file was removed or replaced.
    """

    def __init__(self, path: Path) -> None:
        self._lock = threading.RLock()
        try:
            self._open(path)
        except sqlite3.DatabaseError as error:
            if isinstance(error, sqlite3.OperationalError):
                raise ConfigurationError(f"service: {path} can't be opened ({error})") from None
            # A copy that was taken while it was written. It holds no events; what was asked is asked again.
            for name in (path.name, f"{path.name}-wal", f"{path.name}-shm"):
                if (damaged := path.with_name(name)).exists():
                    damaged.rename(path.with_name(f"{name}.set-aside-{int(time.time())}"))
            _log.error("the records of extractions can't be read and were set aside", extra={"file": str(path)})
            self._open(path)
        self._presence = Presence(path, path.name)

    def _open(self, path: Path) -> None:
        path.touch(mode=0o600)
        self._connection = sqlite3.connect(path, check_same_thread=False, isolation_level=None, timeout=WAIT_SECONDS)
        self._connection.row_factory = sqlite3.Row
        for pragma in ("journal_mode=WAL", "synchronous=FULL", "foreign_keys=ON"):
            self._connection.execute(f"PRAGMA {pragma}")
        found = self._connection.execute("PRAGMA integrity_check(1)").fetchone()[0]
        if found != "ok":  # most of it may be read, and whatever touches the rest would fail for good
            self._connection.close()
            raise sqlite3.DatabaseError(found)
        version = self._connection.execute("PRAGMA user_version").fetchone()[0]
        if version == 0:
            self._connection.executescript(f"BEGIN;{EXTRACTIONS}PRAGMA user_version={_VERSION};COMMIT;")
        elif version in _MIGRATIONS:
            steps = "".join(_MIGRATIONS[number] for number in range(version, _VERSION))
            self._connection.executescript(f"BEGIN;{steps}PRAGMA user_version={_VERSION};COMMIT;")
        elif version != _VERSION:
            self._connection.close()
            raise ConfigurationError(
                f"service: {path} has schema {version}, this version reads {_VERSION}; use the version that wrote it"
            )
        with suppress(sqlite3.OperationalError):  # where it finds no room, lists go on as slowly as before
            self._connection.execute(LISTED)
        path.chmod(0o600)

    @contextmanager
    def transaction(self, lock: str | None = None) -> Iterator[sqlite3.Connection]:
        """One transaction; rolled back if the block raises. They all run one after another, whatever `lock` says."""
        with self._lock, _own_errors():
            self._presence.check()  # SQLite itself goes on with a file that nobody will find any more
            self._connection.execute("BEGIN IMMEDIATE")
            try:
                yield self._connection
                self._connection.execute("COMMIT")
            except BaseException:
                if self._connection.in_transaction:
                    self._connection.execute("ROLLBACK")
                raise

    def rows(self, sql: str, parameters: Sequence[Any] = ()) -> list[sqlite3.Row]:
        with self._lock, _own_errors():
            self._presence.check()
            return self._connection.execute(sql, parameters).fetchall()

    def exclusive(self, name: str, wait: float) -> AbstractContextManager[bool]:
        """There is no other process."""
        return nullcontext(enter_result=True)

    def now(self) -> float:
        return time.time()

    def close(self) -> None:
        with self._lock:
            self._connection.close()


@contextmanager
def _own_errors() -> Iterator[None]:
    try:
        yield
    except sqlite3.OperationalError as error:
        code = error.sqlite_errorcode & 0xFF
        if code == sqlite3.SQLITE_FULL or code == sqlite3.SQLITE_IOERR:
            raise DiskFullError("the records of extractions find no room on the disk; free some") from error
        if code in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED, sqlite3.SQLITE_CANTOPEN, sqlite3.SQLITE_READONLY):
            raise ServiceUnavailableError(
                "the records of extractions can't be opened or written, or another process has locked them; ask again later",
                retry_after=RETRY_SECONDS,
            ) from error
        raise
