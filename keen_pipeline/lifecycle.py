"""The state machine of an extraction, pure: what is known in, what to do next out. Nothing here reads a clock or a database.

requested ──▶ submitted ──▶ complete ──▶ landed ──▶ superseded
    │  │          │  │          │ ▲         └─────▶ abandoned, an ad hoc file that its count contradicts
    │  └──────────┴──│──▶ split │─┘ when all its slices have landed
    └────────────────┴──────┴───┴──▶ failed ──▶ (next attempt: requested)
                                └──▶ abandoned, if no attempt is left; cancelled, by a person or another question
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import TypeAlias

from keen_pipeline.collection import CountPolicy
from keen_pipeline.errors import says_too_large
from keen_pipeline.extraction import ExtractionRequest, Kind, Landing, RemoteExtraction, RemoteStatus, Status
from keen_pipeline.timeframe import format_instant

TRANSITIONS: Mapping[Status, frozenset[Status]] = {
    Status.REQUESTED: frozenset({Status.SUBMITTED, Status.SPLIT, Status.FAILED, Status.ABANDONED, Status.CANCELLED}),
    Status.SUBMITTED: frozenset({Status.COMPLETE, Status.SPLIT, Status.FAILED, Status.ABANDONED, Status.CANCELLED}),
    Status.SPLIT: frozenset({Status.COMPLETE, Status.FAILED, Status.ABANDONED, Status.CANCELLED}),
    Status.COMPLETE: frozenset({Status.LANDED, Status.SPLIT, Status.FAILED, Status.ABANDONED, Status.CANCELLED}),
    Status.LANDED: frozenset({Status.SUPERSEDED, Status.ABANDONED}),
    Status.FAILED: frozenset(),
    Status.ABANDONED: frozenset(),
    Status.CANCELLED: frozenset(),
    Status.SUPERSEDED: frozenset(),
}

# A service may list a new extraction a moment after it answered its POST. As for what is stuck, the time in which it answered list
# calls counts, whatever a clock says.
UNLISTED_GRACE_SECONDS = 120.0
# The longest back-off between two attempts, or two tries of one call.
MAX_BACKOFF_SECONDS = 600.0
# Nothing is put off for longer, so what says so was written by a clock that was ahead.
MAX_WAIT = timedelta(hours=1)
# Reasons told one by one when a request is abandoned; more of them are counted.
_MOST_REASONS = 5


def sources_of(target: Status) -> frozenset[Status]:
    """The statuses from which an entry may move to `target`."""
    return frozenset(status for status, targets in TRANSITIONS.items() if target in targets)


@dataclass(frozen=True)
class Limits:
    """Bounds of one extraction.

    `max_attempts`: tries before it is abandoned.
    `retry_seconds`: back-off before the second try, doubling, at most 600 s.
    `stuck_seconds`: how long a service that answers may leave an attempt unfinished.
    `lease_seconds`: how old the last heartbeat of a worker may be before others take over what it had claimed.
    `max_events`: of one extraction; a request of more is split.
    """

    max_attempts: int = 3
    retry_seconds: float = 30.0
    stuck_seconds: float = 3600.0
    lease_seconds: float = 60.0
    max_events: int = 10_000_000


@dataclass(frozen=True)
class Entry:
    """One attempt of a request, as the ledger holds it. All instants are aware UTC.

    `token`: names this attempt in Dagster's events, also after the ledger was recreated.
    `expected`: events that the service counted before the POST, None if that is not known by itself.
    `counted`: events that it counted after the landing.
    `parent_id`: of a slice, the entry it is part of; `depth`: how often its timeframe was halved, of an entry that was split the
    deepest of its `slices`.
    `claimed_by`: the worker that is at it. `post_tries`: POSTs that made nothing as far as is known.
    `submitted_tick`: how many seconds the service had answered list calls of the collection when it took the request.
    `unproven`: the file may be another's than this landing's, since its publisher died or lost its claim on the way.
    """

    entry_id: int
    token: str
    request: ExtractionRequest
    fingerprint: str
    attempt: int
    status: Status
    requested_at: datetime
    due_at: datetime
    posted_at: datetime | None = None
    submitted_at: datetime | None = None
    submitted_tick: float = 0.0
    completed_at: datetime | None = None
    landed_at: datetime | None = None
    reported_at: datetime | None = None
    extraction_id: str | None = None
    landing: Landing | None = None
    post_tries: int = 0
    landing_tries: int = 0
    error: str | None = None
    claimed_by: str | None = None
    run_id: str | None = None
    planned_at: datetime | None = None
    expected: int | None = None
    counted: int | None = None
    counted_at: datetime | None = None
    parent_id: int | None = None
    depth: int = 0
    slices: int = 0
    unproven: bool = False

    @property
    def is_whole(self) -> bool | None:
        """Whether the landed file holds what the service counts; None if nothing is landed or counted.

        Events come late: a file with at least the events counted before it was asked for, and at most those counted
        afterwards, is whole as of its extraction.
        """
        if self.landing is None or self.counted is None:
            return None
        bounds = sorted((self.counted, self.counted if self.expected is None else self.expected))
        return bounds[0] <= self.landing.records <= bounds[1]

    @property
    def reason(self) -> str:
        """Why this attempt was not the last: its error, or how its landed file and the service's count differ."""
        if self.status is Status.LANDED and self.landing is not None and self.is_whole is False:
            return f"{self.landing.records} events landed, the service counts {self.counted}"
        return self.error or "unknown reason"

    @property
    def is_partition(self) -> bool:
        """Whether it is a partition of an asset, not a slice of one or somebody's ad hoc extraction."""
        return self.request.kind is Kind.PARTITION

    def is_free_for(self, worker: str | None) -> bool:
        """Whether nobody else has claimed it."""
        return self.claimed_by is None or self.claimed_by == worker

    def waits(self, now: datetime) -> bool:
        """Whether it is to be posted, or landed, later than `now`."""
        return now < self.due_at <= now + MAX_WAIT

    def __str__(self) -> str:
        known = f", extraction {self.extraction_id}" if self.extraction_id else ""
        return f"{self.request} (attempt {self.attempt}{known})"


@dataclass(frozen=True)
class Seen:
    """What this round has seen of an entry.

    `listed`: the service's list of the collection was read; `remote`: what it says of the extraction, None if it lacks it.
    `tick`: how many seconds the service has answered list calls of the collection by now.
    `slices`: the statuses of a split entry's slices.
    """

    listed: bool = False
    remote: RemoteExtraction | None = None
    tick: float = 0.0
    slices: Sequence[Status] = ()


@dataclass(frozen=True)
class Post:
    """Ask the service for the extraction."""


@dataclass(frozen=True)
class Poll:
    """Ask the service how far it is."""


@dataclass(frozen=True)
class Land:
    """The result waits: fetch it."""


@dataclass(frozen=True)
class Count:
    """Hold the landed file against the service's count."""


@dataclass(frozen=True)
class Split:
    """Ask for shorter timeframes instead."""

    reason: str


@dataclass(frozen=True)
class Wait:
    """Nothing to do before `until` (None: before the next poll), since `why`."""

    until: datetime | None
    why: str


@dataclass(frozen=True)
class Retry:
    """This attempt is over; another one follows."""

    reason: str


@dataclass(frozen=True)
class GiveUp:
    """This attempt is over, and none is left."""

    reason: str


@dataclass(frozen=True)
class Done:
    """Nothing more happens to this attempt."""


Action: TypeAlias = Post | Poll | Land | Count | Split | Wait | Retry | GiveUp | Done


def decide(entry: Entry, seen: Seen, now: datetime, limits: Limits) -> Action:
    """What to do about an entry. Total: every status, whatever was seen, has an answer."""
    match entry.status:
        case Status.REQUESTED:
            return Wait(entry.due_at, entry.error or "its next attempt is not due yet") if entry.waits(now) else Post()
        case Status.SUBMITTED:
            return _submitted(entry, seen, limits)
        case Status.SPLIT:
            return _split(seen)
        case Status.COMPLETE:
            return Wait(entry.due_at, entry.error or "its landing run has been asked for") if entry.waits(now) else Land()
        case Status.LANDED:
            return _landed(entry, limits)
        case _:
            return Done()


def _submitted(entry: Entry, seen: Seen, limits: Limits) -> Action:
    if not seen.listed:
        return Poll()
    # By the time in which the service answered: its outages, ours and a clock that was set count for nothing.
    answered = seen.tick - entry.submitted_tick
    if seen.remote is None:
        if answered <= UNLISTED_GRACE_SECONDS:
            return Wait(None, "the service does not list it yet")
        return _over(entry, "the service no longer knows the extraction", limits)
    if seen.remote.status is RemoteStatus.COMPLETE:
        return Land()
    if seen.remote.status is RemoteStatus.FAILED:
        said = f": {seen.remote.message}" if seen.remote.message else ""
        reason = f"the service reports the extraction as failed{said}"
        return Split(reason) if says_too_large(seen.remote.message or "") else _over(entry, reason, limits)
    if answered >= limits.stuck_seconds:
        minutes = limits.stuck_seconds / 60
        return _over(entry, f"the service has not finished the extraction in {minutes:.0f} minutes", limits)
    return Wait(None, "the service is working on it")


def _split(seen: Seen) -> Action:
    ended = [status for status in seen.slices if status in (Status.ABANDONED, Status.CANCELLED)]
    if ended:
        return GiveUp(f"{len(ended)} of its {len(seen.slices)} slices ended without a file")
    if seen.slices and all(status is Status.LANDED for status in seen.slices):
        return Land()
    return Wait(None, f"{sum(s is Status.LANDED for s in seen.slices)} of its {len(seen.slices)} slices have landed")


def _landed(entry: Entry, limits: Limits) -> Action:
    policy = entry.request.count_check
    if policy is CountPolicy.OFF or entry.request.kind is Kind.SLICE:
        return Done()
    if entry.counted_at is None:
        return Count()
    if entry.is_whole is False and policy is CountPolicy.FAIL:
        return _over(entry, entry.reason, limits)
    return Done()


def _over(entry: Entry, reason: str, limits: Limits) -> Retry | GiveUp:
    return Retry(reason) if entry.attempt < limits.max_attempts else GiveUp(reason)


def backoff_seconds(tries: int, limits: Limits, jitter: float = 1.0) -> float:
    """Seconds before the try after `tries` of them (at least 1); `jitter` in [0, 1] spreads them over the upper half.

    >>> [backoff_seconds(n, Limits(retry_seconds=30)) for n in (1, 2, 3, 9)]
    [30.0, 60.0, 120.0, 600.0]
    """
    full = float(min(limits.retry_seconds * 2.0 ** min(max(tries, 1) - 1, 32), MAX_BACKOFF_SECONDS))
    return full * (0.5 + 0.5 * jitter)


def history(attempts: Sequence[Entry], last_reason: str) -> str:
    """Why a request is abandoned, equal reasons once; `attempts` oldest first, the last one ending now."""
    reasons: dict[str, list[Entry]] = {}
    for entry in attempts:
        reason = last_reason if entry is attempts[-1] else entry.reason
        reasons.setdefault(reason, []).append(entry)
    if len(reasons) == 1:
        first = attempts[0].requested_at.replace(microsecond=0)
        tries = f" ({len(attempts)} attempts since {format_instant(first)})" if len(attempts) > 1 else ""
        return f"{last_reason}{tries}"
    told = [f"attempt {', '.join(str(e.attempt) for e in tried)}: {reason}" for reason, tried in reasons.items()]
    more = [f"and {len(told) - _MOST_REASONS} other reasons"] if len(told) > _MOST_REASONS else []
    return "; ".join([*told[-_MOST_REASONS:], *more])
