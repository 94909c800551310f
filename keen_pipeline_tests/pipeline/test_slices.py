"""What is too large is cut by its own count, extracted in slices, put together, and counted as one."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest

from keen_pipeline.collection import Collection, CountPolicy, Encoding, MaskMethod
from keen_pipeline.errors import AuthenticationError, ExtractionTooLargeError, NotFoundError, ServiceUnavailableError
from keen_pipeline.extraction import Kind, Status
from keen_pipeline.filters import Filter
from keen_pipeline.landing.layout import is_ours
from keen_pipeline.lifecycle import Entry
from keen_pipeline.pipeline import ad_hoc_request, poll, post_due, submit
from keen_pipeline.pipeline.extractions import slices
from keen_pipeline.timeframe import Timeframe
from keen_pipeline_tests.pipeline.scripted import COMPLETE, PENDING, Answer
from keen_pipeline_tests.pipeline.world import World, day

BIG = Collection("big", "2026-01-01", email="me@example.com")


@pytest.fixture
def big(world: World) -> World:
    """Days of 4, 5 and 0 events, at most 4 an extraction."""
    for n in range(4):
        world.api.add("big", day(1, 6 * n), n)
    for n in range(5):
        world.api.add("big", day(2, 20 if n > 2 else 6 * n), n)
    world.with_limits(max_events=4)
    return world


def posted(world: World, collection: Collection = BIG, first: int = 1, last: int = 3) -> list[Entry]:
    """Intents, after one round of POSTs; all that is open."""
    entries = submit(world.pipeline, world.requests(collection, first, last)).created
    with world.pipeline.working("a test") as worker:
        post_due(world.pipeline, entries, worker.id)
        post_due(world.pipeline, world.ledger.open_entries(), worker.id)
    return world.ledger.open_entries()


def test_exactly_the_limit_is_one_extraction_and_one_more_is_two(big: World) -> None:
    entries = posted(big)
    parts = [e for e in entries if e.request.kind is Kind.SLICE]
    assert {e.request.partition_key: e.status for e in entries if e not in parts} == {
        "2026-01-01": Status.SUBMITTED,
        "2026-01-02": Status.SPLIT,
        "2026-01-03": Status.SUBMITTED,
    }
    assert [(p.expected, p.depth, p.status) for p in parts] == [(2, 1, Status.SUBMITTED), (3, 1, Status.SUBMITTED)]
    assert sum(big.api.posts.values()) == 4
    # Known each for itself, unless it is one of several that fit together.
    assert {e.request.partition_key: e.expected for e in entries if e not in parts} == {
        "2026-01-01": 4,
        "2026-01-02": 5,
        "2026-01-03": 0,
    }


def test_slices_are_put_together_and_gone(big: World) -> None:
    requests = big.requests(BIG, 1, 3)
    events = big.extract(requests)
    assert all(big.is_right(request) for request in requests)
    assert [str(e.entry.request) for e in events if type(e).__name__ == "Landed"].count("big[2026-01-02]") == 1
    entry = big.entry(requests[1])
    assert (entry.slices, entry.depth, entry.is_whole, entry.attempt) == (2, 1, True, 1)
    assert big.files() == sorted(request.path for request in requests)
    assert [path for path in (big.root / "_slices").rglob("*") if path.is_file()] == []
    assert big.ledger.stale_slices() == []


def test_slices_of_a_lost_ledger_lie_elsewhere_than_those_of_the_next(big: World) -> None:
    def places(world: World) -> set[str]:
        return {e.request.path for e in posted(world) if e.request.kind is Kind.SLICE}

    first = places(big)
    new = World.at(big.root, clock=big.clock, api=big.api, max_events=4)  # its numbers begin again
    second = places(new)
    assert (len(first), len(second), first & second) == (2, 2, set())
    assert all(is_ours("s3://b", f"s3://b/{path}") for path in first | second)


def test_a_slice_that_was_cut_at_the_destination_is_not_joined(big: World) -> None:
    posted(big, BIG, 2, 2)
    requests = big.requests(replace(BIG, count_check=CountPolicy.OFF), 2)
    big.ledger.request(requests)  # no count tells from now on
    big.tick()
    big.tick()
    parts = sorted((big.root / "_slices").rglob("*.csv"))
    assert len(parts) == 2
    parts[0].write_bytes(b"".join(parts[0].read_bytes().splitlines(keepends=True)[:-1]))
    big.ticks()
    assert big.is_right(requests[0])
    assert big.entry(requests[0]).attempt == 2
    assert "landed" in str(big.refused[0].error)


def test_a_person_is_mailed_about_partitions_never_about_slices(big: World) -> None:
    posted(big)
    assert sorted(map(str, big.api.emails)) == ["None", "None", "me@example.com", "me@example.com"]


def test_a_person_is_mailed_about_an_extraction_of_their_own(big: World) -> None:
    wanted = Timeframe(day(1, 0), day(2, 0))
    big.extract([ad_hoc_request("big", wanted, now=big.clock.now(), email="me@example.com")])
    assert big.api.emails == ["me@example.com"]


def test_windows_without_events_are_not_asked_for(world: World) -> None:
    for n in range(8):
        world.api.add("big", day(1, 23), n)
    world.api.events["big"] = [(moment.replace(minute=6 * n), n) for moment, n in world.api.events["big"]]
    world.with_limits(max_events=4)
    entries = posted(world, last=1)
    parts = [e for e in entries if e.request.kind is Kind.SLICE]
    assert sum(p.expected or 0 for p in parts) == 8
    assert all(p.expected for p in parts)
    assert sum(world.api.posts.values()) == len(parts)
    world.ticks()
    assert world.is_right(world.requests(BIG, 1)[0])


def test_counts_of_other_filters_are_their_own(big: World) -> None:
    """Five events a day, two of which pass: one question about both would cut it, or let the other through whole."""
    filtered = replace(BIG, filters=(Filter("body:n", "gt", 2),))
    submit(big.pipeline, [*big.requests(BIG, 2), *big.requests(filtered, 1)])
    with big.pipeline.working("a test") as worker:
        outcome = post_due(big.pipeline, big.ledger.open_entries(), worker.id)
    assert [str(e.request) for e in outcome.split] == ["big[2026-01-02]"]
    assert [(str(e.request), e.expected) for e in outcome.submitted] == [("big[2026-01-01]", 1)]
    big.ticks()
    assert big.is_right(big.requests(filtered, 1)[0])
    assert big.is_right(big.requests(BIG, 2)[0])


def test_nothing_is_counted_before_a_post_if_the_policy_is_off(big: World) -> None:
    posted(big, replace(BIG, count_check=CountPolicy.OFF))
    assert big.api.count_of("count", "big") == 0
    assert sum(big.api.posts.values()) == 3


def test_a_slice_that_is_given_up_gives_up_the_whole_and_cancels_the_others(big: World) -> None:
    requests = big.requests(BIG, 2)
    big.api.answer = lambda made: (
        Answer("failed", "broken") if made.request.timeframe.start == day(2, 0) and made.request.kind is Kind.SLICE else PENDING
    )
    big.ledger.request(requests)
    big.ticks(60)
    entry = big.entry(requests[0])
    assert entry.status is Status.ABANDONED
    assert "1 of its 2 slices ended without a file: the service reports" in (entry.error or "")
    assert "broken" in (entry.error or "")
    # What is told is the day, once; a slice is nobody's asset.
    assert [str(e.request) for e in big.ended] == ["big[2026-01-02]"]
    assert big.ledger.open_entries() == []
    statuses = {e.status for e in big.ledger.slices([entry.entry_id])[entry.entry_id]}
    assert statuses == {Status.ABANDONED, Status.CANCELLED}
    assert sum(big.api.posts.values()) == 4


def test_what_cancels_a_day_cancels_its_slices(big: World) -> None:
    entries = posted(big, first=2, last=2)
    [parent] = [e for e in entries if e.status is Status.SPLIT]
    big.ledger.cancel([parent.entry_id], "cancelled by a person")
    assert big.ledger.open_entries() == []


def test_slices_of_a_day_that_was_cancelled_and_forgotten_are_removed_too(big: World) -> None:
    [day_2] = [e for e in posted(big, first=2, last=2) if e.status is Status.SPLIT]
    big.tick()
    big.tick()
    assert len(list((big.root / "_slices").rglob("*.csv"))) == 2
    big.ledger.cancel([day_2.entry_id], "a person's word")
    requests = big.requests(BIG, 2)
    big.ledger.request(requests)
    assert big.ledger.prune(big.clock.now() + timedelta(seconds=1)) == 1
    big.ticks()
    assert big.is_right(requests[0])
    assert list((big.root / "_slices").rglob("*.csv")) == []


def test_a_slice_that_is_switched_into_place_while_its_day_is_cancelled_is_removed(
    big: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    [day_2] = [e for e in posted(big, first=2, last=2) if e.status is Status.SPLIT]
    landed = big.ledger.landed
    seen: list[int] = []

    def too_late(entry_id: int, *arguments: Any) -> Entry:
        seen.append(len(list((big.root / "_slices").rglob("*.csv"))))
        big.ledger.cancel([day_2.entry_id], "a person's word")
        return landed(entry_id, *arguments)

    monkeypatch.setattr(big.ledger, "landed", too_late)
    big.ticks()
    assert seen[0] > 0
    assert list((big.root / "_slices").rglob("*.csv")) == []


def test_another_question_for_a_day_cancels_its_slices(big: World) -> None:
    posted(big, first=2, last=2)
    [asked] = big.ledger.request(big.requests(replace(BIG, encoding=Encoding.CSV_GZ), 2))
    assert [e.entry_id for e in big.ledger.open_entries()] == [asked.entry.entry_id]


def test_a_day_whose_file_was_asked_for_otherwise_leaves_no_slices(big: World) -> None:
    posted(big, first=2, last=2)
    big.api.answer = lambda made: COMPLETE if made.request.kind is Kind.SLICE else PENDING
    big.tick()  # its slices have landed
    changed = replace(BIG, encoding=Encoding.CSV_GZ)
    big.api.answer = lambda made: COMPLETE
    big.extract(big.requests(changed, 2))
    assert big.files() == ["big/2026-01-02.csv.gz"]
    assert [path for path in (big.root / "_slices").rglob("*") if path.is_file()] == []


def test_one_event_too_many_can_t_be_cut(big: World) -> None:
    """The service refuses what its count says is a single event."""
    big.api.limit = 0
    big.with_limits(max_events=10)
    requests = big.requests(BIG, 1)
    big.api.events["big"] = [big.api.events["big"][0]]
    events = big.extract(requests)
    assert [type(e).__name__ for e in events] == ["Ended"]
    assert "the service counts 1 events in it, which can't be cut" in (big.entry(requests[0]).error or "")
    assert sum(big.api.posts.values()) == 1


def test_events_of_one_instant_that_are_too_many_can_t_be_cut(world: World) -> None:
    for n in range(5):
        world.api.add("big", day(1, 6), n)
    world.with_limits(max_events=4)
    events = world.extract(world.requests(BIG, 1))
    assert [type(e).__name__ for e in events] == ["Ended"]
    assert "can't be halved" in (world.entry(world.requests(BIG, 1)[0]).error or "")
    assert sum(world.api.posts.values()) == 0


@pytest.mark.parametrize("error", [ServiceUnavailableError("HTTP 503"), NotFoundError("HTTP 404")])
def test_too_large_by_the_services_word_and_no_count_to_be_had(big: World, error: Exception) -> None:
    big.with_limits(max_events=10)
    big.api.limit = 4
    failing = True
    big.api.fault = lambda call, collection, number: error if call == "count" and failing else None  # type: ignore[return-value]
    requests = big.requests(BIG, 2)
    big.ledger.request(requests)
    big.tick()
    if isinstance(error, NotFoundError):
        assert "can't be cut, as its events can't be counted" in (big.entry(requests[0]).error or "")
        assert big.entry(requests[0]).status is Status.ABANDONED
        return
    assert big.entry(requests[0]).status is Status.REQUESTED  # nothing is changed, it is tried again
    failing = False
    big.clock.advance(60)
    big.ticks()
    assert big.is_right(requests[0])
    assert big.ledger.orphans() == 0  # the service has said that it made nothing


def test_what_failed_as_too_large_and_can_never_be_counted_is_given_up(big: World) -> None:
    """Polled for ever otherwise: neither cut nor ended."""
    requests = big.requests(BIG, 2)
    big.api.answer = lambda made: Answer("failed", "too many events")
    big.api.fault = lambda call, collection, number: NotFoundError("HTTP 404") if call == "count" else None
    big.ledger.request(requests)
    big.ticks(5)
    assert big.entry(requests[0]).status is Status.ABANDONED
    assert "too many events; it can't be cut, as its events can't be counted: HTTP 404" in (big.entry(requests[0]).error or "")
    assert big.api.posts[requests[0].place] == 1


@pytest.mark.parametrize("caller", ["the sensor", "a wait"])
def test_what_is_too_large_only_when_it_is_fetched_and_can_t_be_counted_stops_nobody_else(big: World, caller: str) -> None:
    """As of API v3.0, with a key that may not count."""
    big.api.fault = lambda call, collection, number: {
        ("open", "big"): ExtractionTooLargeError("more than 4 events"),
        ("count", "big"): AuthenticationError("HTTP 403"),
    }.get((call, collection))
    requests = [*big.requests(BIG, 2), *big.requests(Collection("well", "2026-01-01"), 1, 3)]
    if caller == "the sensor":
        big.ledger.request(requests)
        big.ticks(6)
    else:
        events = big.extract(requests)
        assert [str(e.entry.request) for e in events if type(e).__name__ == "Stopped"] == ["big[2026-01-02]"]
    assert all(big.is_right(request) for request in requests[1:])
    waiting = big.entry(requests[0])
    assert (waiting.status, waiting.error) == (Status.COMPLETE, "HTTP 403")
    assert [big.api.posts[request.place] for request in requests] == [1, 1, 1, 1]


@pytest.mark.parametrize("caller", ["the sensor", "a wait"])
def test_what_is_too_large_only_when_it_is_fetched_lands_in_slices(big: World, caller: str) -> None:
    [request] = big.requests(replace(BIG, count_check=CountPolicy.OFF), 2)
    big.api.fault = lambda call, collection, number: (
        ExtractionTooLargeError("more than 4 events") if (call, number) == ("open", 1) else None
    )
    if caller == "the sensor":
        big.ledger.request([request])
        big.ticks()
        assert [(refused.entry.status, refused.is_lost) for refused in big.refused] == [(Status.SPLIT, False)]
    else:
        big.extract([request])
    assert big.is_right(request)
    assert (big.entry(request).slices, big.entry(request).attempt) == (2, 1)


def test_what_is_refused_however_small_it_is_isn_t_cut_down_to_its_last_event(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A service that calls an extraction too large for its filters, or its answers in transfer, says so of each part too."""
    monkeypatch.setattr(slices, "_SMALLEST_SHARE", 8)
    for n in range(200):
        world.api.add("big", day(1, 0) + timedelta(minutes=7 * n), n)
    world.api.fault = lambda call, *_: ExtractionTooLargeError("the query is too large") if call == "submit" else None
    [request] = world.requests(BIG, 1)
    world.ledger.request([request])
    world.ticks()
    entry = world.entry(request)
    assert entry.status is Status.ABANDONED
    assert re.search(r"the query is too large; it is a part with \d+ of 200 events", entry.error or "")
    assert world.api.count_of("submit", "big") < 40


def test_a_slice_that_grew_too_large_is_cut_again(big: World) -> None:
    big.api.limit = 4
    requests = big.requests(BIG, 2)
    big.ledger.request(requests)

    def late() -> Iterator[Any]:
        for n in range(4):
            yield big.api.add("big", day(2, 22).replace(minute=n), 40 + n)

    count = big.api.count
    asked: list[int] = []

    def counted(*arguments: Any) -> int:
        found = count(*arguments)
        asked.append(found)
        if len(asked) == 2:  # planned; now events come late
            list(late())
        return found

    big.api.count = counted  # type: ignore[method-assign]
    big.ticks()
    assert big.is_right(requests[0])
    entry = big.entry(requests[0])
    assert (entry.slices, entry.depth, entry.attempt) == (4, 3, 1)
    assert big.ledger.open_entries() == []


def test_a_list_of_many_days_is_planned_by_few_counts(world: World) -> None:
    world.with_limits(max_events=100)
    requests = world.requests(Collection("well", "2026-01-01"), 1, 9)
    submit(world.pipeline, requests)
    with world.pipeline.working("a test") as worker:
        post_due(world.pipeline, world.ledger.open_entries(), worker.id)
    assert world.api.count_of("count", "well") == 1
    assert {e.expected for e in world.ledger.open_entries()} == {None}
    with world.pipeline.working("a test") as worker:
        assert len(poll(world.pipeline, world.ledger.open_entries(), worker=worker.id).completed) == 0


def test_days_that_hold_exactly_the_limit_together_are_counted_once(big: World) -> None:
    big.with_limits(max_events=9)
    assert [e.status for e in posted(big, last=2)] == [Status.SUBMITTED] * 2
    assert big.api.count_of("count", "big") == 1


def test_slices_of_a_masked_day_are_hashed_once(big: World) -> None:
    """A hash of a hash would join with nothing."""
    masked = replace(BIG, mask={"n": MaskMethod.HASH, "body:none": MaskMethod.DROP})
    requests = big.requests(masked, 1, 2)
    big.extract(requests)
    values = [{line.split(b",")[1] for line in (big.file(request) or b"").split(b"\r\n")[1:] if line} for request in requests]
    assert big.entry(requests[1]).slices == 2
    assert (len(values[0]), len(values[1])) == (4, 5)
    assert values[0] < values[1]
    landing = big.entry(requests[1]).landing
    assert landing is not None
    assert landing.masked == {"body:n": "hash", "body:none": "absent"}
    slice_without = replace(landing, masked={"body:user": "absent", "body:none": "absent"})
    slice_with = replace(landing, masked={"body:user:id": "drop"})
    assert slices.masked_in_slices([slice_without, slice_with]) == {"body:user:id": "drop", "body:none": "absent"}


def test_a_half_of_exactly_the_limit_is_not_cut_again(world: World) -> None:
    for n in range(4):
        world.api.add("big", day(1, 2 * n), n)
    world.api.add("big", day(1, 20), 9)
    world.with_limits(max_events=4)
    parts = [e for e in posted(world, last=1) if e.request.kind is Kind.SLICE]
    assert [(p.expected, p.depth) for p in parts] == [(4, 1), (1, 1)]
