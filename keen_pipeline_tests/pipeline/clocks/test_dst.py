"""Around changes of the clocks, the files of all partitions together hold every event exactly once, on a live service."""

from __future__ import annotations

import csv
from collections.abc import Iterator
from datetime import date, datetime, timedelta, timezone
from functools import lru_cache
from itertools import count
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any
from zoneinfo import ZoneInfo

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from keen_pipeline.client import KeenClient
from keen_pipeline.collection import Collection, Granularity
from keen_pipeline.landing import FileDestination
from keen_pipeline.ledger import SqlLedger
from keen_pipeline.partitions import Partition, partitions_between
from keen_pipeline.pipeline import Landed, Pipeline, extract, partition_request
from keen_pipeline.scope import Scope
from keen_pipeline.service.embedded import Endpoint
from keen_pipeline.testing import live_service
from keen_pipeline_tests.pipeline.world import empty_engine

UTC = timezone.utc
# An hour, half an hour, at midnight, a day that never was, none at all.
ZONES = (
    "Europe/Berlin",
    "America/New_York",
    "Australia/Lord_Howe",
    "America/Havana",
    "America/Sao_Paulo",
    "Africa/Cairo",
    "Pacific/Apia",
    "Asia/Kathmandu",
)
# How far around a change of the clocks partitions are looked at, to have a few of each kind.
REACH = {
    Granularity.HOURLY: timedelta(hours=6),
    Granularity.DAILY: timedelta(days=3),
    Granularity.WEEKLY: timedelta(days=15),
    Granularity.MONTHLY: timedelta(days=63),
}
_names = count()


@lru_cache
def changes(zone: str) -> tuple[datetime, ...]:
    """The instants from 2008 to 2019 at which the zone's offset changes; an arbitrary one where it never does."""
    tz, hour = ZoneInfo(zone), timedelta(hours=1)
    found, moment, end = [], datetime(2008, 1, 1, tzinfo=UTC), datetime(2020, 1, 1, tzinfo=UTC)
    while moment < end:
        following = moment + timedelta(hours=12)
        if moment.astimezone(tz).utcoffset() != following.astimezone(tz).utcoffset():
            found.append(
                next(m for m in _halves(moment, following) if m.astimezone(tz).utcoffset() == following.astimezone(tz).utcoffset())
            )
        moment = following
    return tuple(found) or (datetime(2015, 3, 1, tzinfo=UTC) + hour,)


def _halves(first: datetime, last: datetime) -> Iterator[datetime]:
    while first <= last:
        yield first
        first += timedelta(minutes=30)


@st.composite
def cases(draw: Any) -> tuple[Collection, list[Partition], list[datetime]]:
    """A collection, its partitions around a change of the clocks, and instants in them, most of them at their edges."""
    zone, granularity = draw(st.sampled_from(ZONES)), draw(st.sampled_from(Granularity))
    return _case(zone, granularity, draw(st.sampled_from(changes(zone))), draw)


def _case(zone: str, granularity: Granularity, change: datetime, draw: Any) -> tuple[Collection, list[Partition], list[datetime]]:
    reach = REACH[granularity]
    collection = Collection(f"c{next(_names)}", date(2007, 1, 1), granularity=granularity, timezone=zone)
    partitions = list(partitions_between(collection, change - reach, change + reach))
    first, last = partitions[0].timeframe.start, partitions[-1].timeframe.end
    edges = [change, *(p.timeframe.start for p in partitions), last]
    near = st.builds(
        lambda edge, apart: edge + timedelta(milliseconds=apart),
        st.sampled_from(edges),
        st.sampled_from([-3_600_000, -1_800_000, -1, 0, 1, 1_799_999, 3_599_999]),
    )
    anywhere = st.integers(0, int((last - first).total_seconds() * 1000) - 1).map(lambda ms: first + timedelta(milliseconds=ms))
    moments = draw(st.lists(near | anywhere, min_size=1, max_size=40))
    return collection, partitions, [moment for moment in moments if first <= moment < last]


@pytest.fixture(scope="module")
def endpoint() -> Iterator[Endpoint]:
    with live_service() as endpoint:
        yield endpoint


@given(case=cases())
@settings(max_examples=12, suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much])
def test_the_files_of_all_partitions_hold_every_event_once(
    endpoint: Endpoint, case: tuple[Collection, list[Partition], list[datetime]]
) -> None:
    collection, partitions, moments = case
    if not moments:
        moments = [partitions[0].timeframe.start]
    events = [{"keen": {"timestamp": moment.isoformat(timespec="milliseconds")}, "number": n} for n, moment in enumerate(moments)]
    with (
        TemporaryDirectory() as folder,
        KeenClient(endpoint.base_url, endpoint.project_id, read_key=endpoint.read_key, write_key=endpoint.write_key) as client,
    ):
        client.add_events({collection.name: events})
        pipeline = Pipeline(
            client, SqlLedger(empty_engine(), Scope("projects/one", folder)), FileDestination(folder), poll_seconds=0.05
        )
        requests = [partition_request(collection, partition) for partition in partitions]
        assert len({request.path for request in requests}) == len(requests)
        landed = [event.entry for event in extract(pipeline, requests, doing="a test") if isinstance(event, Landed)]
        assert len(landed) == len(partitions)
        found: list[int] = []
        for partition, request in zip(partitions, requests, strict=True):
            with Path(folder, request.path).open(newline="") as file:
                for row in csv.DictReader(file):
                    found.append(int(row["body:number"]))
                    assert partition.timeframe.start <= moments[found[-1]] < partition.timeframe.end
    assert sorted(found) == list(range(len(moments)))


@pytest.mark.parametrize(("day", "hours"), [("2015-03-29", 23), ("2015-10-25", 25), ("2015-06-01", 24)])
def test_a_day_of_berlin_has_as_many_hours_as_its_clocks_say(day: str, hours: int) -> None:
    daily, hourly = (Collection("c", date(2015, 1, 1), granularity=g, timezone="Europe/Berlin") for g in ("daily", "hourly"))  # type: ignore[arg-type]
    noon = datetime.fromisoformat(f"{day}T12:00:00+00:00")
    [whole] = [p for p in partitions_between(daily, noon - timedelta(days=2), noon + timedelta(days=2)) if p.key == day]
    parts = list(partitions_between(hourly, whole.timeframe.start, whole.timeframe.end))
    assert (len(parts), len({p.key for p in parts})) == (hours, hours)
