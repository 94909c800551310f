"""An error is charged to what it is about: one file, one collection's count or list stops nobody else."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from keen_pipeline.collection import Collection
from keen_pipeline.errors import (
    AuthenticationError,
    ConfigurationError,
    KeenPipelineError,
    NotFoundError,
    RateLimitedError,
    ServiceUnavailableError,
)
from keen_pipeline.extraction import Status
from keen_pipeline.filters import Filter
from keen_pipeline.ledger import LedgerRateLimiter
from keen_pipeline.pipeline import Counted, Landed, NotLanded, count_landed, land, poll, post_due, submit
from keen_pipeline.pipeline.counts import PATIENCE_SECONDS, Patience
from keen_pipeline_tests.pipeline.scripted import COMPLETE
from keen_pipeline_tests.pipeline.world import World, day

SICK, WELL = Collection("sick", "2026-01-01"), Collection("well", "2026-01-01")


def heard(events: list[Any]) -> dict[str, Counter[str]]:
    """Kinds of events by collection."""
    found: dict[str, Counter[str]] = {}
    for event in events:
        name = getattr(event, "collection", None) or event.entry.request.collection
        found.setdefault(name, Counter())[type(event).__name__] += 1
    return found


def test_what_goes_on_in_one_collection_leaves_the_problem_of_another_told(world: World) -> None:
    world.night(SICK)
    world.api.fault = lambda call, collection, number: (
        ServiceUnavailableError("HTTP 503") if (call, collection) == ("list", "sick") else None
    )
    world.tick()
    world.night(WELL)
    assert "can't be listed" in world.reasons()["sick[2026-01-01]"]


def test_one_file_that_the_destination_refuses_stops_that_file_alone(world: World) -> None:
    requests = world.requests(WELL, 1, 3)
    in_the_way = world.root / requests[1].path
    in_the_way.mkdir(parents=True)
    (in_the_way / "something").write_text("else")
    events = world.extract([*requests, *world.requests(SICK, 1)])
    assert heard(events) == {
        "well": Counter({"Landed": 2, "Counted": 2, "Stopped": 1}),
        "sick": Counter({"Landed": 1, "Counted": 1}),
    }
    [stopped] = [e for e in events if type(e).__name__ == "Stopped"]
    assert stopped.entry.request == requests[1]
    assert isinstance(stopped.error, ConfigurationError)
    # It stays open and finished, for whoever comes next; no new extraction is needed.
    waiting = world.entry(requests[1])
    assert (waiting.status, waiting.claimed_by) == (Status.COMPLETE, None)
    assert "can't be written" in world.reasons()["well[2026-01-02]"]
    (in_the_way / "something").unlink()
    in_the_way.rmdir()
    world.clock.advance(60)
    world.ticks()
    assert all(world.is_right(request) for request in requests)
    assert sum(world.api.posts.values()) == 4


def test_a_landing_run_lands_the_others_and_tells_the_one(world: World) -> None:
    requests = world.requests(WELL, 1, 3)
    (world.root / requests[1].path).mkdir(parents=True)
    world.ledger.request(requests)
    world.ticks(8)
    assert {str(outcome.entry.request) for outcome in world.refused} == {"well[2026-01-02]"}
    assert sorted(world.told) == ["well[2026-01-01]", "well[2026-01-03]"]
    (world.root / requests[1].path).rmdir()
    world.ticks()
    assert sorted(world.told) == [str(request) for request in requests]
    assert sum(world.api.posts.values()) == 3


def test_a_key_that_one_result_wants_again_stops_that_one(world: World) -> None:
    def fault(call: str, collection: str, number: int) -> KeenPipelineError | None:
        return AuthenticationError("HTTP 403") if (call, collection, number) == ("open", "well", 1) else None

    world.api.fault = fault
    events = world.extract(world.requests(WELL, 1, 3))
    assert heard(events) == {"well": Counter({"Landed": 2, "Counted": 2, "Stopped": 1})}


@pytest.mark.parametrize("error", [NotFoundError("HTTP 404"), ServiceUnavailableError("HTTP 503")])
def test_a_count_that_can_t_be_had_hides_no_other_collections_cut_file(world: World, error: KeenPipelineError) -> None:
    world.api.fault = lambda call, collection, number: error if (call, collection) == ("count", "sick") else None
    cut = {"well"}

    def body(made: Any, right: bytes) -> bytes:
        if made.request.collection in cut and made.request.partition_key == "2026-01-02" and made.number == 1:
            return right[: right.index(b"\r\n", right.index(b"\r\n") + 2) + 2]
        return right

    world.api.body = body
    events = world.extract([*world.requests(SICK, 1, 3), *world.requests(WELL, 1, 3)])
    wells = [e for e in events if isinstance(e, Counted) and e.entry.request.collection == "well"]
    assert [e.problem for e in wells] == [None] * 4
    assert [e.follower.attempt for e in wells if e.follower is not None] == [2]
    assert [e.problem for e in events if isinstance(e, Counted) and e.entry.request.collection == "sick"] == [error] * 3
    assert all(world.is_right(request) for request in (*world.requests(SICK, 1, 3), *world.requests(WELL, 1, 3)))
    # Uncounted, so the next who looks counts it.
    assert {entry.request.collection for entry in world.ledger.uncounted()} == {"sick"}
    world.api.fault = lambda call, collection, number: None
    world.tick()
    assert world.ledger.uncounted() == []


def test_a_collection_that_can_t_be_counted_keeps_nobody_from_being_cut(world: World) -> None:
    world.with_limits(max_events=1)
    world.api.events["sick"] = [row for row in world.api.events["sick"] if row[1] == 0]
    world.api.fault = lambda call, collection, number: (
        NotFoundError("HTTP 404") if (call, collection) == ("count", "sick") else None
    )
    requests = [*world.requests(SICK, 1, 2), *world.requests(WELL, 1, 2)]
    entries = submit(world.pipeline, requests).created
    with world.pipeline.working("a test") as worker:
        posted = post_due(world.pipeline, entries, worker.id)
    assert [str(entry.request) for entry in posted.split] == ["well[2026-01-01]", "well[2026-01-02]"]
    assert sorted(str(entry.request) for entry in posted.submitted) == ["sick[2026-01-01]", "sick[2026-01-02]"]
    world.ticks()
    assert all(world.is_right(request) for request in requests)


def test_counts_that_are_refused_for_now_are_told_to_their_collection(world: World) -> None:
    world.api.fault = lambda call, collection, number: (
        RateLimitedError("HTTP 429", retry_after=30.0) if (call, collection, number) == ("count", "sick", 1) else None
    )
    entries = submit(world.pipeline, world.requests(SICK, 1, 2)).created
    with world.pipeline.working("a test") as worker:
        posted = post_due(world.pipeline, entries, worker.id)
    assert (list(posted.problems), posted.submitted, sum(world.api.posts.values())) == (["sick"], [], 0)
    assert "HTTP 429" in world.reasons()["sick[2026-01-01]"]
    world.ticks()
    assert all(world.is_right(request) for request in world.requests(SICK, 1, 2))


@pytest.mark.parametrize("error", [NotFoundError("HTTP 404"), ServiceUnavailableError("HTTP 503")])
def test_a_night_leaves_alone_what_it_can_t_count_and_asks_for_the_rest(world: World, error: KeenPipelineError) -> None:
    world.night(SICK, WELL)
    world.ticks()
    world.api.fault = lambda call, collection, number: error if (call, collection) == ("count", "sick") else None
    for name in ("sick", "well"):
        world.api.add(name, day(2, 20), 7)
    world.clock.advance(86400)
    world.night(SICK, WELL)
    sick, well = world.submissions[-2:]
    assert (sick.problems, well.problems) == ({"sick": error}, {})
    # A new day is asked for all the same.
    assert [e.request.partition_key for e in sick.created] == ["2026-01-04"]
    assert sorted(e.request.partition_key for e in well.created) == ["2026-01-02", "2026-01-04"]
    world.ticks()
    assert all(world.is_right(request) for request in world.requests(WELL, 1, 4))
    assert [world.is_right(request) for request in world.requests(SICK, 1, 4)] == [True, False, True, True]
    assert world.ledger.open_entries() == []


def test_a_backfill_tells_what_it_could_not_hold_against_the_count(world: World) -> None:
    requests = [*world.requests(SICK, 1, 2), *world.requests(WELL, 1, 2)]
    world.extract(requests)
    world.api.fault = lambda call, collection, number: (
        NotFoundError("HTTP 404") if (call, collection) == ("count", "sick") else None
    )
    events = world.extract(requests)
    assert heard(events) == {"sick": Counter({"Hindered": 1, "Landed": 2}), "well": Counter({"Landed": 2})}
    assert sum(world.api.posts.values()) == 4


def refused(call: str) -> Callable[[str, str, int], KeenPipelineError | None]:
    """The service refuses this call for now, always and for `sick` alone."""
    error = RateLimitedError("HTTP 429", retry_after=20.0)
    return lambda name, collection, number: error if (name, collection) == (call, "sick") else None


def test_counts_of_one_collection_that_are_always_refused_hold_up_a_night_for_minutes_at_most(world: World) -> None:
    world.extract([*world.requests(SICK, 1, 3), *world.requests(WELL, 1, 2)])
    world.api.fault = refused("count")
    begun = world.clock.now()
    world.night(SICK, WELL)
    assert (world.clock.now() - begun).total_seconds() <= PATIENCE_SECONDS
    sick, well = world.submissions[-2:]
    assert (list(sick.problems), sick.created, well.problems) == (["sick"], [], {})
    world.ticks()
    assert world.is_right(world.requests(WELL, 3)[0])


def test_collections_that_are_all_refused_share_one_patience(world: World) -> None:
    world.extract([*world.requests(SICK, 1, 3), *world.requests(WELL, 1, 3)])
    error = RateLimitedError("HTTP 429", retry_after=20.0)
    world.api.fault = lambda call, collection, number: error if call == "count" else None
    begun, patience = world.clock.now(), Patience()
    for collection in (SICK, WELL):
        assert submit(world.pipeline, world.requests(collection, 1, 3), patience=patience).problems
    assert PATIENCE_SECONDS - 60 <= (world.clock.now() - begun).total_seconds() <= PATIENCE_SECONDS


def test_intents_of_one_collection_that_can_t_be_planned_for_now_keep_no_other_from_being_posted(world: World) -> None:
    world.api.fault = refused("count")
    world.ledger.request([*world.requests(SICK, 1, 3), *world.requests(WELL, 1, 3)])
    world.ticks(10)
    assert all(world.is_right(request) for request in world.requests(WELL, 1, 3))
    assert [world.api.posts[request.place] for request in world.requests(SICK, 1, 3)] == [0, 0, 0]
    assert "HTTP 429" in world.reasons()["sick[2026-01-01]"]
    world.api.fault = lambda call, collection, number: None
    world.ticks()
    assert all(world.is_right(request) for request in world.requests(SICK, 1, 3))


def test_a_refusal_of_one_collections_counts_that_stops_all_for_a_minute_starves_nobody(world: World) -> None:
    """With the shared budget whoever comes after the refusal is refused too: which collection comes first is left to chance."""
    limiter = world.api.limiter = LedgerRateLimiter(world.ledger.engine, 1000, budget="b", clock=world.clock)
    world.api.limit_seconds = 5.0
    count = world.api.count

    def counted(collection: str, *args: Any) -> int:
        if collection != "sick":
            return count(collection, *args)
        limiter.acquire(timeout=5.0)
        limiter.refuse_until(14.0)
        raise RateLimitedError("HTTP 429", retry_after=14.0)

    world.api.count = counted  # type: ignore[method-assign]
    world.ledger.request([*world.requests(SICK, 1, 3), *world.requests(WELL, 1, 3)])
    with world.pipeline.working("a test") as worker:
        for _ in range(40):
            post_due(world.pipeline, world.ledger.open_entries(), worker.id)
            world.clock.advance(15)
    assert [world.api.posts[request.place] for request in world.requests(WELL, 1, 3)] == [1, 1, 1]
    assert [world.api.posts[request.place] for request in world.requests(SICK, 1, 3)] == [0, 0, 0]


def test_a_round_of_posts_counts_no_more_collections_than_it_has_time_for(world: World) -> None:
    collections = [Collection(f"c{number}", "2026-01-01") for number in range(10)]
    count = world.api.count

    def slow(*args: Any, **kwargs: Any) -> int:
        world.clock.advance(4)
        return count(*args, **kwargs)

    world.api.count = slow  # type: ignore[method-assign]
    entries = [answer.entry for c in collections for answer in world.ledger.request(world.requests(c, 1))]
    with world.pipeline.working("a test") as worker:
        begun = world.clock.now()
        post_due(world.pipeline, entries, worker.id, seconds=10)
        assert (world.clock.now() - begun).total_seconds() == 12
        for _ in range(10):
            post_due(world.pipeline, world.ledger.open_entries(), worker.id, seconds=10)
    assert [len(world.ledger.open_entries(status=status)) for status in (Status.REQUESTED, Status.SUBMITTED)] == [0, 10]


def test_a_ledger_that_is_slow_to_claim_leaves_time_for_posts(world: World) -> None:
    claim = world.ledger.claim

    def slow(*args: Any) -> Any:
        world.clock.advance(2)
        return claim(*args)

    world.ledger.claim = slow  # type: ignore[method-assign]
    requests = world.requests(WELL, 1, 3)
    with world.pipeline.working("a test") as worker:
        entries = [answer.entry for answer in world.ledger.request(requests)]
        assert len(post_due(world.pipeline, entries, worker.id, seconds=1).submitted) == 3


def test_one_manifest_that_can_t_be_written_leaves_its_own_file_uncounted(world: World) -> None:
    requests = world.requests(WELL, 1, 4)
    world.api.fault = lambda call, collection, number: ServiceUnavailableError("HTTP 503") if call == "count" else None
    world.ledger.request(requests)
    world.ticks(4)
    write = world.pipeline.destination.write

    def written(path: str, data: bytes) -> None:
        if "2026-01-02" in path:
            raise ConfigurationError("it can't be written")
        write(path, data)

    world.pipeline.destination.write = written  # type: ignore[method-assign]
    world.api.fault = lambda call, collection, number: None
    world.tick()
    assert [entry.counted for entry in world.ledger.landed_entries("well")] == [2, None, 1, 2]
    assert [(str(one.entry.request), str(one.problem)) for one in world.counts if isinstance(one.problem, ConfigurationError)] == [
        ("well[2026-01-02]", "it can't be written")
    ]
    del world.pipeline.destination.write
    world.tick()
    assert world.ledger.uncounted() == []


@pytest.mark.parametrize("caller", ["sensor", "backfill"])
def test_what_nobody_expects_of_one_file_stops_no_other(world: World, caller: str, caplog: pytest.LogCaptureFixture) -> None:
    requests = [*world.requests(SICK, 1, 6), *world.requests(WELL, 1, 6)]
    land = world.pipeline.destination.land

    def landed(source: Any, target: str, **options: Any) -> Any:
        if "/sick/" in target:
            raise RuntimeError("a fault of ours")
        return land(source, target, **options)

    world.pipeline.destination.land = landed  # type: ignore[method-assign]
    if caller == "sensor":
        world.ledger.request(requests)
        world.ticks(10)
    else:
        world.extract(requests)
    assert all(world.is_right(request) for request in world.requests(WELL, 1, 6))
    assert "a fault of ours" in caplog.text
    # As often as any other failure, and then it is given up.
    world.ticks(200)
    assert [world.entry(request).status for request in requests[:6]] == [Status.ABANDONED] * 6
    assert [world.api.posts[request.place] for request in requests[:6]] == [3] * 6
    assert "an unexpected RuntimeError; the log has its traceback" in (world.entry(requests[0]).error or "")


def test_a_landed_file_that_can_t_be_looked_at_now_keeps_nobody_else(world: World) -> None:
    requests = [*world.requests(SICK, 1, 2), *world.requests(WELL, 1, 2)]
    world.extract(requests)
    (world.root / requests[3].path).unlink()
    exists = world.pipeline.destination.exists

    def refused(target: str) -> int | None:
        if "/sick/" in target:
            raise ServiceUnavailableError("HTTP 503")
        return exists(target)

    world.pipeline.destination.exists = refused  # type: ignore[method-assign]
    events = world.extract([*requests, *world.requests(WELL, 3)])
    assert heard(events) == {"sick": Counter({"Hindered": 1, "Landed": 2}), "well": Counter({"Landed": 3, "Counted": 2})}
    assert all(world.is_right(request) for request in requests)
    assert [world.api.posts[request.place] for request in requests] == [1, 1, 1, 2]


def test_one_denied_list_stops_no_poll_and_the_next_answer_ends_it(world: World) -> None:
    world.api.answer = lambda made: COMPLETE
    world.api.fault = lambda call, collection, number: (
        AuthenticationError("HTTP 403") if (call, collection) == ("list", "sick") and number <= 20 else None
    )
    world.ledger.request([*world.requests(SICK, 1, 3), *world.requests(WELL, 1, 3)])
    for _ in range(19):
        world.tick()
    assert sorted(world.told) == ["well[2026-01-01]", "well[2026-01-02]", "well[2026-01-03]"]
    state = world.ledger.collections()["sick"]
    assert state.problem is not None
    assert "HTTP 403" in state.problem
    assert world.ledger.collections()["well"].problem is None
    world.ticks()
    assert world.ledger.collections()["sick"].problem is None
    assert all(world.is_right(request) for request in world.requests(SICK, 1, 3))
    assert sum(world.api.posts.values()) == 6


def test_a_count_of_the_same_collection_with_other_filters_is_asked_by_itself(world: World) -> None:
    filtered = replace(WELL, filters=(Filter("body:n", "gt", 0),))
    whole, part = world.requests(WELL, 1), world.requests(filtered, 2)
    world.extract([*whole, *part])
    world.api.counted.clear()
    entries = [world.entry(request) for request in (*whole, *part)]
    answers = list(count_landed(world.pipeline, entries))
    assert [len(group) for group, _ in answers] == [1, 1]
    assert [len(filters) for _, _, filters in world.api.counted] == [0, 1]
    assert [entry.counted for _, answer in answers for entry in answer] == [2, 2]  # type: ignore[union-attr]


def test_what_others_have_claimed_is_left_out_of_a_landing_run(world: World) -> None:
    world.ledger.request(world.requests(WELL, 1, 2))
    world.api.answer = lambda made: COMPLETE
    with world.pipeline.working("the sensor") as worker:
        post_due(world.pipeline, world.ledger.open_entries(), worker.id)
        poll(world.pipeline, world.ledger.open_entries(), worker=worker.id)
    first, second = world.ledger.open_entries(status=Status.COMPLETE)
    with world.pipeline.working("one") as one, world.pipeline.working("two") as two:
        world.ledger.claim([first.entry_id], one.id)
        outcomes = list(land(world.pipeline, [first.entry_id, second.entry_id], two))
        assert [o.entry.entry_id for o in outcomes if isinstance(o, (Landed, NotLanded))] == [second.entry_id]
        again = list(land(world.pipeline, [first.entry_id, second.entry_id], one))
        assert [o.entry.entry_id for o in again if isinstance(o, (Landed, NotLanded))] == [first.entry_id]
