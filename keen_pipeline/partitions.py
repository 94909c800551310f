"""The partitions of a collection without Dagster: keys and their timeframes. A test holds them equal to Dagster's.

A partition covers local time of the collection's zone, from one boundary to the next, so a day has 23 or 25 hours when
clocks change, and every instant lies in exactly one partition. The second of two equal local hours carries its offset.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import date, datetime, time, timedelta
from zoneinfo import ZoneInfo

from keen_pipeline.collection import LAST_START_DATE, Collection, Granularity
from keen_pipeline.errors import InvalidInputError
from keen_pipeline.timeframe import UTC, Timeframe, format_instant

EVER = datetime(9999, 1, 1, tzinfo=UTC)
"""For `partition_for_key`, if a partition may also lie in the future."""
_HOUR = timedelta(hours=1)


@dataclass(frozen=True)
class Partition:
    """One slice of a collection: Dagster's key and the window of its events."""

    key: str
    timeframe: Timeframe


def partitions_between(collection: Collection, start: datetime, end: datetime) -> Iterator[Partition]:
    """The partitions that lie wholly in [start, end), oldest first; none before the collection's start date."""
    zone = ZoneInfo(collection.timezone)
    first = max(start.astimezone(UTC), _midnight(collection.start, zone))
    for partition in _from(collection, zone, first):
        if partition.timeframe.end > end:
            return
        if partition.timeframe.start >= start:
            yield partition


def ended_partitions(collection: Collection, now: datetime) -> list[Partition]:
    """Every partition since the start date whose time is over, oldest first."""
    return list(partitions_between(collection, datetime.min.replace(tzinfo=UTC), now))


def latest_partition(collection: Collection, now: datetime) -> Partition | None:
    """The newest partition that has ended at `now`, None before the first one has."""
    return next(reversed(due_partitions(collection, now)), None)


def due_partitions(collection: Collection, now: datetime) -> list[Partition]:
    """What a night at `now` wants landed: partitions that ended in the last `lookback_days`, and the newest one anyway."""
    since = now - timedelta(days=collection.lookback_days)
    ended = list(partitions_between(collection, since - timedelta(days=63), now))
    return [p for p in ended if p.timeframe.end > since] or ended[-1:]


def partition_for_key(collection: Collection, key: str, now: datetime) -> Partition:
    """The partition named `key`.

    Raises InvalidInputError if `key` isn't a partition of the collection, lies before its start date, or has not ended
    at `now`.
    """
    local = _parse(collection, key)
    if local.year > LAST_START_DATE.year:
        raise InvalidInputError(f"{collection.name}[{key}] lies in the future", field="partition")
    for partition in _from(collection, ZoneInfo(collection.timezone), local):
        if partition.key != key:
            break
        if partition.timeframe.end > now:
            raise InvalidInputError(
                f"{collection.name}[{key}] lies in the future: it ends at {format_instant(partition.timeframe.end)}",
                field="partition",
            )
        if partition.timeframe.start < _midnight(collection.start, ZoneInfo(collection.timezone)):
            raise InvalidInputError(f"{collection.name}[{key}] lies before the start date {collection.start}", field="partition")
        return partition
    raise InvalidInputError(_no_partition(collection, key), field="partition")


def partition_range(collection: Collection, first: str, last: str, now: datetime) -> list[Partition]:
    """All partitions from key `first` to key `last`, both inclusive. Raises InvalidInputError as `partition_for_key` does."""
    start, end = (partition_for_key(collection, key, now).timeframe for key in (first, last))
    if end.start < start.start:
        raise InvalidInputError(f"{collection.name}: the end {last} is before the start {first}", field="partition")
    return list(partitions_between(collection, start.start, end.end))


def _no_partition(collection: Collection, key: str) -> str:
    form = "YYYY-MM-DD-HH:MM" if collection.granularity is Granularity.HOURLY else "YYYY-MM-DD"
    first = {Granularity.WEEKLY: ", a Sunday", Granularity.MONTHLY: ", the first of a month"}.get(collection.granularity, "")
    grain, zone = collection.granularity.value, collection.timezone
    return f"{collection.name}: {key!r} is not one of its {grain} partitions ({form}{first}, in {zone})"


def _parse(collection: Collection, key: str) -> datetime:
    zone = ZoneInfo(collection.timezone)
    try:
        if collection.granularity is not Granularity.HOURLY:
            return _midnight(date.fromisoformat(key), zone)
        if len(key) > len("YYYY-MM-DD-HH:MM"):
            return datetime.strptime(key, "%Y-%m-%d-%H:%M%z").astimezone(UTC)
        return datetime.strptime(key, "%Y-%m-%d-%H:%M").replace(tzinfo=zone).astimezone(UTC)
    except (ValueError, OverflowError):
        raise InvalidInputError(_no_partition(collection, key), field="partition") from None


def _midnight(day: date, zone: ZoneInfo) -> datetime:
    return datetime.combine(day, time(), tzinfo=zone).astimezone(UTC)


def _from(collection: Collection, zone: ZoneInfo, moment: datetime) -> Iterator[Partition]:
    """Partitions from the first boundary at or after `moment`, without end."""
    if collection.granularity is Granularity.HOURLY:
        yield from _hours(zone, moment, _midnight(collection.start, zone))
        return
    day = moment.astimezone(zone).date()
    if _midnight(day, zone) < moment:
        day += timedelta(days=1)
    day = _boundary_at_or_after(collection.granularity, day)
    while True:
        following = _next_boundary(collection.granularity, day)
        yield Partition(day.isoformat(), Timeframe(_midnight(day, zone), _midnight(following, zone)))
        day = following


def _hours(zone: ZoneInfo, moment: datetime, first: datetime) -> Iterator[Partition]:
    # Whole hours after the first one, as Dagster counts them: if clocks change by half an hour, local hours begin at half past.
    start = moment + (first - moment) % _HOUR
    while True:
        local = start.astimezone(zone)
        key = local.strftime("%Y-%m-%d-%H:%M") + (local.strftime("%z") if local.fold else "")
        yield Partition(key, Timeframe(start, start + _HOUR))
        start += _HOUR


def _boundary_at_or_after(granularity: Granularity, day: date) -> date:
    if granularity is Granularity.WEEKLY:
        return day + timedelta(days=(6 - day.weekday()) % 7)
    if granularity is Granularity.MONTHLY and day.day > 1:
        return _next_boundary(granularity, day)
    return day


def _next_boundary(granularity: Granularity, day: date) -> date:
    if granularity is Granularity.WEEKLY:
        return day + timedelta(days=7)
    if granularity is Granularity.MONTHLY:
        return (day.replace(day=1) + timedelta(days=32)).replace(day=1)
    return day + timedelta(days=1)
