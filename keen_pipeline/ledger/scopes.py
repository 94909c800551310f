"""The scopes of a ledger: whose entries it holds, and the adoption of entries from before there were scopes."""

from __future__ import annotations

import logging
from dataclasses import dataclass, replace
from typing import Any

import sqlalchemy as sa

from keen_pipeline.collection import Encoding
from keen_pipeline.extraction import Kind
from keen_pipeline.ledger.database.tables import entries, scopes
from keen_pipeline.ledger.rows import to_entry
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


def adopt(connection: sa.Connection, number: int, scope: Scope) -> None:
    """Give the entries of before to `scope`, those of other destinations aside. Their paths are whole URIs until then."""
    unclaimed = connection.execute(sa.select(scopes.c.id).where(scopes.c.source == UNCLAIMED)).scalar()
    prefix, last, adopted = f"{scope.destination}/", 0, 0
    while True:
        batch = sa.select(entries).where(entries.c.scope_id == unclaimed, entries.c.id > last).order_by(entries.c.id).limit(_BATCH)
        rows = connection.execute(batch).all()
        if not rows:
            break
        last = rows[-1].id
        for row in rows:
            if not row.path.startswith(prefix):
                continue
            connection.execute(sa.update(entries).where(entries.c.id == row.id).values(_adopted(row, number, scope, prefix)))
            adopted += 1
    if adopted:
        _log.warning("%d entries of the ledger are from before it knew whose they are; they belong to %s now", adopted, scope)


def _adopted(row: sa.Row[Any], number: int, scope: Scope, prefix: str) -> dict[str, Any]:
    path = row.path.removeprefix(prefix)
    encoding = next((one for one in _SUFFIXES if path.endswith("." + one.value)), Encoding.CSV)
    kind = Kind.SLICE if row.parent_id is not None else Kind.AD_HOC if "_" in row.partition_key else Kind.PARTITION
    values: dict[str, Any] = {"scope_id": number, "path": path, "encoding": encoding.value, "kind": kind.value}
    request = replace(to_entry(row, scope).request, path=path, encoding=encoding, kind=kind)
    return {**values, "fingerprint": request.fingerprint(scope)}
