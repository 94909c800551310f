"""Land: bytes to the destination, whole or not at all, and the proof to the ledger. Several files at once."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass, replace
from datetime import timedelta
from threading import Event
from typing import Any, cast

from keen_pipeline.errors import (
    ConfigurationError,
    ExtractionTooLargeError,
    KeenPipelineError,
    LeaseLostError,
    PermanentError,
    RetryableError,
)
from keen_pipeline.extraction import SecretUrl, Status
from keen_pipeline.landing.csv.joined import JoinedResults
from keen_pipeline.lifecycle import Entry, backoff_seconds
from keen_pipeline.pipeline.context import Pipeline
from keen_pipeline.pipeline.counts import Counted, reconcile
from keen_pipeline.pipeline.property_types import PropertyTypes
from keen_pipeline.pipeline.slices import landed_slices, masked_in_slices, split, sweep_slices
from keen_pipeline.ports import ResultsSource, ResultsStream

# Transfers of one finished extraction before its attempt counts as failed; each resumes and retries inside already.
MAX_LANDING_TRIES = 3
# How long a stopped landing is waited for.
CLOSE_SECONDS = 5.0


@dataclass(frozen=True)
class Landed:
    """The file of `entry` is whole at the destination and recorded. `adopted`: it lay there before."""

    entry: Entry
    adopted: bool = False


@dataclass(frozen=True)
class NotLanded:
    """The landing of `entry` did not happen. `follower`: the next attempt, the abandoned entry, the same entry where it is
    tried again, None where somebody else has it."""

    entry: Entry
    error: KeenPipelineError
    follower: Entry | None

    @property
    def again(self) -> bool:
        """Whether the same attempt is landed once more."""
        return self.follower is not None and self.follower.entry_id == self.entry.entry_id and not self.follower.status.is_terminal


class StoppedError(KeenPipelineError):
    """Whoever wanted this landing wants it no more; nothing was changed."""


class _Stoppable:
    """A ResultsSource, and its streams, that end with StoppedError once `stop` is set."""

    def __init__(self, source: ResultsSource, stop: Event) -> None:
        self._source, self._stop = source, stop

    def open(self, *, offset: int = 0, validator: str | None = None) -> ResultsStream:
        self._check()
        stream = self._source.open(offset=offset, validator=validator)
        return cast("ResultsStream", _StoppableStream(stream, self._check))

    def _check(self) -> None:
        if self._stop.is_set():
            raise StoppedError("the run or command that waited for it was stopped")


class _StoppableStream:
    def __init__(self, stream: ResultsStream, check: Callable[[], None]) -> None:
        self._stream, self._check = stream, check

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)

    def readinto(self, buffer: memoryview) -> int:
        self._check()
        return self._stream.readinto(buffer)

    def __enter__(self) -> Any:
        self._stream.__enter__()
        return self

    def __exit__(self, *exc_info: object) -> None:
        self._stream.__exit__(*exc_info)


class LandingPool:
    """Landings in threads, at most `pipeline.landing_threads` at once; the entries are claimed by `owner` already."""

    def __init__(self, pipeline: Pipeline, owner: str) -> None:
        self._pipeline = pipeline
        self._owner = owner
        self._pool = ThreadPoolExecutor(pipeline.landing_threads, thread_name_prefix="keen-land")
        self._futures: dict[Future[Landed | NotLanded], int] = {}
        self._stop = Event()
        self._types = PropertyTypes(pipeline)

    def add(self, entry: Entry, url: SecretUrl | None) -> None:
        """Queue one complete entry."""
        self._futures[self._pool.submit(self._land, entry, url)] = entry.entry_id

    def _land(self, entry: Entry, url: SecretUrl | None) -> Landed | NotLanded:
        return land_one(self._pipeline, entry, self._owner, url, self._stop, self._types)

    @property
    def entry_ids(self) -> set[int]:
        """The entries queued or under way."""
        return set(self._futures.values())

    def finished(self, timeout: float | None) -> Iterator[Landed | NotLanded]:
        """The landings that ended, waiting at most `timeout` seconds for the first; raises what a landing raised."""
        done, _ = wait(self._futures, timeout=timeout, return_when=FIRST_COMPLETED)
        for future in done:
            del self._futures[future]
        for future in done:
            yield future.result()

    def close(self) -> None:
        """Stop what is under way, drop what is only queued; waits at most CLOSE_SECONDS.

        A transfer that hangs ends at its own time limit; it changes nothing any more.
        """
        self._stop.set()
        self._pool.shutdown(wait=False, cancel_futures=True)
        wait([f for f in self._futures if not f.cancelled()], timeout=CLOSE_SECONDS)


def land(pipeline: Pipeline, entries: Sequence[Entry], owner: str) -> Iterator[Landed | NotLanded | Counted]:
    """Land complete entries, one list call a collection for their URLs; yields each as it ends, at last the counts of all.

    Landed entries among them, which a dead run has left uncounted, are counted only. Slices are landed, not yielded.

    Entries that another process claimed or moved on are left out. The caller reports each landing before it asks for the
    next; at the end, or where the caller stops early, all claims are given back.
    """
    ids = [e.entry_id for e in entries]
    lease = pipeline.limits.lease_seconds
    claimed = pipeline.ledger.claim(ids, Status.COMPLETE, owner, lease)
    landed = pipeline.ledger.claim([e.entry_id for e in entries if e.status is Status.LANDED], Status.LANDED, owner, lease)
    urls = _urls(pipeline, [e for e in claimed if not e.slices])
    pool = LandingPool(pipeline, owner)
    try:
        with pipeline.keeping(ids, owner):
            for entry in claimed:
                pool.add(entry, urls.get(entry.entry_id))
            while pool.entry_ids:
                for outcome in pool.finished(None):
                    if isinstance(outcome, NotLanded) and outcome.follower is not None:
                        pipeline.ledger.release([outcome.follower.entry_id], owner)
                    if isinstance(outcome, Landed):
                        if outcome.entry.parent_id is not None:
                            continue
                        landed.append(outcome.entry)
                    yield outcome
            for counted in reconcile(pipeline, landed):
                landed.remove(next(e for e in landed if e.entry_id == counted.entry.entry_id))
                yield counted
        # What can't be counted now stays claimed, so that not every tick tries.
        ids = [i for i in ids if i not in {e.entry_id for e in landed}]
        sweep_slices(pipeline)
    finally:
        pool.close()
        # Whatever ended this early, the next tick goes on at once: with what has not landed, and with what was not reported.
        slices = [part.entry_id for parts in pipeline.ledger.slices(ids).values() for part in parts]
        pipeline.ledger.release([*ids, *slices], owner)


def _urls(pipeline: Pipeline, entries: Sequence[Entry]) -> Mapping[int, SecretUrl]:
    urls: dict[int, SecretUrl] = {}
    for collection in {e.request.collection for e in entries}:
        try:
            listed = pipeline.api.list_extractions(collection)
        except (RetryableError, PermanentError):
            # Not needed: a landing without a URL asks for its own, and reports what is wrong for its own extraction.
            continue
        for entry in entries:
            remote = listed.get(entry.extraction_id or "") if entry.request.collection == collection else None
            if remote is not None and remote.results_url is not None:
                urls[entry.entry_id] = remote.results_url
    return urls


def land_one(
    pipeline: Pipeline, entry: Entry, owner: str, url: SecretUrl | None, stop: Event, types: PropertyTypes
) -> Landed | NotLanded:
    """One landing, and what the ledger says of it."""
    ledger, request = pipeline.ledger, entry.request
    place = pipeline.destination if entry.parent_id is None else pipeline.destination.for_slices()
    try:
        source, extraction_id = _source(pipeline, entry, url)
        source = _Stoppable(source, stop)
        # Slices were masked when they landed: hashing a hash would join with nothing.
        mask = {} if entry.slices else request.mask
        # What a mask leaves of a value has another type.
        known = {name: kind for name, kind in types.of(entry, place).items() if name not in request.mask}
        landing = place.land(
            source, request.target, extraction_id=extraction_id, types=known, mask=mask, mask_key=pipeline.mask_key
        )
        if entry.slices:
            landing = replace(landing, masked=masked_in_slices(pipeline, entry))
        return Landed(ledger.landed(entry.entry_id, owner, landing))
    except (LeaseLostError, StoppedError) as error:
        return NotLanded(entry, error, None)
    except (ConfigurationError, RetryableError) as error:
        tries = entry.landing_tries + 1
        # A destination that refuses is mended by a person: the finished extraction waits for that, it doesn't fail.
        if isinstance(error, ConfigurationError) or tries < MAX_LANDING_TRIES:
            pause = timedelta(seconds=backoff_seconds(tries, pipeline.limits, pipeline.jitter()))
            return NotLanded(entry, error, ledger.landing_failed(entry.entry_id, owner, str(error), pipeline.clock.now() + pause))
        reason = f"its result could not be transferred in {MAX_LANDING_TRIES} tries: {error}"
        follower = ledger.fail(entry.entry_id, reason, owner=owner, limits=pipeline.limits, jitter=pipeline.jitter())
        return NotLanded(entry, error, follower)
    except ExtractionTooLargeError as error:  # v3.0 says so only now
        refused = split(pipeline, entry, str(error), None, owner=owner)
        return NotLanded(entry, error, refused[0][1] if refused else ledger.entries([entry.entry_id])[0])
    except PermanentError as error:
        follower = ledger.fail(entry.entry_id, str(error), owner=owner, limits=pipeline.limits, jitter=pipeline.jitter())
        return NotLanded(entry, error, follower)


def _source(pipeline: Pipeline, entry: Entry, url: SecretUrl | None) -> tuple[ResultsSource, str]:
    """Where the bytes come from: the service, or the slices that have landed; and a name for it."""
    if entry.slices:
        uris = [landing.uri for landing in landed_slices(pipeline, entry)]
        return JoinedResults(pipeline.destination.for_slices(), uris), f"joined-{entry.entry_id}"
    extraction_id = entry.extraction_id or ""
    return pipeline.api.results_of(entry.request, extraction_id, url), extraction_id
