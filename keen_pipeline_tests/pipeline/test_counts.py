"""Files held against the service's counts: what is whole, what is tried again, what is kept aside."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest

from keen_pipeline.collection import Collection, CountPolicy
from keen_pipeline.errors import AuthenticationError, ExtractionTooLargeError, RateLimitedError, ServiceUnavailableError
from keen_pipeline.extraction import ExtractionRequest, Status
from keen_pipeline.pipeline import Counted, ad_hoc_request, submit
from keen_pipeline.pipeline.counts import MOST_COUNTED_TOGETHER, Patience, count_together, verdict
from keen_pipeline.timeframe import Timeframe
from keen_pipeline_tests.pipeline.scripted import Made
from keen_pipeline_tests.pipeline.world import World, day

WELL = Collection("well", "2026-01-01")


def test_a_gateways_time_limit_of_a_single_event_is_one_failed_attempt(world: World) -> None:
    """As of API v3.0, whose 504 says that a query takes too long; one event can't be what takes it."""
    world.api.fault = lambda call, _, number: ExtractionTooLargeError("HTTP 504") if (call, number) == ("open", 1) else None
    [request] = world.requests(WELL, 9)
    world.ledger.request([request])
    world.ticks()
    assert world.is_right(request)
    assert (world.entry(request).slices, world.entry(request).attempt) == (0, 2)


def fewer(made: Made, right: bytes) -> bytes:
    """Without the last event."""
    return right[: right.rstrip().rindex(b"\r\n") + 2]


def more(made: Made, right: bytes) -> bytes:
    """With an event that nobody counted."""
    return right + b"2026-01-02T00:00:00.000Z,9\r\n"


def counted(events: list[Any]) -> list[Counted]:
    return [event for event in events if isinstance(event, Counted)]


@pytest.mark.parametrize("wrong", [fewer, more])
def test_a_file_that_the_count_contradicts_is_extracted_again(world: World, wrong: Any) -> None:
    """MORE events than the service counts are as wrong as fewer."""
    world.api.body = lambda made, right: wrong(made, right) if made.number == 1 else right
    [request] = world.requests(WELL, 2)
    first, second = counted(world.extract([request]))
    assert (first.entry.is_whole, first.is_final_failure, second.entry.is_whole) == (False, False, True)
    assert first.follower is not None
    assert first.follower.attempt == 2
    assert "a cut result; attempt 2 follows" in verdict(first)
    assert world.is_right(request)
    assert world.api.posts[request.place] == 2


@pytest.mark.parametrize("wrong", [fewer, more])
@pytest.mark.parametrize("caller", ["sensor", "backfill"])
def test_one_that_stays_wrong_ends_as_a_failure_that_keeps_the_file(world: World, wrong: Any, caller: str) -> None:
    world.api.body = wrong
    [request] = world.requests(WELL, 2)
    if caller == "backfill":
        counts = counted(world.extract([request]))
    else:
        world.ledger.request([request])
        world.ticks(60)
        counts = world.counts
    assert [c.is_final_failure for c in counts] == [False, False, True]
    assert [c.follower is not None for c in counts] == [True, True, False]
    assert world.api.posts[request.place] == 3
    assert world.ledger.open_entries() == []
    assert world.file(request) == wrong(None, world.api.csv(request))
    assert "the file is kept" in verdict(counts[-1])


@pytest.mark.parametrize("policy", [CountPolicy.WARN, CountPolicy.OFF])
def test_other_policies_extract_once(world: World, policy: CountPolicy) -> None:
    world.api.body = fewer
    requests = world.requests(replace(WELL, count_check=policy), 2)
    counts = counted(world.extract(requests))
    assert [c.is_final_failure for c in counts] == ([False] if policy is CountPolicy.WARN else [])
    assert world.api.count_of("count", "well") == (2 if policy is CountPolicy.WARN else 0)
    assert world.api.posts[requests[0].place] == 1


def test_events_between_the_two_counts_do_not_make_a_file_partial(world: World) -> None:
    [request] = world.requests(WELL, 2)
    wanted = world.api.csv(request)
    late: list[bool] = []

    def then_late(made: Made, right: bytes) -> bytes:
        if not late:
            late.append(True)
            world.api.add("well", day(2, 22), 5)
        return right

    world.api.body = then_late
    [count] = counted(world.extract([request]))
    assert (count.entry.expected, count.entry.counted, count.entry.is_whole) == (3, 4, True)
    assert world.file(request) == wanted
    assert "the others came later" in verdict(count)
    # The next look takes them up.
    world.extract([request])
    assert world.is_right(request)


@pytest.mark.parametrize("missing", [1, 2])
def test_bounds_are_the_counts_before_and_after(world: World, missing: int) -> None:
    """Three events before, four after: three is whole, two is not."""
    [request] = world.requests(WELL, 2)
    world.api.body = lambda made, right: fewer(made, right if missing == 1 else fewer(made, right))
    submit = world.api.submit

    def later(asked: ExtractionRequest) -> Any:
        if len(world.api.made) == 0:
            world.api.add("well", day(2, 22), 5)
        return submit(asked)

    world.api.submit = later  # type: ignore[method-assign]
    first = counted(world.extract([request]))[0]
    assert (first.entry.expected, first.entry.counted) == (3, 4)
    assert first.entry.is_whole is (missing == 1)


def test_a_count_that_can_t_be_had_is_made_up_for_once_it_can(world: World) -> None:
    failing = True
    world.api.fault = lambda call, collection, number: (
        ServiceUnavailableError("HTTP 503") if call == "count" and failing and number > 1 else None
    )
    [request] = world.requests(WELL, 2)
    world.ledger.request([request])
    world.ticks()
    assert world.counts[-1].problem is not None
    assert "can't be held against the service's count now: HTTP 503" in verdict(world.counts[-1])
    assert [e.request for e in world.ledger.uncounted()] == [request]
    failing = False
    world.tick()
    assert (world.counts[-1].problem, world.counts[-1].entry.is_whole) == (None, True)
    assert world.ledger.uncounted() == []
    assert world.told == ["well[2026-01-02]"]


def test_a_cut_file_among_neighbours_that_have_more_is_found(world: World) -> None:
    """One lacks an event of its count: the sum of all is more than landed."""
    cut = ("2026-01-02", 1)
    world.api.body = lambda made, right: fewer(made, right) if (made.request.partition_key, made.number) == cut else right
    requests = world.requests(WELL, 1, 5)
    counts = counted(world.extract(requests))
    assert [c.entry.request.partition_key for c in counts if c.entry.is_whole is False] == ["2026-01-02"]
    world.api.body = more
    again = counted(world.extract(requests[:1], keep=lambda _: False))
    assert [c.entry.is_whole for c in again] == [False] * 3
    assert all(world.is_right(request) for request in requests[1:])


def test_a_landed_file_with_more_events_than_are_counted_now_is_asked_for_anew(world: World) -> None:
    """Events were deleted at the service: the file holds what nobody should have any more."""
    requests = world.requests(WELL, 1, 3)
    world.extract(requests)
    world.api.events["well"] = [row for row in world.api.events["well"] if row != (day(2, 11), 1)]
    world.extract(requests)
    assert all(world.is_right(request) for request in requests)
    assert [world.api.posts[request.place] for request in requests] == [1, 2, 1]


def ad_hoc(world: World) -> ExtractionRequest:
    return ad_hoc_request("well", Timeframe(day(1, 0), day(4, 0)), now=world.clock.now())


def test_an_ad_hoc_file_is_tried_again_and_lands(world: World) -> None:
    world.api.body = lambda made, right: fewer(made, right) if made.number < 3 else right
    request = ad_hoc(world)
    events = world.extract([request], resumable=True)
    assert [c.entry.is_whole for c in counted(events)] == [False, False, True]
    assert [type(e).__name__ for e in events if not isinstance(e, Counted)] == ["Landed"] * 3
    assert world.is_right(request)
    assert (world.entry(request).status, world.aside()) == (Status.LANDED, [])


def test_an_ad_hoc_intent_that_the_service_refuses_is_not_left_to_nobody(world: World) -> None:
    """No sensor looks at its destination: it stayed open, and `status` of every other one named it for ever."""
    world.api.fault = lambda call, _, number: AuthenticationError("HTTP 401") if call == "submit" else None
    request, [partition] = ad_hoc(world), world.requests(WELL, 1)
    assert [type(e).__name__ for e in world.extract([request])] == ["Stopped"]
    assert world.ledger.open_entries() == []
    assert [type(e).__name__ for e in world.extract([partition])] == ["Stopped"]
    assert [e.request for e in world.ledger.open_entries()] == [partition]


@pytest.mark.parametrize("wrong", [fewer, more])
def test_an_ad_hoc_file_that_stays_wrong_is_kept_aside(world: World, wrong: Any) -> None:
    world.api.body = wrong
    request = ad_hoc(world)
    events = world.extract([request], resumable=True)
    last = events[-1]
    assert type(last).__name__ == "Ended"
    assert last.entry.status is Status.ABANDONED
    assert world.file(request) is None
    assert world.files() == []
    assert len(world.aside()) == 1
    assert "after 3 attempts" in (last.entry.error or "")
    assert "_quarantine/" in (last.entry.error or "")
    [reason] = (world.root / "_quarantine").rglob("*.reason.txt")
    assert "the service counts 6" in reason.read_text()
    # The ledger knows no file of it any more; the next time it is asked for anew.
    assert world.ledger.landed_entries("well") == []
    world.api.body = lambda made, right: right
    world.extract([request])
    assert world.is_right(request)


def test_an_ad_hoc_file_with_late_events_is_whole(world: World) -> None:
    request = ad_hoc(world)

    def then_late(made: Made, right: bytes) -> bytes:
        world.api.add("well", day(2, 22), 5)
        return right

    world.api.body = then_late
    events = world.extract([request])
    assert [c.entry.is_whole for c in counted(events)] == [True]
    assert world.entry(request).status is Status.LANDED


# -- many together --------------------------------------------------------------------------------------------------------


def together(world: World, requests: list[ExtractionRequest], settled: Any) -> dict[tuple[int, ...], int]:
    return {tuple(positions): total for positions, total in count_together(world.pipeline, requests, settled, Patience())}


def test_neighbours_are_one_count_if_all_is_as_expected(world: World) -> None:
    requests = world.requests(WELL, 1, 9)
    assert together(world, requests, lambda positions, total: True) == {tuple(range(9)): 18}
    assert world.api.count_of("count", "well") == 1


def test_an_event_that_is_gone_beside_one_that_came_late_is_found_before_the_day_leaves_the_lookback(world: World) -> None:
    world.api.add("well", day(2, 9))
    world.night(WELL)
    world.ticks()
    [gone, grown] = world.requests(WELL, 2, 3)
    world.api.events["well"] = [(moment, n) for moment, n in world.api.events["well"] if moment != day(2, 9)]
    world.api.add("well", day(3, 9))
    assert [world.is_right(request) for request in (gone, grown)] == [False, False]
    for _ in range(2):  # after the second night neither is looked at any more
        world.clock.advance(86_400)
        world.night(WELL)
        world.ticks()
    assert [world.is_right(request) for request in (gone, grown)] == [True, True]


def test_the_oldest_day_is_counted_by_itself_in_whatever_order_days_are_asked_for(world: World) -> None:
    world.api.add("well", day(1, 9))
    requests = world.requests(WELL, 1, 3)
    world.extract(requests)
    world.api.events["well"].remove((day(1, 9), 1))
    world.api.add("well", day(2, 9))  # in a sum with the day before it nothing has changed
    again = submit(world.pipeline, requests[::-1]).created
    assert sorted(entry.request.partition_key for entry in again) == ["2026-01-01", "2026-01-02"]


def test_the_one_that_differs_is_found_by_halving(world: World) -> None:
    requests = world.requests(WELL, 1, 8)
    before = {r.partition_key: len(world.api.rows("well", r.timeframe, ())) for r in requests}
    world.api.add("well", day(6, 23), 1)
    found = together(world, requests, lambda ps, total: total == sum(before[requests[p].partition_key] for p in ps))
    assert sorted(p for positions in found for p in positions) == list(range(8))
    assert found[(5,)] == before["2026-01-06"] + 1
    assert world.api.count_of("count", "well") == 4  # the other halves are what is left


def test_days_that_don_t_touch_are_counted_apart_and_in_any_order(world: World) -> None:
    requests = [world.requests(WELL, n)[0] for n in (5, 2, 1)]
    assert together(world, requests, lambda positions, total: True) == {(2, 1): 5, (0,): 3}


def test_years_are_counted_in_pieces(world: World) -> None:
    requests = world.requests(replace(WELL, start_date="2024-01-01"), 1, 9)
    many = [
        replace(requests[0], timeframe=Timeframe(day(1) + timedelta(days=n), day(1) + timedelta(days=n + 1))) for n in range(500)
    ]
    assert [len(positions) for positions in together(world, many, lambda positions, total: True)] == [MOST_COUNTED_TOGETHER, 100]


def test_a_range_that_takes_the_service_too_long_is_halved(world: World) -> None:
    requests = world.requests(WELL, 1, 4)

    count = world.api.count

    def slow(collection: str, timeframe: Any, filters: Any = ()) -> int:
        if timeframe.duration > timedelta(days=1):
            raise ServiceUnavailableError("HTTP 504")
        return count(collection, timeframe, filters)

    world.api.count = slow  # type: ignore[method-assign]
    assert together(world, requests, lambda positions, total: True) == {(0,): 2, (1,): 3, (2,): 1, (3,): 2}


def test_a_patient_count_waits_for_the_budget_and_another_doesn_t(world: World) -> None:
    requests = world.requests(WELL, 1)
    world.api.fault = lambda call, collection, number: RateLimitedError("HTTP 429", retry_after=7.0) if number < 3 else None
    begun = world.clock.now()
    assert together(world, requests, lambda positions, total: True) == {(0,): 2}
    assert (world.clock.now() - begun).total_seconds() == 14
    world.api.fault = lambda call, collection, number: RateLimitedError("HTTP 429", retry_after=7.0)
    begun = world.clock.now()
    with pytest.raises(RateLimitedError):
        list(count_together(world.pipeline, requests, lambda positions, total: True))
    assert world.clock.now() == begun


def test_a_patient_count_asks_again_after_a_minute_however_much_longer_the_service_asks_for(world: World) -> None:
    world.api.fault = lambda call, collection, number: RateLimitedError("HTTP 429", retry_after=900.0) if number == 1 else None
    begun = world.clock.now()
    assert together(world, world.requests(WELL, 1), lambda positions, total: True) == {(0,): 2}
    assert (world.clock.now() - begun).total_seconds() == 60
