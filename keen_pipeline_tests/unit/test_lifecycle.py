"""The one decision, without a clock or a database: a table of every status and what is seen, and what must hold for all of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from datetime import datetime, timedelta, timezone

import pytest
from hypothesis import given
from hypothesis import strategies as st

from keen_pipeline.collection import CountPolicy
from keen_pipeline.extraction import OPEN_STATUSES, Kind, Landing, RemoteExtraction, RemoteStatus, Status
from keen_pipeline.lifecycle import (
    MAX_BACKOFF_SECONDS,
    TRANSITIONS,
    UNLISTED_GRACE_SECONDS,
    Action,
    Count,
    Done,
    Entry,
    GiveUp,
    Land,
    Limits,
    Poll,
    Post,
    Retry,
    Seen,
    Split,
    Wait,
    backoff_seconds,
    decide,
    history,
    sources_of,
)
from keen_pipeline_tests.ledgers import SCOPE, day, landing

NOW = datetime(2026, 1, 2, tzinfo=timezone.utc)
LIMITS = Limits(max_attempts=3, stuck_seconds=3600)
ENTRY = Entry(
    entry_id=7,
    token="t7",
    request=day(0),
    fingerprint=day(0).fingerprint(SCOPE),
    attempt=1,
    status=Status.SUBMITTED,
    requested_at=NOW - timedelta(minutes=5),
    due_at=NOW,
    submitted_at=NOW - timedelta(minutes=1),
    submitted_tick=100.0,
    extraction_id="e7",
)
LATER = NOW + timedelta(seconds=1)


def entry(status: Status, **more: object) -> Entry:
    return replace(ENTRY, status=status, **more)


def remote(word: str, message: str | None = None) -> RemoteExtraction:
    return RemoteExtraction("e7", RemoteStatus.from_wire(word), message=message)


def seen(word: str | None = None, message: str | None = None, tick: float = 100.0, slices: Sequence[Status] = ()) -> Seen:
    return Seen(listed=True, remote=remote(word, message) if word else None, tick=tick, slices=slices)


def landed(records: int, *, expected: int | None = None, counted: int | None = None, **more: object) -> Entry:
    at = None if counted is None else NOW
    return entry(Status.LANDED, landing=landing(records=records), expected=expected, counted=counted, counted_at=at, **more)


# Seconds for which list calls were answered since ENTRY was submitted, at its tick of 100.
AT_LAST, TOO_LATE = 100.0 + UNLISTED_GRACE_SECONDS, 100.1 + UNLISTED_GRACE_SECONDS
GONE = "the service no longer knows the extraction"
BROKEN = "the service reports the extraction as failed"
STUCK = "the service has not finished the extraction in 60 minutes"
L, R, A, C = Status.LANDED, Status.REQUESTED, Status.ABANDONED, Status.CANCELLED

TABLE = [
    # requested
    (entry(Status.REQUESTED), Seen(), Post()),
    (entry(Status.REQUESTED, due_at=NOW), seen("complete"), Post()),
    (entry(Status.REQUESTED, due_at=LATER, error="HTTP 503"), Seen(), Wait(LATER, "HTTP 503")),
    (entry(Status.REQUESTED, due_at=LATER), Seen(), Wait(LATER, "its next attempt is not due yet")),
    # submitted
    (ENTRY, Seen(), Poll()),
    (ENTRY, Seen(remote=remote("complete")), Poll()),
    (ENTRY, seen("not started"), Wait(None, "the service is working on it")),
    (ENTRY, seen("brewing"), Wait(None, "the service is working on it")),
    (ENTRY, seen("complete"), Land()),
    (ENTRY, seen("complete", tick=99_999.0), Land()),  # late is not lost
    (ENTRY, seen("failed"), Retry(BROKEN)),
    (ENTRY, seen("expired", "disk full"), Retry(f"{BROKEN}: disk full")),
    (replace(ENTRY, attempt=3), seen("failed", "disk full"), GiveUp(f"{BROKEN}: disk full")),
    (ENTRY, seen("failed", "too many events"), Split(f"{BROKEN}: too many events")),
    (replace(ENTRY, attempt=3), seen("failed", "exceeds 10 events"), Split(f"{BROKEN}: exceeds 10 events")),
    (ENTRY, seen(), Wait(None, "the service does not list it yet")),
    (ENTRY, seen(tick=AT_LAST), Wait(None, "the service does not list it yet")),
    (ENTRY, seen(tick=TOO_LATE), Retry(GONE)),
    (replace(ENTRY, attempt=3), seen(tick=TOO_LATE), GiveUp(GONE)),
    (ENTRY, Seen(tick=TOO_LATE), Poll()),  # nobody has asked
    # Submitted by a clock that was a year ahead, or behind: the service's answers count.
    (replace(ENTRY, submitted_at=NOW + timedelta(days=365)), seen(tick=TOO_LATE), Retry(GONE)),
    (replace(ENTRY, submitted_at=NOW - timedelta(days=365)), seen(), Wait(None, "the service does not list it yet")),
    (ENTRY, seen("not started", tick=3699.9), Wait(None, "the service is working on it")),
    (ENTRY, seen("not started", tick=3700.0), Retry(STUCK)),
    (replace(ENTRY, attempt=3), seen("not started", tick=3700.0), GiveUp(STUCK)),
    # A day of an outage, ours or the service's, or a clock that was set: no answered second, no stuck extraction.
    (replace(ENTRY, submitted_at=NOW - timedelta(days=1)), seen("not started"), Wait(None, "the service is working on it")),
    # split
    (entry(Status.SPLIT), Seen(), Wait(None, "0 of its 0 slices have landed")),
    (entry(Status.SPLIT), Seen(slices=(L, R)), Wait(None, "1 of its 2 slices have landed")),
    (entry(Status.SPLIT), Seen(slices=(L, L)), Land()),
    (entry(Status.SPLIT), Seen(slices=(L, A, R)), GiveUp("1 of its 3 slices ended without a file")),
    (entry(Status.SPLIT, attempt=1), Seen(slices=(C, A)), GiveUp("2 of its 2 slices ended without a file")),
    # complete
    (entry(Status.COMPLETE), Seen(), Land()),
    (entry(Status.COMPLETE, due_at=LATER), Seen(), Wait(LATER, "its landing run has been asked for")),
    (entry(Status.COMPLETE, due_at=LATER, error="no space"), Seen(), Wait(LATER, "no space")),
    # landed
    (landed(5), Seen(), Count()),
    (landed(5, counted=5), Seen(), Done()),
    (landed(4, counted=5), Seen(), Retry("4 events landed, the service counts 5")),
    (landed(6, counted=5), Seen(), Retry("6 events landed, the service counts 5")),
    (landed(4, counted=5, attempt=3), Seen(), GiveUp("4 events landed, the service counts 5")),
    (landed(5, expected=5, counted=9), Seen(), Done()),  # four came late
    (landed(7, expected=5, counted=9), Seen(), Done()),
    (landed(4, expected=5, counted=9), Seen(), Retry("4 events landed, the service counts 9")),
    (landed(8, expected=9, counted=7), Seen(), Done()),  # some were deleted
    (landed(10, expected=5, counted=9), Seen(), Retry("10 events landed, the service counts 9")),
    (landed(4, counted=5, request=day(0, count_check=CountPolicy.WARN)), Seen(), Done()),
    (landed(4, request=day(0, count_check=CountPolicy.WARN)), Seen(), Count()),
    (landed(4, request=day(0, count_check=CountPolicy.OFF)), Seen(), Done()),
    (landed(4, request=day(0, kind=Kind.SLICE)), Seen(), Done()),
    (landed(4, request=day(0, kind=Kind.AD_HOC)), Seen(), Count()),
    (landed(4, counted=5, request=day(0, kind=Kind.AD_HOC)), Seen(), Retry("4 events landed, the service counts 5")),
    # over
    *[(entry(s), seen("failed"), Done()) for s in (Status.FAILED, Status.ABANDONED, Status.CANCELLED, Status.SUPERSEDED)],
]


@pytest.mark.parametrize(("known", "what", "action"), TABLE)
def test_what_is_known_and_seen_decides(known: Entry, what: Seen, action: Action) -> None:
    assert decide(known, what, NOW, LIMITS) == action


REMOTES = st.one_of(
    st.none(),
    st.builds(
        RemoteExtraction,
        st.just("e7"),
        st.sampled_from(RemoteStatus),
        message=st.one_of(st.none(), st.text(max_size=20), st.just("too many events")),
    ),
)
SEEN = st.builds(
    Seen,
    listed=st.booleans(),
    remote=REMOTES,
    tick=st.floats(0, 1e6),
    slices=st.lists(st.sampled_from(Status), max_size=4).map(tuple),
)
MOMENTS = st.integers(-100_000, 100_000).map(lambda seconds: NOW + timedelta(seconds=seconds))
MAYBE_MOMENT = st.one_of(st.none(), MOMENTS)
NUMBERS = st.one_of(st.none(), st.integers(0, 5))
ENTRIES = st.builds(
    replace,
    st.just(ENTRY),
    request=st.builds(replace, st.just(day(0)), kind=st.sampled_from(Kind), count_check=st.sampled_from(CountPolicy)),
    attempt=st.integers(1, 6),
    status=st.sampled_from(Status),
    due_at=MOMENTS,
    submitted_at=MAYBE_MOMENT,
    submitted_tick=st.floats(0, 1e6),
    error=st.one_of(st.none(), st.just("it broke")),
    expected=NUMBERS,
    counted=NUMBERS,
    counted_at=MAYBE_MOMENT,
    landing=st.one_of(st.none(), st.integers(0, 5).map(lambda n: landing(records=n))),
)
BOUNDS = st.builds(Limits, max_attempts=st.integers(1, 5), stuck_seconds=st.floats(1, 1e5))

# Where an action leads; a landing goes through complete, and a file that its count contradicts is asked for anew beside it.
LEADS_TO = {
    Post: {Status.SUBMITTED},
    Split: {Status.SPLIT},
    Retry: {Status.FAILED},
    GiveUp: {Status.ABANDONED},
    Land: {Status.COMPLETE, Status.LANDED},
}


@given(ENTRIES, SEEN, MOMENTS, BOUNDS)
def test_every_decision_is_one_that_may_follow(known: Entry, what: Seen, now: datetime, limits: Limits) -> None:
    action = decide(known, what, now, limits)
    if isinstance(action, Retry):
        assert known.attempt < limits.max_attempts
    if known.status is Status.LANDED and isinstance(action, Retry):
        return  # the next attempt stands beside the landing, which stays valid until it is superseded
    reachable = LEADS_TO.get(type(action))
    assert reachable is None or reachable & TRANSITIONS[known.status]
    if isinstance(action, Post):
        assert known.status is Status.REQUESTED
        assert not known.waits(now)
    if isinstance(action, Wait):
        assert known.status in OPEN_STATUSES
        assert action.why
        assert action.until is None or action.until > now
    if known.status.is_terminal and known.status is not Status.LANDED:
        assert action == Done()


@given(ENTRIES.map(lambda e: replace(e, status=Status.SUBMITTED)), SEEN, MOMENTS, MOMENTS, BOUNDS)
def test_an_extraction_is_stuck_by_the_seconds_that_were_answered_alone(
    known: Entry, what: Seen, now: datetime, other: datetime, limits: Limits
) -> None:
    pending = replace(what, listed=True, remote=remote("not started"))
    over = decide(known, pending, now, limits)
    assert over == decide(known, pending, other, limits)
    assert isinstance(over, Wait) == (what.tick - known.submitted_tick < limits.stuck_seconds)


@given(ENTRIES, SEEN.map(lambda what: replace(what, listed=False)), MOMENTS, BOUNDS)
def test_what_was_not_listed_ends_no_submitted_extraction(known: Entry, what: Seen, now: datetime, limits: Limits) -> None:
    assert decide(replace(known, status=Status.SUBMITTED), what, now, limits) == Poll()


@given(st.integers(1, 60), st.floats(0, 600), st.floats(0, 1))
def test_the_back_off_is_bounded_and_grows(tries: int, first: float, jitter: float) -> None:
    limits = Limits(retry_seconds=first)
    assert 0 <= backoff_seconds(tries, limits, jitter) <= MAX_BACKOFF_SECONDS
    assert backoff_seconds(tries, limits) <= backoff_seconds(tries + 1, limits)
    assert backoff_seconds(tries, limits, jitter) >= backoff_seconds(tries, limits) / 2


def test_the_back_off_doubles_and_jitter_spreads_its_upper_half() -> None:
    limits = Limits(retry_seconds=30)
    assert [backoff_seconds(n, limits) for n in (0, 1, 2, 3, 5, 6, 100)] == [30, 30, 60, 120, 480, 600, 600]
    assert [backoff_seconds(2, limits, jitter) for jitter in (0.0, 0.5, 1.0)] == [30, 45, 60]


def test_what_may_follow_what() -> None:
    assert set(TRANSITIONS) == set(Status)
    assert {s for s in Status if s not in (Status.LANDED,) and TRANSITIONS[s]} == OPEN_STATUSES
    assert sources_of(Status.LANDED) == {Status.COMPLETE}
    assert sources_of(Status.SUBMITTED) == {Status.REQUESTED}
    assert sources_of(Status.COMPLETE) == {Status.SUBMITTED, Status.SPLIT}
    assert sources_of(Status.SPLIT) == {Status.REQUESTED, Status.SUBMITTED, Status.COMPLETE}
    assert sources_of(Status.SUPERSEDED) == {Status.LANDED}
    assert sources_of(Status.REQUESTED) == frozenset()
    assert sources_of(Status.FAILED) == sources_of(Status.CANCELLED) == OPEN_STATUSES
    assert sources_of(Status.ABANDONED) == OPEN_STATUSES | {Status.LANDED}


def test_whether_a_file_is_whole() -> None:
    assert ENTRY.is_whole is None
    assert landed(5).is_whole is None
    assert landed(5, counted=5).is_whole is True
    assert landed(0, counted=0).is_whole is True
    assert replace(landed(5, counted=5), landing=None).is_whole is None


def test_who_may_take_an_entry() -> None:
    assert replace(ENTRY, claimed_by=None).is_free_for("me")
    assert replace(ENTRY, claimed_by="me").is_free_for("me")
    assert not replace(ENTRY, claimed_by="another").is_free_for("me")
    assert not replace(ENTRY, claimed_by="another").is_free_for(None)


def attempts(*reasons: str) -> list[Entry]:
    """One an hour."""
    first = ENTRY.requested_at
    return [
        replace(ENTRY, entry_id=n, attempt=n, error=reason, requested_at=first + timedelta(hours=n - 1))
        for n, reason in enumerate(reasons, start=1)
    ]


@pytest.mark.parametrize(
    ("reasons", "last", "told"),
    [
        (["x"], "it broke", "it broke"),
        (["it broke", "x"], "it broke", "it broke (2 attempts since 2026-01-01T23:55:00Z)"),
        (["it broke", "x"], "it hung", "attempt 1: it broke; attempt 2: it hung"),
        (["it broke", "it hung", "x"], "it broke", "attempt 1, 3: it broke; attempt 2: it hung"),
        (
            ["a", "b", "c", "d", "e", "f", "x"],
            "g",
            "attempt 3: c; attempt 4: d; attempt 5: e; attempt 6: f; attempt 7: g; and 2 other reasons",
        ),
    ],
)
def test_the_history_tells_equal_reasons_once(reasons: list[str], last: str, told: str) -> None:
    assert history(attempts(*reasons), last) == told


def test_the_history_tells_what_the_count_said_of_an_earlier_file() -> None:
    contradicted = replace(landed(5, counted=0), error="a try before it landed")
    assert history([contradicted, replace(ENTRY, entry_id=9, attempt=2)], "it broke") == (
        "attempt 1: 5 events landed, the service counts 0; attempt 2: it broke"
    )
    assert landed(5, counted=5).reason == "unknown reason"


def test_an_entry_says_what_it_is() -> None:
    assert str(ENTRY) == "purchases[2026-01-01] (attempt 1, extraction e7)"
    assert str(replace(ENTRY, extraction_id=None, attempt=2)) == "purchases[2026-01-01] (attempt 2)"
    assert ENTRY.is_partition
    assert not replace(ENTRY, request=day(0, kind=Kind.SLICE)).is_partition
    assert isinstance(landing(), Landing)
