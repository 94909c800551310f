"""Counts before and after, and what follows from them: scripted faults, a real ledger, a real folder."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta

import pytest

from keen_pipeline.collection import CountPolicy
from keen_pipeline.errors import NotFoundError, ServiceUnavailableError
from keen_pipeline.extraction import Status
from keen_pipeline.pipeline import Counted, Landed, extract, land, poll, post_due, submit
from keen_pipeline.pipeline.counts import count_together
from keen_pipeline_tests.unit.test_pipeline import World, world

__all__ = ["world"]  # the fixture


def test_a_cut_result_is_extracted_again_until_the_count_agrees(world: World) -> None:
    cut = iter([b"body:day\r\n"])
    whole = world.api.body
    world.api.body = lambda request: next(cut, None) or whole(request)
    events = list(extract(world.pipeline, world.requests("2026-01-02", "2026-01-02")))
    first, second = [e for e in events if isinstance(e, Counted)]
    assert (first.entry.is_whole, first.is_final_failure, second.entry.is_whole) == (False, False, True)
    assert first.follower is not None
    assert (first.follower.attempt, second.entry.attempt) == (2, 2)
    assert world.file("2026-01-02") == b"body:day\r\n2026-01-02\r\n"
    assert world.statuses() == {Status.SUPERSEDED: 1, Status.LANDED: 1}


def test_a_result_that_stays_short_ends_as_a_failure_that_keeps_the_file(world: World) -> None:
    world.api.body = lambda request: b"body:day\r\n"
    events = list(extract(world.pipeline, world.requests("2026-01-02", "2026-01-02")))
    counted = [e for e in events if isinstance(e, Counted)]
    assert [c.is_final_failure for c in counted] == [False, False, True]
    assert world.file("2026-01-02") == b"body:day\r\n"
    assert world.ledger.open_entries() == []


@pytest.mark.parametrize(("policy", "extractions"), [(CountPolicy.WARN, 1), (CountPolicy.OFF, 1)])
def test_warn_and_off_extract_once(world: World, policy: CountPolicy, extractions: int) -> None:
    world.api.body = lambda request: b"body:day\r\n"
    [request] = world.requests("2026-01-02", "2026-01-02")
    events = list(extract(world.pipeline, [replace(request, count_check=policy)]))
    assert world.api.calls["submit"] == extractions
    assert [e.is_final_failure for e in events if isinstance(e, Counted)] == ([] if policy is CountPolicy.OFF else [False])
    assert world.api.calls["count"] == (0 if policy is CountPolicy.OFF else 2)


def test_events_that_came_since_the_request_do_not_make_a_file_partial(world: World) -> None:
    [request] = world.requests("2026-01-02", "2026-01-02")
    events = []
    for event in extract(world.pipeline, [request]):
        events.append(event)
        if isinstance(event, Landed):
            world.api.counts = 5
    [counted] = [e for e in events if isinstance(e, Counted)]
    assert (counted.entry.expected, counted.entry.counted, counted.entry.is_whole) == (1, 5, True)
    # The next look takes them up.
    world.api.body = lambda request: b"body:day\r\n" + b"1\r\n" * 5
    assert [e.adopted for e in extract(world.pipeline, [request]) if isinstance(e, Landed)] == [False]


def test_a_count_that_can_not_be_had_leaves_the_landing_and_is_tried_by_a_later_run(world: World) -> None:
    submit(world.pipeline, world.requests())
    post_due(world.pipeline)
    poll(world.pipeline, world.ledger.open_entries())
    completed = poll(world.pipeline, world.ledger.open_entries()).completed
    count = world.api.count
    world.api.count = lambda *_: (_ for _ in ()).throw(ServiceUnavailableError("503"))  # type: ignore[method-assign]
    outcomes = []
    for outcome in land(world.pipeline, completed, "run-1"):
        outcomes.append(outcome)
        if isinstance(outcome, Landed):
            world.ledger.reported([outcome.entry.entry_id])
    assert [type(o) for o in outcomes] == [Landed] * 3
    assert world.ledger.uncounted() == []  # claimed for a while, so that not every tick tries
    world.clock.advance(301)
    world.api.count = count  # type: ignore[method-assign]
    outcomes = list(land(world.pipeline, world.ledger.uncounted(), "run-2"))
    assert [o.entry.is_whole for o in outcomes if isinstance(o, Counted)] == [True] * 3
    assert world.ledger.uncounted() == []


def test_a_count_that_is_refused_for_good_is_said_once(world: World) -> None:
    world.api.count = lambda *_: (_ for _ in ()).throw(NotFoundError("no such resource"))  # type: ignore[method-assign]
    events = list(extract(world.pipeline, world.requests("2026-01-01", "2026-01-01")))
    assert [e.problem for e in events if isinstance(e, Counted)] == ["no such resource"]
    assert world.ledger.uncounted() == []


def test_a_year_is_counted_with_one_request_where_all_is_as_expected(world: World) -> None:
    requests = world.requests("2026-01-01", "2026-01-09")
    found = list(count_together(world.pipeline, requests, lambda positions, total: total == len(positions), patient=True))
    assert (found, world.api.calls["count"]) == ([(list(range(9)), 9)], 1)


def test_the_one_that_differs_is_found_by_halving(world: World) -> None:
    requests = world.requests("2026-01-01", "2026-01-08")
    odd = requests[5].timeframe
    world.api.count = lambda collection, timeframe, filters=(): (  # type: ignore[method-assign]
        round(timeframe.duration / timedelta(days=1)) + (7 if timeframe.start <= odd.start and odd.end <= timeframe.end else 0)
    )
    found = {
        position: total if len(positions) == 1 else 1
        for positions, total in count_together(world.pipeline, requests, lambda p, total: total == len(p), patient=True)
        for position in positions
    }
    assert found == {position: 8 if position == 5 else 1 for position in range(8)}


def test_a_submission_whose_counts_can_t_be_had_leaves_no_intent(world: World) -> None:
    list(extract(world.pipeline, world.requests("2026-01-02", "2026-01-02")))
    world.api.count = lambda *_: (_ for _ in ()).throw(ServiceUnavailableError("503"))  # type: ignore[method-assign]
    with pytest.raises(ServiceUnavailableError):
        submit(world.pipeline, world.requests("2026-01-02", "2026-01-04"), recount=True)
    assert world.statuses() == {Status.LANDED: 1, Status.CANCELLED: 2}


def test_a_resumable_wait_that_is_closed_leaves_open_what_it_asked_for(world: World) -> None:
    events = extract(world.pipeline, world.requests("2026-01-02", "2026-01-04"), resumable=True)
    next(events)
    events.close()
    assert world.ledger.summary().counts.get(Status.CANCELLED) is None
    left = world.ledger.open_entries()
    assert [(e.lease_owner, e.request.partition_key) for e in left] == [(None, f"2026-01-0{day}") for day in (2, 3, 4)]
    list(extract(world.pipeline, world.requests("2026-01-02", "2026-01-04")))
    assert world.statuses() == {Status.LANDED: 3}
