"""Submit: journal the intent, then POST, then record the extraction's id. A crash between two steps loses nothing."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import datetime, timedelta
from threading import Event
from typing import TypeAlias

from keen_pipeline.errors import (
    ConfigurationError,
    ExtractionTooLargeError,
    LeaseLostError,
    PermanentError,
    ProtocolError,
    RateLimitedError,
    RetryableError,
    UnreachableError,
)
from keen_pipeline.extraction import CountPolicy, ExtractionRequest, MaskMethod, Status
from keen_pipeline.lifecycle import Entry, backoff_seconds
from keen_pipeline.pipeline.context import Pipeline, new_owner
from keen_pipeline.pipeline.counts import grown
from keen_pipeline.pipeline.orphans import Orphans
from keen_pipeline.pipeline.slices import plan, split
from keen_pipeline.ports import Requested

# The entry as it stands now; (attempt, what follows it) where it failed; None where its turn did not come.
_Posted: TypeAlias = "Entry | tuple[Entry, Entry | None] | None"


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
    `recount`, the service still counts as many events as it holds (late events have made the others outdated); `force`
    leaves none alone.

    Raises ConfigurationError, before anything is journalled, where a column is to be hashed and there is no key.
    """
    _check_mask_key(pipeline, requests)
    answers = pipeline.ledger.request(requests, force=force, run_id=run_id)
    try:
        return Submission(tuple(_renewed(pipeline, requests, answers, recount, run_id)))
    except BaseException:  # a count that can't be had, or a run that is stopped: nobody is to go on with half of it
        pipeline.ledger.cancel([a.entry.entry_id for a in answers if a.created], "its submission was stopped")
        raise


def _renewed(
    pipeline: Pipeline, requests: Sequence[ExtractionRequest], answers: list[Requested], recount: bool, run_id: str | None
) -> list[Requested]:
    """The answers, with new attempts for landed files that are gone or outdated."""
    landed = {i: a.entry for i, a in enumerate(answers) if not a.created and a.entry.status is Status.LANDED}
    gone = {i for i, entry in landed.items() if _is_gone(pipeline, entry)}
    late: set[int] = set()
    if recount:
        present = [e for i, e in landed.items() if i not in gone and e.request.count_check is not CountPolicy.OFF]
        late = grown(pipeline, present)
    again = [i for i, entry in landed.items() if i in gone or entry.entry_id in late]
    renewed = pipeline.ledger.request([requests[i] for i in again], force=True, run_id=run_id)
    for index, answer in zip(again, renewed, strict=True):
        answers[index] = answer
    return answers


def _check_mask_key(pipeline: Pipeline, requests: Sequence[ExtractionRequest]) -> None:
    hashing = sorted({r.collection for r in requests if MaskMethod.HASH in r.mask.values()})
    if hashing and pipeline.mask_key is None:
        raise ConfigurationError(
            f"{', '.join(hashing)}: a column is to be hashed, and there is no key for it: set KEEN_PIPELINE_MASK_KEY to a secret "
            "of your own; nothing was asked for"
        )


def _is_gone(pipeline: Pipeline, entry: Entry) -> bool:
    """Whether a landed file is gone or has another length."""
    assert entry.landing is not None
    return pipeline.destination.exists(entry.request.target) != entry.landing.stored_bytes


def post_due(
    pipeline: Pipeline, entry_ids: Sequence[int] | None = None, *, owner: str | None = None, seconds: float = 20.0
) -> Posted:
    """POST every due intent (of `entry_ids`, or all that nobody else holds) until done or `seconds` are over.

    An intent of too many events is split first. What the service refuses for now is postponed, what it refuses for good
    fails. A ConfigurationError, for example a wrong key, stops the round; the intents stay as they were and it is raised.
    """
    me = owner or new_owner()
    now = pipeline.clock.now()
    known = pipeline.ledger.open_entries(status=Status.REQUESTED) if entry_ids is None else pipeline.ledger.entries(entry_ids)
    due = [
        e.entry_id for e in known if e.status is Status.REQUESTED and e.due_at <= now and (not e.leased(now) or e.lease_owner == me)
    ]
    claimed = pipeline.ledger.claim(due, Status.REQUESTED, me, pipeline.limits.lease_seconds) if due else []
    try:
        results = _Round(pipeline, me, now + timedelta(seconds=seconds)).run(claimed)
    finally:
        if owner is None:
            slices = pipeline.ledger.slices(sorted({e.parent_id or e.entry_id for e in claimed}))
            made = [part.entry_id for parts in slices.values() for part in parts]
            pipeline.ledger.release([*(e.entry_id for e in claimed), *made], me)
    submitted = tuple(r for r in results if isinstance(r, Entry) and r.status is Status.SUBMITTED)
    failed = tuple(r for r in results if isinstance(r, tuple))
    done = {e.entry_id for e in submitted} | {e.entry_id for e, _ in failed}
    return Posted(submitted, tuple(e for e in claimed if e.entry_id not in done), failed)


class _Round:
    """One round of POSTs by several threads, which stops at its deadline and where the service wants a rest."""

    def __init__(self, pipeline: Pipeline, owner: str, deadline: datetime) -> None:
        self._pipeline, self._owner, self._deadline = pipeline, owner, deadline
        self._stop = Event()
        self._orphans = Orphans(pipeline)

    def run(self, claimed: Sequence[Entry]) -> list[_Posted]:
        """What became of each; None for those that were not reached."""
        if not claimed:
            return []
        try:
            results: list[_Posted] = list(plan(self._pipeline, claimed, owner=self._owner))
        except RateLimitedError:
            return []
        over = {r[0].entry_id for r in results if isinstance(r, tuple)}
        with ThreadPoolExecutor(self._pipeline.posting_threads, thread_name_prefix="keen-post") as pool:
            return results + list(pool.map(self._one, [e for e in claimed if e.entry_id not in over]))

    def _one(self, entry: Entry) -> _Posted:
        if self._stop.is_set() or self._pipeline.clock.now() >= self._deadline:
            return None
        try:
            return self._post(entry)
        except RateLimitedError:
            self._stop.set()  # the others would be refused too
            return None
        except BaseException:
            self._stop.set()
            raise

    def _post(self, entry: Entry) -> _Posted:
        pipeline, ledger, now = self._pipeline, self._pipeline.ledger, self._pipeline.clock.now()
        limits, jitter = pipeline.limits, pipeline.jitter()
        # Only what was tried in vain is stuck: an intent may also have waited for a sensor that was switched off.
        if entry.error is not None and now - entry.requested_at > timedelta(seconds=limits.stuck_seconds):
            reason = f"it could not be submitted in {limits.stuck_seconds / 60:.0f} minutes: {entry.error}"
            return entry, ledger.fail(entry.entry_id, reason, owner=self._owner, limits=limits, jitter=jitter)
        try:
            # A POST whose answer was lost, or whose process died, may have made an extraction.
            extraction_id = self._orphans.find(entry) if entry.posted_at is not None else None
            if extraction_id is None:
                ledger.posting(entry.entry_id, self._owner)
                extraction_id = pipeline.api.submit(entry.request).extraction_id
        except LeaseLostError:
            return ledger.entries([entry.entry_id])[0]
        except RateLimitedError as error:
            wait = error.retry_after if error.retry_after is not None else 60.0
            self._postpone(entry, now, wait, error, lost=entry.posted_at is not None)
            raise
        except (RetryableError, ProtocolError) as error:
            # Where a connection came up, the service may have the extraction: at worst one orphan, which the ledger counts.
            retry_after = error.retry_after if isinstance(error, RetryableError) else None
            wait = max(retry_after or 0.0, backoff_seconds(1, limits, jitter))
            self._postpone(entry, now, wait, error, lost=entry.posted_at is not None or not isinstance(error, UnreachableError))
            return ledger.entries([entry.entry_id])[0]
        except ExtractionTooLargeError as error:
            return self._split(entry, error)
        except PermanentError as error:
            return entry, ledger.fail(entry.entry_id, str(error), owner=self._owner, limits=limits, final=True)
        except ConfigurationError as error:
            self._postpone(entry, now, 0.0, error, lost=entry.posted_at is not None)
            raise
        return ledger.submitted(entry.entry_id, self._owner, extraction_id)

    def _postpone(self, entry: Entry, now: datetime, wait: float, error: Exception, *, lost: bool) -> None:
        self._pipeline.ledger.postpone(entry.entry_id, self._owner, now + timedelta(seconds=wait), str(error), ambiguous=lost)

    def _split(self, entry: Entry, error: ExtractionTooLargeError) -> _Posted:
        refused = split(self._pipeline, entry, str(error), None, owner=self._owner)
        return refused[0] if refused else self._pipeline.ledger.entries([entry.entry_id])[0]
