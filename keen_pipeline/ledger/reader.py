"""What the ledger answers without a change."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime, timedelta
from typing import Any, TypeVar

import sqlalchemy as sa

from keen_pipeline.extraction import ExtractionRequest, Status
from keen_pipeline.ledger.clock import clock_of
from keen_pipeline.ledger.rows import to_entry
from keen_pipeline.ledger.tables import entries, in_outbox, is_landed, is_open, is_uncounted, listings
from keen_pipeline.ledger.transactions import reading
from keen_pipeline.lifecycle import Entry
from keen_pipeline.ports import Clock, LedgerSummary

_T = TypeVar("_T")
# Bound of one IN list: well under every database's limit of parameters.
_CHUNK = 500
_SHOWN_FAILURES = 50


def chunks(items: Sequence[_T]) -> Iterator[Sequence[_T]]:
    """The items in pieces that one statement can name."""
    for start in range(0, len(items), _CHUNK):
        yield items[start : start + _CHUNK]


class LedgerReader:
    """The reading half of `SqlLedger`. `clock`: the time of all its instants, by default that of its database."""

    def __init__(self, engine: sa.Engine, *, clock: Clock | None = None) -> None:
        self.engine = engine
        self.clock: Clock = clock or clock_of(engine)

    @reading
    def entries(self, connection: sa.Connection, entry_ids: Sequence[int]) -> list[Entry]:
        found: list[Entry] = []
        for chunk in chunks(sorted(entry_ids)):
            found += [
                to_entry(row)
                for row in connection.execute(sa.select(entries).where(entries.c.id.in_(chunk)).order_by(entries.c.id))
            ]
        return found

    @reading
    def latest(self, connection: sa.Connection, requests: Sequence[ExtractionRequest]) -> list[Entry | None]:
        known = self._newest(connection, [r.target for r in requests])
        found = [known.get(request.target) for request in requests]
        return [
            e if e is not None and e.request.fingerprint == r.fingerprint else None for e, r in zip(found, requests, strict=True)
        ]

    @reading
    def open_entries(self, connection: sa.Connection, *, status: Status | None = None) -> list[Entry]:
        # Sorted here: asked for an order, SQLite reads the whole table in it instead of the few by their index.
        query = sa.select(entries).where(is_open)
        if status is not None:
            query = query.where(entries.c.status == status.value)
        return sorted((to_entry(row) for row in connection.execute(query)), key=lambda entry: entry.entry_id)

    @reading
    def unreported(self, connection: sa.Connection) -> list[Entry]:
        query = sa.select(entries).where(in_outbox, self._is_free()).order_by(entries.c.id)
        return [to_entry(row) for row in connection.execute(query)]

    @reading
    def uncounted(self, connection: sa.Connection) -> list[Entry]:
        # Slices are told apart here: asked for parent_id IS NULL, SQLite reads all that aren't by the index on it.
        found = [to_entry(row) for row in connection.execute(sa.select(entries).where(is_uncounted, self._is_free()))]
        return [entry for entry in found if entry.parent_id is None]

    def landed_entries(self, collection: str) -> list[Entry]:
        return self._landed(entries.c.collection == collection)

    def landed_between(self, collection: str, start: datetime, end: datetime) -> list[Entry]:
        begins = entries.c.window_start
        return self._landed(sa.and_(entries.c.collection == collection, begins >= start, begins < end))

    @reading
    def _landed(self, connection: sa.Connection, condition: sa.ColumnElement[bool]) -> list[Entry]:
        query = sa.select(entries).where(is_landed, condition).order_by(entries.c.window_start)
        return [to_entry(row) for row in connection.execute(query)]

    @reading
    def slices(self, connection: sa.Connection, parent_ids: Sequence[int]) -> Mapping[int, list[Entry]]:
        found: dict[int, list[Entry]] = defaultdict(list)
        for chunk in chunks(parent_ids):
            alive = sa.and_(entries.c.parent_id.in_(chunk), entries.c.status != Status.FAILED.value)
            for row in connection.execute(sa.select(entries).where(alive).order_by(entries.c.window_start)):
                found[row.parent_id].append(to_entry(row))
        return found

    @reading
    def stale_slices(self, connection: sa.Connection) -> list[Entry]:
        parents = entries.alias("parents")
        landed = sa.and_(entries.c.parent_id.is_not(None), entries.c.status == Status.LANDED.value)
        is_over = parents.c.status.not_in([Status.SPLIT.value, Status.COMPLETE.value])
        query = sa.select(entries).join(parents, parents.c.id == entries.c.parent_id).where(landed, is_over)
        return [to_entry(row) for row in connection.execute(query)]

    @reading
    def known(self, connection: sa.Connection, collection: str, extraction_ids: Sequence[str]) -> set[str]:
        found: set[str] = set()
        for chunk in chunks(extraction_ids):
            query = sa.select(entries.c.extraction_id).where(entries.c.collection == collection, entries.c.extraction_id.in_(chunk))
            found.update(connection.execute(query).scalars())
        return found

    @reading
    def pending(self, connection: sa.Connection, collections: Sequence[str], seconds: float) -> Mapping[str, frozenset[str]]:
        found: dict[str, frozenset[str]] = {}
        recent = listings.c.listed_at > self.clock.now() - timedelta(seconds=seconds)
        for chunk in chunks(collections):
            query = sa.select(listings).where(listings.c.collection.in_(chunk), recent)
            found.update((row.collection, frozenset(json.loads(row.pending))) for row in connection.execute(query))
        return found

    @reading
    def summary(self, connection: sa.Connection) -> LedgerSummary:
        now = self.clock.now()
        counts = {
            Status(s): n for s, n in connection.execute(sa.select(entries.c.status, sa.func.count()).group_by(entries.c.status))
        }
        open_ = tuple(to_entry(row) for row in connection.execute(sa.select(entries).where(is_open).order_by(entries.c.id)))
        newest = sa.select(sa.func.max(entries.c.id)).group_by(entries.c.target)
        bad = sa.and_(entries.c.status == Status.ABANDONED.value, entries.c.id.in_(newest))
        failures = sa.select(entries).where(bad).order_by(entries.c.id.desc()).limit(_SHOWN_FAILURES)
        failed = tuple(to_entry(row) for row in connection.execute(failures))
        unreported = connection.execute(sa.select(sa.func.count()).where(in_outbox)).scalar_one()
        orphans = connection.execute(sa.select(sa.func.coalesce(sa.func.sum(entries.c.orphans), 0))).scalar_one()
        oldest = max(((now - e.requested_at).total_seconds() for e in open_), default=None)
        return LedgerSummary(counts, oldest, open_, failed, unreported, int(orphans))

    # -- inside a transaction -----------------------------------------------------------------------------------------

    def _is_free(self) -> sa.ColumnElement[bool]:
        return sa.or_(entries.c.lease_until.is_(None), entries.c.lease_until <= self.clock.now())

    def _newest(self, connection: sa.Connection, targets: Sequence[str]) -> dict[str, Entry]:
        """Per target the open attempt, else the landing that is valid, else the newest attempt."""
        found: dict[str, Entry] = {}
        for chunk in chunks(targets):
            rank = sa.case((is_open, 0), (entries.c.status == Status.LANDED.value, 1), else_=2)
            first = sa.func.row_number().over(partition_by=entries.c.target, order_by=(rank, entries.c.id.desc()))
            ranked = sa.select(entries.c.id, first.label("rank")).where(entries.c.target.in_(chunk)).subquery()
            query = sa.select(entries).join(ranked, ranked.c.id == entries.c.id).where(ranked.c.rank == 1)
            found.update((row.target, to_entry(row)) for row in connection.execute(query))
        return found

    def _row(self, connection: sa.Connection, entry_id: int) -> sa.Row[Any]:
        return connection.execute(sa.select(entries).where(entries.c.id == entry_id)).one()
