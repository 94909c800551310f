"""What a night brought, from the ledger: for each collection its newest partition against the last weeks, and what is missing."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from keen_pipeline.collection import Collection
from keen_pipeline.extraction import Landing, Status
from keen_pipeline.lifecycle import Entry
from keen_pipeline.partitions import Partition, due_partitions, latest_partition, partitions_between
from keen_pipeline.pipeline.history import history_span, usual_events
from keen_pipeline.pipeline.requests import partition_request
from keen_pipeline.ports import Ledger

BARS = 28
"""Partitions in one chart: four weeks of days."""


@dataclass(frozen=True)
class Missing:
    """A partition that has not landed. `is_open`: it is being worked on; `why`: in words for its reader."""

    collection: str
    partition_key: str
    is_open: bool
    why: str


@dataclass(frozen=True)
class Line:
    """One collection. `entry`: its newest partition's landing, None where that is missing. `usual`: events of its kind before,
    None where too little is known; `unusual`: it is far from them. `bars`: events by partition, oldest first, None where nothing
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
        """Of the newest partition, None where it is missing."""
        return self.entry.landing if self.entry is not None else None

    @property
    def events(self) -> int | None:
        """Of the newest partition, None where it is missing."""
        return self.landing.records if self.landing is not None else None


@dataclass(frozen=True)
class Digest:
    """`night`: the local date it is for, as YYYY-MM-DD."""

    night: str
    lines: tuple[Line, ...]
    missing: tuple[Missing, ...]

    @property
    def landed(self) -> list[Line]:
        """The lines whose newest partition has landed."""
        return [line for line in self.lines if line.landing is not None]

    @property
    def failed(self) -> list[Missing]:
        """What nobody works on any more."""
        return [one for one in self.missing if not one.is_open]

    @property
    def events(self) -> int:
        """Of all newest partitions."""
        return sum(line.events or 0 for line in self.lines)


def gather(ledger: Ledger, collections: Sequence[Collection], destination: str, night: str, now: datetime) -> Digest:
    """The digest as of `now`; `destination` is the root URI. Collections without a partition yet are left out."""
    lines: list[Line] = []
    missing: list[Missing] = []
    for collection in collections:
        newest = latest_partition(collection, now)
        if newest is None:
            continue
        due = due_partitions(collection, now)
        start = min([newest.timeframe.start - history_span(collection), *(p.timeframe.start for p in due)])
        history = ledger.landed_between(collection.name, start, newest.timeframe.end)
        landed = {e.request.target: e for e in history}
        lines.append(_line(collection, newest, landed, destination, now))
        missing += _missing(ledger, collection, due, landed, destination)
    return Digest(night, tuple(lines), tuple(missing))


def _line(collection: Collection, newest: Partition, landed: dict[str, Entry], destination: str, now: datetime) -> Line:
    def of(partition: Partition) -> Entry | None:
        return landed.get(partition_request(collection, partition, destination).target)

    entry = of(newest)
    span = partitions_between(collection, newest.timeframe.start - history_span(collection), newest.timeframe.end)
    bars = [(p.key, e.landing.records if (e := of(p)) is not None and e.landing is not None else None) for p in list(span)[-BARS:]]
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
        bars=tuple(bars),
        also_landed=tuple(sorted(also)),
    )


def _missing(
    ledger: Ledger, collection: Collection, due: Sequence[Partition], landed: dict[str, Entry], destination: str
) -> list[Missing]:
    asked = [(p, partition_request(collection, p, destination)) for p in due]
    absent = [(p, request) for p, request in asked if request.target not in landed]
    known = ledger.latest([request for _, request in absent])
    return [_why(collection.name, p.key, entry) for (p, _), entry in zip(absent, known, strict=True)]


def _why(collection: str, key: str, entry: Entry | None) -> Missing:
    if entry is None:
        return Missing(collection, key, False, "it was never asked for: is the schedule nightly_extractions running?")
    if entry.status.is_terminal:
        return Missing(collection, key, False, entry.error or f"it is {entry.status.value}")
    stands = {
        Status.REQUESTED: "it waits to be submitted",
        Status.SUBMITTED: "Keen is working on it",
        Status.SPLIT: "it is extracted in slices",
        Status.COMPLETE: "it is about to land",
    }[entry.status]
    return Missing(collection, key, True, f"{stands} (attempt {entry.attempt})" + (f"; {entry.error}" if entry.error else ""))
