"""The scopes of a ledger: whose entries it holds, and the adoption of entries from before there were scopes."""

from __future__ import annotations

import logging
from dataclasses import dataclass, replace
from typing import Any

import sqlalchemy as sa

from keen_pipeline.collection import Encoding
from keen_pipeline.extraction import Kind
from keen_pipeline.ledger.rows import to_entry
from keen_pipeline.ledger.tables import entries, is_landed, is_open, scopes
from keen_pipeline.ledger.transactions import read_transaction, transaction
from keen_pipeline.ports import Clock
from keen_pipeline.scope import Scope

_log = logging.getLogger(__name__)

UNCLAIMED = ""
"""The source of entries that were made before there were scopes, until the first pipeline opens the ledger."""
_BATCH = 2_000
# The longest first, so that `.csv.gz` is not read as a name that ends in `.csv`.
_SUFFIXES = sorted(Encoding, key=lambda encoding: len(encoding.value), reverse=True)


@dataclass(frozen=True)
class ScopeSummary:
    """A scope of the ledger in numbers."""

    scope: Scope
    landed: int
    open: int


class Scopes:
    """The table of scopes. Every method is one transaction."""

    def __init__(self, engine: sa.Engine, clock: Clock) -> None:
        self.engine = engine
        self._clock = clock

    def open(self, scope: Scope) -> int:
        """The number of a scope, which is made at its first use."""
        known = self._find(scope)
        if known is not None:
            return known
        number, adopted = self._make(scope)
        if adopted:
            _log.warning("%d entries of the ledger are from before it knew whose they are; they belong to %s now", adopted, scope)
        return number

    @read_transaction
    def _find(self, connection: sa.Connection, scope: Scope) -> int | None:
        return connection.execute(_number_of(scope)).scalar()

    @transaction
    def _make(self, connection: sa.Connection, scope: Scope) -> tuple[int, int]:
        known = connection.execute(_number_of(scope)).scalar()
        if known is not None:  # another process has just made it
            return known, 0
        values = {"source": scope.source, "destination": scope.destination, "name": scope.name, "created_at": self._clock.now()}
        number: int = connection.execute(sa.insert(scopes).values(values).returning(scopes.c.id)).scalar_one()
        unclaimed = connection.execute(sa.select(scopes.c.id).where(scopes.c.source == UNCLAIMED)).scalar()
        return number, 0 if unclaimed is None else _adopt(connection, unclaimed, number, scope)

    @read_transaction
    def all(self, connection: sa.Connection) -> list[ScopeSummary]:
        """Every scope with how much it has landed and open, oldest first."""
        landed, open_ = (
            sa.select(sa.func.count()).where(entries.c.scope_id == scopes.c.id, condition).scalar_subquery()
            for condition in (is_landed, is_open)
        )
        query = sa.select(scopes.c.source, scopes.c.destination, scopes.c.name, landed, open_).order_by(scopes.c.id)
        return [ScopeSummary(Scope(*row[:3]), row[3], row[4]) for row in connection.execute(query)]


def _number_of(scope: Scope) -> sa.Select[int]:
    c = scopes.c
    return sa.select(c.id).where(c.source == scope.source, c.destination == scope.destination, c.name == scope.name)


def _adopt(connection: sa.Connection, unclaimed: int, number: int, scope: Scope) -> int:
    """Give the entries of before to `scope`, those of other destinations aside. Their paths are whole URIs until then."""
    prefix, last, adopted = f"{scope.destination}/", 0, 0
    while True:
        batch = sa.select(entries).where(entries.c.scope_id == unclaimed, entries.c.id > last).order_by(entries.c.id).limit(_BATCH)
        rows = connection.execute(batch).all()
        if not rows:
            return adopted
        last = rows[-1].id
        for row in rows:
            if not row.path.startswith(prefix):
                continue
            connection.execute(sa.update(entries).where(entries.c.id == row.id).values(_adopted(row, number, scope, prefix)))
            adopted += 1


def _adopted(row: sa.Row[Any], number: int, scope: Scope, prefix: str) -> dict[str, Any]:
    path = row.path.removeprefix(prefix)
    encoding = next((one for one in _SUFFIXES if path.endswith("." + one.value)), Encoding.CSV)
    kind = Kind.SLICE if row.parent_id is not None else Kind.AD_HOC if "_" in row.partition_key else Kind.PARTITION
    values: dict[str, Any] = {"scope_id": number, "path": path, "encoding": encoding.value, "kind": kind.value}
    request = replace(to_entry(row, scope).request, path=path, encoding=encoding, kind=kind)
    return {**values, "fingerprint": request.fingerprint(scope)}
