"""Our partitions against Dagster's, and against time itself."""

from __future__ import annotations

from datetime import date, datetime, timedelta, timezone
from itertools import pairwise

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from keen_pipeline.collection import Collection, Granularity
from keen_pipeline.defs.partitions import partitions_definition
from keen_pipeline.errors import InvalidInputError
from keen_pipeline.partitions import due_partitions, latest_partition, partition_for_key, partition_range, partitions_between

UTC = timezone.utc
NOW = datetime(2026, 3, 10, 12, tzinfo=UTC)
ZONES = ("UTC", "Europe/Berlin", "America/New_York", "America/Sao_Paulo", "Asia/Kolkata", "Australia/Sydney", "Pacific/Auckland")

collections = st.builds(
    Collection,
    name=st.just("purchases"),
    start_date=st.dates(date(2023, 1, 1), date(2026, 2, 1)),
    granularity=st.sampled_from(Granularity),
    timezone=st.sampled_from(ZONES),
)


@given(collections, st.integers(0, 90))
@example(Collection("purchases", "2024-04-07", granularity=Granularity.HOURLY, timezone="Australia/Sydney"), 0)
def test_keys_and_windows_are_dagsters(collection: Collection, days: int) -> None:
    first = datetime.combine(collection.start, datetime.min.time(), UTC)
    until = min(first + timedelta(days=days), NOW)
    ours = list(partitions_between(collection, first - timedelta(days=2), until))
    definition = partitions_definition(collection)
    keys = definition.get_partition_keys(current_time=until)
    assert [p.key for p in ours] == list(keys)
    for partition in (ours[:3] + ours[-3:]) if ours else []:
        window = definition.time_window_for_partition_key(partition.key)
        # In UTC: to Python an hour that a zone has twice equals no instant of another zone (PEP 495).
        start, end = window.start.astimezone(UTC), window.end.astimezone(UTC)
        assert (partition.timeframe.start, partition.timeframe.end) == (start, end)
        assert partition_for_key(collection, partition.key, until) == partition


@given(collections)
def test_every_instant_lies_in_exactly_one_partition(collection: Collection) -> None:
    first = datetime.combine(collection.start, datetime.min.time(), UTC)
    ours = list(partitions_between(collection, first, first + timedelta(days=100)))
    for before, after in pairwise(ours):
        assert before.timeframe.end == after.timeframe.start


def test_days_where_clocks_change_have_23_and_25_hours() -> None:
    berlin = Collection(name="a", start_date="2025-01-01", timezone="Europe/Berlin")
    hours = {
        key: partition_for_key(berlin, key, NOW).timeframe.duration / timedelta(hours=1)
        for key in ("2025-03-30", "2025-10-26", "2025-10-27")
    }
    assert hours == {"2025-03-30": 23, "2025-10-26": 25, "2025-10-27": 24}


@pytest.mark.parametrize("start", ["2025-02-20", "2025-05-01"])
def test_hours_of_a_zone_whose_clocks_change_by_half_an_hour_are_the_same_for_all_who_ask(start: str) -> None:
    howe = Collection(name="a", start_date=start, granularity=Granularity.HOURLY, timezone="Australia/Lord_Howe", lookback_days=1)
    first = datetime.combine(howe.start, datetime.min.time(), UTC) - timedelta(days=1)
    ours = list(partitions_between(howe, first, NOW))
    assert [p.key for p in ours] == list(partitions_definition(howe).get_partition_keys(current_time=NOW))[: len(ours)]
    assert due_partitions(howe, NOW) == ours[-24:]
    for partition in ours[::500]:
        assert partition_for_key(howe, partition.key, NOW) == partition


def test_a_night_asks_for_the_lookback_and_the_newest_one_anyway() -> None:
    daily = Collection(name="a", start_date="2026-01-01", lookback_days=3)
    assert [p.key for p in due_partitions(daily, NOW)] == ["2026-03-07", "2026-03-08", "2026-03-09"]
    monthly = Collection(name="a", start_date="2026-01-01", granularity=Granularity.MONTHLY, lookback_days=3)
    assert [p.key for p in due_partitions(monthly, NOW)] == ["2026-02-01"]
    hourly = Collection(name="a", start_date="2026-01-01", granularity=Granularity.HOURLY, lookback_days=1)
    assert len(due_partitions(hourly, NOW)) == 24
    assert due_partitions(Collection(name="a", start_date="2026-03-10"), NOW) == []
    assert latest_partition(Collection(name="a", start_date="2026-03-10"), NOW) is None


@pytest.mark.parametrize(
    ("key", "message"),
    [
        ("2026-03-10", "future"),
        ("2027-01-01", "future"),
        ("9999-12-31", "future"),
        ("2025-12-31", "before the start date"),
        ("2026-02-30", "not one of its daily partitions"),
        ("yesterday", "not one of its daily partitions"),
        ("2026-03-09-01:00", "not one of its daily partitions"),
    ],
)
def test_a_wrong_key_is_refused_with_its_reason(key: str, message: str) -> None:
    with pytest.raises(InvalidInputError, match=message):
        partition_for_key(Collection(name="a", start_date="2026-01-01"), key, NOW)


def test_weeks_begin_on_sunday() -> None:
    weekly = Collection(name="a", start_date="2026-01-01", granularity=Granularity.WEEKLY)
    assert partition_for_key(weekly, "2026-01-04", NOW).timeframe.duration == timedelta(days=7)
    with pytest.raises(InvalidInputError, match="a Sunday"):
        partition_for_key(weekly, "2026-01-05", NOW)


def test_a_range_is_inclusive_and_in_order() -> None:
    daily = Collection(name="a", start_date="2026-01-01")
    assert [p.key for p in partition_range(daily, "2026-02-27", "2026-03-01", NOW)] == ["2026-02-27", "2026-02-28", "2026-03-01"]
    with pytest.raises(InvalidInputError, match="before the start"):
        partition_range(daily, "2026-03-01", "2026-02-27", NOW)
