"""The ledger's transactions. If another process gets in the way of one, or the database restarts, it is done again.

On SQLite one transaction runs after another, and its file does not go away.
"""

from __future__ import annotations

import logging
import random
import sqlite3
import threading
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import wraps
from typing import Concatenate, ParamSpec, Protocol, TypeVar
from weakref import WeakKeyDictionary

import sqlalchemy as sa

from keen_pipeline.errors import LedgerUnavailableError

_log = logging.getLogger(__name__)

# serialization_failure and deadlock_detected: the transaction has been rolled back as a whole, and may go well the next time.
# https://www.postgresql.org/docs/current/mvcc-serialization-failure-handling.html
_CONFLICTS = {"40001", "40P01"}
# Before each deadlock PostgreSQL has waited for its deadlock_timeout (1 s).
_MOST_CONFLICTS = 7
# What pg_xact_status says when a standby took over that had not heard of the transaction.
_NUMBER_OF_THE_FUTURE = "22023"
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
        """Another call has failed. Raises LedgerUnavailableError if it lasts too long."""
        with self._lock:
            now = time.monotonic()
            # If nobody has asked for so long, it may have been back meanwhile.
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


def transaction(body: Callable[Concatenate[_Self, sa.Connection, _P], _T]) -> Callable[Concatenate[_Self, _P], _T]:
    """A method as one transaction on `self.engine`, whose connection it is given.

    It is done again if PostgreSQL ended it in favour of another, or another has just inserted the same row, which the next look
    finds (_MOST_CONFLICTS times at most), and when the database went away before it was committed. Raises LedgerUnavailableError
    if that stays away, or refuses: no rights, read-only, a time limit of its own, a file that is damaged.
    """

    @wraps(body)
    def run(self: _Self, /, *args: _P.args, **kwargs: _P.kwargs) -> _T:
        return _patiently(self.engine, lambda: _commit(self.engine, lambda connection: body(self, connection, *args, **kwargs)))

    return run


def read_transaction(body: Callable[Concatenate[_Self, sa.Connection, _P], _T]) -> Callable[Concatenate[_Self, _P], _T]:
    """As `transaction`, of a method that only reads."""

    @wraps(body)
    def run(self: _Self, /, *args: _P.args, **kwargs: _P.kwargs) -> _T:
        def once() -> _T:
            with read_only(self.engine) as connection:
                return body(self, connection, *args, **kwargs)

        return _patiently(self.engine, once)

    return run


def _patiently(engine: sa.Engine, once: Callable[[], _T]) -> _T:
    outage = _outages.get(engine) or _Outage(0.0)
    conflicts = 0
    while True:
        try:
            answer = once()
        except sa.exc.DBAPIError as error:
            is_conflict = isinstance(error, sa.exc.IntegrityError) or _sqlstate(error) in _CONFLICTS
            if is_conflict and conflicts < _MOST_CONFLICTS:
                conflicts += 1
            elif _is_away(error):
                outage.goes_on(reason_of(error))
            elif isinstance(error, (sa.exc.DataError, sa.exc.IntegrityError)):
                raise  # of what was to be written, not of the database
            elif isinstance(error.orig, sqlite3.Error):
                raise LedgerUnavailableError(sqlite_problem(engine, error.orig)) from None
            else:
                said = f"the ledger's database refuses: {reason_of(error)}"
                raise LedgerUnavailableError(f"{said}; a person has to fix that. What is open stays open") from error
        except BaseException as error:
            _let_go(error)
            raise
        else:
            outage.is_over()
            return answer
        time.sleep(random.uniform(0, _LONGEST_REST_SECONDS))  # noqa: S311 - spreads retries, guards nothing


def _let_go(error: BaseException) -> None:
    """A signal's exception came out of the driver: a cursor in its frames would keep a SQLite file locked while it is handled,
    from whoever gives back the claims of this process, too."""
    link: BaseException | None = None if isinstance(error, Exception) else error
    while link is not None:
        traceback.clear_frames(link.__traceback__)
        link = link.__context__


def sqlite_problem(engine: sa.Engine, error: sqlite3.Error) -> str:
    """A file that is locked, full, read-only or damaged, in a line that says what fixes it."""
    said = str(error)
    mend = "see that its folder is there and can be written"
    if "locked" in said or "busy" in said:
        mend = "another process has held it for too long; end that one, or use PostgreSQL for many processes"
    elif "full" in said:
        mend = "make room on its disk"
    elif "malformed" in said or "not a database" in said:
        mend = "put a backup there, without -wal and -shm beside it, or delete all three and run `keen-pipeline ledger rebuild`"
    return f"the ledger {engine.url.database} can't be used: {said}; {mend}. What is open stays open"


@contextmanager
def read_only(engine: sa.Engine) -> Iterator[sa.Connection]:
    """A transaction that only reads, tried once; on SQLite it doesn't wait for a writer."""
    with engine.connect().execution_options(keen_read=True) as connection, connection.begin():
        yield connection


def _commit(engine: sa.Engine, body: Callable[[sa.Connection], _T]) -> _T:
    """`body`'s answer once it is committed, whether or not the database lived to say so. Raises if it certainly isn't."""
    number = None
    try:
        with engine.begin() as connection:
            answer = body(connection)
            if engine.dialect.name == "postgresql":
                number = str(connection.execute(sa.select(sa.func.pg_current_xact_id())).scalar_one())
    except sa.exc.DBAPIError as error:
        # With its number known, only the commit's answer can have been lost.
        if number is None or not _is_away(error) or not _patiently(engine, lambda: _was_committed(engine, number)):
            raise
    return answer


def _was_committed(engine: sa.Engine, number: str) -> bool:
    """What became of a transaction; waits if a server that is still busy with it has not noticed that nobody listens."""
    status = sa.text("SELECT pg_xact_status(CAST(:number AS xid8))").bindparams(number=number)
    give_up = time.monotonic() + PATIENCE_SECONDS
    while True:
        try:
            with read_only(engine) as connection:
                found = connection.execute(status).scalar_one()
        except sa.exc.DBAPIError as error:
            if _sqlstate(error) == _NUMBER_OF_THE_FUTURE:
                return False
            raise
        if found != "in progress":
            return bool(found == "committed")
        if time.monotonic() > give_up:
            raise LedgerUnavailableError(
                "the ledger's database went away and has not ended a change since; the sensor or the next run goes on by what it "
                "comes to"
            )
        time.sleep(_LONGEST_REST_SECONDS)


def _sqlstate(error: sa.exc.DBAPIError) -> str | None:
    # psycopg, psycopg2
    return getattr(error.orig, "sqlstate", None) or getattr(error.orig, "pgcode", None)


def _is_away(error: sa.exc.DBAPIError) -> bool:
    """No connection came up, or one was lost with a statement that had not been committed."""
    never_connected = isinstance(error, sa.exc.OperationalError) and error.statement is None
    return not isinstance(error.orig, sqlite3.Error) and (error.connection_invalidated or never_connected)


def reason_of(error: sa.exc.SQLAlchemyError) -> str:
    """What a database said, in a line: the driver's own words, as those of SQLAlchemy hold the statement."""
    return (str(getattr(error, "orig", None) or error).strip().splitlines() or [type(error).__name__])[0]


def lock_rows(connection: sa.Connection, column: sa.Column[int], rows: sa.ColumnElement[bool]) -> None:
    """Hold `rows`, by ascending `column`, until the transaction ends.

    Of two transactions that change some of the same rows, one then waits for the other, and never both.
    """
    if connection.dialect.name == "postgresql":
        connection.execute(sa.select(column).where(rows).order_by(column).with_for_update(key_share=True))
