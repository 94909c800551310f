"""Relative and absolute timeframes; time zones; what is refused."""

from __future__ import annotations

import calendar
from datetime import datetime, timedelta, timezone
from typing import Any
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given
from hypothesis import strategies as st

from keen_pipeline.errors import InvalidInputError
from keen_pipeline.timeframe import UTC, Timeframe, format_instant, parse_instant, resolve_timeframe

# A Tuesday.
NOW = datetime(2026, 3, 10, 15, 30, 45, 123456, tzinfo=UTC)


def bounds(wire: Any, **options: Any) -> tuple[str, str]:
    window = resolve_timeframe(wire, now=options.pop("now", NOW), **options)
    assert window is not None
    return format_instant(window.start), format_instant(window.end)


@pytest.mark.parametrize(
    ("text", "start", "end"),
    [
        ("this_minute", "2026-03-10T15:30:00Z", "2026-03-10T15:30:45.123456Z"),
        ("last_hour", "2026-03-10T14:00:00Z", "2026-03-10T15:00:00Z"),
        ("last_3_hours", "2026-03-10T12:00:00Z", "2026-03-10T15:00:00Z"),
        ("previous_90_minutes", "2026-03-10T14:00:00Z", "2026-03-10T15:30:00Z"),
        ("today", "2026-03-10T00:00:00Z", "2026-03-10T15:30:45.123456Z"),
        ("this_day", "2026-03-10T00:00:00Z", "2026-03-10T15:30:45.123456Z"),
        ("yesterday", "2026-03-09T00:00:00Z", "2026-03-10T00:00:00Z"),
        ("last_1_day", "2026-03-09T00:00:00Z", "2026-03-10T00:00:00Z"),
        ("last_4_days", "2026-03-06T00:00:00Z", "2026-03-10T00:00:00Z"),
        ("previous_7_days", "2026-03-03T00:00:00Z", "2026-03-10T00:00:00Z"),
        ("this_3_days", "2026-03-08T00:00:00Z", "2026-03-10T15:30:45.123456Z"),
        ("this_week", "2026-03-08T00:00:00Z", "2026-03-10T15:30:45.123456Z"),
        ("last_week", "2026-03-01T00:00:00Z", "2026-03-08T00:00:00Z"),
        ("last_2_weeks", "2026-02-22T00:00:00Z", "2026-03-08T00:00:00Z"),
        ("this_month", "2026-03-01T00:00:00Z", "2026-03-10T15:30:45.123456Z"),
        ("previous_3_months", "2025-12-01T00:00:00Z", "2026-03-01T00:00:00Z"),
        ("this_year", "2026-01-01T00:00:00Z", "2026-03-10T15:30:45.123456Z"),
        ("previous_2_years", "2024-01-01T00:00:00Z", "2026-01-01T00:00:00Z"),
    ],
)
def test_relative_forms(text: str, start: str, end: str) -> None:
    assert bounds(text) == (start, end)


def test_weeks_start_on_sunday() -> None:
    sunday = datetime(2026, 3, 8, tzinfo=UTC)
    assert bounds("this_week", now=sunday) == ("2026-03-08T00:00:00Z", "2026-03-08T00:00:00Z")
    assert bounds("this_week", now=sunday - timedelta(seconds=1))[0] == "2026-03-01T00:00:00Z"


@pytest.mark.parametrize("zone", [-28800, "-28800", "-28800 "])
def test_a_time_zone_in_seconds(zone: Any) -> None:
    assert bounds("yesterday", timezone=zone) == ("2026-03-09T08:00:00Z", "2026-03-10T08:00:00Z")


def test_days_across_a_change_of_the_clocks() -> None:
    spring = datetime(2026, 3, 30, 12, tzinfo=UTC)  # Berlin lost an hour on the 29th
    assert bounds("yesterday", now=spring, timezone="Europe/Berlin") == ("2026-03-28T23:00:00Z", "2026-03-29T22:00:00Z")
    autumn = datetime(2026, 10, 26, 12, tzinfo=UTC)  # and gained it back on October 25th
    assert bounds("yesterday", now=autumn, timezone="Europe/Berlin") == ("2026-10-24T22:00:00Z", "2026-10-25T23:00:00Z")
    repeated = datetime(2026, 10, 25, 1, 30, tzinfo=UTC)  # 02:30 for the second time
    assert bounds("last_hour", now=repeated, timezone="Europe/Berlin") == ("2026-10-25T00:00:00Z", "2026-10-25T01:00:00Z")
    # Midnight of this day does not exist in Santiago: the day starts at 01:00.
    santiago = datetime(2026, 9, 6, 15, tzinfo=UTC)
    assert bounds("today", now=santiago, timezone="America/Santiago")[0] == "2026-09-06T04:00:00Z"


def test_hours_of_a_zone_with_a_half_hour() -> None:
    assert bounds("last_hour", timezone="Asia/Kolkata") == ("2026-03-10T14:30:00Z", "2026-03-10T15:30:00Z")


@pytest.mark.parametrize(
    "start", ["2012-08-13T19:00Z", "2012-08-13T11:00-0800", "2012-08-13T11:00-08:00", "2012-08-13 19:00:00.000", "2012-08-13T11-08"]
)
def test_absolute_forms(start: str) -> None:
    if start == "2012-08-13T11-08":
        with pytest.raises(InvalidInputError, match=r"timeframe\.start"):
            bounds({"start": start, "end": "2012-08-14"})
        return
    assert bounds({"start": start, "end": "2012-08-14"}) == ("2012-08-13T19:00:00Z", "2012-08-14T00:00:00Z")


def test_absolute_as_json_text_and_unmoved_by_a_time_zone() -> None:
    assert bounds('{"start": "2026-01-01", "end": "2026-01-02"}', timezone=-3600) == (
        "2026-01-01T00:00:00Z",
        "2026-01-02T00:00:00Z",
    )


def test_none_is_all_events() -> None:
    assert resolve_timeframe(None, now=NOW) is None


@pytest.mark.parametrize(
    ("wire", "field"),
    [
        ("", "timeframe"),
        ("last_0_days", "timeframe"),
        ("last_n_days", "timeframe"),
        ("last_-1_days", "timeframe"),
        ("LAST_DAY", "timeframe"),
        ("last_99999_years", "timeframe"),
        ("last_99999_months", "timeframe"),
        ("{", "timeframe"),
        (5, "timeframe"),
        ({}, "timeframe.start"),
        ({"start": "2026-01-01"}, "timeframe.end"),
        ({"start": "2026-01-01", "end": None}, "timeframe.end"),
        ({"start": "2026-01-01T25:00Z", "end": "2026-01-02"}, "timeframe.start"),
        ({"start": "0001-01-01T00:00+05:00", "end": "2026-01-02"}, "timeframe.start"),
        ({"start": "2026-01-02", "end": "2026-01-01"}, "timeframe"),
        ({"start": "2026-01-01", "end": "2026-01-02", "x": 1}, "timeframe"),
    ],
)
def test_what_is_refused_names_its_field(wire: Any, field: str) -> None:
    with pytest.raises(InvalidInputError) as caught:
        resolve_timeframe(wire, now=NOW)
    assert caught.value.field == field


@pytest.mark.parametrize("zone", ["Nowhere/Land", "", 86400, -86400, True, 1.5, "../x"])
def test_wrong_time_zones(zone: Any) -> None:
    with pytest.raises(InvalidInputError) as caught:
        resolve_timeframe("today", now=NOW, timezone=zone)
    assert caught.value.field == "timezone"


ZONES = st.sampled_from(["UTC", "Europe/Berlin", "America/New_York", "Asia/Kolkata", "Australia/Lord_Howe", "Pacific/Apia"])
MOMENTS = st.datetimes(datetime(2000, 1, 1), datetime(2037, 1, 1)).map(lambda moment: moment.replace(tzinfo=timezone.utc))
UNITS = st.sampled_from(["day", "week", "month", "year"])


@given(MOMENTS, ZONES, UNITS, st.integers(1, 60))
def test_calendar_units_equal_a_walk_by_days(now: datetime, zone: str, unit: str, count: int) -> None:
    window = resolve_timeframe(f"previous_{count}_{unit}s", now=now, timezone=zone)
    assert window is not None
    starts = {
        "day": lambda d: True,
        "week": lambda d: d.weekday() == calendar.SUNDAY,
        "month": lambda d: d.day == 1,
        "year": lambda d: (d.month, d.day) == (1, 1),
    }
    day = now.astimezone(ZoneInfo(zone)).date()
    seen = []
    while len(seen) <= count:
        if starts[unit](day):
            seen.append(day)
        day -= timedelta(days=1)
    expected = [datetime(d.year, d.month, d.day, tzinfo=ZoneInfo(zone)).astimezone(UTC) for d in (seen[count], seen[0])]
    assert [window.start, window.end] == expected


@given(st.datetimes(datetime(1, 1, 2)).map(lambda moment: moment.replace(tzinfo=timezone.utc)))
def test_an_instant_survives_its_text(moment: datetime) -> None:
    assert parse_instant(format_instant(moment)) == moment


def test_a_timeframe_is_half_open() -> None:
    window = Timeframe(NOW, NOW + timedelta(days=1))
    assert NOW in window
    assert NOW + timedelta(days=1) not in window
    assert window.duration == timedelta(days=1)
    with pytest.raises(InvalidInputError, match="before the start"):
        Timeframe(NOW, NOW - timedelta(seconds=1))
    with pytest.raises(InvalidInputError, match=r"timeframe\.start"):
        Timeframe(datetime(2026, 1, 1), NOW)
