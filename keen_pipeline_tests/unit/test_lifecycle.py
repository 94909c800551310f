"""The state machine, decided without a clock or a database."""

from __future__ import annotations

from dataclasses import replace
from datetime import datetime, timedelta, timezone

from hypothesis import given
from hypothesis import strategies as st

from keen_pipeline.extraction import ExtractionRequest, RemoteExtraction, RemoteStatus, Status
from keen_pipeline.lifecycle import (
    TRANSITIONS,
    Complete,
    Entry,
    Fail,
    Limits,
    Wait,
    after_poll,
    backoff_seconds,
    next_attempt_at,
    story,
)
from keen_pipeline.timeframe import Timeframe

T0 = datetime(2026, 1, 2, tzinfo=timezone.utc)
REQUEST = ExtractionRequest("purchases", Timeframe(T0 - timedelta(days=1), T0), "2026-01-01", "/x/2026-01-01.csv")
ENTRY = Entry(7, REQUEST, attempt=1, status=Status.SUBMITTED, requested_at=T0, due_at=T0, submitted_at=T0, extraction_id="e7")
LIMITS = Limits()


def remote(word: str, message: str | None = None) -> RemoteExtraction:
    return RemoteExtraction("e7", RemoteStatus.from_wire(word), message=message)


def test_what_a_poll_says_decides() -> None:
    soon = T0 + timedelta(minutes=1)
    assert after_poll(ENTRY, remote("not started"), soon, LIMITS) == Wait()
    assert after_poll(ENTRY, remote("brewing"), soon, LIMITS) == Wait()
    assert after_poll(ENTRY, remote("Complete"), soon, LIMITS) == Complete()
    assert after_poll(ENTRY, remote("failed", "disk full"), soon, LIMITS) == Fail(
        "the service reports extraction e7 as failed: disk full"
    )
    for word in ("error", "cancelled", "expired"):
        assert isinstance(after_poll(ENTRY, remote(word), soon, LIMITS), Fail)


def test_a_stuck_or_vanished_extraction_fails_after_its_time() -> None:
    assert after_poll(ENTRY, remote("not started"), T0 + timedelta(minutes=59), LIMITS) == Wait()
    assert after_poll(ENTRY, remote("not started"), T0 + timedelta(minutes=60), LIMITS) == Fail(
        "extraction e7 has not finished in 60 minutes"
    )
    assert after_poll(ENTRY, remote("complete"), T0 + timedelta(hours=9), LIMITS) == Complete()  # late is not lost
    assert after_poll(ENTRY, None, T0 + timedelta(seconds=90), LIMITS) == Wait()
    assert after_poll(ENTRY, None, T0 + timedelta(minutes=3), LIMITS) == Fail("the service no longer knows extraction e7")


@given(st.integers(1, 60), st.floats(0, 600), st.floats(0, 1))
def test_the_back_off_is_bounded_and_grows(attempt: int, first: float, jitter: float) -> None:
    limits = Limits(retry_seconds=first)
    assert 0 <= backoff_seconds(attempt, limits, jitter) <= 600
    assert backoff_seconds(attempt, limits) <= backoff_seconds(attempt + 1, limits)
    assert backoff_seconds(attempt, limits, jitter) >= backoff_seconds(attempt, limits) / 2


@given(st.integers(1, 100), st.integers(1, 100))
def test_attempts_end(attempt: int, most: int) -> None:
    follows = next_attempt_at(replace(ENTRY, attempt=attempt), T0, Limits(max_attempts=most))
    assert (follows is None) == (attempt >= most)


def test_terminal_states_have_no_way_out_but_a_landing_that_is_replaced() -> None:
    for status, ways in TRANSITIONS.items():
        assert status.is_terminal == (not ways or ways == {Status.SUPERSEDED})


def test_the_story_names_every_attempt() -> None:
    attempts = [replace(ENTRY, error="disk full", status=Status.FAILED), replace(ENTRY, entry_id=8, attempt=2, extraction_id="e8")]
    text = story(attempts, "disk full again")
    assert text.startswith(
        "purchases[2026-01-01] abandoned after 2 attempts: attempt 1 of 2026-01-02T00:00:00Z as extraction e7: disk full; "
    )
    assert "extraction e8: disk full again." in text
