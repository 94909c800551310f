"""A collection's partitions as Dagster's own definition."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import date, datetime, time
from typing import Any

import dagster as dg

from keen_pipeline.collection import Collection, Granularity
from keen_pipeline.errors import InvalidInputError

_DEFINITIONS: dict[Granularity, type[dg.TimeWindowPartitionsDefinition]] = {
    Granularity.HOURLY: dg.HourlyPartitionsDefinition,
    Granularity.DAILY: dg.DailyPartitionsDefinition,
    Granularity.WEEKLY: dg.WeeklyPartitionsDefinition,
    Granularity.MONTHLY: dg.MonthlyPartitionsDefinition,
}


def partitions_definition(collection: Collection, *, together_with: Sequence[Collection] = ()) -> dg.TimeWindowPartitionsDefinition:
    """Time windows from the collection's start date in its zone; weeks start on Sunday.

    `together_with`: collections that shall be selected and backfilled together with it. Dagster asks for one and the same
    definition then, so it begins with the earliest start date among those of the same granularity and zone.

    >>> partitions_definition(Collection(name="purchases", start_date="2026-01-01")).get_first_partition_key()
    '2026-01-01'
    """
    alike = [one for one in (collection, *together_with) if grain(one) == grain(collection)]
    start: date = min(one.start for one in alike)
    make: Any = _DEFINITIONS[collection.granularity]  # the subclasses take a start date, their common base doesn't
    definition: dg.TimeWindowPartitionsDefinition = make(start_date=datetime.combine(start, time()), timezone=collection.timezone)
    return definition


def fitting(collection: Collection, given: dg.PartitionsDefinition[Any] | None) -> dg.PartitionsDefinition[Any]:
    """`given`, or the collection's own definition.

    Raises InvalidInputError if its keys stand for other times than the collection's: a week's file would hold one day.
    """
    own = partitions_definition(collection)
    if given is None:
        return own
    if not isinstance(given, dg.TimeWindowPartitionsDefinition) or _windows(given) != _windows(own):
        raise InvalidInputError(
            f"{collection.name}: partitions_def: must be {collection.granularity.value} in {collection.timezone}, as the collection"
            f" is, not {given!r}",
            field="partitions_def",
        )
    return given


def _windows(definition: dg.TimeWindowPartitionsDefinition) -> tuple[str, str, str]:
    return definition.cron_schedule, definition.timezone, definition.fmt


def when_landed() -> dg.AutomationCondition[Any]:
    """A partition wakes when what it is made of lands, or lands again; `eager()` alone looks at the latest one only."""
    return dg.AutomationCondition.eager().without(dg.AutomationCondition.in_latest_time_window())


def is_before_start(collection: Collection, partition_key: str) -> bool:
    """Whether a partition of what is backfilled together lies before this collection's own start date.

    >>> is_before_start(Collection("logins", "2026-02-01"), "2026-01-31")
    True
    """
    start = collection.start.isoformat()
    return partition_key[: len(start)] < start


def grain(collection: Collection) -> tuple[Granularity, str]:
    """Collections of one grain can be backfilled together."""
    return collection.granularity, collection.timezone
