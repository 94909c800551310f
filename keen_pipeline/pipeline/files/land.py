"""Land: bytes to the destination, whole or not at all, and the proof to the ledger. Several files at once."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from contextlib import suppress
from dataclasses import dataclass, replace
from datetime import timedelta
from threading import Event
from typing import TYPE_CHECKING

from keen_pipeline.collection import masked_by
from keen_pipeline.errors import (
    ClaimLostError,
    ConfigurationError,
    ExtractionTooLargeError,
    KeenPipelineError,
    LedgerUnavailableError,
    PermanentError,
    RateLimitedError,
    RetryableError,
    ServiceUnavailableError,
    TransferError,
    UnreadableAnswerError,
)
from keen_pipeline.extraction import Kind, Landing, SecretUrl, Status
from keen_pipeline.landing.csv.joined import JoinedResults
from keen_pipeline.lifecycle import Entry, backoff_seconds
from keen_pipeline.pipeline.context import Pipeline, by_collection, each, first_line
from keen_pipeline.pipeline.counts import Counted, reconcile
from keen_pipeline.pipeline.extractions.slices import landed_slices, masked_in_slices, split
from keen_pipeline.pipeline.files import manifests
from keen_pipeline.pipeline.files.property_types import PropertyTypes
from keen_pipeline.pipeline.files.upkeep import sweep
from keen_pipeline.ports import ResultsSource

if TYPE_CHECKING:
    # The ledger brings SQLAlchemy, which a code location needs once it opens one.
    from keen_pipeline.ledger.workers import Worker

_log = logging.getLogger(__name__)

# Transfers of one finished extraction before its attempt counts as failed; each resumes and retries inside already. What says
# nothing about the result, a storage or a service that is away, is tried for about an hour before another one is asked for.
MAX_LANDING_TRIES = 3
MAX_TRIES_OF_AN_OUTAGE = 10
# How long a landing that has ended waits to be told with others.
_TELLING_SECONDS = 2.0
# How long a stopped landing is waited for.
CLOSE_SECONDS = 5.0


@dataclass(frozen=True)
class Landed:
    """The file of `entry` is whole at the destination and recorded. `adopted`: not landed by this run or command."""

    entry: Entry
    adopted: bool = False


@dataclass(frozen=True)
class NotLanded:
    """The landing of `entry` did not happen, because of `error`.

    `entry` is as the ledger has it afterwards: the same attempt to be landed later, the next one, or the abandoned one. `is_lost`:
    somebody else goes on with it, or whoever wanted it wants it no more.
    """

    entry: Entry
    error: KeenPipelineError
    is_lost: bool = False


class StoppedError(KeenPipelineError):
    """Whoever wanted this landing wants it no more; nothing was changed."""


class LandingPool:
    """Landings in threads, at most `pipeline.landing_threads` at once; the entries are claimed by `worker` already."""

    def __init__(self, pipeline: Pipeline, worker: Worker) -> None:
        self._pipeline, self._worker = pipeline, worker
        self._pool = ThreadPoolExecutor(pipeline.landing_threads, thread_name_prefix="keen-land")
        self._futures: dict[Future[Landed | NotLanded], int] = {}
        self._stop = Event()
        self._types = PropertyTypes(pipeline)

    def add(self, entry: Entry, url: SecretUrl | None) -> None:
        """Queue one complete entry."""
        landing = _OneLanding(self._pipeline, entry, self._worker.id, self._stop, self._types)
        self._futures[self._pool.submit(landing.run, url)] = entry.entry_id

    @property
    def entry_ids(self) -> set[int]:
        """The entries queued or under way."""
        return set(self._futures.values())

    def finished(self, seconds: float = _TELLING_SECONDS) -> Iterator[Landed | NotLanded]:
        """The landings that ended, waiting for others at most so long: while they are many, telling of them would slow them.

        What is not asked for comes the next time. Raises LedgerUnavailableError.
        """
        done, _ = wait(self._futures, timeout=min(seconds, _TELLING_SECONDS))
        for future in done:
            del self._futures[future]
            yield future.result()

    def close(self) -> None:
        """Stop what is under way, drop what is only queued; waits at most CLOSE_SECONDS.

        A transfer that hangs ends at its own time limit; it changes nothing any more.
        """
        self._stop.set()
        self._pool.shutdown(wait=False, cancel_futures=True)
        wait([f for f in self._futures if not f.cancelled()], timeout=CLOSE_SECONDS)


class _OneLanding:
    """One landing, and what the ledger says of it."""

    def __init__(self, pipeline: Pipeline, entry: Entry, worker: str, stop: Event, types: PropertyTypes) -> None:
        self._pipeline, self._entry, self._worker, self._types = pipeline, entry, worker, types
        self._stop = stop
        self._is_publishing = False

    def run(self, url: SecretUrl | None) -> Landed | NotLanded:
        """Answers what happened; raises LedgerUnavailableError."""
        ledger, entry = self._pipeline.ledger, self._entry
        try:
            landing = self._land(url)
            if entry.request.kind is not Kind.SLICE:
                # After the file, before the ledger: a process that dies in between lands it again.
                made = manifests.Manifest.of(replace(entry, landing=landing), self._pipeline.scope, ledger.clock.now())
                manifests.write(self._pipeline.destination, made)
            landed = ledger.landed(entry.entry_id, self._worker, landing)
            self._is_publishing = False
            return Landed(landed)
        except StoppedError as error:
            return NotLanded(entry, error, is_lost=True)
        except ClaimLostError as error:
            if self._is_publishing:  # the file may have been switched over somebody else's
                ledger.mark_unproven(entry)
                self._remove_if_cancelled()
            return NotLanded(entry, error, is_lost=True)
        except (ConfigurationError, RetryableError) as error:
            return self._try_again(error)
        except ExtractionTooLargeError as error:  # v3.0 says so only now
            return self._split(error)
        except PermanentError as error:
            return self._failed(error, str(error))
        except LedgerUnavailableError:
            raise
        except Exception as error:  # noqa: BLE001 - logged with its traceback, and told as this file's failure: it stops no other
            _log.exception("%s could not be landed", entry)
            return self._try_again(
                RetryableError(f"{entry.request}: an unexpected {type(error).__name__}; the log has its traceback")
            )
        finally:
            if self._is_publishing:
                ledger.published(entry.entry_id, self._worker)

    def _land(self, url: SecretUrl | None) -> Landing:
        pipeline, entry = self._pipeline, self._entry
        request = entry.request
        parts = landed_slices(pipeline, entry) if entry.slices else []
        if parts:
            _check_lengths(pipeline, parts)
            extraction_id = f"joined-{entry.token}"
            source: ResultsSource = JoinedResults(pipeline.destination.open, [part.uri for part in parts])
        else:
            extraction_id = entry.extraction_id or ""
            source = pipeline.api.results_of(request, extraction_id, url)
        landing = pipeline.destination.land(
            source,
            pipeline.destination.uri_of(request.path),
            extraction_id=extraction_id,
            label=str(request),
            # What a mask leaves of a value has another type.
            types={name: kind for name, kind in self._types.of(entry).items() if masked_by(request.mask, name) is None},
            # Slices were masked when they landed: hashing a hash would join with nothing.
            mask={} if parts else request.mask,
            mask_key=pipeline.mask_key,
            earlier_types=self._types.earlier(entry),
            check=self._check,
            fence=self._fence,
        )
        self._types.landed(entry, landing)
        return replace(landing, masked=masked_in_slices(parts)) if parts else landing

    def _check(self) -> None:
        if self._stop.is_set():
            raise StoppedError("the run or command that waited for it was stopped")

    def _fence(self) -> None:
        """Immediately before the switch: the claim is proven once more, and the ledger knows that the file may be either one."""
        self._check()
        self._pipeline.ledger.publishing(self._entry.entry_id, self._worker)
        self._is_publishing = True

    def _remove_if_cancelled(self) -> None:
        """A slice whose file came after the word that cancelled it: nobody else lands at its path, and no sweep knows of it."""
        entry, destination = self._entry, self._pipeline.destination
        now = self._pipeline.ledger.entries([entry.entry_id])
        if entry.request.kind is Kind.SLICE and [e.status for e in now] == [Status.CANCELLED]:
            with suppress(ConfigurationError, RetryableError):
                destination.remove(destination.uri_of(entry.request.path))

    def _try_again(self, error: ConfigurationError | RetryableError) -> NotLanded:
        pipeline, entry = self._pipeline, self._entry
        tries = entry.landing_tries + 1
        # For an ad hoc extraction a person waits, who wants to hear of it.
        is_outage = isinstance(error, (ServiceUnavailableError, UnreadableAnswerError)) and entry.request.kind is not Kind.AD_HOC
        most = MAX_TRIES_OF_AN_OUTAGE if is_outage else MAX_LANDING_TRIES
        # A destination that refuses is fixed by a person, a budget by time: the finished extraction waits, it doesn't fail.
        if not isinstance(error, (ConfigurationError, RateLimitedError)) and tries >= most:
            return self._failed(error, f"its result could not be transferred in {tries} tries: {first_line(error)}")
        due_at = pipeline.clock.now() + timedelta(seconds=backoff_seconds(tries, pipeline.limits, pipeline.jitter()))
        try:
            return NotLanded(pipeline.ledger.landing_failed(entry.entry_id, self._worker, first_line(error), due_at), error)
        except ClaimLostError as lost:
            return NotLanded(entry, lost, is_lost=True)

    def _split(self, error: ExtractionTooLargeError) -> NotLanded:
        pipeline, entry = self._pipeline, self._entry
        try:
            # Keen's time limit of a query may have been a gateway's.
            ended = split(pipeline, entry, str(error), self._worker, fewest=2)
        except (ConfigurationError, RetryableError) as refused:
            return self._try_again(refused)
        return NotLanded(ended or pipeline.ledger.entries([entry.entry_id])[0], error)

    def _failed(self, error: KeenPipelineError, reason: str) -> NotLanded:
        after = self._pipeline.fail(self._entry, reason, self._worker)
        return NotLanded(after or self._entry, error, is_lost=after is None)


def _check_lengths(pipeline: Pipeline, parts: Sequence[Landing]) -> None:
    """Raises TransferError for a slice that is no longer as it landed: cut at a record's end, it would be joined without a word."""
    for part in parts:
        length = pipeline.destination.exists(part.uri)
        if length not in (None, part.stored_bytes):  # one that is gone says so itself
            raise TransferError(f"the slice {part.uri} has {length} bytes, {part.stored_bytes} landed")


def land(pipeline: Pipeline, entry_ids: Iterable[int], worker: Worker) -> Iterator[Landed | NotLanded | Counted]:
    """Land complete entries, one list call a collection for their URLs; yields each as it ends, at last the counts of all.

    Landed entries among them, which a dead run has left uncounted, are counted only. Slices are landed, not yielded. What others
    have claimed, or moved on, is left out. The caller reports each landing before it asks for the next.
    """
    claimed = pipeline.ledger.claim(entry_ids, worker.id)
    complete = [e for e in claimed if e.status is Status.COMPLETE]
    landed = [e for e in claimed if e.status is Status.LANDED]
    pool = LandingPool(pipeline, worker)
    try:
        for entry, url in _with_urls(pipeline, complete):  # what has its URL begins while others' are asked for
            pool.add(entry, url)
        while pool.entry_ids:
            for outcome in pool.finished():
                if isinstance(outcome, NotLanded):
                    pipeline.ledger.release([outcome.entry.entry_id], worker.id)
                elif outcome.entry.parent_id is not None:
                    continue
                else:
                    landed.append(outcome.entry)
                yield outcome
        yield from reconcile(pipeline, landed)
        sweep(pipeline, worker)
    finally:
        pool.close()


def _with_urls(pipeline: Pipeline, entries: Sequence[Entry]) -> Iterator[tuple[Entry, SecretUrl | None]]:
    """The entries with their results URLs. Not needed: a landing without one asks for its own, and hears itself what is wrong."""
    yield from ((entry, None) for entry in entries if entry.slices)
    groups = by_collection(entry for entry in entries if not entry.slices)
    for _, members, listed in each(groups.items(), lambda group: pipeline.api.list_extractions(group[0].request.collection)):
        for entry in members:
            remote = None if isinstance(listed, KeenPipelineError) else listed.get(entry.extraction_id or "")
            yield entry, None if remote is None else remote.results_url
