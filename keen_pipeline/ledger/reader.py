"""What the ledger answers without a change. Every query is about one scope."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, TypeVar

import sqlalchemy as sa

from keen_pipeline.errors import ClaimLostError
from keen_pipeline.extraction import ExtractionRequest, Kind, Status
from keen_pipeline.ledger.database.clock import clock_of
from keen_pipeline.ledger.database.tables import (
    collections,
    entries,
    in_outbox,
    is_landed,
    is_landed_slice,
    is_open,
    is_stale,
    is_uncounted,
    scopes,
)
from keen_pipeline.ledger.database.transactions import read_transaction, transaction
from keen_pipeline.ledger.rows import status_of, to_entry
from keen_pipeline.ledger.scopes import ScopeSummary, adopt
from keen_pipeline.ledger.workers import Workers
from keen_pipeline.lifecycle import Entry
from keen_pipeline.ports import Clock
from keen_pipeline.scope import Scope

_T = TypeVar("_T")
# Bound of one IN list: well under every database's limit of parameters.
_CHUNK = 500
REPLACED = "another extraction was asked for the same partition"
"""Why an attempt was cancelled that no person cancelled."""


def chunks(items: Sequence[_T]) -> Iterator[Sequence[_T]]:
    """The items in pieces that one statement can name."""
    for start in range(0, len(items), _CHUNK):
        yield items[start : start + _CHUNK]


@dataclass(frozen=True)
class CollectionState:
    """What is known of a collection at its service.

    `tick`: seconds for which list calls were answered, ever.
    `problem`: why nothing of it goes on, None if something does; since `since`, not tried again before `until` if that is known.
    """

    tick: float = 0.0
    listed_at: datetime | None = None
    pending: frozenset[str] = frozenset()
    problem: str | None = None
    since: datetime | None = None
    until: datetime | None = None


@dataclass(frozen=True)
class PartitionState:
    """The state of one partition in few words: of the open attempt, else of the newest one that landed or ended for good.

    `landed`: whether a valid file lies there, be it of an earlier question; `landed_fingerprint`: of that file, empty if none.
    """

    key: str
    start: datetime
    end: datetime
    status: Status
    fingerprint: str
    landed: bool
    landed_fingerprint: str
    unproven: bool
    error: str | None


class LedgerReader:
    """The reading half of `SqlLedger`; it changes nothing, but for its scope's number at the first use.

    `scope`: whose entries it reads. `clock`: the time of all instants, by default that of the database.
    """

    def __init__(self, engine: sa.Engine, scope: Scope, *, clock: Clock | None = None) -> None:
        self.engine = engine
        self.scope = scope
        self.clock: Clock = clock or clock_of(engine)
        self.workers = Workers(engine, self.clock)
        self.scope_id = self._known_scope() or self._new_scope()
        self._mine = entries.c.scope_id == self.scope_id
        here = sa.select(scopes.c.id).where(scopes.c.destination == scope.destination)
        self._at_destination = entries.c.scope_id.in_(here)

    @read_transaction
    def _known_scope(self, connection: sa.Connection) -> int | None:
        return self._scope_number(connection)

    @transaction
    def _new_scope(self, connection: sa.Connection) -> int:
        known = self._scope_number(connection)
        if known is not None:  # another process has just made it
            return known
        scope = self.scope
        values = {"source": scope.source, "destination": scope.destination, "name": scope.name, "created_at": self.clock.now()}
        number: int = connection.execute(sa.insert(scopes).values(values).returning(scopes.c.id)).scalar_one()
        adopt(connection, number, scope)
        return number

    def _scope_number(self, connection: sa.Connection) -> int | None:
        c, scope = scopes.c, self.scope
        mine = sa.and_(c.source == scope.source, c.destination == scope.destination, c.name == scope.name)
        return connection.execute(sa.select(c.id).where(mine)).scalar()

    @read_transaction
    def scopes(self, connection: sa.Connection) -> list[ScopeSummary]:
        """Every scope of this ledger with how much it has landed and open, oldest first; ours among them."""
        landed, open_ = (
            sa.select(sa.func.count()).where(entries.c.scope_id == scopes.c.id, condition).scalar_subquery()
            for condition in (is_landed, is_open)
        )
        query = sa.select(scopes.c.source, scopes.c.destination, scopes.c.name, landed, open_).order_by(scopes.c.id)
        return [ScopeSummary(Scope(*row[:3]), row[3], row[4]) for row in connection.execute(query)]

    @read_transaction
    def entries(self, connection: sa.Connection, entry_ids: Iterable[int]) -> list[Entry]:
        """Entries by id, ascending; unknown ids are left out."""
        return [entry for chunk in chunks(sorted(entry_ids)) for entry in self._found(connection, entries.c.id.in_(chunk))]

    @read_transaction
    def current(self, connection: sa.Connection, requests: Sequence[ExtractionRequest]) -> list[Entry | None]:
        """For each request's partition the open attempt, else the valid landing, else the newest attempt; None if there is none."""
        known = self._newest(connection, [request.place for request in requests])
        return [known.get(request.place) for request in requests]

    @read_transaction
    def open_entries(self, connection: sa.Connection, *, status: Status | None = None) -> list[Entry]:
        """All open attempts, or those in one status; oldest first."""
        return self._found(connection, is_open if status is None else sa.and_(is_open, entries.c.status == status.value))

    @read_transaction
    def outbox(self, connection: sa.Connection, *, limit: int = 100) -> list[Entry]:
        """Partitions that landed or were abandoned, which Dagster has not heard of and nobody has claimed; oldest first."""
        free = sa.and_(in_outbox, entries.c.claimed_by.is_(None))
        query = sa.select(entries).where(self._mine, free).order_by(entries.c.id).limit(limit)
        return [self._entry(row) for row in connection.execute(query)]

    @read_transaction
    def uncounted(self, connection: sa.Connection) -> list[Entry]:
        """Landed, not yet held against the service's count, and nobody's claim; oldest first."""
        return self._found(connection, sa.and_(is_uncounted, entries.c.claimed_by.is_(None)))

    @read_transaction
    def landed_entries(
        self, connection: sa.Connection, collection: str, *, start: datetime | None = None, end: datetime | None = None
    ) -> list[Entry]:
        """The valid landings of a collection in the order of time, without slices; those whose timeframe begins in [start, end)."""
        wanted, begins = sa.and_(is_landed, entries.c.collection == collection), entries.c.window_start
        if start is not None:
            wanted = sa.and_(wanted, begins >= start)
        if end is not None:
            wanted = sa.and_(wanted, begins < end)
        query = sa.select(entries).where(self._mine, wanted).order_by(begins)
        # PostgreSQL's driver would have the whole history in memory once more, as text.
        return [self._entry(row) for row in connection.execute(query.execution_options(yield_per=_CHUNK))]

    @read_transaction
    def replaced(self, connection: sa.Connection, collection: str, keys: Iterable[str]) -> dict[str, Entry]:
        """By partition key the newest landing of a collection that another one has replaced."""
        place = sa.and_(entries.c.collection == collection, entries.c.status == Status.SUPERSEDED.value)
        here = (sa.and_(place, entries.c.partition_key.in_(chunk)) for chunk in chunks(sorted(keys)))
        return {e.request.partition_key: e for condition in here for e in self._found(connection, condition)}

    @read_transaction
    def landed_collections(self, connection: sa.Connection) -> list[str]:
        """The collections with a valid landing, sorted."""
        query = sa.select(entries.c.collection).distinct().where(self._mine, is_landed)
        return sorted(connection.execute(query).scalars())

    @read_transaction
    def known_tokens(self, connection: sa.Connection, tokens: Iterable[str]) -> set[str]:
        """Those of the tokens that this scope has given out."""
        return self._among(connection, entries.c.token, tokens, self._mine)

    @read_transaction
    def tokens_at(self, connection: sa.Connection, paths: Iterable[str]) -> set[str]:
        """The tokens of all entries at these paths below a destination, of any scope of this ledger."""
        there = (sa.select(entries.c.token).where(entries.c.path.in_(chunk)) for chunk in chunks(sorted(paths)))
        return {token for query in there for token in connection.execute(query).scalars()}

    @read_transaction
    def partitions(self, connection: sa.Connection, collection: str) -> list[PartitionState]:
        """The state of every partition that was ever asked for, in the order of time; ad hoc extractions aside."""
        c = entries.c
        words = [status.value for status in (Status.LANDED, Status.ABANDONED, Status.CANCELLED)]
        is_word = sa.and_(c.status.in_(words), c.error.is_distinct_from(REPLACED))
        rank = sa.case((is_open, 0), (is_word, 1), else_=2)
        columns = (c.id, c.collection, c.partition_key, c.window_start, c.window_end, c.status, c.fingerprint, c.error)
        order = sa.func.row_number().over(partition_by=c.partition_key, order_by=(rank, c.id.desc())).label("place")
        mine = sa.and_(self._mine, c.collection == collection, c.kind == Kind.PARTITION.value)
        ranked = sa.select(*columns, order).where(mine).subquery()
        first = sa.select(ranked).where(ranked.c.place == 1).order_by(ranked.c.window_start)
        landed = sa.select(c.partition_key, c.fingerprint, c.unproven).where(mine, is_landed)
        files = {row.partition_key: row for row in connection.execute(landed)}
        return [
            PartitionState(
                row.partition_key,
                row.window_start,
                row.window_end,
                status_of(row),
                row.fingerprint,
                row.partition_key in files,
                files[row.partition_key].fingerprint if row.partition_key in files else "",
                bool(row.partition_key in files and files[row.partition_key].unproven),
                row.error,
            )
            for row in connection.execute(first)
        ]

    @read_transaction
    def slices(self, connection: sa.Connection, parent_ids: Iterable[int]) -> Mapping[int, list[Entry]]:
        """For each split entry its slices in the order of time, without failed attempts."""
        found: dict[int, list[Entry]] = defaultdict(list)
        for chunk in chunks(sorted(parent_ids)):
            alive = sa.and_(entries.c.parent_id.in_(chunk), entries.c.status != Status.FAILED.value)
            for entry in sorted(self._found(connection, alive), key=lambda e: e.request.timeframe.start):
                assert entry.parent_id is not None
                found[entry.parent_id].append(entry)
        return found

    @read_transaction
    def stale_slices(self, connection: sa.Connection) -> list[Entry]:
        """Landed slices of entries that need them no more."""
        parents = entries.alias("parents")
        is_needed = parents.c.status.in_([Status.SPLIT.value, Status.COMPLETE.value])
        needed = sa.exists().where(parents.c.id == entries.c.parent_id, is_needed)  # one that is over may have been forgotten
        return self._found(connection, sa.and_(is_landed_slice, sa.not_(needed)))

    @read_transaction
    def stale_files(self, connection: sa.Connection) -> list[Entry]:
        """Superseded landings whose file may still lie at a path of its own, and that nobody has claimed."""
        return self._found(connection, sa.and_(is_stale, entries.c.claimed_by.is_(None)))

    @read_transaction
    def known(self, connection: sa.Connection, collection: str, extraction_ids: Iterable[str]) -> set[str]:
        """Those of the service's extractions that an attempt of this scope asked for."""
        mine = sa.and_(self._mine, entries.c.collection == collection)
        return self._among(connection, entries.c.extraction_id, extraction_ids, mine)

    @read_transaction
    def collections(self, connection: sa.Connection) -> Mapping[str, CollectionState]:
        """What is known of every collection at its service, by name."""
        query = sa.select(collections).where(collections.c.scope_id == self.scope_id)
        return {
            row.collection: CollectionState(
                row.answered_seconds,
                row.listed_at,
                frozenset(json.loads(row.pending)),
                row.problem,
                row.problem_since,
                row.problem_until,
            )
            for row in connection.execute(query)
        }

    def listed_within(self, seconds: float) -> Mapping[str, CollectionState]:
        """The collections whose extractions anybody has listed within the last `seconds`."""
        now = self.clock.now()
        since = now - timedelta(seconds=seconds)
        # What lies ahead was written by a clock that was wrong.
        known = self.collections().items()
        return {name: state for name, state in known if state.listed_at is not None and since < state.listed_at <= now}

    @read_transaction
    def others_at(self, connection: sa.Connection, paths: Sequence[str]) -> set[str]:
        """The names of other definitions whose files, landed or asked for, lie at one of these paths of our destination."""
        here = sa.and_(scopes.c.destination == self.scope.destination, scopes.c.name != self.scope.name)
        alive = sa.or_(is_open, sa.and_(entries.c.status == Status.LANDED.value, sa.not_(entries.c.unproven)))
        theirs = sa.select(scopes.c.name).distinct().join(entries, entries.c.scope_id == scopes.c.id).where(here, alive)
        there = (theirs.where(entries.c.path.in_(chunk)) for chunk in chunks(sorted(paths)))
        return {name for query in there for name in connection.execute(query).scalars()}

    @read_transaction
    def others_paths(self, connection: sa.Connection, paths: Iterable[str]) -> set[str]:
        """Those of some paths below our destination at which other scopes of this ledger have a file, or ask for one."""
        here = sa.and_(scopes.c.destination == self.scope.destination, scopes.c.id != self.scope_id)
        others = sa.and_(entries.c.scope_id.in_(sa.select(scopes.c.id).where(here)), sa.or_(is_open, is_landed, is_stale))
        return self._among(connection, entries.c.path, paths, others)

    @read_transaction
    def orphans(self, connection: sa.Connection) -> int:
        """POSTs whose answer was lost and that were sent again: as many extractions at most are nobody's."""
        total = sa.select(sa.func.coalesce(sa.func.sum(entries.c.orphans), 0)).where(self._mine)
        return int(connection.execute(total).scalar_one())

    # -- inside a transaction -----------------------------------------------------------------------------------------

    def _entry(self, row: sa.Row[Any]) -> Entry:
        return to_entry(row, self.scope)

    def _found(self, connection: sa.Connection, condition: sa.ColumnElement[bool]) -> list[Entry]:
        # Sorted here: asked for an order, SQLite reads the whole table in it instead of the few by their index.
        found = [self._entry(row) for row in connection.execute(sa.select(entries).where(self._mine, condition))]
        return sorted(found, key=lambda entry: entry.entry_id)

    def _among(
        self, connection: sa.Connection, column: sa.Column[Any], values: Iterable[str], condition: sa.ColumnElement[bool]
    ) -> set[str]:
        """Those of some values that the column has in entries which meet the condition."""
        found: set[str] = set()
        for chunk in chunks(sorted(values)):
            found.update(connection.execute(sa.select(column).where(condition, column.in_(chunk))).scalars())
        return found

    def _newest(self, connection: sa.Connection, places: Sequence[tuple[str, str]]) -> dict[tuple[str, str], Entry]:
        """Per place the open attempt, else the landing that is valid, else the newest attempt."""
        by_collection: dict[str, set[str]] = defaultdict(set)
        for collection, key in places:
            by_collection[collection].add(key)
        c, found = entries.c, {}
        for collection, keys in by_collection.items():
            for chunk in chunks(sorted(keys)):
                rank = sa.case((is_open, 0), (c.status == Status.LANDED.value, 1), else_=2)
                first = sa.func.row_number().over(partition_by=c.partition_key, order_by=(rank, c.id.desc()))
                mine = sa.and_(self._mine, c.collection == collection, c.partition_key.in_(chunk))
                ranked = sa.select(c.id, first.label("place")).where(mine).subquery()
                query = sa.select(entries).join(ranked, ranked.c.id == c.id).where(ranked.c.place == 1)
                found.update({(collection, row.partition_key): self._entry(row) for row in connection.execute(query)})
        return found

    def _known(self, connection: sa.Connection, entry_id: int) -> sa.Row[Any] | None:
        """The row of an entry, None if it is no more: withdrawn by who asked for it, or pruned."""
        return connection.execute(sa.select(entries).where(self._mine, entries.c.id == entry_id)).first()

    def _row(self, connection: sa.Connection, entry_id: int) -> sa.Row[Any]:
        row = self._known(connection, entry_id)
        if row is None:
            raise ClaimLostError(f"entry {entry_id} no longer exists; nothing was changed")
        return row
