"""Submit: journal the intent, then POST, then record the extraction's id. A crash between two steps loses nothing."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import timedelta
from threading import Event

from keen_pipeline.errors import (
    ConfigurationError,
    LeaseLostError,
    PermanentError,
    ProtocolError,
    RateLimitedError,
    RetryableError,
    UnreachableError,
)
from keen_pipeline.extraction import ExtractionRequest, Status
from keen_pipeline.lifecycle import Entry, backoff_seconds
from keen_pipeline.pipeline.context import Pipeline, new_owner
from keen_pipeline.ports import Requested


@dataclass(frozen=True)
class Submission:
    """What became of some requests, in their order: `created` intents, `adopted` open ones, `landed` ones left alone."""

    requested: tuple[Requested, ...]

    @property
    def created(self) -> list[Entry]:
        """Intents journalled by this call."""
        return [r.entry for r in self.requested if r.created]

    @property
    def adopted(self) -> list[Entry]:
        """Open attempts of the same requests, asked by somebody before."""
        return [r.entry for r in self.requested if not r.created and not r.entry.status.is_terminal]

    @property
    def landed(self) -> list[Entry]:
        """Requests whose file is whole at the destination and up to date."""
        return [r.entry for r in self.requested if r.entry.status is Status.LANDED]


@dataclass(frozen=True)
class Posted:
    """One round of POSTs. `failed`: (attempt, what follows it: the next attempt, or itself abandoned, or None)."""

    submitted: tuple[Entry, ...] = ()
    postponed: tuple[Entry, ...] = ()
    failed: tuple[tuple[Entry, Entry | None], ...] = ()


def submit(
    pipeline: Pipeline,
    requests: Sequence[ExtractionRequest],
    *,
    force: bool = False,
    recount: bool = False,
    run_id: str | None = None,
) -> Submission:
    """Journal the requests that the ledger lacks; nothing is posted yet (`post_due` does).

    An open attempt is adopted. A landed one is left alone where its file still lies there with its length and, with
    `recount`, the service still counts as many events as it holds; `force` leaves none alone.
    """
    answers = pipeline.ledger.request(requests, force=force, run_id=run_id)
    again = [i for i, answer in enumerate(answers) if not answer.created and _is_outdated(pipeline, answer.entry, recount)]
    renewed = pipeline.ledger.request([requests[i] for i in again], force=True, run_id=run_id)
    for index, answer in zip(again, renewed, strict=True):
        answers[index] = answer
    return Submission(tuple(answers))


def _is_outdated(pipeline: Pipeline, entry: Entry, recount: bool) -> bool:
    """Whether a landed file is gone, has another length, or lacks events that came since."""
    landing, request = entry.landing, entry.request
    if entry.status is not Status.LANDED or landing is None:
        return False
    if pipeline.destination.exists(request.target) != landing.stored_bytes:
        return True
    return recount and _count(pipeline, request) != landing.records


def _count(pipeline: Pipeline, request: ExtractionRequest) -> int:
    """The service's count, waiting where the requests per minute are used up; raised where that lasts past `stuck_seconds`."""
    give_up = pipeline.clock.now() + timedelta(seconds=pipeline.limits.stuck_seconds)
    while True:
        try:
            return pipeline.api.count(request.collection, request.timeframe, request.filters)
        except RateLimitedError as error:
            if pipeline.clock.now() >= give_up:
                raise
            pipeline.clock.sleep(min(max(error.retry_after or 0.0, 1.0), 60.0))


def post_due(
    pipeline: Pipeline, entry_ids: Sequence[int] | None = None, *, owner: str | None = None, seconds: float = 20.0
) -> Posted:
    """POST every due intent (of `entry_ids`, or all that nobody else holds) until done or `seconds` are over.

    What the service refuses for now is postponed, what it refuses for good fails. A ConfigurationError, for example a
    wrong key, stops the round; the intents stay as they were and it is raised.
    """
    me = owner or new_owner()
    now = pipeline.clock.now()
    known = pipeline.ledger.open_entries() if entry_ids is None else pipeline.ledger.entries(entry_ids)
    due = [
        e.entry_id for e in known if e.status is Status.REQUESTED and e.due_at <= now and (not e.leased(now) or e.lease_owner == me)
    ]
    claimed = pipeline.ledger.claim(due, Status.REQUESTED, me, pipeline.limits.lease_seconds) if due else []
    stop, deadline = Event(), now + timedelta(seconds=seconds)

    def one(entry: Entry) -> Entry | tuple[Entry, Entry | None] | None:
        if stop.is_set() or pipeline.clock.now() >= deadline:
            return None
        try:
            return _post(pipeline, entry, me)
        except RateLimitedError:
            stop.set()  # the others would be refused too
            return None
        except BaseException:
            stop.set()
            raise

    try:
        with ThreadPoolExecutor(pipeline.posting_threads, thread_name_prefix="keen-post") as pool:
            results = list(pool.map(one, claimed))
    finally:
        if owner is None:
            pipeline.ledger.release([e.entry_id for e in claimed], me)
    submitted = tuple(r for r in results if isinstance(r, Entry) and r.status is Status.SUBMITTED)
    failed = tuple(r for r in results if isinstance(r, tuple))
    done = {e.entry_id for e in submitted} | {e.entry_id for e, _ in failed}
    return Posted(submitted, tuple(e for e in claimed if e.entry_id not in done), failed)


def _post(pipeline: Pipeline, entry: Entry, owner: str) -> Entry | tuple[Entry, Entry | None]:
    ledger, now = pipeline.ledger, pipeline.clock.now()
    # Only what was tried in vain is stuck: an intent may also have waited for a sensor that was switched off.
    if entry.error is not None and now - entry.requested_at > timedelta(seconds=pipeline.limits.stuck_seconds):
        reason = f"it could not be submitted in {pipeline.limits.stuck_seconds / 60:.0f} minutes: {entry.error}"
        return entry, ledger.fail(entry.entry_id, reason, owner=owner, limits=pipeline.limits, jitter=pipeline.jitter())
    try:
        ledger.posting(entry.entry_id, owner)
    except LeaseLostError:
        return ledger.entries([entry.entry_id])[0]
    try:
        remote = pipeline.api.submit(entry.request)
    except RateLimitedError as error:
        wait = error.retry_after if error.retry_after is not None else 60.0
        ledger.postpone(entry.entry_id, owner, now + timedelta(seconds=wait), str(error))
        raise
    except (RetryableError, ProtocolError) as error:
        # Where a connection came up, the service may have the extraction: at worst one orphan, which the ledger counts.
        retry_after = error.retry_after if isinstance(error, RetryableError) else None
        wait = max(retry_after or 0.0, backoff_seconds(1, pipeline.limits, pipeline.jitter()))
        unseen = isinstance(error, UnreachableError)
        ledger.postpone(entry.entry_id, owner, now + timedelta(seconds=wait), str(error), ambiguous=not unseen)
        return ledger.entries([entry.entry_id])[0]
    except PermanentError as error:
        return entry, ledger.fail(entry.entry_id, str(error), owner=owner, limits=pipeline.limits, final=True)
    except ConfigurationError as error:
        ledger.postpone(entry.entry_id, owner, now, str(error))
        raise
    return ledger.submitted(entry.entry_id, owner, remote.extraction_id)
