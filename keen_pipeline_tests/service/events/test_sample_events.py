"""The sample is believable: no check has anything to say about it but the one that it shows."""

from __future__ import annotations

from datetime import date, timedelta

import pytest

from keen_pipeline.extraction import Landing, Status
from keen_pipeline.lifecycle import Entry
from keen_pipeline.partitions import partition_range
from keen_pipeline.pipeline import partition_request
from keen_pipeline.pipeline.files.history import usual_events
from keen_pipeline.pipeline.sample import sample_collections
from keen_pipeline.ports import SystemClock
from keen_pipeline.service.sample_events import SAMPLE_COLLECTIONS, SAMPLE_DAYS, sample_days, sample_events, sample_start

TODAYS = [date(2026, 1, 1) + timedelta(days=31 * month) for month in range(12)]


@pytest.mark.parametrize("name", SAMPLE_COLLECTIONS)
@pytest.mark.parametrize("today", TODAYS[::3])
def test_every_day_of_the_sample_is_usual(name: str, today: date) -> None:
    (collection,) = [c for c in sample_collections(today) if c.name == name]
    now = SystemClock().now()
    history: list[Entry] = []
    for number, day in enumerate(sample_days(today)):
        [partition] = partition_range(collection, str(day), str(day), now + timedelta(days=400))
        request = partition_request(collection, partition)
        landing = Landing("x", 1, len(sample_events(name, day, today=today)), "x", (), 1, 0.1)
        entry = Entry(number, str(number), request, "", 1, Status.LANDED, now, now, landing=landing)
        usual = usual_events(entry, history, collection)
        assert usual is None or usual.holds(landing.records), (day, usual, landing.records)
        history.append(entry)
    assert any(usual_events(e, history, collection) is not None for e in history)


def test_weekdays_can_be_told_from_each_other_and_sundays_have_no_logins() -> None:
    days = list(sample_days(TODAYS[5]))
    numbers = {day: len(sample_events("logins", day, today=TODAYS[5])) for day in days}
    assert {day.weekday() for day, number in numbers.items() if number == 0} == {6}
    purchases = {day: len(sample_events("purchases", day, today=TODAYS[5])) for day in days}
    mondays, saturdays = ([n for day, n in purchases.items() if day.weekday() == number] for number in (0, 5))
    assert sum(saturdays) / len(saturdays) > 1.3 * sum(mondays) / len(mondays)


def test_one_property_appears_late() -> None:
    today = TODAYS[3]
    late = [day for day in sample_days(today) if any("coupon" in e for e in sample_events("purchases", day, today=today))]
    assert late == [today - timedelta(days=ago) for ago in (3, 2, 1)]


@pytest.mark.parametrize("today", TODAYS)
def test_the_sample_begins_with_a_month_and_its_events_with_it(today: date) -> None:
    days = list(sample_days(today))
    assert (days[0], days[-1]) == (sample_start(today), today - timedelta(days=1))
    assert days[0].day == 1
    assert SAMPLE_DAYS <= len(days) <= 91
    assert {c.start for c in sample_collections(today)} == {days[0]}
