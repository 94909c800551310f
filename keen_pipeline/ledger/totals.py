"""What entries add to the totals of their collection, summed by the database. Every addition only grows while an entry lives.

That makes counters of them: an entry's share is read while it is open, and kept for good once it has ended.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

import sqlalchemy as sa
from sqlalchemy.ext.compiler import compiles
from sqlalchemy.sql.functions import FunctionElement

from keen_pipeline.extraction import Kind, Status
from keen_pipeline.ledger.database.tables import entries

# Upper bounds of the histograms' buckets, in seconds.
SUBMITTING_SECONDS = (1.0, 5.0, 15.0, 60.0, 300.0, 900.0, 3600.0)
WAITING_SECONDS = (5.0, 15.0, 30.0, 60.0, 120.0, 300.0, 600.0, 1800.0, 3600.0)
LANDING_SECONDS = (0.1, 0.5, 1.0, 5.0, 15.0, 60.0, 300.0, 1800.0)


class _Seconds(FunctionElement[float]):
    """Seconds from the first instant to the second, neither of them null; not below 0, as two hosts' clocks may differ."""

    type = sa.Float()
    inherit_cache = True


@compiles(_Seconds)
def _seconds(element: _Seconds, compiler: Any, **options: Any) -> str:
    start, end = (compiler.process(clause, **options) for clause in element.clauses)
    return f"GREATEST(0.0, EXTRACT(EPOCH FROM {end} - {start}))"


@compiles(_Seconds, "sqlite")
def _seconds_on_sqlite(element: _Seconds, compiler: Any, **options: Any) -> str:
    start, end = (compiler.process(clause, **options) for clause in element.clauses)
    return f"MAX(0.0, (JULIANDAY({end}) - JULIANDAY({start})) * 86400.0)"


@dataclass(frozen=True)
class Distribution:
    """How many of `count` durations lie at or below each bound (`counts`, by bound), and their sum.

    The sum is of whole milliseconds: one of fractions would shrink now and then by a rounding error, with the order in which it is
    made, and a counter that shrinks is taken for one that began again.
    """

    counts: tuple[int, ...]
    count: int = 0
    milliseconds: int = 0

    def __add__(self, other: Distribution) -> Distribution:
        counts = tuple(a + b for a, b in zip(self.counts, other.counts, strict=True))
        return Distribution(counts, self.count + other.count, self.milliseconds + other.milliseconds)


@dataclass(frozen=True)
class Totals:
    """The sums over entries of one collection.

    Every attempt and every slice is an extraction: `requested`, `submitted`, `failed` (with or without a next attempt) and
    `cancelled` count them. `abandoned`, `landed`, `landed_events` and `landed_bytes` (of Keen's CSV) leave slices out, as those are
    nobody's file. `landing_failures`: results that did not become a file, each time it was tried. `orphans`: POSTs whose answer was
    lost. `submitting`: from the intent to the answered POST. `waiting`: from there until the service had finished, of attempts that
    have ended. `landing`: from the first byte to the file. `newest_start`, `newest_end`: of the last partition that ever landed.
    """

    requested: int = 0
    submitted: int = 0
    failed: int = 0
    abandoned: int = 0
    cancelled: int = 0
    landed: int = 0
    landed_events: int = 0
    landed_bytes: int = 0
    landing_failures: int = 0
    orphans: int = 0
    submitting: Distribution = field(default_factory=lambda: Distribution((0,) * len(SUBMITTING_SECONDS)))
    waiting: Distribution = field(default_factory=lambda: Distribution((0,) * len(WAITING_SECONDS)))
    landing: Distribution = field(default_factory=lambda: Distribution((0,) * len(LANDING_SECONDS)))
    last_landed_at: datetime | None = None
    newest_start: datetime | None = None
    newest_end: datetime | None = None

    @property
    def newest_seconds(self) -> float | None:
        """Length of the last partition that ever landed."""
        if self.newest_start is None or self.newest_end is None:
            return None
        return (self.newest_end - self.newest_start).total_seconds()

    def __add__(self, other: Totals) -> Totals:
        both: dict[str, Any] = {name: getattr(self, name) + getattr(other, name) for name in (*_SUMS, *_DURATIONS)}
        both |= {name: _later(getattr(self, name), getattr(other, name)) for name in _INSTANTS}
        return Totals(**both)


_SUMS = tuple(name for name, kind in Totals.__annotations__.items() if kind == "int")
_INSTANTS = ("last_landed_at", "newest_start", "newest_end")
is_partition = entries.c.kind == Kind.PARTITION.value
_DURATIONS = {"submitting": SUBMITTING_SECONDS, "waiting": WAITING_SECONDS, "landing": LANDING_SECONDS}


def _later(one: datetime | None, other: datetime | None) -> datetime | None:
    return max((moment for moment in (one, other) if moment is not None), default=None)


def totals_of(connection: sa.Connection, condition: sa.ColumnElement[bool]) -> dict[str, Totals]:
    """The totals by collection of the entries that `condition` names, in the order in which the collections came."""
    return {row.collection: _totals(row) for row in connection.execute(_query(condition))}


def _totals(row: sa.Row[Any]) -> Totals:
    values = row._mapping
    found: dict[str, Any] = {
        name: Distribution(
            tuple(int(values[f"{name}_{n}"]) for n in range(len(bounds))), int(values[f"{name}_n"]), int(values[f"{name}_ms"])
        )
        for name, bounds in _DURATIONS.items()
    }
    found |= {name: int(values[name]) for name in _SUMS} | {name: values[name] for name in _INSTANTS}
    return Totals(**found)


def _query(condition: sa.ColumnElement[bool]) -> sa.Select[Any]:
    # Materialized, so that each row's durations are worked out once and not for each bucket.
    rows = _rows(condition).cte("rows")
    for dialect in ("sqlite", "postgresql"):
        rows = rows.prefix_with("MATERIALIZED", dialect=dialect)
    c = rows.c
    columns = [c.collection, *(_sum(c[name]).label(name) for name in _SUMS)]
    for name, bounds in _DURATIONS.items():
        columns += [_sum(_one_where(c[name] <= round(bound * 1000))).label(f"{name}_{n}") for n, bound in enumerate(bounds)]
        columns += [sa.func.count(c[name]).label(f"{name}_n"), _sum(c[name]).label(f"{name}_ms")]
    columns += [sa.func.max(c[name]).label(name) for name in _INSTANTS]
    return sa.select(*columns).group_by(c.collection).order_by(sa.func.min(c.id))


def _sum(column: sa.ColumnElement[Any]) -> sa.ColumnElement[Any]:
    return sa.func.coalesce(sa.func.sum(column), 0)


def _rows(condition: sa.ColumnElement[bool]) -> sa.Select[Any]:
    """One row an entry: what it adds to each sum."""
    e = entries.c
    failed = e.status.in_(_values([Status.FAILED, Status.ABANDONED]))
    has_landed = sa.and_(e.landed_at.is_not(None), e.parent_id.is_(None))
    # A joined entry's wait is that of its slices, which have their own; and an open one may still be split.
    has_ended = sa.and_(e.status.in_(_values(_ENDED)), e.slices == 0)
    has_waited = sa.and_(has_ended, e.submitted_at.is_not(None), e.completed_at.is_not(None))
    partition_landed = sa.and_(has_landed, is_partition)
    shares = {
        "requested": sa.literal_column("1", sa.Integer),
        "submitted": _one_where(e.submitted_at.is_not(None)),
        "failed": _one_where(failed),
        "abandoned": _one_where(sa.and_(e.status == Status.ABANDONED.value, e.parent_id.is_(None))),
        "cancelled": _one_where(e.status == Status.CANCELLED.value),
        "landed": _one_where(has_landed),
        "landed_events": sa.case((has_landed, e.records), else_=0),
        "landed_bytes": sa.case((has_landed, e.bytes), else_=0),
        # The last try of an attempt is not among its landing_tries: it ends the attempt.
        "landing_failures": e.landing_tries + _one_where(sa.and_(failed, e.completed_at.is_not(None))),
        "orphans": e.orphans,
        "submitting": sa.case((e.submitted_at.is_not(None), _milliseconds(_Seconds(e.requested_at, e.submitted_at)))),
        "waiting": sa.case((has_waited, _milliseconds(_Seconds(e.submitted_at, e.completed_at)))),
        "landing": sa.case((has_landed, _milliseconds(e.landing_seconds))),
        "last_landed_at": sa.case((has_landed, e.landed_at)),
        "newest_start": sa.case((partition_landed, e.window_start)),
        "newest_end": sa.case((partition_landed, e.window_end)),
    }
    return sa.select(e.id, e.collection, *(share.label(name) for name, share in shares.items())).where(condition)


_ENDED = [status for status in Status if status.is_terminal]


def _values(statuses: Iterable[Status]) -> Sequence[str]:
    return [status.value for status in statuses]


def _milliseconds(seconds: sa.ColumnElement[float]) -> sa.ColumnElement[int]:
    return sa.cast(sa.func.round(seconds * 1000), sa.BigInteger)


def _one_where(condition: sa.ColumnElement[bool]) -> sa.ColumnElement[int]:
    return sa.case((condition, 1), else_=0)
