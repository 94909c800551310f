"""Whether the partitions of a collection have landed in time, and what keeps those that haven't."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta

from keen_pipeline.extraction import Collection
from keen_pipeline.lifecycle import Entry
from keen_pipeline.partitions import Partition, due_partitions
from keen_pipeline.pipeline.requests import partition_request
from keen_pipeline.ports import Ledger
from keen_pipeline.timeframe import format_instant


@dataclass(frozen=True)
class Freshness:
    """`newest`: the last partition whose time is over, None where none is. `late`: those that have not landed, and why."""

    newest: Partition | None
    late: tuple[tuple[Partition, str], ...]

    def __str__(self) -> str:
        if self.newest is None:
            return "no partition is due yet"
        if not self.late:
            return f"landed up to {self.newest.key}"
        return "; ".join(f"{partition.key} {why}" for partition, why in self.late)


def freshness(ledger: Ledger, collection: Collection, destination: str, now: datetime) -> Freshness:
    """The partitions that a night `fresh_within_hours` before `now` would want landed; `destination` is the root URI."""
    assert collection.fresh_within_hours is not None
    allowed = timedelta(hours=collection.fresh_within_hours)
    due = due_partitions(collection, now - allowed)
    if not due:
        return Freshness(None, ())
    start, newest = min(p.timeframe.start for p in due), max(due, key=lambda p: p.timeframe.end)
    # A file that is being extracted again is there all the same.
    landed = {e.request.target for e in ledger.landed_between(collection.name, start, newest.timeframe.end)}
    asked = [(p, partition_request(collection, p, destination)) for p in due]
    missing = [(p, request) for p, request in asked if request.target not in landed]
    known = ledger.latest([request for _, request in missing])
    late = tuple((p, _why(entry, p.timeframe.end + allowed)) for (p, _), entry in zip(missing, known, strict=True))
    return Freshness(newest, late)


def _why(entry: Entry | None, deadline: datetime) -> str:
    state = "was never asked for" if entry is None else f"is {entry.status.value}" + (f": {entry.error}" if entry.error else "")
    return f"should have landed by {format_instant(deadline)} and {state}"
