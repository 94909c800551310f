"""What a service keeps its records in: rows, and transactions that are durable when they return. SQLite or PostgreSQL."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from contextlib import AbstractContextManager
from typing import Any, Protocol


class Statement(Protocol):
    """An executed statement."""

    @property
    def rowcount(self) -> int:
        """How many rows it changed."""
        ...

    def fetchone(self) -> Any:
        """The next row, by name of column; None where there is none (any more)."""
        ...

    def fetchall(self) -> list[Any]:
        """The rows that are left."""
        ...


class Connection(Protocol):
    """What a transaction works with. Parameters stand as `?` in the SQL."""

    def execute(self, sql: str, parameters: Sequence[Any] = (), /) -> Statement:
        """Run one statement."""
        ...

    def executemany(self, sql: str, rows: Iterable[Sequence[Any]], /) -> object:
        """Run one statement for each row of parameters."""
        ...


class Database(Protocol):
    """The database of a service. Every method may be called from any thread."""

    def transaction(self, lock: str | None = None) -> AbstractContextManager[Connection]:
        """One transaction; rolled back where the block raises. Those of one `lock` run one after another, in all processes."""
        ...

    def rows(self, sql: str, parameters: Sequence[Any] = ()) -> list[Any]:
        """All rows of a query, by name of column."""
        ...

    def now(self) -> float:
        """The time, in seconds since 1970, that all processes on this database agree on."""
        ...

    def close(self) -> None:
        """Close it; nothing may use it afterwards."""
        ...
