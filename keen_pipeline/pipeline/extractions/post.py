"""POST what is due: the intent is in the ledger before the request leaves, the extraction's id after it. A crash loses nothing."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from threading import Lock

from keen_pipeline.errors import (
    ClaimLostError,
    ConfigurationError,
    ExtractionTooLargeError,
    KeenPipelineError,
    PermanentError,
    RateLimitedError,
    RetryableError,
    UnreachableError,
)
from keen_pipeline.extraction import RemoteExtraction, Status
from keen_pipeline.lifecycle import MAX_WAIT, Entry, Post, Seen, backoff_seconds, decide
from keen_pipeline.pipeline.context import Pipeline, first_line
from keen_pipeline.pipeline.extractions.slices import is_planned, plan, split

# A refused request says by itself how long to wait; this is for one that does not.
_REST_SECONDS = 60.0
# The service's clock and ours may differ by so much.
CLOCK_SLACK = timedelta(minutes=5)


@dataclass
class Posted:
    """One round of POSTs.

    `submitted`: taken by the service.
    `split`: asked for in slices.
    `ended`: refused for good.
    `problems`: by collection why some of its intents are still to be posted.
    """

    submitted: list[Entry] = field(default_factory=list)
    split: list[Entry] = field(default_factory=list)
    ended: list[Entry] = field(default_factory=list)
    problems: dict[str, KeenPipelineError] = field(default_factory=dict)


def post_due(pipeline: Pipeline, entries: Sequence[Entry], worker: str, *, seconds: float = 20.0) -> Posted:
    """Count and POST every due intent among `entries` that nobody else has claimed, until done or `seconds` are over.

    An intent of too many events is split first. What the service refuses for now is postponed, what it refuses for good is given
    up. A refused key, or a collection that can't be counted, keeps its own collection's intents alone.
    """
    now = pipeline.clock.now()
    due = [e for e in entries if isinstance(decide(e, Seen(), now, pipeline.limits), Post) and e.is_free_for(worker)]
    # What is the worker's already is not claimed again at every round: thousands would be written each time.
    free = [e.entry_id for e in due if e.claimed_by is None]
    claimed = [e for e in due if e.claimed_by is not None]
    claimed += [e for e in pipeline.ledger.claim(free, worker) if e.status is Status.REQUESTED] if free else []
    # From here on: a ledger that is slow to claim would leave no time for any POST.
    outcome = _Round(pipeline, worker, pipeline.clock.now() + timedelta(seconds=seconds)).run(claimed)
    for collection, problem in outcome.problems.items():
        wished = problem.retry_after if isinstance(problem, RetryableError) else None
        until = None if wished is None else pipeline.clock.now() + timedelta(seconds=wished)
        pipeline.ledger.hindered(collection, f"its extractions can't be submitted: {first_line(problem)}", until)
    going_on = {e.request.collection for e in outcome.submitted} - set(outcome.problems)
    for collection, state in pipeline.ledger.collections().items() if going_on else ():
        if collection in going_on and state.problem is not None:
            pipeline.ledger.hindered(collection, None)
    return outcome


class _Round:
    """One round of POSTs by several threads, which stops at its deadline and when the service wants a rest."""

    def __init__(self, pipeline: Pipeline, worker: str, deadline: datetime) -> None:
        self._pipeline, self._worker, self._deadline = pipeline, worker, deadline
        self._orphans = _Orphans(pipeline)
        self._outcome = Posted()
        self._refused: KeenPipelineError | None = None
        self._lock = Lock()

    def run(self, claimed: Sequence[Entry]) -> Posted:
        """What became of them. What is planned goes first: the count of another collection may be refused at every round."""
        if not claimed:
            return self._outcome
        with ThreadPoolExecutor(self._pipeline.posting_threads, thread_name_prefix="keen-post") as pool:
            posts = [pool.map(self._one, [e for e in claimed if is_planned(e)])]
            for collection, planned in plan(self._pipeline, [e for e in claimed if not is_planned(e)], self._worker):
                with self._lock:
                    self._outcome.split += planned.split
                    self._outcome.ended += planned.ended
                    if planned.refused is not None:
                        self._outcome.problems[collection] = planned.refused
                posts.append(pool.map(self._one, planned.whole))
                if self._refused is not None or self._pipeline.clock.now() >= self._deadline:
                    break
            for done in posts:
                list(done)
        return self._outcome

    def _one(self, entry: Entry) -> None:
        """Never raises but for a ledger that is away: what is wrong is noted for this intent or its collection."""
        collection = entry.request.collection
        with self._lock:
            problem = self._outcome.problems.get(collection)
            if self._refused is not None:
                self._outcome.problems.setdefault(collection, self._refused)
                return
            if isinstance(problem, (ConfigurationError, UnreachableError)):
                return  # the next one would hear the same
        if self._pipeline.clock.now() >= self._deadline:
            return
        try:
            self._post(entry)
        except ClaimLostError:
            return  # somebody else goes on with it
        except RateLimitedError as error:
            with self._lock:
                self._refused = error
                self._outcome.problems[collection] = error
        except (ConfigurationError, RetryableError, PermanentError) as error:
            with self._lock:
                self._outcome.problems[collection] = error

    def _post(self, entry: Entry) -> None:
        pipeline, ledger = self._pipeline, self._pipeline.ledger
        # A POST whose answer was lost, or whose process died, may have made an extraction.
        maybe_posted = entry.posted_at is not None
        try:
            extraction_id = self._orphans.find(entry) if maybe_posted else None
        except (ConfigurationError, RetryableError, PermanentError) as error:  # the list's: it ends no extraction
            self._postpone(entry, error, ambiguous=True)
            raise
        try:
            if extraction_id is None:
                ledger.posting(entry.entry_id, self._worker)
                extraction_id = pipeline.api.submit(entry.request).extraction_id
            self._note(self._outcome.submitted, ledger.submitted(entry.entry_id, self._worker, extraction_id))
        except ClaimLostError:
            raise
        except (RetryableError, ConfigurationError) as error:
            # If a connection came up, the service may have the extraction: at worst one orphan, which the ledger counts.
            told = isinstance(error, (UnreachableError, RateLimitedError, ConfigurationError))
            self._postpone(entry, error, ambiguous=maybe_posted or not told)
            raise
        except ExtractionTooLargeError as error:
            self._split(entry, error, maybe_posted=maybe_posted)
        except PermanentError as error:
            ended = pipeline.fail(entry, str(error), self._worker, final=True)
            if ended is not None:
                self._note(self._outcome.ended, ended)

    def _postpone(self, entry: Entry, error: KeenPipelineError, *, ambiguous: bool) -> None:
        pipeline = self._pipeline
        wished = error.retry_after if isinstance(error, RetryableError) else None
        if isinstance(error, RateLimitedError):
            wait = _REST_SECONDS if wished is None else wished
        else:
            wait = max(wished or 0.0, backoff_seconds(entry.post_tries + 1, pipeline.limits, pipeline.jitter()))
        due_at = pipeline.clock.now() + min(timedelta(seconds=wait), MAX_WAIT)
        pipeline.ledger.postpone(entry.entry_id, self._worker, due_at, str(error), ambiguous=ambiguous)

    def _split(self, entry: Entry, error: ExtractionTooLargeError, *, maybe_posted: bool) -> None:
        try:
            ended = split(self._pipeline, entry, str(error), self._worker)
        except (RetryableError, ConfigurationError) as refused:
            # This POST has made nothing; its answer came.
            self._postpone(entry, refused, ambiguous=maybe_posted)
            raise
        self._note(self._outcome.split if ended is None else self._outcome.ended, ended or entry)

    def _note(self, where: list[Entry], entry: Entry) -> None:
        with self._lock:
            where.append(entry)


class _Orphans:
    """Extractions whose POST was answered to nobody: found in the service's list, asked once a collection, adopted if it tells what
    they are. Safe to share between threads."""

    def __init__(self, pipeline: Pipeline) -> None:
        self._pipeline = pipeline
        self._lock = Lock()
        self._unknown: dict[str, dict[str, RemoteExtraction]] = {}

    def find(self, entry: Entry) -> str | None:
        """The id of an extraction that an earlier POST of this intent made, each answered once; None if there is none.

        Raises what the list call raises: posting again without having looked could double the extraction.
        """
        assert entry.posted_at is not None
        with self._lock:
            unknown = self._of(entry.request.collection)
            for extraction_id, remote in unknown.items():
                if remote.is_of(entry.request, entry.posted_at, CLOCK_SLACK):
                    del unknown[extraction_id]
                    return extraction_id
        return None

    def _of(self, collection: str) -> dict[str, RemoteExtraction]:
        if collection not in self._unknown:
            listed = self._pipeline.api.list_extractions(collection)
            known = self._pipeline.ledger.known(collection, list(listed))
            self._unknown[collection] = {key: remote for key, remote in listed.items() if key not in known}
        return self._unknown[collection]
