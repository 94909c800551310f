"""A collection's partitions as Dagster's own definition."""

from __future__ import annotations

from datetime import datetime, time
from typing import Any

import dagster as dg

from keen_pipeline.collection import Collection, Granularity

_DEFINITIONS: dict[Granularity, type[dg.TimeWindowPartitionsDefinition]] = {
    Granularity.HOURLY: dg.HourlyPartitionsDefinition,
    Granularity.DAILY: dg.DailyPartitionsDefinition,
    Granularity.WEEKLY: dg.WeeklyPartitionsDefinition,
    Granularity.MONTHLY: dg.MonthlyPartitionsDefinition,
}


def partitions_definition(collection: Collection) -> dg.TimeWindowPartitionsDefinition:
    """Time windows from the collection's start date in its zone; weeks start on Sunday."""
    start = datetime.combine(collection.start, time())
    make: Any = _DEFINITIONS[collection.granularity]  # the subclasses take a start date, their common base doesn't
    definition: dg.TimeWindowPartitionsDefinition = make(start_date=start, timezone=collection.timezone)
    return definition
