"""The use cases under scripted faults: a real ledger, a real folder, a clock of the test's."""

from __future__ import annotations

import hashlib
import io
import time
from collections import Counter
from dataclasses import dataclass, replace
from datetime import datetime, timezone
from pathlib import Path
from threading import Barrier, Event, Lock
from typing import Any

import pytest
from pyarrow import parquet

from keen_pipeline.collection import Collection, Encoding
from keen_pipeline.errors import (
    AuthenticationError,
    ExtractionTooLargeError,
    NotFoundError,
    RateLimitedError,
    ServiceUnavailableError,
    UnreachableError,
)
from keen_pipeline.extraction import ExtractionRequest, SecretUrl, Status
from keen_pipeline.landing import FileDestination
from keen_pipeline.ledger import SqlLedger, open_engine
from keen_pipeline.lifecycle import Entry, Limits
from keen_pipeline.partitions import partition_range
from keen_pipeline.pipeline import Landed, Pipeline, extract, land, partition_request, poll, post_due, submit
from keen_pipeline.pipeline.land import NotLanded
from keen_pipeline.pipeline.wait import Abandoned, Retrying
from keen_pipeline.ports import ResultsStream
from keen_pipeline.testing import FakeClock
from keen_pipeline_tests.unit.scripted_api import ScriptedApi

COLLECTION = Collection(name="purchases", start_date="2026-01-01")
NOW = datetime(2026, 1, 10, 1, tzinfo=timezone.utc)


@dataclass
class World:
    api: ScriptedApi
    ledger: SqlLedger
    clock: FakeClock
    pipeline: Pipeline
    root: Path

    def requests(self, first: str = "2026-01-01", last: str = "2026-01-03") -> list[ExtractionRequest]:
        return [
            partition_request(COLLECTION, p, self.pipeline.destination.uri) for p in partition_range(COLLECTION, first, last, NOW)
        ]

    def file(self, key: str) -> bytes:
        return (self.root / "purchases" / f"{key}.csv").read_bytes()

    def statuses(self) -> Counter[Status]:
        return Counter(self.ledger.summary().counts)


@pytest.fixture
def world(tmp_path: Path) -> World:
    clock, api = FakeClock(NOW), ScriptedApi()
    ledger = SqlLedger(open_engine(f"sqlite:///{tmp_path / 'ledger.db'}"), clock=clock)
    limits = Limits(max_attempts=3, retry_seconds=30)
    pipeline = Pipeline(api, ledger, FileDestination(str(tmp_path / "landing")), limits, poll_seconds=5)
    return World(api, ledger, clock, pipeline, tmp_path / "landing")


def test_a_wait_lands_every_partition_with_one_list_call_a_poll(world: World) -> None:
    events = list(extract(world.pipeline, world.requests()))
    assert sum(isinstance(e, Landed) for e in events) == 3
    assert world.file("2026-01-02") == b"body:day\r\n2026-01-02\r\n"
    assert world.statuses() == {Status.LANDED: 3}
    assert (world.api.calls["submit"], world.api.calls["list"], world.api.calls["get"]) == (3, 2, 0)


def test_types_are_asked_once_for_all_that_was_complete_by_then(world: World) -> None:
    typed = replace(COLLECTION, encoding=Encoding.PARQUET)
    days = partition_range(typed, "2026-01-01", "2026-01-03", NOW)
    requests = [partition_request(typed, p, world.pipeline.destination.uri) for p in days]
    world.api.status = lambda extraction_id, poll: "complete" if poll > 1 + (extraction_id == "x3") else "not started"
    assert sum(isinstance(e, Landed) for e in extract(world.pipeline, requests)) == 3
    assert world.api.calls["types"] == 2
    table = parquet.read_table(world.root / "purchases" / "2026-01-03.parquet")
    assert table.to_pydict() == {"body:day": ["2026-01-03"]}
    [landing] = [e.landing for e in world.ledger.latest(requests[2:]) if e is not None]
    assert landing is not None
    assert landing.sha256 == hashlib.sha256(b"body:day\r\n2026-01-03\r\n").hexdigest()
    assert (landing.records, landing.column_types) == (1, ("string",))


def test_types_that_the_service_does_not_tell_keep_the_finished_extraction(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    def unknown(collection: str) -> dict[str, str]:
        raise NotFoundError("no such resource")

    monkeypatch.setattr(world.api, "property_types", unknown)
    typed = replace(COLLECTION, encoding=Encoding.PARQUET)
    [request] = [
        partition_request(typed, p, world.pipeline.destination.uri) for p in partition_range(typed, "2026-01-01", "2026-01-01", NOW)
    ]
    submit(world.pipeline, [request])
    post_due(world.pipeline)
    poll(world.pipeline, world.ledger.open_entries())
    completed = poll(world.pipeline, world.ledger.open_entries()).completed
    [refused] = land(world.pipeline, completed, "owner")
    assert isinstance(refused, NotLanded)
    assert "does not tell them: no such resource" in str(refused.error)
    assert world.statuses() == {Status.COMPLETE: 1}


def test_what_has_landed_is_kept_unless_it_grew_vanished_or_force_says_so(world: World) -> None:
    list(extract(world.pipeline, world.requests()))
    assert all(e.adopted for e in extract(world.pipeline, world.requests()) if isinstance(e, Landed))
    assert world.api.calls["submit"] == 3
    (world.root / "purchases" / "2026-01-02.csv").unlink()
    assert [e.adopted for e in extract(world.pipeline, world.requests()) if isinstance(e, Landed)] == [True, True, False]
    assert world.file("2026-01-02") == b"body:day\r\n2026-01-02\r\n"
    list(extract(world.pipeline, world.requests(), force=True))
    assert world.api.calls["submit"] == 7
    world.api.counts = 2
    world.api.body = lambda request: b"body:day\r\n1\r\n2\r\n"
    list(extract(world.pipeline, world.requests("2026-01-01", "2026-01-01")))
    assert world.file("2026-01-01") == b"body:day\r\n1\r\n2\r\n"


def test_a_failed_extraction_is_tried_again_and_given_up_with_its_story(world: World) -> None:
    world.api.status = lambda extraction_id, poll: (
        "failed" if world.api.submitted[extraction_id].partition_key == "2026-01-02" else "complete"
    )
    events = list(extract(world.pipeline, world.requests()))
    assert sum(isinstance(e, Landed) for e in events) == 2
    assert [e.follower.attempt for e in events if isinstance(e, Retrying)] == [2, 3]
    [abandoned] = [e.entry for e in events if isinstance(e, Abandoned)]
    assert abandoned.error is not None
    assert "abandoned after 3 attempts" in abandoned.error
    assert world.statuses() == {Status.LANDED: 2, Status.FAILED: 2, Status.ABANDONED: 1}
    assert not (world.root / "purchases" / "2026-01-02.csv").exists()
    world.api.status = lambda extraction_id, poll: "complete"
    assert [e.adopted for e in extract(world.pipeline, world.requests()) if isinstance(e, Landed)] == [True, True, False]


def test_a_transfer_that_breaks_is_tried_again_without_a_new_extraction(world: World) -> None:
    world.api.on_open = lambda number: ServiceUnavailableError("no route") if number == 1 else None
    assert sum(isinstance(e, Landed) for e in extract(world.pipeline, world.requests("2026-01-01", "2026-01-01"))) == 1
    assert world.api.calls["submit"] == 1


def test_a_wrong_key_stops_at_once_and_leaves_nothing_open(world: World) -> None:
    world.api.on_submit = lambda number, request: AuthenticationError("KEEN_READ_KEY is refused")
    with pytest.raises(AuthenticationError, match="KEEN_READ_KEY"):
        list(extract(world.pipeline, world.requests()))
    assert world.statuses() == {Status.CANCELLED: 3}


def test_a_refused_request_is_abandoned_at_once(world: World) -> None:
    world.api.on_submit = lambda number, request: NotFoundError("no collection purchases")
    [event] = [e for e in extract(world.pipeline, world.requests("2026-01-01", "2026-01-01")) if isinstance(e, Abandoned)]
    assert "no collection purchases" in (event.entry.error or "")
    assert world.api.calls["submit"] == 1


def test_429_waits_as_long_as_the_service_says(world: World) -> None:
    world.api.on_submit = lambda number, request: RateLimitedError("slow down", retry_after=42.0) if number == 1 else None
    begun = world.clock.now()
    assert sum(isinstance(e, Landed) for e in extract(world.pipeline, world.requests("2026-01-01", "2026-01-01"))) == 1
    assert (world.clock.now() - begun).total_seconds() >= 42
    assert world.ledger.summary().orphans == 0


def test_a_lost_answer_is_posted_again_and_counted(world: World) -> None:
    world.api.on_submit = lambda number, request: ServiceUnavailableError("cut") if number == 1 else None
    assert sum(isinstance(e, Landed) for e in extract(world.pipeline, world.requests("2026-01-01", "2026-01-01"))) == 1
    assert world.ledger.summary().orphans == 1


def test_a_service_that_can_not_be_reached_makes_no_orphan(world: World) -> None:
    world.api.on_submit = lambda number, request: UnreachableError("refused") if number == 1 else None
    assert sum(isinstance(e, Landed) for e in extract(world.pipeline, world.requests("2026-01-01", "2026-01-01"))) == 1
    assert world.ledger.summary().orphans == 0


def test_stopping_a_wait_cancels_what_is_open_and_keeps_what_landed(world: World) -> None:
    world.api.status = lambda extraction_id, poll: "complete" if extraction_id == "x1" else "not started"
    events = extract(world.pipeline, world.requests())
    for event in events:
        if isinstance(event, Landed):
            break
    events.close()
    assert world.statuses() == {Status.LANDED: 1, Status.CANCELLED: 2}
    assert len(world.ledger.unreported()) == 1  # the sensor reports the landing that the caller did not


def test_the_nightly_way_in_three_processes(world: World) -> None:
    submission = submit(world.pipeline, world.requests())
    posted = post_due(world.pipeline)
    assert (len(submission.created), len(posted.submitted)) == (3, 3)
    assert poll(world.pipeline, world.ledger.open_entries()).waiting == 3
    outcome = poll(world.pipeline, world.ledger.open_entries())
    landings = land(world.pipeline, outcome.completed, "run-1")
    assert sum(isinstance(next(landings), Landed) for _ in range(3)) == 3
    assert world.ledger.unreported() == []  # the run still holds them, to report them
    world.clock.advance(301)
    assert len(world.ledger.unreported()) == 3  # it was killed before it could


def test_two_landing_runs_land_each_entry_once(world: World) -> None:
    submit(world.pipeline, world.requests())
    post_due(world.pipeline)
    poll(world.pipeline, world.ledger.open_entries())
    completed = poll(world.pipeline, world.ledger.open_entries()).completed
    first = land(world.pipeline, completed, "run-1")
    next(first)
    assert list(land(world.pipeline, completed, "run-2")) == []
    assert sum(isinstance(outcome, Landed) for outcome in first) == 2


def test_what_is_asked_twice_is_submitted_once(world: World) -> None:
    submit(world.pipeline, world.requests())
    again = submit(world.pipeline, world.requests("2026-01-02", "2026-01-04"))
    assert (len(again.created), len(again.adopted)) == (1, 2)
    post_due(world.pipeline)
    post_due(world.pipeline)
    assert world.api.calls["submit"] == 4


def test_a_collection_that_can_not_be_listed_now_is_polled_again(world: World) -> None:
    submit(world.pipeline, world.requests())
    post_due(world.pipeline)
    world.api.list_extractions = lambda collection: (_ for _ in ()).throw(ServiceUnavailableError("503"))  # type: ignore[method-assign]
    outcome = poll(world.pipeline, world.ledger.open_entries())
    assert (outcome.waiting, outcome.errors) == (3, {"purchases": "503"})
    assert world.statuses() == {Status.SUBMITTED: 3}


def test_a_poll_stops_at_its_time_and_leaves_the_rest_as_it_was(world: World) -> None:
    submit(world.pipeline, world.requests())
    post_due(world.pipeline)
    outcome = poll(world.pipeline, world.ledger.open_entries(), seconds=-1)
    assert (outcome.waiting, world.api.calls["list"]) == (3, 0)
    assert world.statuses() == {Status.SUBMITTED: 3}


def test_an_intent_that_waited_for_a_sensor_is_posted_and_one_tried_in_vain_for_an_hour_fails(world: World) -> None:
    submit(world.pipeline, world.requests("2026-01-01", "2026-01-01"))
    world.clock.advance(7200)
    world.api.on_submit = lambda number, request: UnreachableError("refused") if number == 1 else None
    assert len(post_due(world.pipeline).postponed) == 1
    world.clock.advance(3700)
    [(entry, follower)] = post_due(world.pipeline).failed
    assert follower is not None
    assert (entry.attempt, follower.attempt, follower.status) == (1, 2, Status.REQUESTED)
    assert world.api.calls["submit"] == 1


def test_a_used_up_budget_delays_the_recount_and_does_not_fail_it(world: World) -> None:
    list(extract(world.pipeline, world.requests("2026-01-01", "2026-01-01")))
    refusals = iter([RateLimitedError("used up", retry_after=30.0)])

    def count(*_: object) -> int:
        for error in refusals:
            raise error
        return 1

    world.api.count = count  # type: ignore[method-assign]
    begun = world.clock.now()
    again = list(extract(world.pipeline, world.requests("2026-01-01", "2026-01-01")))
    assert [e.adopted for e in again if isinstance(e, Landed)] == [True]
    assert (world.clock.now() - begun).total_seconds() == 30


def test_stopping_a_wait_ends_a_transfer_under_way_and_lands_nothing(world: World) -> None:
    begun = Event()

    class Endless(io.RawIOBase):
        def readable(self) -> bool:
            return True

        def readinto(self, buffer: Any) -> int:
            begun.set()
            begun.set()
            world.clock.advance(1)
            time.sleep(0.01)
            buffer[:3] = b"1\r\n"
            return 3

    open_results = world.api.open_results

    def endless(url: SecretUrl, **options: Any) -> ResultsStream:
        stream: Any = open_results(url, **options)
        stream.total, stream._data = None, Endless()
        return stream  # type: ignore[no-any-return]

    world.api.open_results = endless  # type: ignore[method-assign]
    events = extract(world.pipeline, world.requests("2026-01-01", "2026-01-01"))
    for _ in events:
        if begun.is_set():
            break
    events.close()
    assert world.statuses() == {Status.CANCELLED: 1}
    assert [path for path in world.root.rglob("*") if path.is_file()] == []


@pytest.mark.parametrize("nightly", [False, True])
def test_what_turns_out_too_large_when_it_is_fetched_lands_in_slices(world: World, nightly: bool) -> None:
    world.api.counts = 2
    world.api.on_open = lambda number: ExtractionTooLargeError("more than 100000 events") if number == 1 else None
    [request] = world.requests(last="2026-01-01")
    if nightly:
        submit(world.pipeline, [request])
        for _ in range(6):
            post_due(world.pipeline)
            poll(world.pipeline, world.ledger.open_entries())
            list(land(world.pipeline, world.ledger.open_entries(status=Status.COMPLETE), "a run"))
            world.clock.advance(60)
    else:
        assert [e.entry.request for e in extract(world.pipeline, [request]) if isinstance(e, Landed)] == [request]
    [entry] = world.ledger.latest([request])
    assert entry is not None
    assert (entry.status, entry.attempt, entry.slices, entry.is_whole) == (Status.LANDED, 1, 2, True)
    assert world.file("2026-01-01").count(b"\r\n") == 3
    assert world.ledger.open_entries() == []


def test_runs_that_wait_at_once_list_hardly_more_often_than_one(world: World) -> None:
    pipeline, api = world.pipeline, world.api
    requests = world.requests(last="2026-01-04")
    done: set[str] = set()
    api.status = lambda extraction_id, poll: "complete" if extraction_id in done else "not started"

    def waiting(owner: str, part: list[ExtractionRequest]) -> list[Entry]:
        ids = [r.entry.entry_id for r in submit(pipeline, part).requested]
        return list(post_due(pipeline, ids, owner=owner).submitted)

    first, second = waiting("first", requests[:2]), waiting("second", requests[2:])

    def look(entries: list[Entry], owner: str) -> tuple[int, int, int]:
        """List calls so far, finished now, still waiting."""
        outcome = poll(pipeline, entries, owner=owner, shared_seconds=4)
        return api.calls["list"], len(outcome.completed), outcome.waiting

    assert look(first, "first") == (1, 0, 2)
    assert look(second, "second") == (1, 0, 2)  # by the first one's list
    world.clock.advance(5)
    assert look(second, "second") == (2, 0, 2)
    assert look(first, "first") == (2, 0, 2)
    done.add(second[0].extraction_id or "")
    world.clock.advance(5)
    assert look(first, "first") == (3, 0, 2)
    assert look(second, "second") == (4, 1, 1)  # one of its own is no longer unfinished: it needs the URL
    late = waiting("third", world.requests("2026-01-05", "2026-01-05"))
    assert look(late, "third") == (5, 0, 1)  # what was posted after the last list is not in it
    world.clock.advance(3600)
    assert look(first, "first") == (6, 0, 0)  # stuck
    failed = poll(pipeline, second[1:], owner="second", shared_seconds=4).failed
    assert api.calls["list"] == 6
    assert [entry.extraction_id for entry, _ in failed] == [second[1].extraction_id]  # also told without a list of its own


def test_a_run_lands_so_many_files_at_once_and_not_more(world: World) -> None:
    at_once, most, lock, pair = 0, 0, Lock(), Barrier(2)

    def body(request: ExtractionRequest) -> bytes:
        nonlocal at_once, most
        with lock:
            at_once += 1
            most = max(most, at_once)
        pair.wait(30)  # for another landing beside this one
        time.sleep(0.05)  # in which a third one would begin
        with lock:
            at_once -= 1
        return b"body:day\r\n" + request.partition_key.encode() + b"\r\n"

    world.api.body = body
    pipeline = replace(world.pipeline, landing_threads=2)
    assert sum(isinstance(e, Landed) for e in extract(pipeline, world.requests(last="2026-01-06"))) == 6
    assert most == 2
