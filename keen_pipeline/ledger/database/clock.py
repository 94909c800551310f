"""The ledger's time: PostgreSQL's own if hosts share a ledger, so that their clocks need not agree."""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass
from datetime import datetime, timezone
from threading import Lock
from typing import Any
from weakref import WeakKeyDictionary

import sqlalchemy as sa

from keen_pipeline.ledger.database.tables import UtcDateTime
from keen_pipeline.ports import Clock, SystemClock

# Between two comparisons; two steady clocks drift apart by at most 30 ms in that time.
RENEW_SECONDS = 60.0
_DRIFT = 0.0005
# A comparison is repeated within its turn while it is less exact than this, at most so often.
_EXACT_SECONDS = 0.005
_MOST_READINGS = 3
_EPOCH = "SELECT extract(epoch FROM clock_timestamp())"


def steady_seconds() -> float:
    """Seconds since this host's start, its sleep included if the system tells it; nobody can set this clock."""
    boottime = getattr(time, "CLOCK_BOOTTIME", None)
    return time.clock_gettime(boottime) if boottime is not None else time.monotonic()


@dataclass(frozen=True)
class _Reading:
    """At `at` of the host's steady clock the database's was `database` (seconds since 1970), give or take `error` seconds."""

    at: float
    database: float
    error: float

    def predict(self, at: float) -> float:
        return self.database + at - self.at

    def error_at(self, at: float) -> float:
        return self.error + _DRIFT * abs(at - self.at)


class DatabaseClock:
    """The time of a PostgreSQL server, by this host's steady clock and the last comparison of the two.

    The first who takes a connection from the pool after a minute compares again: no call waits for a connection of its own.
    The host's date and time play no part. An answer is right within the comparison's round trip, some milliseconds.
    """

    def __init__(self, steady: Callable[[], float] = steady_seconds) -> None:
        self._steady = steady
        self._lock = Lock()
        self._reading: _Reading | None = None
        self._renew_at = 0.0

    def now(self) -> datetime:
        """The database's current instant, aware UTC."""
        reading = self._reading
        assert reading is not None, "open_engine has connected already"
        return datetime.fromtimestamp(reading.predict(self._steady()), timezone.utc)

    def sleep(self, seconds: float) -> None:
        """Wait `seconds` (>= 0)."""
        time.sleep(seconds)

    def renew(self, connection: Any) -> None:
        """Compare by a DBAPI connection outside of a transaction, if it is time to and nobody else does."""
        if self._reading is not None and self._steady() < self._renew_at:
            return
        if not self._lock.acquire(blocking=False):
            return
        try:
            self.take(self._compare(connection))
        finally:
            self._lock.release()

    def _compare(self, connection: Any) -> _Reading:
        """The most exact of a few readings: a busy host or network can only make one less exact, never wrong."""
        readings: list[_Reading] = []
        with closing(connection.cursor()) as cursor:
            while not readings or (len(readings) < _MOST_READINGS and readings[-1].error > _EXACT_SECONDS):
                asked = self._steady()
                cursor.execute(_EPOCH)
                database = float(cursor.fetchone()[0])
                answered = self._steady()
                readings.append(_Reading((asked + answered) / 2, database, (answered - asked) / 2))
        connection.rollback()
        return min(readings, key=lambda reading: reading.error)

    def take(self, new: _Reading) -> None:
        """Use a new reading if it is the better one, or shows that the database's clock was set."""
        self._renew_at = self._steady() + RENEW_SECONDS
        old = self._reading
        if old is not None:
            known = old.error_at(new.at)
            was_set = abs(new.database - old.predict(new.at)) > known + new.error
            if new.error > known and not was_set:
                return
        self._reading = new


_clocks: WeakKeyDictionary[sa.Engine, Clock] = WeakKeyDictionary()


def keep_time(engine: sa.Engine) -> None:
    """Have `clock_of(engine)` tell the database's time, if it has one that several hosts share."""
    if engine.dialect.name != "postgresql":
        return  # SQLite is a file of this machine
    clock = DatabaseClock()
    _clocks[engine] = clock

    @sa.event.listens_for(engine, "checkout")
    def _checkout(connection: Any, _record: Any, _proxy: Any) -> None:
        try:
            clock.renew(connection)
        except engine.dialect.loaded_dbapi.OperationalError as error:
            raise sa.exc.DisconnectionError(str(error)) from error  # the pool tries another connection


def clock_of(engine: sa.Engine) -> Clock:
    """The time of a ledger: the database's on PostgreSQL, else this machine's."""
    return _clocks.get(engine) or SystemClock()


def now_expression(clock: Clock) -> sa.ColumnElement[datetime]:
    """Now as a statement's own term: exact if the database tells it, even after the statement had to wait."""
    if isinstance(clock, DatabaseClock):
        return sa.func.clock_timestamp(type_=UtcDateTime)
    return sa.literal(clock.now(), UtcDateTime)
