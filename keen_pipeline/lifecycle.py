"""The state machine of an extraction, pure: what is known in, what to do next out. Nothing here reads a clock or a database.

requested ──▶ submitted ──▶ complete ──▶ landed ──▶ superseded
    │  │          │  │          │ ▲
    │  └──────────┴──│──▶ split │─┘ when all its slices have landed
    └────────────────┴──────┴───┴──▶ failed ──▶ (next attempt: requested)
                                └──▶ abandoned, where no attempt is left; cancelled, by a person
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta

from keen_pipeline.errors import says_too_large
from keen_pipeline.extraction import ExtractionRequest, Landing, RemoteExtraction, RemoteStatus, Status
from keen_pipeline.timeframe import format_instant

TRANSITIONS: Mapping[Status, frozenset[Status]] = {
    Status.REQUESTED: frozenset({Status.SUBMITTED, Status.SPLIT, Status.FAILED, Status.ABANDONED, Status.CANCELLED}),
    Status.SUBMITTED: frozenset({Status.COMPLETE, Status.SPLIT, Status.FAILED, Status.ABANDONED, Status.CANCELLED}),
    Status.SPLIT: frozenset({Status.COMPLETE, Status.FAILED, Status.ABANDONED, Status.CANCELLED}),
    Status.COMPLETE: frozenset({Status.LANDED, Status.SPLIT, Status.FAILED, Status.ABANDONED, Status.CANCELLED}),
    Status.LANDED: frozenset({Status.SUPERSEDED}),
    Status.FAILED: frozenset(),
    Status.ABANDONED: frozenset(),
    Status.CANCELLED: frozenset(),
    Status.SUPERSEDED: frozenset(),
}

# A service may list a new extraction a moment after it answered its POST.
UNLISTED_GRACE = timedelta(minutes=2)
# The longest back-off between two attempts.
MAX_BACKOFF_SECONDS = 600.0


@dataclass(frozen=True)
class Limits:
    """Bounds of one extraction.

    `max_attempts`: tries before it is abandoned. `retry_seconds`: back-off before the second try, doubling, at most
    600 s. `stuck_seconds`: how long an attempt may stay unfinished at the service. `lease_seconds`: how long a claim on
    an entry lasts without renewal. `max_events`: of one extraction; a request of more is split.
    """

    max_attempts: int = 3
    retry_seconds: float = 30.0
    stuck_seconds: float = 3600.0
    lease_seconds: float = 300.0
    max_events: int = 10_000_000


@dataclass(frozen=True)
class Entry:
    """One attempt of a request, as the ledger holds it. All instants are aware UTC.

    `expected`: events that the service counted before the POST, None where that is not known by itself. `counted`: events
    that it counted after the landing. `parent_id`: of a slice, the entry it is part of; `depth`: how often its timeframe was
    halved, of an entry that was split the deepest of its `slices`.
    """

    entry_id: int
    request: ExtractionRequest
    attempt: int
    status: Status
    requested_at: datetime
    due_at: datetime
    posted_at: datetime | None = None
    submitted_at: datetime | None = None
    completed_at: datetime | None = None
    landed_at: datetime | None = None
    reported_at: datetime | None = None
    extraction_id: str | None = None
    landing: Landing | None = None
    landing_tries: int = 0
    error: str | None = None
    lease_owner: str | None = None
    lease_until: datetime | None = None
    run_id: str | None = None
    planned_at: datetime | None = None
    expected: int | None = None
    counted: int | None = None
    counted_at: datetime | None = None
    parent_id: int | None = None
    depth: int = 0
    slices: int = 0

    @property
    def is_whole(self) -> bool | None:
        """Whether the landed file holds what the service counts; None where nothing is landed or counted.

        Events come late: a file with at least the events counted before it was asked for, and at most those counted
        afterwards, is whole as of its extraction.
        """
        if self.landing is None or self.counted is None:
            return None
        bounds = sorted((self.counted, self.counted if self.expected is None else self.expected))
        return bounds[0] <= self.landing.records <= bounds[1]

    @property
    def waiting_seconds(self) -> float | None:
        """From the submission to the finished extraction, None where either is unknown."""
        if self.submitted_at is None or self.completed_at is None:
            return None
        return max(0.0, (self.completed_at - self.submitted_at).total_seconds())

    def leased(self, now: datetime) -> bool:
        """Whether somebody holds a claim on this entry at `now`."""
        return self.lease_until is not None and self.lease_until > now

    def __str__(self) -> str:
        known = f", extraction {self.extraction_id}" if self.extraction_id else ""
        return f"{self.request} (entry {self.entry_id}, attempt {self.attempt}{known})"


@dataclass(frozen=True)
class Wait:
    """Nothing to do before the next poll."""


@dataclass(frozen=True)
class Complete:
    """The result waits at the service."""


@dataclass(frozen=True)
class Fail:
    """This attempt is over without a result. `too_much`: shorter timeframes may succeed."""

    reason: str
    too_much: bool = False


def after_poll(entry: Entry, remote: RemoteExtraction | None, now: datetime, limits: Limits) -> Wait | Complete | Fail:
    """Decide on a submitted entry by what the service's list says; `remote` is None where the list lacks it."""
    asked = entry.submitted_at or entry.requested_at
    waited = now - asked
    if remote is None:
        if waited <= UNLISTED_GRACE:
            return Wait()
        return Fail(f"the service no longer knows extraction {entry.extraction_id}")
    if remote.status is RemoteStatus.COMPLETE:
        return Complete()
    if remote.status is RemoteStatus.FAILED:
        said = f": {remote.message}" if remote.message else ""
        too_much = says_too_large(remote.message or "")
        return Fail(f"the service reports extraction {entry.extraction_id} as failed{said}", too_much)
    if waited >= timedelta(seconds=limits.stuck_seconds):
        # The first time the service may just have been slow; a slice, or a second time, is taken for too much.
        too_much = entry.parent_id is not None or entry.attempt > 1
        return Fail(f"extraction {entry.extraction_id} has not finished in {waited.total_seconds() / 60:.0f} minutes", too_much)
    return Wait()


def backoff_seconds(attempt: int, limits: Limits, jitter: float = 1.0) -> float:
    """Seconds before the attempt after `attempt` (1-based); `jitter` in [0, 1] spreads them over the upper half.

    >>> [backoff_seconds(n, Limits(retry_seconds=30)) for n in (1, 2, 3, 9)]
    [30.0, 60.0, 120.0, 600.0]
    """
    full = float(min(limits.retry_seconds * 2.0 ** min(attempt - 1, 32), MAX_BACKOFF_SECONDS))
    return full * (0.5 + 0.5 * jitter)


def next_attempt_at(entry: Entry, now: datetime, limits: Limits, jitter: float = 1.0) -> datetime | None:
    """When the attempt after this failed one may be posted; None where none is left and the request is abandoned."""
    if entry.attempt >= limits.max_attempts:
        return None
    return now + timedelta(seconds=backoff_seconds(entry.attempt, limits, jitter))


def story(attempts: list[Entry], last_reason: str) -> str:
    """The whole history of an abandoned request in one message; `attempts` oldest first, the last one failing now."""
    request = attempts[-1].request
    tries = []
    for entry in attempts:
        reason = last_reason if entry is attempts[-1] else entry.error or "unknown reason"
        known = f" as extraction {entry.extraction_id}" if entry.extraction_id else ""
        tries.append(f"attempt {entry.attempt} of {format_instant(entry.requested_at)}{known}: {reason}")
    count = f"{len(attempts)} attempt{'s' if len(attempts) != 1 else ''}"
    return (
        f"{request} abandoned after {count}: {'; '.join(tries)}. Nothing was landed for it, and a file that landed before "
        "is untouched. Once the cause is gone, run it again by a backfill of this partition."
    )
