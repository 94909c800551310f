"""Many processes on the same rows of PostgreSQL: rows are taken in one order, and what loses a conflict is done again.

On SQLite one transaction runs after another.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable
from functools import wraps
from typing import ParamSpec, TypeVar

import sqlalchemy as sa

_P = ParamSpec("_P")
_T = TypeVar("_T")

# serialization_failure and deadlock_detected: the transaction has been rolled back as a whole, and may go well the next time.
# https://www.postgresql.org/docs/current/mvcc-serialization-failure-handling.html
_CONFLICTS = {"40001", "40P01"}
# Each has waited for PostgreSQL's deadlock_timeout (1 s) before; several that lose at once come back apart from each other.
MOST_TRIES = 8
_LONGEST_REST_SECONDS = 0.2


def done_again(transaction: Callable[_P, _T]) -> Callable[_P, _T]:
    """A function that is one transaction, done anew where PostgreSQL ended it in favour of another, MOST_TRIES times at most."""

    @wraps(transaction)
    def run(*args: _P.args, **kwargs: _P.kwargs) -> _T:
        for _ in range(MOST_TRIES - 1):
            try:
                return transaction(*args, **kwargs)
            except sa.exc.DBAPIError as error:
                if _sqlstate(error) not in _CONFLICTS:
                    raise
            time.sleep(random.uniform(0, _LONGEST_REST_SECONDS))  # noqa: S311 - spreads retries, guards nothing
        return transaction(*args, **kwargs)

    return run


def _sqlstate(error: sa.exc.DBAPIError) -> str | None:
    # psycopg, psycopg2
    return getattr(error.orig, "sqlstate", None) or getattr(error.orig, "pgcode", None)


def take_in_order(connection: sa.Connection, column: sa.Column[int], rows: sa.ColumnElement[bool]) -> None:
    """Hold `rows`, by ascending `column`, until the transaction ends.

    Of two transactions that change some of the same rows, one then waits for the other, and never both.
    """
    if connection.dialect.name == "postgresql":
        connection.execute(sa.select(column).where(rows).order_by(column).with_for_update(key_share=True))
