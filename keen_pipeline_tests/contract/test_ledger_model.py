"""The ledger against a model: whatever two owners do in whatever order, one of them at most holds an entry."""

from __future__ import annotations

from datetime import datetime, timedelta, timezone

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from keen_pipeline.errors import LeaseLostError
from keen_pipeline.extraction import ExtractionRequest, Landing, Status
from keen_pipeline.lifecycle import Limits
from keen_pipeline.testing import FakeClock, memory_ledger
from keen_pipeline.timeframe import Timeframe

OWNERS = st.sampled_from(["a", "b"])
LIMITS = Limits(max_attempts=3, retry_seconds=1)
LEASE = 60.0
START = datetime(2026, 1, 1, tzinfo=timezone.utc)
REQUEST = ExtractionRequest("purchases", Timeframe(START, START + timedelta(days=1)), "2026-01-01", "/x/2026-01-01.csv")
LANDING = Landing("/x", 1, 1, "aa", ("a",), 1, 0.1)


class LedgerMachine(RuleBasedStateMachine):
    """One request, two owners, a clock; the model is the current attempt's status, its holder and its lease's end."""

    @initialize()
    def begin(self) -> None:
        self.clock = FakeClock(START)
        self.ledger = memory_ledger(clock=self.clock)
        self.current: int | None = None
        self.status: Status | None = None
        self.attempt = 0
        self.holder: str | None = None
        self.until = START
        self.valid: set[int] = set()

    def holds(self, owner: str) -> bool:
        return self.holder == owner

    def free_for(self, owner: str) -> bool:
        return self.holder in (None, owner) or self.until <= self.clock.now()

    @rule(force=st.booleans())
    def ask(self, force: bool) -> None:
        [answer] = self.ledger.request([REQUEST], force=force)
        is_open = self.status is not None and not self.status.is_terminal
        expected = not is_open and (force or not self.valid)
        assert answer.created == expected
        if answer.created:
            self.current, self.status, self.attempt, self.holder = answer.entry.entry_id, Status.REQUESTED, 1, None

    @rule(owner=OWNERS)
    def claim(self, owner: str) -> None:
        if self.current is None or self.status is None or self.status.is_terminal:
            return
        got = self.ledger.claim([self.current], self.status, owner, LEASE)
        assert bool(got) == self.free_for(owner)
        if got:
            self.holder, self.until = owner, self.clock.now() + timedelta(seconds=LEASE)

    @rule(owner=OWNERS)
    def submit(self, owner: str) -> None:
        if self.current is None:
            return
        try:
            self.ledger.posting(self.current, owner)
            self.ledger.submitted(self.current, owner, f"x{self.current}")
        except LeaseLostError:
            assert not (self.status is Status.REQUESTED and self.holds(owner))
        else:
            assert self.status is Status.REQUESTED
            assert self.holds(owner)
            self.status = Status.SUBMITTED

    @rule()
    def complete(self) -> None:
        if self.current is None:
            return
        moved = self.ledger.complete([self.current])
        assert bool(moved) == (self.status is Status.SUBMITTED)
        if moved:
            self.status = Status.COMPLETE

    @rule(owner=OWNERS)
    def land(self, owner: str) -> None:
        if self.current is None:
            return
        try:
            self.ledger.landed(self.current, owner, LANDING)
        except LeaseLostError:
            assert not (self.status is Status.COMPLETE and self.holds(owner))
        else:
            assert self.status is Status.COMPLETE
            assert self.holds(owner)
            self.status, self.valid = Status.LANDED, {self.current}

    @rule(owner=st.one_of(st.none(), OWNERS))
    def fail(self, owner: str | None) -> None:
        if self.current is None:
            return
        follower = self.ledger.fail(self.current, "broke", owner=owner, limits=LIMITS)
        may = self.status is not None and not self.status.is_terminal and (owner is None or self.holds(owner))
        assert (follower is not None) == may
        if follower is None:
            return
        if self.attempt < LIMITS.max_attempts:
            assert (follower.attempt, follower.status) == (self.attempt + 1, Status.REQUESTED)
            self.current, self.status, self.attempt = follower.entry_id, Status.REQUESTED, follower.attempt
            if owner is None:
                self.holder = None
        else:
            assert follower.status is Status.ABANDONED
            self.status = Status.ABANDONED

    @rule()
    def cancel(self) -> None:
        if self.current is None:
            return
        moved = self.ledger.cancel([self.current], "stopped")
        assert bool(moved) == (self.status is not None and not self.status.is_terminal)
        if moved:
            self.status, self.holder = Status.CANCELLED, None

    @rule(owner=OWNERS)
    def release(self, owner: str) -> None:
        if self.current is None:
            return
        self.ledger.release([self.current], owner)
        if self.holds(owner) and not (self.status or Status.FAILED).is_terminal:
            self.holder = None

    @rule(seconds=st.sampled_from([1.0, 59.0, 61.0]))
    def wait(self, seconds: float) -> None:
        self.clock.advance(seconds)

    @invariant()
    def at_most_one_is_open_and_at_most_one_is_valid(self) -> None:
        if not hasattr(self, "ledger"):
            return
        found = self.ledger.entries(list(range(1, 500)))
        assert sum(not e.status.is_terminal for e in found) <= 1
        assert {e.entry_id for e in found if e.status is Status.LANDED} == self.valid
        if self.current is not None:
            assert self.ledger.entries([self.current])[0].status is self.status


LedgerMachine.TestCase.settings = settings(max_examples=60, stateful_step_count=30, deadline=None)
TestLedgerModel = LedgerMachine.TestCase
