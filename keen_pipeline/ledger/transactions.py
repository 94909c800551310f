"""Transactions that other processes get in the way of, or a database that restarts: they are done again.

On SQLite one transaction runs after another, and its file does not go away.
"""

from __future__ import annotations

import logging
import random
import sqlite3
import threading
import time
from collections.abc import Callable
from functools import wraps
from typing import Concatenate, ParamSpec, Protocol, TypeVar
from weakref import WeakKeyDictionary

import sqlalchemy as sa

from keen_pipeline.errors import LedgerUnavailableError

_log = logging.getLogger(__name__)

# serialization_failure and deadlock_detected: the transaction has been rolled back as a whole, and may go well the next time.
# https://www.postgresql.org/docs/current/mvcc-serialization-failure-handling.html
_CONFLICTS = {"40001", "40P01"}
# Before each PostgreSQL has waited for its deadlock_timeout (1 s).
_MOST_CONFLICTS = 7
# Between two tries; those that lost at the same moment come back apart from each other.
_LONGEST_REST_SECONDS = 0.5
# A restart takes some seconds, a standby that takes over half a minute; a sensor's tick is given up after 60 s.
PATIENCE_SECONDS = 45.0


class _OnEngine(Protocol):
    @property
    def engine(self) -> sa.Engine: ...


_P = ParamSpec("_P")
_T = TypeVar("_T")
_Self = TypeVar("_Self", bound=_OnEngine)


class _Outage:
    """How long a database has been away, for all threads together: its patience counts once for an outage, not for each call."""

    def __init__(self, patience_seconds: float) -> None:
        self._patience_seconds = patience_seconds
        self._lock = threading.Lock()
        self._since: float | None = None
        self._noticed = 0.0

    def goes_on(self, reason: str) -> None:
        """Another call has failed. Raises LedgerUnavailableError where it lasts too long."""
        with self._lock:
            now = time.monotonic()
            # Where nobody has asked for so long, it may have been back meanwhile.
            if self._since is None or now - self._noticed > self._patience_seconds + _LONGEST_REST_SECONDS:
                self._since = now
                _log.warning("the ledger's database does not answer, asked again for %g s: %s", self._patience_seconds, reason)
            self._noticed = now
            lasted = now - self._since
        if lasted >= self._patience_seconds:
            raise LedgerUnavailableError(
                f"the ledger's database has not answered for {lasted:.0f} s: {reason}; what is open stays open, the sensor or the "
                "next run goes on with it"
            ) from None

    def is_over(self) -> None:
        """A call went well."""
        if self._since is not None:
            with self._lock:
                self._since = None


_outages: WeakKeyDictionary[sa.Engine, _Outage] = WeakKeyDictionary()


def be_patient(engine: sa.Engine, seconds: float) -> None:
    """Have transactions on `engine` wait so long for a database that is away; without this, not at all."""
    _outages[engine] = _Outage(seconds)


def done_again(transaction: Callable[Concatenate[_Self, _P], _T]) -> Callable[Concatenate[_Self, _P], _T]:
    """A method that is one transaction on `self.engine`, done anew where it was certainly undone.

    So it was where PostgreSQL ended it in favour of another (_MOST_CONFLICTS times at most), and where the database went away
    before its commit. Raises LedgerUnavailableError where it stays away, and where a commit's answer was lost.
    """
    return _done_again(transaction, repeatable=False)


def repeatable(transaction: Callable[Concatenate[_Self, _P], _T]) -> Callable[Concatenate[_Self, _P], _T]:
    """As `done_again`, of a method that only reads, or done twice is as done once: also where a commit's answer was lost."""
    return _done_again(transaction, repeatable=True)


def _done_again(transaction: Callable[Concatenate[_Self, _P], _T], *, repeatable: bool) -> Callable[Concatenate[_Self, _P], _T]:
    @wraps(transaction)
    def run(self: _Self, /, *args: _P.args, **kwargs: _P.kwargs) -> _T:
        outage = _outages.get(self.engine) or _Outage(0.0)
        conflicts = 0
        while True:
            try:
                answer = transaction(self, *args, **kwargs)
            except sa.exc.DBAPIError as error:
                if _sqlstate(error) in _CONFLICTS and conflicts < _MOST_CONFLICTS:
                    conflicts += 1
                elif _lost_its_commit(error) and not repeatable:
                    raise LedgerUnavailableError(
                        f"the ledger's database went away in the middle of a change: {_reason(error)}; whether it was made the "
                        "ledger tells, and the sensor or the next run goes on from there"
                    ) from None
                elif _is_away(error):
                    outage.goes_on(_reason(error))
                else:
                    raise
            else:
                outage.is_over()
                return answer
            time.sleep(random.uniform(0, _LONGEST_REST_SECONDS))  # noqa: S311 - spreads retries, guards nothing

    return run


def _sqlstate(error: sa.exc.DBAPIError) -> str | None:
    # psycopg, psycopg2
    return getattr(error.orig, "sqlstate", None) or getattr(error.orig, "pgcode", None)


def _lost_its_commit(error: sa.exc.DBAPIError) -> bool:
    return error.connection_invalidated and error.statement is None


def _is_away(error: sa.exc.DBAPIError) -> bool:
    """No connection came up, or one was lost with a statement that had not been committed."""
    never_connected = isinstance(error, sa.exc.OperationalError) and error.statement is None
    return not isinstance(error.orig, sqlite3.Error) and (error.connection_invalidated or never_connected)


def _reason(error: sa.exc.DBAPIError) -> str:
    # The driver's own words: those of SQLAlchemy hold the statement.
    return (str(error.orig).strip().splitlines() or [type(error).__name__])[0]


def take_in_order(connection: sa.Connection, column: sa.Column[int], rows: sa.ColumnElement[bool]) -> None:
    """Hold `rows`, by ascending `column`, until the transaction ends.

    Of two transactions that change some of the same rows, one then waits for the other, and never both.
    """
    if connection.dialect.name == "postgresql":
        connection.execute(sa.select(column).where(rows).order_by(column).with_for_update(key_share=True))
