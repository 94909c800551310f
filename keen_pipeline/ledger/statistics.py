"""The ledger in numbers, by collection: asked for every few seconds, without reading its history each time.

Entries that have ended never change their share of the totals, so those are summed once and remembered. What is read each time
are the open entries, those that have ended since the last time, and the newest ones, whoever committed them late.
"""

from __future__ import annotations

import operator
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from functools import reduce
from typing import Any

import sqlalchemy as sa

from keen_pipeline.errors import ServiceUnavailableError
from keen_pipeline.extraction import Status
from keen_pipeline.ledger.database.tables import api_pauses, api_requests, entries, in_outbox, is_open
from keen_pipeline.ledger.database.transactions import reason_of
from keen_pipeline.ledger.limiter import WINDOW
from keen_pipeline.ledger.reader import LedgerReader, chunks
from keen_pipeline.ledger.totals import Totals, is_partition, totals_of

# Ids are given out before their rows are committed: a lower one may appear after a higher one. Rows are taken for settled once
# they were asked for so long ago; no transaction of a ledger lasts a hundredth of it.
_SETTLED_AFTER = timedelta(minutes=10)
# Entries that one statement sums while the history is read for the first time.
_BATCH = 50_000
# Collections that are told apart; all that come later are counted as OTHERS. No collection's name can begin with a bracket.
MOST_COLLECTIONS = 1_000
OTHERS = "(others)"
# Unreported ends that are counted: if only the command line works on a ledger, nothing is ever reported.
MOST_UNREPORTED = 10_000
# A statement that takes longer is given up: whoever asks has long gone.
_STATEMENT_SECONDS = 30


@dataclass(frozen=True)
class CollectionStatistics:
    """One collection. `open`: extractions by open status; `oldest_open_at`: when the oldest of them was asked for. `unreported`:
    ends that Dagster has not heard of, up to MOST_UNREPORTED in all. `abandoned`: partitions whose newest attempt was abandoned."""

    totals: Totals = field(default_factory=Totals)
    open: Mapping[Status, int] = field(default_factory=dict)
    oldest_open_at: datetime | None = None
    unreported: int = 0
    abandoned: int = 0

    def __add__(self, other: CollectionStatistics) -> CollectionStatistics:
        open_ = Counter(self.open) + Counter(other.open)
        oldest = min((at for at in (self.oldest_open_at, other.oldest_open_at) if at is not None), default=None)
        unreported, abandoned = self.unreported + other.unreported, self.abandoned + other.abandoned
        return CollectionStatistics(self.totals + other.totals, open_, oldest, unreported, abandoned)


@dataclass(frozen=True)
class LedgerStatistics:
    """All of it as of `at` (aware UTC). `api_requests`: sent in the last 61 seconds. `api_refusals`: how often the service
    answered 429, ever. `api_paused_until`: nobody sends before this instant; None if the service never refused."""

    at: datetime
    collections: Mapping[str, CollectionStatistics]
    api_requests: int
    api_refusals: int
    api_paused_until: datetime | None


class StatisticsReader:
    """Reads a ledger's statistics; the first time all of its history, from then on what is new. For one thread.

    `budget`: whose API requests are told, by default its scope's own.
    """

    def __init__(self, ledger: LedgerReader, *, budget: str | None = None) -> None:
        self._engine = ledger.engine
        self._clock = ledger.clock
        self._mine = entries.c.scope_id == ledger.scope_id
        # Beside a range of ids: of the bare column SQLite takes the index of places, and reads all of the scope each time.
        self._mine_by_id = entries.c.scope_id + 0 == ledger.scope_id
        self._budget = budget or ledger.scope.source
        # The totals of entries that have ended, up to the id `_until`, but for `_unended`, which were open when they were read.
        self._settled: dict[str, Totals] = {}
        self._until = 0
        self._unended: set[int] = set()
        # Abandoned partitions without a later attempt.
        self._abandoned: set[int] = set()

    def read(self) -> LedgerStatistics:
        """The ledger as it is now. Raises ServiceUnavailableError if its database does not answer."""
        try:
            while self._settle():
                pass
            with self._snapshot() as connection:
                return self._read(connection)
        except sa.exc.SQLAlchemyError as error:
            raise ServiceUnavailableError(f"the ledger can't be read: {reason_of(error)}") from None

    def _settle(self) -> bool:
        """Take up the next batch of entries that are old enough; whether there may be more."""
        with self._snapshot() as connection:
            batch = sa.select(entries.c.id, entries.c.requested_at).where(self._mine_by_id, entries.c.id > self._until)
            rows = batch.order_by(entries.c.id).limit(_BATCH).subquery()
            settled = rows.c.requested_at <= self._clock.now() - _SETTLED_AFTER
            last, until = connection.execute(sa.select(sa.func.max(rows.c.id), sa.func.max(sa.case((settled, rows.c.id))))).one()
            if until is None:
                return False
            mine = sa.and_(self._mine_by_id, entries.c.id > self._until, entries.c.id <= until)
            totals = totals_of(connection, sa.and_(mine, sa.not_(is_open)))
            unended = set(connection.execute(sa.select(entries.c.id).where(mine, is_open)).scalars())
            abandoned = _abandoned_of(connection, mine)
        self._settled = _added(self._settled, totals)
        self._unended |= unended
        self._abandoned |= abandoned
        self._until = until
        return bool(until == last)

    def _read(self, connection: sa.Connection) -> LedgerStatistics:
        self._take_up_ended(connection)
        newest = sa.and_(self._mine_by_id, entries.c.id > self._until, sa.not_(is_open))
        is_live = sa.and_(self._mine, is_open)
        totals = _added(_added(self._settled, totals_of(connection, newest)), totals_of(connection, is_live))
        open_, oldest = _open(connection, is_live)
        unreported = _unreported(connection, sa.and_(self._mine, in_outbox))
        abandoned = self._unresolved(connection, _abandoned_of(connection, newest))
        return LedgerStatistics(
            self._clock.now(),
            _bounded(
                {
                    name: CollectionStatistics(
                        sums, open_.get(name, {}), oldest.get(name), unreported.get(name, 0), abandoned[name]
                    )
                    for name, sums in totals.items()
                }
            ),
            *_api(connection, self._clock.now(), self._budget),
        )

    def _take_up_ended(self, connection: sa.Connection) -> None:
        """Entries that were open when their neighbours were settled, and have ended since."""
        ended = sorted(self._unended.difference(connection.execute(sa.select(entries.c.id).where(self._mine, is_open)).scalars()))
        settled, abandoned = self._settled, set(self._abandoned)
        for chunk in chunks(ended):
            these = entries.c.id.in_(chunk)
            settled = _added(settled, totals_of(connection, these))
            abandoned |= _abandoned_of(connection, these)
        self._settled, self._abandoned = settled, abandoned
        self._unended.difference_update(ended)

    def _unresolved(self, connection: sa.Connection, newest: set[int]) -> Counter[str]:
        """By collection the partitions whose newest attempt is an abandoned one; those that were asked for again are forgotten."""
        later = entries.alias("later")
        asked_again = sa.exists().where(
            later.c.scope_id == entries.c.scope_id,
            later.c.collection == entries.c.collection,
            later.c.partition_key == entries.c.partition_key,
            later.c.id > entries.c.id,
        )
        found: dict[int, str] = {}
        for chunk in chunks(sorted(self._abandoned | newest)):
            query = sa.select(entries.c.id, entries.c.collection).where(entries.c.id.in_(chunk), sa.not_(asked_again))
            found.update((row.id, row.collection) for row in connection.execute(query))
        self._abandoned.intersection_update(found)
        return Counter(found.values())

    @contextmanager
    def _snapshot(self) -> Iterator[sa.Connection]:
        """A transaction whose statements all see the ledger as of one moment."""
        on_postgresql = self._engine.dialect.name == "postgresql"
        options: dict[str, Any] = {"isolation_level": "REPEATABLE READ", "postgresql_readonly": True} if on_postgresql else {}
        with self._engine.connect().execution_options(keen_read=True, **options) as connection, connection.begin():
            if on_postgresql:
                connection.exec_driver_sql(f"SET LOCAL statement_timeout = '{_STATEMENT_SECONDS}s'")
            yield connection


def _added(totals: Mapping[str, Totals], more: Mapping[str, Totals]) -> dict[str, Totals]:
    return {**totals, **{name: totals[name] + sums if name in totals else sums for name, sums in more.items()}}


def _abandoned_of(connection: sa.Connection, condition: sa.ColumnElement[bool]) -> set[int]:
    abandoned = sa.and_(condition, entries.c.status == Status.ABANDONED.value, is_partition)
    return set(connection.execute(sa.select(entries.c.id).where(abandoned)).scalars())


def _open(connection: sa.Connection, which: sa.ColumnElement[bool]) -> tuple[dict[str, dict[Status, int]], dict[str, datetime]]:
    """By collection the open extractions by status, and when the oldest was asked for."""
    c = entries.c
    query = sa.select(c.collection, c.status, sa.func.count().label("number"), sa.func.min(c.requested_at).label("oldest"))
    found: dict[str, dict[Status, int]] = {}
    oldest: dict[str, datetime] = {}
    # The status first: asked to group by the collection, SQLite reads all of the scope in the order of its places.
    for row in connection.execute(query.where(which).group_by(c.status, c.collection)):
        found.setdefault(row.collection, {})[Status(row.status)] = row.number
        oldest[row.collection] = min(oldest.get(row.collection, row.oldest), row.oldest)
    return found, oldest


def _unreported(connection: sa.Connection, which: sa.ColumnElement[bool]) -> dict[str, int]:
    """By collection the ends that Dagster has not heard of, MOST_UNREPORTED of them at most."""
    some = sa.select(entries.c.collection).where(which).limit(MOST_UNREPORTED).subquery()
    counts = sa.select(some.c.collection, sa.func.count().label("number")).group_by(some.c.collection)
    return {row.collection: row.number for row in connection.execute(counts)}


def _api(connection: sa.Connection, now: datetime, budget: str) -> tuple[int, int, datetime | None]:
    sent = sa.select(sa.func.count()).where(api_requests.c.budget == budget, api_requests.c.sent_at > now - WINDOW)
    pause = connection.execute(sa.select(api_pauses).where(api_pauses.c.name == budget)).first()
    number = connection.execute(sent).scalar_one()
    return (number, 0, None) if pause is None else (number, pause.refusals, pause.until)


def _bounded(collections: Mapping[str, CollectionStatistics]) -> dict[str, CollectionStatistics]:
    """The first MOST_COLLECTIONS, and the sum of the others."""
    names = list(collections)
    shown = {name: collections[name] for name in names[:MOST_COLLECTIONS]}
    if len(names) > MOST_COLLECTIONS:
        shown[OTHERS] = reduce(operator.add, (collections[name] for name in names[MOST_COLLECTIONS:]))
    return shown
