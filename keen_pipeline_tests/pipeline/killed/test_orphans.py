"""A POST whose answer got lost, on a live service: the extraction is found in the list and adopted, not made twice."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import timedelta
from pathlib import Path
from typing import Any, cast

import pytest

from keen_pipeline.client import KeenClient
from keen_pipeline.collection import Collection, CountPolicy
from keen_pipeline.errors import NotFoundError, RequestRejectedError, ServiceUnavailableError
from keen_pipeline.extraction import ExtractionRequest, RemoteExtraction, Status
from keen_pipeline.filters import Filter
from keen_pipeline.landing import FileDestination
from keen_pipeline.ledger import SqlLedger
from keen_pipeline.lifecycle import Limits
from keen_pipeline.partitions import partition_range
from keen_pipeline.pipeline import Landed, Pipeline, Stopped, extract, partition_request
from keen_pipeline.pipeline.extractions.post import CLOCK_SLACK
from keen_pipeline.ports import ExtractionApi, SystemClock
from keen_pipeline.scope import Scope
from keen_pipeline.testing import FakeClock, live_service
from keen_pipeline_tests.pipeline.scripted import ScriptedKeen
from keen_pipeline_tests.pipeline.world import NOW, World, day, empty_engine

WELL = Collection("well", "2026-01-01")


@dataclass
class LosesAnswers:
    """The real API, but the answers to the first `lost` submissions don't arrive; `tells`: whether its list says what was asked."""

    api: KeenClient
    lost: int
    tells: bool = True

    def submit(self, request: ExtractionRequest) -> RemoteExtraction:
        made = self.api.submit(request)
        if self.lost:
            self.lost -= 1
            raise ServiceUnavailableError("the connection broke")
        return made

    def list_extractions(self, collection: str) -> Mapping[str, RemoteExtraction]:
        listed = self.api.list_extractions(collection)
        if self.tells:
            return listed
        return {key: replace(one, asked=lambda: None) for key, one in listed.items()}

    def __getattr__(self, name: str) -> Any:
        return getattr(self.api, name)


@pytest.mark.parametrize(("tells", "extractions", "orphans"), [(True, 2, 0), (False, 4, 2)])
def test_an_extraction_that_nobody_was_told_of_is_adopted_if_the_service_says_what_it_is(
    tmp_path: Path, tells: bool, extractions: int, orphans: int
) -> None:
    collection = Collection("purchases", "2026-01-01", filters=(Filter("body:amount", "gt", 0.5), Filter("body:kind", "eq", "a")))
    with live_service() as end:
        keen = KeenClient(end.base_url, end.project_id, read_key=end.read_key, write_key=end.write_key)
        keen.add_events(
            {"purchases": [{"keen": {"timestamp": f"2026-01-0{d}T10:00:00Z"}, "amount": d, "kind": "a"} for d in (1, 2)]}
        )
        ledger = SqlLedger(empty_engine(), Scope("projects/one", str(tmp_path)))
        api = cast("ExtractionApi", LosesAnswers(keen, 2, tells))
        pipeline = Pipeline(api, ledger, FileDestination(str(tmp_path)), Limits(retry_seconds=0.1), poll_seconds=0.1)
        days = partition_range(collection, "2026-01-01", "2026-01-02", SystemClock().now())
        events = list(extract(pipeline, [partition_request(collection, day) for day in days], doing="a test"))
        landed = {e.entry.request.partition_key: e.entry.landing for e in events if isinstance(e, Landed)}
        assert {key: landing.records for key, landing in landed.items() if landing} == {"2026-01-01": 1, "2026-01-02": 1}
        assert len(keen.list_extractions("purchases")) == extractions
        assert ledger.orphans() == orphans
        keen.close()


def lost_answer(world: World) -> list[ExtractionRequest]:
    """A POST that made an extraction and was answered to nobody."""
    world.api.made_anyway = True
    world.api.fault = lambda call, collection, number: ServiceUnavailableError("cut") if call == "submit" and number == 1 else None
    requests = world.requests(WELL, 1)
    world.ledger.request(requests)
    world.tick()
    assert world.entry(requests[0]).posted_at is not None
    return requests


@pytest.mark.parametrize("what", ["another timeframe", "other filters", "made long before", "known already"])
def test_an_extraction_of_something_else_is_not_adopted(world: World, what: str) -> None:
    requests = lost_answer(world)
    [made] = world.api.made.values()
    if what == "another timeframe":
        made.request = replace(made.request, timeframe=world.requests(WELL, 2)[0].timeframe)
    elif what == "other filters":
        made.request = replace(made.request, filters=(Filter("body:n", "gt", 0),))
    elif what == "made long before":
        made.created_at -= CLOCK_SLACK + timedelta(minutes=1)
    else:
        world.ledger.request(world.requests(WELL, 2))
        with world.pipeline.working("another") as worker:
            [entry] = world.ledger.claim([world.entry(world.requests(WELL, 2)[0]).entry_id], worker.id)
            world.ledger.submitted(entry.entry_id, worker.id, made.extraction_id)
    world.ticks(12)
    assert world.api.posts[requests[0].place] == 2
    assert world.is_right(requests[0])


def test_one_that_was_made_by_a_clock_a_little_behind_is_adopted(world: World) -> None:
    requests = lost_answer(world)
    [made] = world.api.made.values()
    made.created_at -= CLOCK_SLACK - timedelta(minutes=1)
    world.ticks(12)
    assert world.api.posts[requests[0].place] == 1
    assert world.is_right(requests[0])


def test_nothing_is_posted_again_before_anybody_could_look(world: World) -> None:
    requests = lost_answer(world)
    world.api.fault = lambda call, collection, number: ServiceUnavailableError("HTTP 503") if call == "list" else None
    for _ in range(8):
        world.tick()
        world.clock.advance(60)
    assert world.api.posts[requests[0].place] == 1
    world.api.fault = lambda call, collection, number: None
    world.clock.advance(600)
    world.ticks()
    assert world.api.posts[requests[0].place] == 1
    assert world.ledger.orphans() == 0


@pytest.mark.parametrize("error", [NotFoundError("HTTP 404"), RequestRejectedError("HTTP 400", status=400)])
def test_a_refused_look_at_the_list_ends_nothing_and_is_told(world: World, error: Exception) -> None:
    requests = lost_answer(world)
    world.api.fault = lambda call, collection, number: error if call == "list" else None
    world.clock.advance(60)
    world.tick()
    entry = world.entry(requests[0])
    assert (entry.status, entry.attempt, entry.error) == (Status.REQUESTED, 1, str(error))
    world.clock.advance(600)
    [told] = world.extract(requests, resumable=True)
    assert (type(told), str(told.error)) == (Stopped, str(error))
    world.api.fault = lambda call, collection, number: None
    world.clock.advance(600)
    world.ticks()
    assert (world.is_right(requests[0]), world.api.posts[requests[0].place]) == (True, 1)


def test_one_extraction_answers_for_one_intent(world: World) -> None:
    """Two days of two collections whose POSTs were lost; only one of each was made, with the same window."""
    world.api.made_anyway = True
    world.api.fault = lambda call, collection, number: ServiceUnavailableError("cut") if call == "submit" and number <= 2 else None
    first, second = world.requests(WELL, 1, 2)
    twin = replace(second, timeframe=first.timeframe)
    world.ledger.request([first, twin])
    world.tick()
    assert len(world.api.made) == 2
    del world.api.made["x2"]
    world.ticks(12)
    ids = {world.entry(request).extraction_id for request in (first, twin)}
    assert len(ids) == 2
    assert "x1" in ids


@dataclass
class Replays(ScriptedKeen):
    """A proxy before the service gives the first POST's answer to the `replays` POSTs after it, which never arrive."""

    replays: int = 0
    first: RemoteExtraction | None = None

    def submit(self, request: ExtractionRequest) -> RemoteExtraction:
        if self.first is not None and self.replays > 0:
            self.replays -= 1
            return self.first
        made = super().submit(request)
        self.first = self.first or made
        return made


@pytest.mark.parametrize("replays", [0, 1, 4])
def test_an_answer_that_a_proxy_has_kept_makes_no_file_of_another_day(tmp_path: Path, replays: int) -> None:
    clock = FakeClock(NOW)
    world = World.at(tmp_path, clock=clock, api=Replays(clock, replays=replays))
    for number in (1, 2, 3):
        world.api.add("well", day(number), number)
    uncounted = replace(WELL, count_check=CountPolicy.OFF)  # nothing else would notice
    requests = world.requests(uncounted, 1, 3)
    events = world.extract(requests)
    assert sorted(event.entry.request.partition_key for event in events if isinstance(event, Landed)) == [
        "2026-01-01",
        "2026-01-02",
        "2026-01-03",
    ]
    assert all(world.is_right(request) for request in requests)
    assert len({world.entry(request).extraction_id for request in requests}) == 3
