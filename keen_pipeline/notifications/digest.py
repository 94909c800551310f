"""What a night brought, from the ledger: for each collection its newest partition against the last weeks, and what is missing."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import TYPE_CHECKING

from keen_pipeline.collection import Collection
from keen_pipeline.extraction import Landing
from keen_pipeline.lifecycle import Entry, Limits
from keen_pipeline.partitions import Partition, due_partitions, ended_partitions, partitions_between
from keen_pipeline.pipeline.extractions.explain import Waiting, explain_all
from keen_pipeline.pipeline.extractions.submit import gaps
from keen_pipeline.pipeline.files.history import history_span, usual_events
from keen_pipeline.pipeline.told import Group, by_cause
from keen_pipeline.scope import DEFAULT_NAME, title_of

if TYPE_CHECKING:
    # The ledger brings SQLAlchemy, which a code location needs once it opens one.
    from keen_pipeline.ledger import PartitionState, SqlLedger

BARS = 28
"""Partitions in one chart: four weeks of days."""
# Dagster ends a tick after 60 s, and what is gathered has to be sent.
GATHERING_SECONDS = 20.0


@dataclass(frozen=True)
class Line:
    """One collection. `entry`: its newest partition's landing, None if that is missing. `usual`: events of its kind before,
    None if too little is known; `unusual`: it is far from them. `bars`: events by partition, oldest first, None if nothing
    has landed. `also_landed`: keys of other partitions that landed in the last day."""

    collection: str
    partition_key: str
    entry: Entry | None
    usual: float | None
    unusual: bool
    bars: tuple[tuple[str, int | None], ...]
    also_landed: tuple[str, ...]

    @property
    def landing(self) -> Landing | None:
        """Of the newest partition, None if it is missing."""
        return self.entry.landing if self.entry is not None else None

    @property
    def events(self) -> int | None:
        """Of the newest partition, None if it is missing."""
        return self.landing.records if self.landing is not None else None


@dataclass(frozen=True)
class Digest:
    """`night`: the local date it is for, as YYYY-MM-DD. `title`: whose it is."""

    night: str
    lines: tuple[Line, ...]
    missing: tuple[Group, ...]
    title: str = title_of(DEFAULT_NAME)

    @property
    def landed(self) -> list[Line]:
        """The lines whose newest partition has landed."""
        return [line for line in self.lines if line.landing is not None]

    def count_missing(self, *, is_open: bool) -> int:
        """Partitions that are being worked on, or that nobody works on any more."""
        return sum(len(group.keys) for group in self.missing if group.is_open is is_open)

    @property
    def events(self) -> int:
        """Of all newest partitions."""
        return sum(line.events or 0 for line in self.lines)


def gather(
    ledger: SqlLedger,
    collections: Sequence[Collection],
    night: str,
    now: datetime,
    asked: Callable[[Collection, datetime], datetime] = lambda _, now: now,
    *,
    limits: Limits | None = None,
) -> Digest:
    """The digest as of `now`. Collections without a partition yet are left out; no other one is begun after GATHERING_SECONDS.

    `asked`: when a collection was asked for last; what ended later, and nobody has asked for, is not missing yet.
    """
    begun = time.monotonic()
    lines: list[Line] = []
    missing: list[Group] = []
    entries = ledger.open_entries()
    waiting = explain_all(ledger, entries, limits or Limits())
    open_ = {entry.request.place: waiting.get(entry.entry_id) for entry in entries}
    for collection in collections:
        ended, asked_at = due_partitions(collection, now), asked(collection, now)
        if ended and time.monotonic() - begun > GATHERING_SECONDS:
            why = "not looked at, as the ledger answers too slowly"
            missing.append(Group(collection.name, (ended[-1].key,), why, "status", ledger.scope.name))
            continue
        states = {state.key: state for state in ledger.partitions(collection.name)}
        known = (p for p in ended if p.key in states)
        missed = gaps(ended_partitions(collection, asked_at), states)
        due = {p.key: p for p in (*missed, *due_partitions(collection, asked_at), *known)}
        if not due:
            continue
        newest = max(due.values(), key=lambda p: p.timeframe.end)
        start = min([newest.timeframe.start - history_span(collection), *(p.timeframe.start for p in due.values())])
        history = ledger.landed_entries(collection.name, start=start, end=newest.timeframe.end)
        landed = {e.request.partition_key: e for e in history if e.is_partition}
        lines.append(_line(collection, newest, landed, now))
        lacks = [key for key in due if key not in landed]
        missing += by_cause(_missing(collection.name, lacks, states, open_), ledger.scope.name)
    return Digest(night, tuple(lines), tuple(missing), title_of(ledger.scope.name))


def _line(collection: Collection, newest: Partition, landed: dict[str, Entry], now: datetime) -> Line:
    entry = landed.get(newest.key)
    span = partitions_between(collection, newest.timeframe.start - history_span(collection), newest.timeframe.end)
    bars = [
        (p.key, e.landing.records if (e := landed.get(p.key)) is not None and e.landing is not None else None) for p in list(span)
    ]
    usual = usual_events(entry, list(landed.values()), collection) if entry is not None else None
    events = entry.landing.records if entry is not None and entry.landing is not None else 0
    lately = now - timedelta(days=1)
    also = [e.request.partition_key for e in landed.values() if e is not entry and e.landed_at is not None and e.landed_at > lately]
    return Line(
        collection=collection.name,
        partition_key=newest.key,
        entry=entry,
        usual=usual.events if usual is not None else None,
        unusual=usual is not None and not usual.holds(events),
        bars=tuple(bars[-BARS:]),
        also_landed=tuple(sorted(also)),
    )


def _missing(
    collection: str, keys: Sequence[str], states: Mapping[str, PartitionState], open_: Mapping[tuple[str, str], Waiting | None]
) -> list[tuple[str, str, str, str]]:
    """Of each partition its collection and key, why it is missing, and the verb of what fixes that."""
    told = []
    for key in keys:
        waiting, state = open_.get((collection, key)), states.get(key)
        if waiting is not None:
            told.append((collection, key, str(waiting), "status"))
        elif state is None:
            told.append(
                (collection, key, "never asked for: is the nightly schedule on, and does a Dagster daemon run?", "backfill")
            )
        else:
            told.append((collection, key, state.error or f"it is {state.status.value}", "retry"))
    return told
