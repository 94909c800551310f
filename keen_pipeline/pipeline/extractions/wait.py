"""The wait: submit, poll by list calls, land as each finishes; for backfills and ad hoc extractions.

Each round reads the ledger, decides, acts and reads again. What is told to the caller is the difference between two readings; the
one that is remembered is the last one.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, TypeAlias

from keen_pipeline.errors import ConfigurationError, KeenPipelineError, LedgerUnavailableError, PermanentError, RateLimitedError
from keen_pipeline.extraction import ExtractionRequest, Kind, SecretUrl, Status
from keen_pipeline.lifecycle import Entry, Land, Seen, decide
from keen_pipeline.pipeline.context import Pipeline
from keen_pipeline.pipeline.counts import Counted, reconcile, verdict
from keen_pipeline.pipeline.extractions.explain import explain_all, in_few_lines
from keen_pipeline.pipeline.extractions.poll import poll
from keen_pipeline.pipeline.extractions.post import post_due
from keen_pipeline.pipeline.extractions.submit import Submission, submit
from keen_pipeline.pipeline.files import manifests
from keen_pipeline.pipeline.files.land import Landed, LandingPool, NotLanded
from keen_pipeline.pipeline.files.upkeep import sweep

if TYPE_CHECKING:
    # The ledger brings SQLAlchemy, which a code location needs once it opens one.
    from keen_pipeline.ledger.workers import Worker

# Between two looks at entries that another process works on, and the longest pause between two events.
_LONGEST_NAP_SECONDS = 1.0
# Of the time between two polls, for how long a list call of another process is as good as one's own; shorter than a full interval,
# so a process rarely has to make its own call.
_SHARED_SHARE = 0.8

_Place: TypeAlias = tuple[str, str]


@dataclass(frozen=True)
class Progress:
    """How far a wait has come: numbers of requests; `kept` of the landed ones had landed before.

    `seconds_left`: an estimate by the pace of the landings so far, None before the first.
    `reasons`: asks the ledger what the others wait for, in a few lines.
    """

    total: int
    landed: int
    kept: int
    failed: int
    to_submit: int
    waiting: int
    landing: int
    seconds_left: float | None = None
    reasons: Callable[[], list[str]] = field(default=list, compare=False, repr=False)

    @property
    def is_last(self) -> bool:
        """Whether nothing is left."""
        return self.landed + self.failed >= self.total

    def __str__(self) -> str:
        kept = f" ({self.kept} before)" if self.kept else ""
        return f"{self.landed} of {self.total} landed{kept}, {self.failed} failed; {self.outlook}"

    @property
    def outlook(self) -> str:
        """What is left to do, and how long that may take."""
        left = f"; about {_duration(self.seconds_left)} left" if self.seconds_left is not None and not self.is_last else ""
        return f"{self.to_submit} to submit, {self.waiting} at the service, {self.landing} landing{left}"


def _duration(seconds: float) -> str:
    """In words, rounded up.

    >>> [_duration(s) for s in (0.2, 89, 91, 5399, 5401)]
    ['1 s', '89 s', '2 min', '90 min', '1.6 h']
    """
    if seconds < 90:
        return f"{math.ceil(seconds)} s"
    return f"{math.ceil(seconds / 60)} min" if seconds < 5400 else f"{math.ceil(seconds / 360) / 10} h"


@dataclass(frozen=True)
class Retrying:
    """An attempt failed and `follower` comes after it, not before its `due_at`."""

    entry: Entry
    follower: Entry
    reason: str


@dataclass(frozen=True)
class Ended:
    """No attempt of this request is left, or somebody cancelled it; `entry.error` says why."""

    entry: Entry


@dataclass(frozen=True)
class Stopped:
    """This wait does not wait for `entry` any more, because of `error`, which a person has to fix. A partition stays open."""

    entry: Entry
    error: KeenPipelineError


@dataclass(frozen=True)
class Hindered:
    """What had landed of a collection could not be held against the service's count, because of `error`; it was left alone."""

    collection: str
    error: KeenPipelineError


Event: TypeAlias = Landed | Retrying | Ended | Stopped | Hindered | Counted | Progress


def extract(
    pipeline: Pipeline,
    requests: Sequence[ExtractionRequest],
    *,
    doing: str,
    keep: Callable[[Entry], bool] = lambda _: True,
    run_id: str | None = None,
    resumable: bool = False,
) -> Generator[Event, None, None]:
    """Bring every request to its end and yield what happens; a `Progress` follows each change and each poll.

    `keep`: see `submit`. When all have landed, they are held against the service's counts (`Counted`); what is not whole is
    extracted again. An error of one collection, or of one file, ends the wait for that alone (`Stopped`).

    Whatever ends the generator early gives back what it had claimed: the sensor, or the next call with the same requests, goes on
    with it. Intents made here that were not posted yet are forgotten, unless `resumable`; ad hoc ones also after a `Stopped`.
    """
    with pipeline.working(doing) as worker:
        submission = submit(pipeline, requests, keep=keep, run_id=run_id)
        wait = _Wait(pipeline, requests, submission, worker, keep, run_id)
        is_over = False
        try:
            yield from wait.events()
            is_over = True
            sweep(pipeline, worker)
        finally:
            wait.pool.close()
            # An ad hoc extraction that was stopped for is nobody else's to go on with.
            if not resumable and (not is_over or any(request.kind is Kind.AD_HOC for request in requests)):
                with suppress(LedgerUnavailableError):
                    pipeline.ledger.withdraw(wait.created, run_id=run_id)


class _Wait:
    """One wait: the last reading of what it still waits for, and what it has to say."""

    def __init__(
        self,
        pipeline: Pipeline,
        requests: Sequence[ExtractionRequest],
        submission: Submission,
        worker: Worker,
        keep: Callable[[Entry], bool],
        run_id: str | None,
    ) -> None:
        self.pipeline, self.submission, self.worker = pipeline, submission, worker
        self.keep, self.run_id = keep, run_id
        self.created = [entry.entry_id for entry in submission.created]
        self.pool = LandingPool(pipeline, worker)
        self.requests: dict[_Place, ExtractionRequest] = {request.place: request for request in requests}
        self.pending: dict[_Place, Entry] = {
            r.entry.request.place: r.entry for r in submission.requested if not r.entry.status.is_terminal
        }
        self.to_count: list[Entry] = []
        self.urls: dict[int, SecretUrl] = {}
        self.landed = self.kept = self.failed = 0
        self.refused = False
        self.begun = pipeline.clock.now()

    def events(self) -> Iterator[Event]:
        """Everything that happens until nothing is waited for and all is counted."""
        for collection, error in self.submission.problems.items():
            yield Hindered(collection, error)
        for entry in self.submission.landed:
            yield from self._landed(entry, adopted=True)
        yield self._progress([])
        interval = timedelta(seconds=self.pipeline.poll_seconds)
        next_poll = planned = self.pipeline.clock.now()
        while self.pending or self.to_count:
            if not self.pending:
                yield from self._count()
                continue
            yield from self._read()
            entries = self._claimed()
            has_posted = yield from self._post(entries)
            if self._is_over(next_poll):
                yield from self._poll(self._claimed())
                next_poll = planned = self.pipeline.clock.now() + interval
                if self.refused:  # a list call waits for the budget, and a POST doesn't: now there may be some of it
                    has_posted = yield from self._post(self._claimed())
            if has_posted:  # it isn't ready yet: the interval begins with the last POST, at most one interval later
                next_poll = min(self.pipeline.clock.now(), planned) + interval
            entries = self._claimed()
            self._queue(entries)
            yield self._progress(entries)
            yield from self._land_until(self._next_round(entries, next_poll))

    # -- reading ------------------------------------------------------------------------------------------------------

    def _read(self) -> Iterator[Event]:
        """Read again what is waited for, and tell what has become of it."""
        ledger, landing = self.pipeline.ledger, self.pool.entry_ids
        rows = {entry.entry_id: entry for entry in ledger.entries(e.entry_id for e in self.pending.values())}
        self._ask_anew([place for place, before in self.pending.items() if before.entry_id not in rows])
        moved: dict[_Place, Entry] = {}
        for place, before in self.pending.items():
            entry = rows.get(before.entry_id, before)
            if not entry.status.is_terminal:
                self.pending[place] = entry
            elif entry.status is not Status.LANDED or entry.claimed_by != self.worker.id or entry.entry_id not in landing:
                moved[place] = entry  # what has landed here says so itself
        current = dict(zip(moved, ledger.current([self.requests[place] for place in moved]), strict=True))
        for place, entry in moved.items():
            yield from self._moved(place, entry, current[place])

    def _ask_anew(self, places: Sequence[_Place]) -> None:
        """Whoever asked for these first was stopped and has withdrawn them; this wait still wants them."""
        requests = [self.requests[place] for place in places]
        answers = self.pipeline.ledger.request(requests, keep=self.keep, run_id=self.run_id) if requests else []
        for place, answer in zip(places, answers, strict=True):
            self.pending[place] = answer.entry
            self.created += [answer.entry.entry_id] if answer.created else []

    def _moved(self, place: _Place, entry: Entry, current: Entry | None) -> Iterator[Event]:
        """`entry`, the attempt that was waited for, has ended; `current` is what there is of its partition now."""
        del self.pending[place]
        wanted = self.requests[place].fingerprint(self.pipeline.scope)
        if current is not None and current.fingerprint == wanted and not current.status.is_terminal:
            self.pending[place] = current
            yield Retrying(entry, current, entry.reason)
        elif entry.status is Status.LANDED:
            yield from self._landed(entry, adopted=True)
        elif entry.status is Status.SUPERSEDED and current is not None and current.fingerprint == wanted:
            yield from self._landed(current, adopted=True)
        else:
            self.failed += 1
            yield Ended(entry)

    def _landed(self, entry: Entry, *, adopted: bool) -> Iterator[Event]:
        self.landed += 1
        self.kept += adopted
        self.to_count.append(entry)
        yield Landed(entry, adopted)

    def _claimed(self) -> list[Entry]:
        """What is waited for, its slices included, that is this wait's to work on; claimed now if nobody has."""
        ledger, me = self.pipeline.ledger, self.worker.id
        entries = ledger.entries(e.entry_id for e in self.pending.values())
        split = [e.entry_id for e in entries if e.status is Status.SPLIT]
        if split:
            entries += [part for parts in ledger.slices(split).values() for part in parts if not part.status.is_terminal]
        free = [e.entry_id for e in entries if e.claimed_by is None]
        if not free:
            others = {e.claimed_by for e in entries} - {me}
            if others and ledger.workers.prune(self.pipeline.limits.lease_seconds):
                free = [e.entry_id for e in entries if e.claimed_by != me]
        if free:
            claimed = {e.entry_id: e for e in ledger.claim(free, me)}
            entries = [claimed.get(e.entry_id, e) for e in entries]
        return entries

    # -- acting -------------------------------------------------------------------------------------------------------

    def _post(self, entries: Sequence[Entry]) -> Generator[Event, None, bool]:
        """Whether the service took any."""
        posted = post_due(self.pipeline, entries, self.worker.id, seconds=self.pipeline.poll_seconds)
        self.refused = any(isinstance(problem, RateLimitedError) for problem in posted.problems.values())
        yield from self._stopped(posted.problems, {Status.REQUESTED, Status.SPLIT})
        return bool(posted.submitted)

    def _poll(self, entries: Sequence[Entry]) -> Iterator[Event]:
        shared = _SHARED_SHARE * self.pipeline.poll_seconds
        polled = poll(self.pipeline, entries, worker=self.worker.id, shared_seconds=shared)
        self.urls.update(polled.urls)
        yield from self._stopped(polled.problems, {Status.SUBMITTED, Status.SPLIT})

    def _stopped(self, problems: dict[str, KeenPipelineError], stuck: set[Status]) -> Iterator[Event]:
        """A collection whose service has to be fixed by a person is waited for no more; what has finished still lands."""
        for collection, error in problems.items():
            if not isinstance(error, (ConfigurationError, PermanentError)):
                continue
            for place, entry in list(self.pending.items()):
                if entry.request.collection == collection and entry.status in stuck:
                    yield self._stop(place, entry, error)

    def _stop(self, place: _Place, entry: Entry, error: KeenPipelineError) -> Stopped:
        self.pending.pop(place, None)
        self.failed += 1
        ledger = self.pipeline.ledger
        slices = ledger.slices([entry.entry_id]).get(entry.entry_id, [])
        ledger.release([entry.entry_id, *(part.entry_id for part in slices)], self.worker.id)
        return Stopped(entry, error)

    def _queue(self, entries: Sequence[Entry]) -> None:
        queued, now = self.pool.entry_ids, self.pipeline.clock.now()
        for entry in entries:
            mine = entry.claimed_by == self.worker.id and entry.status is Status.COMPLETE
            if mine and entry.entry_id not in queued and isinstance(decide(entry, Seen(), now, self.pipeline.limits), Land):
                self.pool.add(entry, self.urls.pop(entry.entry_id, None))

    def _land_until(self, until: datetime) -> Iterator[Event]:
        """What the landing threads finish before the next round is due."""
        while self.pending:
            left = (until - self.pipeline.clock.now()).total_seconds()
            if self._is_over(until):
                return
            if not self.pool.entry_ids:
                self.pipeline.clock.sleep(min(left, _LONGEST_NAP_SECONDS))
                continue
            for outcome in self.pool.finished(left):
                yield from self._finished(outcome)
                yield self._progress(list(self.pending.values()))
                if self._is_over(until):  # a caller that writes an event for each takes its time
                    return

    def _finished(self, outcome: Landed | NotLanded) -> Iterator[Event]:
        entry = outcome.entry
        place = entry.request.place
        if isinstance(outcome, Landed):
            if entry.parent_id is None and self.pending.pop(place, None) is not None:
                yield from self._landed(entry, adopted=False)
        elif isinstance(outcome.error, ConfigurationError):
            # Of a slice's file: the partition it is part of is waited for no more.
            whole = entry.parent_id or entry.entry_id
            stopped = next((p for p, e in self.pending.items() if e.entry_id == whole), None)
            if stopped is not None:
                yield self._stop(stopped, self.pending[stopped] if entry.parent_id else entry, outcome.error)

    def _count(self) -> Iterator[Event]:
        due, self.to_count = self.to_count, []
        for counted in reconcile(self.pipeline, due, worker=self.worker.id):
            entry = counted.entry
            if counted.follower is not None:
                self.landed -= 1
                self.pending[entry.request.place] = counted.follower
            yield counted
            if counted.is_final_failure and entry.request.kind is Kind.AD_HOC:
                yield from self._kept_aside(counted)

    def _kept_aside(self, counted: Counted) -> Iterator[Event]:
        """An ad hoc file that its count contradicts is no file that anybody should find where whole ones lie."""
        entry = counted.entry
        assert entry.landing is not None
        reason = f"{verdict(counted).partition('; the file is kept')[0]} after {entry.attempt} attempts"
        manifests.remove(self.pipeline.destination, entry.request.path)
        aside = self.pipeline.destination.set_aside(entry.landing.uri, entry.extraction_id or "unknown", reason)
        rejected = self.pipeline.ledger.reject(entry.entry_id, f"{reason}; the file is kept as {aside}")
        if rejected is not None:
            self.landed -= 1
            self.failed += 1
            yield Ended(rejected)

    # -- the time -----------------------------------------------------------------------------------------------------

    def _next_round(self, entries: Sequence[Entry], next_poll: datetime) -> datetime:
        """When to read again: at the next poll, when a back-off is over, or soon if another process works on some of it."""
        now = self.pipeline.clock.now()
        due = [e.due_at for e in entries if e.status in (Status.REQUESTED, Status.COMPLETE) and e.due_at > now]
        if any(e.claimed_by != self.worker.id for e in entries):
            due.append(now + timedelta(seconds=_LONGEST_NAP_SECONDS))
        return min([next_poll, *due])

    def _is_over(self, until: datetime) -> bool:
        """Whether it is time; one that is further off than a poll was told by a clock that was ahead."""
        return not 0 < (until - self.pipeline.clock.now()).total_seconds() <= self.pipeline.poll_seconds

    def _progress(self, entries: Sequence[Entry]) -> Progress:
        total = len(self.requests)
        here, left = self.landed - self.kept, total - self.landed - self.failed
        spent = (self.pipeline.clock.now() - self.begun).total_seconds()
        count = [e.status for e in self.pending.values()]
        ledger, limits, me = self.pipeline.ledger, self.pipeline.limits, self.worker.id
        return Progress(
            total=total,
            landed=self.landed,
            kept=self.kept,
            failed=self.failed,
            to_submit=count.count(Status.REQUESTED),
            waiting=count.count(Status.SUBMITTED) + count.count(Status.SPLIT),
            landing=count.count(Status.COMPLETE),
            seconds_left=spent / here * left if here > 0 else None,
            reasons=lambda: in_few_lines(entries, explain_all(ledger, ledger.entries(e.entry_id for e in entries), limits, me=me)),
        )
