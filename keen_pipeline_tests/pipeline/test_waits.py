"""The wait of a backfill: how often it asks, what it gives back, what it says."""

from __future__ import annotations

import io
import time
from collections import Counter
from collections.abc import Iterable
from dataclasses import replace
from threading import Barrier, Event, Lock
from typing import Any

import pytest
from pyarrow import parquet

from keen_pipeline.collection import Collection, Encoding
from keen_pipeline.errors import (
    AuthenticationError,
    ConfigurationError,
    KeenPipelineError,
    LedgerUnavailableError,
    NotFoundError,
    RateLimitedError,
    ServiceUnavailableError,
    TransferError,
    UnreadableAnswerError,
)
from keen_pipeline.extraction import ExtractionRequest, Landing, Status
from keen_pipeline.lifecycle import Entry
from keen_pipeline.pipeline import Landed, NotLanded, Progress, ad_hoc_request, extract, land, poll, post_due
from keen_pipeline_tests.pipeline.scripted import COMPLETE, PENDING
from keen_pipeline_tests.pipeline.world import World

WELL = Collection("well", "2026-01-01")


def test_a_wait_asks_with_one_list_call_a_poll_and_for_no_url(world: World) -> None:
    world.extract(world.requests(WELL, 1, 9))
    calls = {call: number for (call, _), number in world.api.calls.items()}
    # One count before, one after; the second list has all results.
    assert calls == {"count": 2, "submit": 9, "list": 2, "types": 1, "open": 9}


def test_progress_tells_where_everything_is(world: World) -> None:
    requests = world.requests(WELL, 1, 3)
    world.extract(requests[:1])
    told = [e for e in extract(world.pipeline, requests, doing="a test") if isinstance(e, Progress)]
    said = [str(e) for e in told]
    assert [e.is_last for e in told] == [line.startswith("3 of 3") for line in said]
    assert said[0] == "1 of 3 landed (1 before), 0 failed; 2 to submit, 0 at the service, 0 landing"
    assert any("0 to submit, 2 at the service, 0 landing" in line for line in said)
    assert said[-1] == "3 of 3 landed (1 before), 0 failed; 0 to submit, 0 at the service, 0 landing"


def test_a_transfer_that_is_begun_again_is_named_in_the_log(world: World, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO")
    world.api.fault = lambda call, collection, number: TransferError("cut") if (call, number) == ("open", 1) else None
    world.extract(world.requests(WELL, 1))
    assert "RenewingResults(well, x1): waiting" in caplog.text


def test_runs_that_wait_at_once_list_hardly_more_often_than_one(world: World) -> None:
    requests = world.requests(WELL, 1, 4)
    done: set[str] = set()
    world.api.answer = lambda made: COMPLETE if made.extraction_id in done else PENDING
    world.ledger.request(requests)
    with world.pipeline.working("first") as one, world.pipeline.working("second") as two:

        def waiting(part: list[ExtractionRequest], worker: str) -> list[Entry]:
            entries = [r.entry for r in world.ledger.request(part)]
            return list(post_due(world.pipeline, entries, worker).submitted)

        first, second = waiting(requests[:2], one.id), waiting(requests[2:], two.id)

        def look(entries: list[Entry], worker: str) -> tuple[int, int]:
            """List calls so far, and what is finished now."""
            outcome = poll(world.pipeline, entries, worker=worker, shared_seconds=4)
            return world.api.count_of("list", "well"), len(outcome.completed)

        assert look(first, one.id) == (1, 0)
        assert look(second, two.id) == (1, 0)  # by the first one's list
        world.clock.advance(5)
        assert look(second, two.id) == (2, 0)
        assert look(first, one.id) == (2, 0)
        done.add(second[0].extraction_id or "")
        world.clock.advance(5)
        assert look(first, one.id) == (3, 0)
        assert look(second, two.id) == (4, 1)  # one of its own is no longer unfinished: it needs the URL
        late = waiting(world.requests(WELL, 5), two.id)
        assert look(late, two.id) == (5, 0)  # what was posted after the last list is not in it


def test_a_run_lands_so_many_files_at_once_and_not_more(world: World) -> None:
    at_once, most, lock, pair = 0, 0, Lock(), Barrier(2)
    open_results = world.api.open_results

    def opened(url: Any, **options: Any) -> Any:
        nonlocal at_once, most
        with lock:
            at_once += 1
            most = max(most, at_once)
        pair.wait(30)  # for another landing beside this one
        time.sleep(0.05)  # in which a third one would begin
        with lock:
            at_once -= 1
        return open_results(url, **options)

    world.api.open_results = opened  # type: ignore[method-assign]
    world.pipeline = replace(world.pipeline, landing_threads=2)
    world.extract(world.requests(WELL, 1, 6))
    assert most == 2


def test_stopping_a_wait_ends_a_transfer_under_way_and_lands_nothing(world: World) -> None:
    begun = Event()

    class Endless(io.RawIOBase):
        def readable(self) -> bool:
            return True

        def readinto(self, buffer: Any) -> int:
            begun.set()
            time.sleep(0.01)
            buffer[:3] = b"1\r\n"
            return 3

    open_results = world.api.open_results

    def endless(url: Any, **options: Any) -> Any:
        stream: Any = open_results(url, **options)
        stream.total, stream._data = None, Endless()
        return stream

    world.api.open_results = endless  # type: ignore[method-assign]
    events = extract(world.pipeline, world.requests(WELL, 1), doing="a test")
    for _ in events:
        if begun.wait(2):
            break
    events.close()
    assert [(e.status, e.claimed_by) for e in world.ledger.open_entries()] == [(Status.COMPLETE, None)]
    assert [path for path in world.root.rglob("*") if path.is_file()] == []


def test_what_a_wait_stops_for_is_free_at_once(world: World) -> None:
    """Not only when the wait ends: others have days to go on with it."""
    world.api.fault = lambda call, collection, number: (
        AuthenticationError("HTTP 403") if (call, collection) == ("list", "sick") else None
    )
    world.api.answer = lambda made: COMPLETE if made.polls > 5 else PENDING
    sick = world.requests(Collection("sick", "2026-01-01"), 1)
    events = extract(world.pipeline, [*sick, *world.requests(WELL, 1)], doing="a test")
    for event in events:
        if type(event).__name__ == "Stopped":
            assert world.entry(sick[0]).claimed_by is None
            break
    else:
        pytest.fail("nothing was stopped")
    events.close()


def test_the_slices_of_what_a_wait_stops_for_are_free_at_once(world: World) -> None:
    world.with_limits(max_events=2)
    world.api.fault = lambda call, collection, number: (
        AuthenticationError("HTTP 403") if (call, collection) == ("list", "sick") else None
    )
    world.api.answer = lambda made: COMPLETE if made.polls > 5 else PENDING
    sick = world.requests(Collection("sick", "2026-01-01"), 2)  # three events
    events = extract(world.pipeline, [*sick, *world.requests(WELL, 1)], doing="a test")
    for event in events:
        if type(event).__name__ == "Stopped":
            assert [e.claimed_by for e in world.ledger.open_entries() if e.request.collection == "sick"] == [None] * 3
            break
    else:
        pytest.fail("nothing was stopped")
    events.close()


def test_a_landing_run_gives_back_at_once_what_it_could_not_land(world: World) -> None:
    requests = world.requests(WELL, 1, 2)
    (world.root / requests[0].path).mkdir(parents=True)
    world.api.answer = lambda made: COMPLETE
    world.ledger.request(requests)
    with world.pipeline.working("the sensor") as worker:
        post_due(world.pipeline, world.ledger.open_entries(), worker.id)
        poll(world.pipeline, world.ledger.open_entries(), worker=worker.id)
    ids = [entry.entry_id for entry in world.ledger.open_entries()]
    with world.pipeline.working("a run") as worker:
        for outcome in land(world.pipeline, ids, worker):
            if isinstance(outcome, NotLanded):
                assert isinstance(outcome.error, ConfigurationError)
                assert world.entry(requests[0]).claimed_by is None
                break
        else:
            pytest.fail("everything landed")


def fail_to_land(world: World, error: KeenPipelineError, failures: int) -> list[tuple[str, float]]:
    """The first so many landings meet an error. Each is noted: the extraction's id, and seconds from now on."""
    land_file, begun = world.pipeline.destination.land, world.clock.now()
    tries: list[tuple[str, float]] = []

    def fetch(*args: Any, **options: Any) -> Landing:
        tries.append((options["extraction_id"], (world.clock.now() - begun).total_seconds()))
        if len(tries) <= failures:
            raise error
        return land_file(*args, **options)

    world.pipeline.destination.land = fetch  # type: ignore[method-assign]
    return tries


def have_landed(world: World, caller: str, request: ExtractionRequest, ticks: int = 40) -> None:
    """By a command that waits, or by the sensor within so many ticks."""
    if caller == "a wait":
        world.extract([request])
    else:
        world.ledger.request([request])
        world.ticks(ticks)


@pytest.mark.parametrize(("failures", "posts"), [(2, 1), (3, 2)])
@pytest.mark.parametrize("caller", ["a wait", "the sensor"])
def test_a_finished_extraction_is_fetched_three_times_before_another_one_is_asked_for(
    world: World, caller: str, failures: int, posts: int
) -> None:
    [request] = world.requests(WELL, 1)
    tries = fail_to_land(world, TransferError("the connection broke"), failures)
    have_landed(world, caller, request)
    assert world.is_right(request)
    assert [extraction_id for extraction_id, _ in tries] == ["x1"] * 3 + ["x2"] * (failures - 2)
    assert world.api.posts[request.place] == posts
    assert world.entry(request).attempt == posts


@pytest.mark.parametrize(
    ("error", "failures", "posts"),
    [
        (ServiceUnavailableError("the storage failed"), 9, 1),
        (ServiceUnavailableError("the storage failed"), 10, 2),
        (UnreadableAnswerError("HTTP 200, <html>maintenance</html>"), 9, 1),
        (RateLimitedError("the budget is used up", retry_after=60.0), 12, 1),
    ],
)
@pytest.mark.parametrize("caller", ["a wait", "the sensor"])
def test_what_says_nothing_about_a_finished_extraction_ends_it_after_an_hour_at_the_earliest(
    world: World, caller: str, error: KeenPipelineError, failures: int, posts: int
) -> None:
    """A bucket or a results host that is away for half an hour would have used up all attempts of all partitions."""
    [request] = world.requests(WELL, 1)
    tries = fail_to_land(world, error, failures)
    have_landed(world, caller, request, ticks=3000)
    assert world.is_right(request)
    assert world.api.posts[request.place] == posts
    assert tries[8][1] > 25 * 60


def test_a_person_hears_of_an_outage_after_three_tries_of_each_attempt(world: World) -> None:
    request = ad_hoc_request("well", world.requests(WELL, 1)[0].timeframe, now=world.clock.now())
    tries = fail_to_land(world, ServiceUnavailableError("the storage failed"), 100)
    events = world.extract([request])
    assert [type(event).__name__ for event in events] == ["Retrying", "Retrying", "Ended"]
    assert [extraction_id for extraction_id, _ in tries] == ["x1"] * 3 + ["x2"] * 3 + ["x3"] * 3


def test_a_wait_that_lost_its_ledger_leaves_its_extractions_to_the_next(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    def lost(*_: Any) -> list[Entry]:
        raise LedgerUnavailableError("it has not answered")

    requests = world.requests(WELL, 1, 3)
    with monkeypatch.context() as patched:
        patched.setattr(world.ledger, "complete", lost)
        with pytest.raises(LedgerUnavailableError):
            world.extract(requests)
    assert [(e.status, e.claimed_by) for e in world.ledger.open_entries()] == [(Status.SUBMITTED, None)] * 3
    world.extract(requests)
    assert all(world.is_right(request) for request in requests)
    assert [world.api.posts[request.place] for request in requests] == [1, 1, 1]


def test_types_are_asked_once_for_all_that_was_complete_by_then(world: World) -> None:
    typed = replace(WELL, encoding=Encoding.PARQUET)
    world.api.answer = lambda made: COMPLETE if made.polls > 1 + (made.request.partition_key == "2026-01-03") else PENDING
    requests = world.requests(typed, 1, 3)
    world.extract(requests)
    assert world.api.count_of("types", "well") == 2
    assert parquet.read_table(world.root / requests[1].path).num_rows == 3
    [landing] = [e.landing for e in world.ledger.landed_entries("well") if e.request == requests[1]]
    assert landing is not None
    assert (landing.records, len(landing.column_types)) == (3, 2)


def test_types_that_the_service_does_not_tell_keep_the_finished_extraction(world: World) -> None:
    world.api.fault = lambda call, collection, number: NotFoundError("no such resource") if call == "types" else None
    events = world.extract(world.requests(replace(WELL, encoding=Encoding.PARQUET), 1))
    [stopped] = events
    assert "does not tell them: no such resource" in str(stopped.error)
    assert [e.status for e in world.ledger.open_entries()] == [Status.COMPLETE]


def test_what_lands_beside_a_failure_is_told_at_once(world: World) -> None:
    """Landings come as they end, not when all have."""
    world.api.answer = lambda made: COMPLETE if made.polls > made.request.timeframe.start.day else PENDING
    order = [
        (event.entry.request.partition_key, len(world.ledger.open_entries()))
        for event in extract(world.pipeline, world.requests(WELL, 1, 4), doing="a test")
        if isinstance(event, Landed)
    ]
    assert order == [("2026-01-01", 3), ("2026-01-02", 2), ("2026-01-03", 1), ("2026-01-04", 0)]


def test_entries_of_one_partition_asked_for_by_two_waits_land_once(world: World) -> None:
    requests = world.requests(WELL, 1, 3)
    one = extract(world.pipeline, requests, doing="one")
    two = extract(world.pipeline, requests, doing="two")
    heard: list[tuple[int, str, bool]] = []
    waits = {1: one, 2: two}
    for _ in range(400):
        for number, wait in list(waits.items()):
            try:
                event: Any = next(wait)
            except StopIteration:
                del waits[number]
                continue
            if type(event).__name__ == "Landed":
                heard.append((number, str(event.entry.request), event.adopted))
        if not waits:
            break
    assert not waits
    # Each hears of each once; landed it has one of the two.
    assert Counter((number, key) for number, key, _ in heard) == {(n, str(r)): 1 for n in (1, 2) for r in requests}
    assert Counter(key for _, key, adopted in heard if not adopted) == {str(r): 1 for r in requests}
    assert [world.api.posts[request.place] for request in requests] == [1, 1, 1]


def test_a_caller_that_takes_its_time_hears_of_each_landing_as_one_of_this_wait(world: World) -> None:
    """Dagster writes an event for each, and meanwhile others land and the next poll is due."""
    requests = world.requests(WELL, 1, 8)
    heard = []
    for event in extract(world.pipeline, requests, doing="a wait"):
        if isinstance(event, Progress):
            kept = event.kept
        if isinstance(event, Landed):
            heard.append(event.adopted)
            deadline = time.monotonic() + 60
            while len(world.ledger.landed_entries("well")) < len(requests):
                assert time.monotonic() < deadline
                time.sleep(0.01)
            world.clock.advance(60)
    assert (heard, kept) == ([False] * 8, 0)


def test_what_a_wait_holds_is_not_claimed_anew_at_every_round(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    claimed: list[int] = []
    claim = world.ledger.claim

    def noted(entry_ids: Iterable[int], worker: str) -> list[Entry]:
        ids = list(entry_ids)
        claimed.extend(ids)
        return claim(ids, worker)

    monkeypatch.setattr(world.ledger, "claim", noted)
    world.api.fault = lambda call, collection, number: RateLimitedError("HTTP 429", retry_after=1) if call == "submit" else None
    wait = extract(world.pipeline, world.requests(WELL, 1, 3), doing="a wait")
    for _ in range(10):
        next(wait)
    wait.close()
    assert len(claimed) == 3
