"""The wait: submit, poll by list calls, land as each finishes; for backfills and ad hoc extractions."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from keen_pipeline.errors import ConfigurationError
from keen_pipeline.extraction import ExtractionRequest, SecretUrl, Status
from keen_pipeline.lifecycle import Entry
from keen_pipeline.pipeline.context import Pipeline, new_owner
from keen_pipeline.pipeline.land import Landed, LandingPool
from keen_pipeline.pipeline.poll import poll
from keen_pipeline.pipeline.submit import post_due, submit

# Between two looks at entries that another process works on, and the longest pause between two events.
_LONGEST_NAP_SECONDS = 1.0


@dataclass(frozen=True)
class Progress:
    """How far a wait has come: numbers of requests."""

    total: int
    landed: int
    abandoned: int
    to_submit: int
    waiting: int
    landing: int


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
    pipeline: Pipeline, requests: Sequence[ExtractionRequest], *, force: bool = False, run_id: str | None = None
) -> Iterator[Landed | Retrying | Abandoned | Progress]:
    """Bring every request to its end and yield what happens; a `Progress` follows each change and each poll.

    Whatever ends the generator early (an interrupt, a cancelled run, an error) cancels what is still open and was asked
    here, so that nobody goes on with it; what has landed stays landed.
    """
    wait = _Wait(pipeline, requests, force, run_id)
    try:
        with pipeline.keeping(wait.claimed, wait.owner):
            yield from wait.events()
    finally:
        wait.pool.close()
        # What the caller has not reported to Dagster by now, the sensor does.
        pipeline.ledger.release(wait.landed_ids, wait.owner)
        if wait.open:
            mine = [e.entry_id for e in pipeline.ledger.entries(list(wait.open)) if e.lease_owner == wait.owner]
            pipeline.ledger.cancel(mine, "the run or command that waited for it was stopped")


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
        self.landed = 0
        self.landed_ids: list[int] = []
        self.abandoned = 0

    def events(self) -> Iterator[Landed | Retrying | Abandoned | Progress]:
        for entry in self.submission.landed:
            self.landed += 1
            yield Landed(entry, adopted=True)
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
        for entry in ledger.entries(list(self.open)):
            self.open[entry.entry_id] = entry
        for status in (Status.REQUESTED, Status.SUBMITTED, Status.COMPLETE):
            free = [i for i, e in self.open.items() if e.status is status and i not in mine]
            for entry in ledger.claim(free, status, self.owner, seconds) if free else []:
                self.open[entry.entry_id] = entry
                self.claimed.append(entry.entry_id)

    def _mine(self, status: Status) -> list[Entry]:
        return [e for e in self.open.values() if e.status is status and e.lease_owner == self.owner]

    def _post(self) -> list[tuple[Entry, Entry | None]]:
        now = self.pipeline.clock.now()
        due = [e.entry_id for e in self._mine(Status.REQUESTED) if e.due_at <= now]
        if not due:
            return []
        posted = post_due(self.pipeline, due, owner=self.owner, seconds=self.pipeline.poll_seconds)
        for entry in (*posted.submitted, *self.pipeline.ledger.entries([e.entry_id for e in posted.postponed])):
            self.open[entry.entry_id] = entry
        return list(posted.failed)

    def _poll(self) -> list[tuple[Entry, Entry | None]]:
        waiting = self._mine(Status.SUBMITTED)
        if waiting:
            outcome = poll(self.pipeline, waiting, owner=self.owner)
            self.urls.update(outcome.urls)
            for entry in outcome.completed:
                self.open[entry.entry_id] = entry
            failed = outcome.failed
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
        del self.open[entry.entry_id]
        if follower.status.is_terminal:
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
                    del self.open[outcome.entry.entry_id]
                    self.landed_ids.append(outcome.entry.entry_id)
                    self.landed += 1
                    yield outcome
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
            if newest.status is Status.LANDED:
                self.landed += 1
                yield Landed(newest, adopted=True)
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
        return Progress(
            total=self.total,
            landed=self.landed,
            abandoned=self.abandoned,
            to_submit=sum(e.status is Status.REQUESTED for e in self.open.values()),
            waiting=sum(e.status is Status.SUBMITTED for e in self.open.values()),
            landing=sum(e.status is Status.COMPLETE for e in self.open.values()),
        )
