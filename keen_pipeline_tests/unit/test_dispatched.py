"""A landing run that was asked for keeps nobody from landing who has the claim."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta
from types import SimpleNamespace
from typing import Any

import pytest

from keen_pipeline.defs.assets.run import _keep
from keen_pipeline.defs.sensors.status import DISPATCH_SECONDS, _Tick, turn_of
from keen_pipeline.ledger import SqlLedger
from keen_pipeline.lifecycle import Entry, Land, Limits, Seen, Wait, decide
from keen_pipeline.testing import FakeClock, memory_ledger
from keen_pipeline_tests.ledgers import day

LIMITS = Limits()


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock()


@pytest.fixture
def ledger(clock: FakeClock) -> SqlLedger:
    return memory_ledger(clock=clock)


def submitted(ledger: SqlLedger) -> Entry:
    """One that nobody has claimed."""
    [asked] = ledger.request([day(0)])
    with ledger.working("a test", LIMITS) as worker:
        ledger.claim([asked.entry.entry_id], worker.id)
        ledger.posting(asked.entry.entry_id, worker.id)
        return ledger.submitted(asked.entry.entry_id, worker.id, "e1")


def complete(ledger: SqlLedger) -> Entry:
    """One that nobody has claimed."""
    [entry] = ledger.complete([submitted(ledger).entry_id])
    return entry


@pytest.mark.parametrize(("dispatched", "action"), [(True, Wait), (False, Land)])
def test_what_a_run_is_to_land_is_left_to_it_when_it_is_finished_later(
    ledger: SqlLedger, clock: FakeClock, dispatched: bool, action: type
) -> None:
    entry = submitted(ledger)
    clock.advance(1)
    if dispatched:
        ledger.dispatch([entry.entry_id], clock.now() + timedelta(seconds=300))
    [finished] = ledger.complete([entry.entry_id])
    assert isinstance(decide(finished, Seen(), clock.now(), LIMITS), action)
    clock.advance(300)  # that run has died
    assert isinstance(decide(finished, Seen(), clock.now(), LIMITS), Land)


def test_a_run_that_takes_what_it_is_to_land_before_it_is_finished_lands_it_at_once(ledger: SqlLedger, clock: FakeClock) -> None:
    entry = submitted(ledger)
    clock.advance(1)
    ledger.dispatch([entry.entry_id], clock.now() + timedelta(seconds=300))
    with ledger.working("the run", LIMITS) as worker:
        ledger.claim([entry.entry_id], worker.id)
        [finished] = ledger.complete([entry.entry_id], worker.id)
        assert isinstance(decide(finished, Seen(), clock.now(), LIMITS), Land)


def test_what_a_run_was_asked_to_land_is_landed_at_once_by_whoever_claims_it(ledger: SqlLedger, clock: FakeClock) -> None:
    entry = complete(ledger)
    clock.advance(1)
    [dispatched] = ledger.dispatch([entry.entry_id], clock.now() + timedelta(seconds=300))
    assert isinstance(decide(dispatched, Seen(), clock.now(), LIMITS), Wait)  # nobody asks for another run
    with ledger.working("another run", LIMITS) as worker:
        [claimed] = ledger.claim([entry.entry_id], worker.id)
        assert isinstance(decide(claimed, Seen(), clock.now(), LIMITS), Land)


def test_a_landing_that_failed_is_not_due_before_its_time_whoever_claims_it(ledger: SqlLedger, clock: FakeClock) -> None:
    entry = complete(ledger)
    with ledger.working("a run", LIMITS) as worker:
        ledger.claim([entry.entry_id], worker.id)
        ledger.landing_failed(entry.entry_id, worker.id, "the disk is full", clock.now() + timedelta(seconds=60))
    with ledger.working("another run", LIMITS) as worker:
        [claimed] = ledger.claim([entry.entry_id], worker.id)
        assert isinstance(decide(claimed, Seen(), clock.now(), LIMITS), Wait)
        clock.advance(61)
        assert isinstance(decide(claimed, Seen(), clock.now(), LIMITS), Land)


def test_a_run_that_was_asked_for_after_a_failure_keeps_nobody_waiting_when_it_dies(ledger: SqlLedger, clock: FakeClock) -> None:
    entry = complete(ledger)
    with ledger.working("a run", LIMITS) as worker:
        ledger.claim([entry.entry_id], worker.id)
        ledger.landing_failed(entry.entry_id, worker.id, "the disk is full", clock.now() + timedelta(seconds=60))
    clock.advance(61)
    [dispatched] = ledger.dispatch([entry.entry_id], clock.now() + timedelta(seconds=300))
    waits = decide(dispatched, Seen(), clock.now(), LIMITS)
    assert isinstance(waits, Wait)
    assert waits.why == "its landing run has been asked for"
    with ledger.working("the run that was asked for", LIMITS) as worker:
        ledger.claim([entry.entry_id], worker.id)
    [left] = ledger.open_entries()
    assert isinstance(decide(left, Seen(), clock.now(), LIMITS), Land)


def test_a_landing_that_can_t_be_counted_is_given_to_ever_fewer_runs(ledger: SqlLedger, clock: FakeClock) -> None:
    """One whose collection is no more at the service would get a run every five minutes for ever."""
    entry = complete(ledger)
    told = replace(entry, landed_at=clock.now(), reported_at=clock.now())
    moments = [clock.now() + timedelta(seconds=15 * tick) for tick in range(4 * 60 * 24 * 2)]
    turns = [turn_of([told], moment) for moment in moments]
    assert turns == sorted(turns)
    # The first as soon as ever, ten in two days; set back, the clock asks for none again.
    assert [turns.count(turn) * 15 // 60 for turn in range(4)] == [5, 10, 20, 40]
    assert len(set(turns)) == 10
    assert turn_of([told], clock.now() - timedelta(days=1)) == 0
    # One that Dagster has not heard of is nobody's until it has.
    assert len({turn_of([told, replace(told, reported_at=None)], moment) for moment in moments}) == 2 * 288


@pytest.mark.parametrize(
    ("landed", "run_id", "kept"),
    [(5, "other", True), (-5, "other", False), (-5, "mine", True), (365 * 86400, "other", False), (None, "other", False)],
)
def test_a_run_keeps_what_landed_since_its_launch_and_not_what_a_clock_ahead_says_has(
    ledger: SqlLedger, clock: FakeClock, landed: int | None, run_id: str, kept: bool
) -> None:
    launched = clock.now()
    clock.advance(60)
    context: Any = SimpleNamespace(op_execution_context=SimpleNamespace(op_config={}))
    at = None if landed is None else launched + timedelta(seconds=landed)
    entry = replace(complete(ledger), run_id=run_id, landed_at=at)
    assert _keep(context, clock, launched, "mine")(entry) is kept


@pytest.mark.parametrize(("ago", "is_left"), [(0, True), (DISPATCH_SECONDS - 1, True), (DISPATCH_SECONDS, False), (-1, False)])
def test_what_is_not_ours_is_left_to_others_for_a_while_and_not_until_a_clock_that_was_ahead(
    ledger: SqlLedger, clock: FakeClock, ago: float, is_left: bool
) -> None:
    tick: Any = None
    assert _Tick._has_just_ended(tick, complete(ledger), clock.now() + timedelta(seconds=ago)) is is_left
