"""A landed partition against those before it: its columns and its number of events. Pure; the entries come from the ledger."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from itertools import dropwhile
from statistics import median
from zoneinfo import ZoneInfo

from keen_pipeline.collection import ABSENT, Collection, Granularity, masked_by
from keen_pipeline.extraction import Landing
from keen_pipeline.lifecycle import Entry

# How many partitions of the same kind (weekday, or weekday and hour) make what is usual, and how few are too few to tell.
MOST_COMPARED = 8
FEWEST_COMPARED = 4
# Normal noise scaled from the median absolute deviation; beyond this many standard deviations a number is unexpected.
_MAD_TO_DEVIATION = 1.4826
_DEVIATIONS = 4.0
# Never unexpected: within a quarter of the median, or within ten events.
_SHARE = 0.25
_EVENTS = 10.0


def history_span(collection: Collection) -> timedelta:
    """How far before a partition those lie that it is compared with."""
    return timedelta(days=280 if collection.granularity is Granularity.MONTHLY else 64)


@dataclass(frozen=True)
class Drift:
    """What changed in the columns. `retyped`: by column Keen's word before and now; `mixed` if it has several."""

    added: tuple[str, ...] = ()
    removed: tuple[str, ...] = ()
    retyped: Mapping[str, tuple[str, str]] | None = None

    def __bool__(self) -> bool:
        return bool(self.added or self.removed or self.retyped)

    def __str__(self) -> str:
        parts = [f"{what} {', '.join(names)}" for what, names in (("added", self.added), ("removed", self.removed)) if names]
        parts += [f"{name} was {before}, is {now}" for name, (before, now) in (self.retyped or {}).items()]
        return "; ".join(parts) or "the same columns"


def drift_between(before: Landing, now: Landing) -> Drift:
    """The columns of two landings compared; columns that either mask touches are left out. Types if both know them."""
    touched = {*before.masked, *now.masked}
    old = {name: kind for name, kind in _typed(before).items() if name not in touched}
    new = {name: kind for name, kind in _typed(now).items() if name not in touched}
    retyped = {
        name: (kind, new[name] or "mixed")
        for name, kind in old.items()
        if kind and name in new and now.property_types and new[name] != kind
    }
    return Drift(tuple(n for n in new if n not in old), tuple(n for n in old if n not in new), retyped)


def _typed(landing: Landing) -> dict[str, str]:
    kinds = landing.property_types or ("",) * len(landing.columns)
    return dict(zip(landing.columns, kinds, strict=True))


def before_with_events(entry: Entry, history: Sequence[Entry]) -> Entry | None:
    """The newest landed partition before `entry` that has events."""
    earlier = [e for e in history if _comparable(e, entry) and e.landing is not None and e.landing.records > 0]
    return max(earlier, key=lambda e: e.request.timeframe.start, default=None)


def unmet_by_mask(entry: Entry, history: Sequence[Entry]) -> list[str]:
    """What a landing's mask names and neither its file nor one of `history` has as a column; nothing if the file has no events."""
    landing = entry.landing
    if landing is None or not landing.records:
        return []
    met = {name for e in history if e.landing is not None for name, what in e.landing.masked.items() if what != ABSENT}
    absent = [name for name, what in landing.masked.items() if what == ABSENT]
    return [name for name in absent if not any(masked_by({name: None}, column) for column in met)]


def lost_events(entry: Entry, before: Entry | None) -> str | None:
    """What to say of a file with fewer events than the one that it replaced, which answered the same question; else None."""
    if before is None or before.landing is None or entry.landing is None or not before.request.asks_as(entry.request):
        return None
    now, then = entry.landing.records, before.landing.records
    return f"{now} events, the file that it replaced had {then}: the others are gone at the service" if now < then else None


@dataclass(frozen=True)
class Usual:
    """What the partitions of the same kind before had: the median of their events, and how far from it is still usual."""

    events: float
    tolerance: float
    compared: int

    def holds(self, events: int) -> bool:
        """Whether `events` is a usual number."""
        return abs(events - self.events) <= self.tolerance


def usual_events(entry: Entry, history: Sequence[Entry], collection: Collection) -> Usual | None:
    """What is usual for `entry`: by the median and the median absolute deviation of up to eight partitions of the same weekday
    (hourly: weekday and hour; weekly and monthly: any); None if fewer than four are known."""
    zone, kind = ZoneInfo(collection.timezone), collection.granularity
    slot = _slot(entry.request.timeframe.start, zone, kind)
    earlier = sorted((e for e in history if _comparable(e, entry)), key=lambda e: e.request.timeframe.start)
    # What lies before the first event says nothing about what is usual.
    known = dropwhile(lambda e: e.landing is None or e.landing.records == 0, earlier)
    same = [e for e in known if _slot(e.request.timeframe.start, zone, kind) == slot]
    numbers = [e.landing.records for e in same[-MOST_COMPARED:] if e.landing is not None]
    if len(numbers) < FEWEST_COMPARED:
        return None
    middle = float(median(numbers))
    deviation = _MAD_TO_DEVIATION * float(median(abs(n - middle) for n in numbers))
    # Counts scatter by their square root even if nothing changes.
    tolerance = max(_DEVIATIONS * max(deviation, math.sqrt(middle)), _SHARE * middle, _EVENTS)
    return Usual(middle, tolerance, len(numbers))


def _comparable(earlier: Entry, entry: Entry) -> bool:
    return earlier.is_partition and earlier.request.timeframe.end <= entry.request.timeframe.start


def _slot(start: datetime, zone: ZoneInfo, granularity: Granularity) -> tuple[int, int]:
    local = start.astimezone(zone)
    if granularity is Granularity.HOURLY:
        return local.weekday(), local.hour
    return (local.weekday(), 0) if granularity is Granularity.DAILY else (0, 0)
