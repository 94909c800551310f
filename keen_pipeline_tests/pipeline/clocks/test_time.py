"""Budgets, outages, clocks that are set, daemons that sleep: time alone fails nothing and asks for nothing twice."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest

from keen_pipeline.collection import Collection, Granularity
from keen_pipeline.errors import KeenPipelineError, RateLimitedError, ServiceUnavailableError, UnreachableError
from keen_pipeline.extraction import Status
from keen_pipeline.ledger import LedgerRateLimiter
from keen_pipeline.partitions import ended_partitions
from keen_pipeline.pipeline import extract, gaps
from keen_pipeline.pipeline.freshness import coverage, freshness
from keen_pipeline_tests.pipeline.scripted import COMPLETE, PENDING
from keen_pipeline_tests.pipeline.world import World, day

WELL = Collection("well", "2026-01-01")


class Watched(LedgerRateLimiter):
    """A limiter that remembers when it granted what, and whom it refused."""

    granted: list[float]
    refused = 0

    def acquire(self, *, timeout: float) -> None:
        try:
            super().acquire(timeout=timeout)
        except RateLimitedError:
            self.refused += 1
            raise
        self.granted.append(self._clock.now().timestamp())


def limited(world: World, per_minute: int, patience: float) -> Watched:
    limiter = Watched(world.ledger.engine, per_minute, budget="one", clock=world.clock)
    limiter.granted = []
    world.api.limiter, world.api.limit_seconds = limiter, patience
    return limiter


@pytest.mark.parametrize("days", [15, pytest.param(150, marks=pytest.mark.slow)])
@pytest.mark.parametrize("patience", [0.0, 120.0])
def test_a_backfill_that_waits_for_its_own_requests_fails_nothing(world: World, days: int, patience: float) -> None:
    """Five requests a minute; a call that may not wait is refused by the limiter, one that may waits inside."""
    limiter = limited(world, 5, patience)
    old = replace(WELL, start_date="2020-01-01")
    world.clock.advance(days * 86400)
    requests = world.requests(old, 1, days)
    events = world.extract(requests, resumable=True)
    assert Counter(type(e).__name__ for e in events) == {"Landed": days, "Counted": days}
    assert {world.api.posts[request.place] for request in requests} == {1}
    assert {entry.attempt for entry in world.ledger.landed_entries("well")} == {1}
    assert all(world.is_right(request) for request in requests)
    assert all(later - earlier >= 60 for earlier, later in zip(limiter.granted, limiter.granted[5:], strict=False))
    assert (limiter.refused > 0) is (patience == 0)


def test_what_may_be_sent_again_is_sent_when_a_poll_has_waited_for_it(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """A POST is refused at once while the requests a minute are used up, a list call waits for them."""
    limited(world, 5, 0.0)
    called, begun, submitted = world.api._called, world.clock.now(), list[float]()

    def call(name: str, collection: str) -> KeenPipelineError | None:
        world.api.limit_seconds = 0.0 if name == "submit" else 120.0
        error = called(name, collection)
        if name == "submit":
            submitted.append((world.clock.now() - begun).total_seconds())
        return error

    monkeypatch.setattr(world.api, "_called", call)
    requests = world.requests(WELL, 1, 8)
    world.extract(requests, resumable=True)
    assert all(world.is_right(request) for request in requests)
    assert submitted == [0.0] * 4 + [61.0] * 4  # beside a count and a list call


@pytest.mark.parametrize("caller", ["sensor", "backfill"])
def test_a_service_that_finishes_nothing_is_asked_max_attempts_times(world: World, caller: str) -> None:
    """What has not finished is not what is too large: it is never split."""
    world.api.answer = lambda made: PENDING
    world.with_limits(stuck_seconds=1200.0)
    requests = world.requests(WELL, 1, 2)
    begun = world.clock.now()
    if caller == "backfill":
        world.pipeline = replace(world.pipeline, poll_seconds=60.0)
        events = world.extract(requests)
        assert Counter(type(e).__name__ for e in events) == {"Retrying": 4, "Ended": 2}
    else:
        world.ledger.request(requests)
        while world.clock.now() - begun < timedelta(hours=10):
            world.tick()
            world.clock.advance(45 if world.ledger.open_entries() else 585)
        assert [entry.status for entry in world.ended] == [Status.ABANDONED] * 2
    assert [world.api.posts[request.place] for request in requests] == [3, 3]
    assert "not finished the extraction in 20 minutes" in (world.entry(requests[0]).error or "")
    assert timedelta(hours=1) <= world.clock.now() - begun
    assert len(world.api.made) == 6


@pytest.mark.parametrize("call", ["submit", "open"])
def test_what_is_put_off_by_a_clock_that_was_ahead_is_due(world: World, call: str) -> None:
    """A service that wants a rest of a day gets an hour; then the clock is set back by a day."""
    world.api.fault = lambda name, collection, number: (
        (RateLimitedError("HTTP 429", retry_after=86400.0) if call == "submit" else ServiceUnavailableError("HTTP 503"))
        if name == call and number == 1
        else None
    )
    requests = world.requests(WELL, 1)
    world.ledger.request(requests)
    for _ in range(3):
        world.tick()
    entry = world.entry(requests[0])
    assert call == "open" or entry.due_at - world.clock.now() <= timedelta(hours=1)
    world.clock.advance(-86400)
    world.ticks(6)
    assert world.is_right(requests[0])


def test_an_hour_of_answers_is_what_stuck_means(world: World) -> None:
    world.api.answer = lambda made: PENDING
    [request] = world.requests(WELL, 1)
    world.ledger.request([request])
    for _ in range(60):
        world.tick()
        world.clock.advance(45)
    assert world.entry(request).attempt == 1
    for _ in range(3):
        world.tick()
        world.clock.advance(45)
    assert world.entry(request).attempt == 2


def outage(world: World) -> None:
    """The service is down for six hours."""
    until = world.clock.now() + timedelta(hours=6)

    def fault(call: str, collection: str, number: int) -> KeenPipelineError | None:
        return ServiceUnavailableError("HTTP 503") if world.clock.now() < until else None

    world.api.fault = fault
    while world.clock.now() < until:
        world.tick()
        world.clock.advance(600)


def ahead(world: World) -> None:
    """The clock of the host jumps ahead by five hours."""
    world.clock.advance(5 * 3600)


def back(world: World) -> None:
    """The clock of the host jumps back by five hours."""
    world.clock.advance(-5 * 3600)


def to_and_fro(world: World) -> None:
    """Ahead by a month for some ticks, and back again."""
    world.clock.advance(30 * 86400)
    for _ in range(3):
        world.tick()
    world.clock.advance(-30 * 86400)


def asleep(world: World) -> None:
    """The daemon sleeps for four days."""
    world.clock.advance(4 * 86400)


@pytest.mark.parametrize("what", [outage, ahead, back, to_and_fro, asleep])
@pytest.mark.parametrize("when", ["before the POST", "while it works", "when it is done"])
def test_times_that_are_lost_or_wrong_change_nothing(world: World, what: Callable[[World], None], when: str) -> None:
    requests = world.requests(WELL, 1, 3)
    done = False
    world.api.answer = lambda made: COMPLETE if done else PENDING
    world.ledger.request(requests)
    if when != "before the POST":
        world.tick()
    if when == "when it is done":
        done = True
    what(world)
    world.tick()
    world.tick()
    done = True
    world.ticks()
    assert all(world.is_right(request) for request in requests)
    assert len(world.api.made) == 3
    assert [world.entry(request).attempt for request in requests] == [1, 1, 1]
    assert sorted(world.told) == [str(request) for request in requests]


@pytest.mark.parametrize("seconds", [-5 * 3600, 5 * 3600, 4 * 86400])
@pytest.mark.parametrize("at", range(1, 6))
def test_a_clock_that_is_set_while_a_backfill_waits_changes_nothing(world: World, seconds: float, at: int) -> None:
    begun = world.clock.now()
    world.api.answer = lambda made: COMPLETE if made.polls > 4 else PENDING
    requests = world.requests(WELL, 1, 3)
    heard = Counter[str]()
    for number, event in enumerate(extract(world.pipeline, requests, doing="a test")):
        heard[type(event).__name__] += 1
        if number == at:
            world.clock.advance(seconds)
    assert (heard["Landed"], heard["Counted"], heard["Retrying"], heard["Ended"]) == (3, 3, 0, 0)
    assert [world.api.posts[request.place] for request in requests] == [1, 1, 1]
    # Nor is anything waited for until the clock is where it was.
    assert (world.clock.now() - begun).total_seconds() - seconds < 60


def test_a_list_call_of_a_clock_that_was_ahead_is_no_news(world: World) -> None:
    world.ledger.listed("well", ["x1"])
    assert list(world.ledger.listed_within(4)) == ["well"]
    world.clock.advance(-3600)
    assert list(world.ledger.listed_within(4)) == []


def test_after_forty_nights_without_a_daemon_the_next_ones_close_the_hole(world: World) -> None:
    first = world.night(WELL)
    world.ticks()
    assert [request.partition_key for request in first] == ["2026-01-03", "2026-01-02", "2026-01-01"]
    world.clock.advance(40 * 86400)
    keys = lambda requests: [request.partition_key for request in requests]  # noqa: E731
    named = [p.key for p in gaps(ended_partitions(WELL, world.clock.now()), {s.key: s for s in world.ledger.partitions("well")})]
    assert (named[0], named[-1], len(named)) == ("2026-01-04", "2026-02-12", 40)
    # Newest first: those of the lookback, and 31 before them.
    night = world.night(WELL)
    assert keys(night) == list(reversed(named))[:34]
    world.ticks()
    world.clock.advance(86400)
    night = world.night(WELL)
    world.ticks()
    assert keys(night) == ["2026-02-13", "2026-02-12", "2026-02-11", *list(reversed(named))[34:]]
    states = {s.key: s for s in world.ledger.partitions("well")}
    assert gaps(ended_partitions(WELL, world.clock.now()), states) == []
    assert len(states) == 44
    assert all(world.is_right(request) for request in world.requests(WELL, 1, 44))
    assert all(n == 1 for n in world.api.posts.values())


def test_catch_up_bounds_a_night_and_none_turns_it_off(world: World) -> None:
    world.night(WELL)
    world.ticks()
    world.clock.advance(40 * 86400)
    for most in (0, 5):
        collection = replace(WELL, catch_up=most)
        assert len(world.night(collection)) == 3 + most


def test_a_hole_that_was_given_up_or_cancelled_is_nobodys_gap(world: World) -> None:
    world.extract(world.requests(WELL, 1))
    [cancelled, asked] = list(world.requests(WELL, 2, 3))
    [entry] = [r.entry for r in world.ledger.request([cancelled])]
    world.ledger.cancel([entry.entry_id], "cancelled by a person")
    world.ledger.request([asked])
    known = {s.key: s for s in world.ledger.partitions("well")}
    assert [p.key for p in gaps(ended_partitions(WELL, day(7, 1)), known)] == ["2026-01-04", "2026-01-05", "2026-01-06"]
    # Nor does a night ask for what a person has cancelled.
    assert [r.partition_key for r in world.night(WELL)] == ["2026-01-03", "2026-01-01"]


def test_what_was_given_up_of_partitions_that_are_no_more_is_not_told(world: World) -> None:
    for asked in world.ledger.request(world.requests(WELL, 2, 3)):
        world.ledger.fail(asked.entry.entry_id, "refused", limits=world.pipeline.limits, final=True)

    def given_up(collection: Collection) -> list[str]:
        return [state.key for state in coverage(world.ledger, collection, day(9)).given_up]

    assert given_up(WELL) == ["2026-01-02", "2026-01-03"]
    # `retry` refuses the others: they are before the start date, or no partitions of today's granularity.
    assert given_up(replace(WELL, start_date="2026-01-03")) == ["2026-01-03"]
    assert given_up(replace(WELL, granularity=Granularity.MONTHLY)) == []


def test_a_collection_that_never_landed_has_no_gaps(world: World) -> None:
    assert gaps(ended_partitions(WELL, day(9)), {}) == []
    wanted: list[Any] = world.night(WELL)
    assert len(wanted) == 3


def test_a_back_off_that_is_over_is_not_waited_for_until_the_next_poll(world: World) -> None:
    world.pipeline = replace(world.pipeline, poll_seconds=60.0)
    world.with_limits(retry_seconds=10.0)
    world.api.fault = lambda call, collection, number: UnreachableError("refused") if (call, number) == ("submit", 1) else None
    begun, [request] = world.clock.now(), world.requests(WELL, 1)
    world.extract([request])
    posted_at = world.entry(request).posted_at
    assert posted_at is not None
    assert timedelta(seconds=5) <= posted_at - begun <= timedelta(seconds=10)


@pytest.mark.parametrize(
    ("refusals", "expected"),
    [
        ({}, [0, 5]),
        # The second POST goes after 3 s, and 5 s later both are there.
        ({2: 3.0}, [0, 8]),
        # A POST after 6 s puts the poll off, but by one interval at most.
        ({2: 3.0, 4: 3.0, 6: 3.0}, [0, 10]),
    ],
)
def test_an_interval_of_polls_begins_with_the_last_post(world: World, refusals: dict[int, float], expected: list[int]) -> None:
    begun, polled = world.clock.now(), list[int]()
    world.api.answer = lambda made: COMPLETE if world.clock.now() >= made.created_at + timedelta(seconds=4) else PENDING

    def fault(call: str, collection: str, number: int) -> KeenPipelineError | None:
        if call == "list":
            polled.append(round((world.clock.now() - begun).total_seconds()))
        refused = refusals.get(number) if call == "submit" else None
        return None if refused is None else RateLimitedError("HTTP 429", retry_after=refused)

    world.api.fault = fault
    world.pipeline = replace(world.pipeline, posting_threads=1)
    world.extract(world.requests(WELL, 1, 4 if len(refusals) > 1 else 2))
    assert polled == expected


def test_what_is_late_is_told_with_the_reason(world: World) -> None:
    collection = replace(WELL, fresh_within_hours=1, lookback_days=1)
    [request] = world.night(collection)
    world.ledger.fail(world.entry(request).entry_id, "no such event", limits=world.pipeline.limits, final=True)
    found = freshness(world.ledger, collection, world.clock.now() + timedelta(hours=2))
    assert str(found) == "2026-01-03 should have landed by 2026-01-04T01:00:00Z and is abandoned: no such event"
    world.ledger.request([request])
    found = freshness(world.ledger, collection, world.clock.now() + timedelta(hours=2))
    assert str(found) == "2026-01-03 should have landed by 2026-01-04T01:00:00Z and is requested"
