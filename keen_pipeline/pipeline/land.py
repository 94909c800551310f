"""Land: bytes to the destination, whole or not at all, and the proof to the ledger. Several files at once."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass
from datetime import timedelta

from keen_pipeline.client.renewal import RenewingResults
from keen_pipeline.errors import ConfigurationError, KeenPipelineError, LeaseLostError, PermanentError, RetryableError
from keen_pipeline.extraction import SecretUrl, Status
from keen_pipeline.lifecycle import Entry, backoff_seconds
from keen_pipeline.pipeline.context import Pipeline

# Transfers of one finished extraction before its attempt counts as failed; each resumes and retries inside already.
MAX_LANDING_TRIES = 3


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


class LandingPool:
    """Landings in threads, at most `pipeline.landing_threads` at once; the entries are claimed by `owner` already."""

    def __init__(self, pipeline: Pipeline, owner: str) -> None:
        self._pipeline = pipeline
        self._owner = owner
        self._pool = ThreadPoolExecutor(pipeline.landing_threads, thread_name_prefix="keen-land")
        self._futures: dict[Future[Landed | NotLanded], int] = {}

    def add(self, entry: Entry, url: SecretUrl | None) -> None:
        """Queue one complete entry."""
        self._futures[self._pool.submit(land_one, self._pipeline, entry, self._owner, url)] = entry.entry_id

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
        """Wait for what is under way, drop what is only queued."""
        self._pool.shutdown(wait=True, cancel_futures=True)


def land(pipeline: Pipeline, entries: Sequence[Entry], owner: str) -> Iterator[Landed | NotLanded]:
    """Land complete entries, one list call a collection for their URLs; yields each as it ends.

    Entries that another process claimed or moved on are left out. The caller reports each landing before it asks for the
    next; at the end, or where the caller stops early, all claims are given back.
    """
    ids = [e.entry_id for e in entries]
    claimed = pipeline.ledger.claim(ids, Status.COMPLETE, owner, pipeline.limits.lease_seconds)
    urls = _urls(pipeline, claimed)
    pool = LandingPool(pipeline, owner)
    try:
        with pipeline.keeping(ids, owner):
            for entry in claimed:
                pool.add(entry, urls.get(entry.entry_id))
            while pool.entry_ids:
                for outcome in pool.finished(None):
                    if isinstance(outcome, NotLanded) and outcome.follower is not None:
                        pipeline.ledger.release([outcome.follower.entry_id], owner)
                    yield outcome
    finally:
        pool.close()
        # Whatever ended this early, the next tick goes on at once: with what has not landed, and with what was not reported.
        pipeline.ledger.release(ids, owner)


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


def land_one(pipeline: Pipeline, entry: Entry, owner: str, url: SecretUrl | None) -> Landed | NotLanded:
    """One landing, and what the ledger says of it."""
    ledger, request = pipeline.ledger, entry.request
    extraction_id = entry.extraction_id or ""
    source = RenewingResults(pipeline.api, request.collection, extraction_id, url)
    try:
        landing = pipeline.destination.land(source, request.target, extraction_id=extraction_id)
        return Landed(ledger.landed(entry.entry_id, owner, landing))
    except LeaseLostError as error:
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
    except PermanentError as error:
        follower = ledger.fail(entry.entry_id, str(error), owner=owner, limits=pipeline.limits, jitter=pipeline.jitter())
        return NotLanded(entry, error, follower)
