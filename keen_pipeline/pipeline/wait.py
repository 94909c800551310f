"""The wait: submit, poll by list calls, land as each finishes; for backfills and ad hoc extractions."""

from __future__ import annotations

import math
from collections.abc import Generator, Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from keen_pipeline.errors import ConfigurationError, LedgerUnavailableError
from keen_pipeline.extraction import ExtractionRequest, SecretUrl, Status
from keen_pipeline.lifecycle import Entry
from keen_pipeline.pipeline.context import Pipeline, new_owner
from keen_pipeline.pipeline.counts import Counted, reconcile
from keen_pipeline.pipeline.land import Landed, LandingPool
from keen_pipeline.pipeline.poll import poll
from keen_pipeline.pipeline.slices import sweep_slices
from keen_pipeline.pipeline.submit import post_due, submit

# Between two looks at entries that another process works on, and the longest pause between two events.
_LONGEST_NAP_SECONDS = 1.0
# Of the time between two polls, how long others go by a list call; less than all of it, so that nobody waits for his own.
_SHARED_SHARE = 0.8


@dataclass(frozen=True)
class Progress:
    """How far a wait has come: numbers of requests; `kept` of the landed ones had landed before.

    `seconds_left`: an estimate by the pace of the landings so far, None before the first.
    """

    total: int
    landed: int
    kept: int
    abandoned: int
    to_submit: int
    waiting: int
    landing: int
    seconds_left: float | None = None

    @property
    def is_last(self) -> bool:
        """Whether nothing is left."""
        return self.landed + self.abandoned >= self.total

    def __str__(self) -> str:
        kept = f" ({self.kept} of them before)" if self.kept else ""
        return f"{self.landed} of {self.total} landed{kept}, {self.abandoned} failed; {self.outlook}"

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
class Abandoned:
    """No attempt of this request is left; `entry.error` tells the whole story."""

    entry: Entry


def extract(
    pipeline: Pipeline,
    requests: Sequence[ExtractionRequest],
    *,
    force: bool = False,
    run_id: str | None = None,
    resumable: bool = False,
) -> Generator[Landed | Retrying | Abandoned | Counted | Progress, None, None]:
    """Bring every request to its end and yield what happens; a `Progress` follows each change and each poll.

    When all have landed, they are held against the service's counts (`Counted`); what is not whole is extracted again.

    Whatever ends the generator early (an interrupt, a cancelled run, an error) cancels what is still open and was asked
    here, so that nobody goes on with it; what has landed stays landed. Where `resumable`, Ctrl-C and closing the generator
    leave it open instead: the next call with the same requests, or the sensor, goes on with it. So it does where the ledger
    is lost (LedgerUnavailableError), which says nothing against the extractions.
    """
    left_open = False
    wait = _Wait(pipeline, requests, force, run_id)
    try:
        with pipeline.keeping(wait.claimed, wait.owner):
            yield from wait.events()
    except (KeyboardInterrupt, GeneratorExit):
        left_open = resumable
        raise
    except LedgerUnavailableError:
        left_open = True
        raise
    finally:
        wait.pool.close()
        # What the caller has not reported to Dagster by now, the sensor does.
        pipeline.ledger.release(wait.landed_ids, wait.owner)
        if wait.open:
            mine = [e.entry_id for e in pipeline.ledger.entries(list(wait.open)) if e.lease_owner == wait.owner]
            if left_open:
                pipeline.ledger.release(mine, wait.owner)
            else:
                pipeline.ledger.cancel(mine, "the run or command that waited for it was stopped")
        sweep_slices(pipeline)


class _Wait:
    """The state of one wait: which entries are open, and which of them are claimed here."""

    def __init__(self, pipeline: Pipeline, requests: Sequence[ExtractionRequest], force: bool, run_id: str | None) -> None:
        self.pipeline = pipeline
        self.owner = new_owner()
        self.submission = submit(pipeline, requests, force=force, recount=True, run_id=run_id)
        self.open: dict[int, Entry] = {
            r.entry.entry_id: r.entry for r in self.submission.requested if not r.entry.status.is_terminal
        }
        self.claimed: list[int] = []
        self.urls: dict[int, SecretUrl] = {}
        self.pool = LandingPool(pipeline, self.owner)
        self.total = len(requests)
        self.landed = self.kept = 0
        self.begun = pipeline.clock.now()
        self.landed_ids: list[int] = []
        self.to_count: dict[int, Entry] = {}
        self.abandoned = 0

    def events(self) -> Iterator[Landed | Retrying | Abandoned | Counted | Progress]:
        """Everything that happens until nothing is open and all is counted."""
        for entry in self.submission.landed:
            yield from self._landed(entry, adopted=True)
        yield self._progress()
        while self.open or self.to_count:
            yield from self._bring_to_an_end()
            yield from self._count()

    def _landed(self, entry: Entry, *, adopted: bool) -> Iterator[Landed]:
        self.landed += 1
        self.kept += adopted
        self.to_count[entry.entry_id] = entry
        yield Landed(entry, adopted)

    def _count(self) -> Iterator[Counted]:
        due, self.to_count = list(self.to_count.values()), {}
        for counted in reconcile(self.pipeline, due):
            if counted.follower is not None:
                self.landed -= 1
                self.open[counted.follower.entry_id] = counted.follower
            yield counted

    def _bring_to_an_end(self) -> Iterator[Landed | Retrying | Abandoned | Progress]:
        while self.open:
            self._claim()
            yield from self._follow(self._post())
            yield from self._follow(self._poll())
            next_poll = self.pipeline.clock.now() + timedelta(seconds=self.pipeline.poll_seconds)
            yield self._progress()
            while self.open:
                yield from self._collect()
                left = (self._next_due(next_poll) - self.pipeline.clock.now()).total_seconds()
                if left <= 0:
                    break
                if not self.pool.entry_ids:
                    self.pipeline.clock.sleep(min(left, _LONGEST_NAP_SECONDS))

    def _claim(self) -> None:
        """Take what nobody holds, and learn what others did to the rest."""
        ledger, seconds = self.pipeline.ledger, self.pipeline.limits.lease_seconds
        mine = set(self.claimed)
        self._look_at_slices()
        for status in (Status.REQUESTED, Status.SUBMITTED, Status.SPLIT, Status.COMPLETE):
            free = [i for i, e in self.open.items() if e.status is status and i not in mine]
            for entry in ledger.claim(free, status, self.owner, seconds) if free else []:
                self.open[entry.entry_id] = entry
                self.claimed.append(entry.entry_id)

    def _look_at_slices(self) -> bool:
        """Take up the slices of what was split, drop those that ended (which is their parent's business); whether any is new."""
        for entry in self.pipeline.ledger.entries(list(self.open)):
            if entry.parent_id is not None and entry.status.is_terminal:
                del self.open[entry.entry_id]
            else:
                self.open[entry.entry_id] = entry
        split = [e.entry_id for e in self.open.values() if e.status is Status.SPLIT]
        new = [
            part
            for parts in (self.pipeline.ledger.slices(split).values() if split else ())
            for part in parts
            if part.entry_id not in self.open and not part.status.is_terminal
        ]
        self.open.update({part.entry_id: part for part in new})
        self.claimed += [part.entry_id for part in new if part.lease_owner == self.owner]
        return bool(new)

    def _mine(self, status: Status) -> list[Entry]:
        return [e for e in self.open.values() if e.status is status and e.lease_owner == self.owner]

    def _post(self) -> list[tuple[Entry, Entry | None]]:
        failed: list[tuple[Entry, Entry | None]] = []
        while True:
            now = self.pipeline.clock.now()
            due = [e.entry_id for e in self._mine(Status.REQUESTED) if e.due_at <= now]
            if not due:
                return failed
            failed += post_due(self.pipeline, due, owner=self.owner, seconds=self.pipeline.poll_seconds).failed
            if not self._look_at_slices():
                return failed

    def _poll(self) -> list[tuple[Entry, Entry | None]]:
        waiting = self._mine(Status.SUBMITTED) + self._mine(Status.SPLIT)
        if waiting:
            shared = _SHARED_SHARE * self.pipeline.poll_seconds
            outcome = poll(self.pipeline, waiting, owner=self.owner, shared_seconds=shared)
            self.urls.update(outcome.urls)
            for entry in outcome.completed:
                self.open[entry.entry_id] = entry
            failed = outcome.failed
            self._look_at_slices()
        else:
            failed = []
        queued, now = self.pool.entry_ids, self.pipeline.clock.now()
        for entry in self._mine(Status.COMPLETE):
            if entry.entry_id not in queued and (entry.due_at <= now or not entry.landing_tries):
                self.pool.add(entry, self.urls.pop(entry.entry_id, None))
        return failed

    def _follow(self, failed: list[tuple[Entry, Entry | None]]) -> Iterator[Retrying | Abandoned]:
        for entry, follower in failed:
            yield from self._replace(entry, follower)

    def _replace(self, entry: Entry, follower: Entry | None) -> Iterator[Retrying | Abandoned]:
        """Watch the attempt that follows instead of the one that failed."""
        if follower is None:
            return  # somebody else moved it on; the next look tells how
        self.open.pop(entry.entry_id, None)
        if follower.status.is_terminal:
            if follower.parent_id is not None:
                return  # its parent ends with it, at the next poll
            self.abandoned += 1
            yield Abandoned(follower)
            return
        self.open[follower.entry_id] = follower
        self.claimed.append(follower.entry_id)
        reason = next((e.error for e in self.pipeline.ledger.entries([entry.entry_id])), None) or "unknown reason"
        yield Retrying(entry, follower, reason)

    def _collect(self) -> Iterator[Landed | Retrying | Abandoned | Progress]:
        """What the landing threads finished, and what other processes brought to an end."""
        if self.pool.entry_ids:
            for outcome in self.pool.finished(_LONGEST_NAP_SECONDS):
                if isinstance(outcome, Landed):
                    self.open.pop(outcome.entry.entry_id, None)  # a slice may be seen to have ended already
                    if outcome.entry.parent_id is None:
                        self.landed_ids.append(outcome.entry.entry_id)
                        yield from self._landed(outcome.entry, adopted=False)
                    yield self._progress()
                elif isinstance(outcome.error, ConfigurationError):
                    raise outcome.error
                elif outcome.again:
                    self.open[outcome.entry.entry_id] = outcome.follower or outcome.entry  # the next round queues it again
                else:
                    yield from self._replace(outcome.entry, outcome.follower)
        elif any(e.lease_owner != self.owner for e in self.open.values()):
            yield from self._watch_others()

    def _watch_others(self) -> Iterator[Landed | Abandoned | Retrying]:
        for entry in self.pipeline.ledger.entries([i for i, e in self.open.items() if e.lease_owner != self.owner]):
            self.open[entry.entry_id] = entry
            if not entry.status.is_terminal:
                continue
            del self.open[entry.entry_id]
            newest = self.pipeline.ledger.latest([entry.request])[0] or entry
            if entry.parent_id is not None:
                continue
            if newest.status is Status.LANDED:
                yield from self._landed(newest, adopted=True)
            elif newest.status.is_terminal:
                self.abandoned += 1
                yield Abandoned(newest)
            else:
                self.open[newest.entry_id] = newest

    def _next_due(self, limit: datetime) -> datetime:
        """When the next postponed intent may be posted or landing tried again, at most `limit`."""
        due = [
            e.due_at
            for e in self.open.values()
            if e.lease_owner == self.owner and (e.status is Status.REQUESTED or e.landing_tries)
        ]
        return min([limit, *due])

    def _progress(self) -> Progress:
        here, left = self.landed - self.kept, self.total - self.landed - self.abandoned
        spent = (self.pipeline.clock.now() - self.begun).total_seconds()
        return Progress(
            total=self.total,
            landed=self.landed,
            kept=self.kept,
            abandoned=self.abandoned,
            to_submit=sum(e.status is Status.REQUESTED for e in self.open.values()),
            waiting=sum(e.status is Status.SUBMITTED for e in self.open.values()),
            landing=sum(e.status is Status.COMPLETE for e in self.open.values()),
            seconds_left=spent / here * left if here > 0 else None,
        )
