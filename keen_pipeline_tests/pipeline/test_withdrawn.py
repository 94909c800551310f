"""What one wait asked for and has withdrawn, and another one still waits for."""

from __future__ import annotations

from dataclasses import replace

from keen_pipeline.collection import Collection
from keen_pipeline.errors import UnreachableError
from keen_pipeline.pipeline import Landed, extract
from keen_pipeline_tests.pipeline.world import World

WELL = Collection("well", "2026-01-01")


def test_what_somebody_else_asked_for_first_and_withdrew_is_asked_for_again_by_who_still_waits(world: World) -> None:
    requests = world.requests(WELL, 1, 3)
    stopped = extract(world.pipeline, requests, doing="stopped before it posted")
    next(stopped)
    goes_on = extract(world.pipeline, requests, doing="goes on")
    next(goes_on)
    stopped.close()
    assert world.ledger.open_entries() == []
    events = [event for event in goes_on if type(event).__name__ not in ("Progress", "Counted")]
    assert [type(event).__name__ for event in events] == ["Landed"] * 3
    assert [world.api.posts[request.place] for request in requests] == [1, 1, 1]
    assert all(world.is_right(request) for request in requests)
    # Also where an older file lies that is not to be kept.
    waits = [extract(world.pipeline, requests, doing=doing, keep=lambda _: False) for doing in ("stopped", "goes on")]
    for wait in waits:
        next(wait)
    waits[0].close()
    assert not any(event.adopted for event in waits[1] if isinstance(event, Landed))
    assert [world.api.posts[request.place] for request in requests] == [2, 2, 2]
    # What it asked for is withdrawn with it, too.
    third = extract(world.pipeline, world.requests(WELL, 4), doing="asks first")
    next(third)
    fourth = extract(world.pipeline, world.requests(WELL, 4), doing="goes on, and is stopped before it posts")
    next(fourth)
    third.close()
    world.api.fault = lambda call, collection, number: UnreachableError("no connection") if call == "submit" else None
    next(fourth)
    fourth.close()
    assert world.ledger.open_entries() == []


def test_a_wait_asks_anew_for_what_another_one_has_withdrawn_and_takes_no_other_day_for_its_own(world: World) -> None:
    requests, others = world.requests(WELL, 1, 2), world.requests(replace(WELL, name="sick"), 1, 2)
    stopped = extract(world.pipeline, requests, doing="stopped before it posted")
    next(stopped)
    goes_on = extract(world.pipeline, requests, doing="goes on")
    next(goes_on)
    numbers = [entry.entry_id for entry in world.ledger.open_entries()]
    stopped.close()
    assert min(r.entry.entry_id for r in world.ledger.request(others)) > max(numbers)
    landed = [event.entry.request for event in goes_on if isinstance(event, Landed)]
    assert sorted(landed, key=lambda request: request.place) == requests
    assert all(world.is_right(request) for request in requests)
    assert [e.request for e in world.ledger.open_entries()] == others
