"""What is waited for, since when and until when: of one entry, and of many in a few lines. Told by the ledger alone."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import TYPE_CHECKING

from keen_pipeline.extraction import Status
from keen_pipeline.lifecycle import Entry, Limits, Seen, Wait, decide
from keen_pipeline.pipeline.told import cause
from keen_pipeline.timeframe import format_instant

if TYPE_CHECKING:
    # The ledger brings SQLAlchemy, which a code location needs once it opens one.
    from keen_pipeline.ledger import CollectionState, SqlLedger
    from keen_pipeline.ledger.workers import WorkerRow

_STANDS = {
    Status.REQUESTED: "it waits to be submitted",
    Status.SUBMITTED: "the service is working on it",
    Status.SPLIT: "it is extracted in slices",
    Status.COMPLETE: "its file is about to be fetched",
}
_MOST_LINES = 5


@dataclass(frozen=True)
class Waiting:
    """Why an entry has not ended. `since`: how long that has been so. `until`: when something happens next, None if not known."""

    why: str
    since: datetime
    until: datetime | None = None

    def __str__(self) -> str:
        until = f", until {_moment(self.until)}" if self.until is not None else ""
        return f"{self.why} (since {_moment(self.since)}{until})"


def explain_all(ledger: SqlLedger, entries: Iterable[Entry], limits: Limits, *, me: str | None = None) -> dict[int, Waiting]:
    """What each of some open entries waits for, by id. `me`: the worker that asks."""
    now, states = ledger.clock.now(), ledger.collections()
    others = {
        row.worker_id: row for row in ledger.workers.all() if row.worker_id != me and not row.is_gone(now, limits.lease_seconds)
    }
    return {
        entry.entry_id: _explain(entry, states.get(entry.request.collection), others.get(entry.claimed_by or ""), now, limits)
        for entry in entries
        if not entry.status.is_terminal
    }


def _explain(entry: Entry, state: CollectionState | None, holder: WorkerRow | None, now: datetime, limits: Limits) -> Waiting:
    """What an open entry waits for. `state`: of its collection; `holder`: who else has claimed it."""
    since = {
        Status.SUBMITTED: entry.submitted_at,
        Status.COMPLETE: entry.completed_at,
    }.get(entry.status) or entry.requested_at
    problem = state.problem if state is not None and entry.status is not Status.COMPLETE else None
    if holder is not None:
        lease_over = holder.heartbeat_at + timedelta(seconds=limits.lease_seconds)
        why = "".join(f": {one}" for one in (problem or entry.error,) if one)
        return Waiting(f"{_STANDS[entry.status]}; {holder} has claimed it{why}", since, lease_over)
    action = decide(entry, Seen(), now, limits)
    if isinstance(action, Wait) and action.until is not None:
        tries = f" after {entry.landing_tries} landings that failed" if entry.landing_tries and not entry.error else ""
        return Waiting(f"{_STANDS[entry.status]} (attempt {entry.attempt}): {action.why}{tries}", since, action.until)
    if state is not None and problem is not None:
        return Waiting(problem, state.since or since, state.until)
    if entry.error:
        return Waiting(f"{_STANDS[entry.status]} (attempt {entry.attempt}): {entry.error}", since)
    return Waiting(_STANDS[entry.status], since)


def in_few_lines(entries: Sequence[Entry], waiting: Mapping[int, Waiting]) -> list[str]:
    """Equal reasons once, with how many partitions they keep; the most frequent first."""
    groups: dict[str, list[Waiting]] = defaultdict(list)
    for entry in entries:
        if entry.entry_id in waiting:
            one = waiting[entry.entry_id]
            groups[cause(one.why, entry.request.collection, entry.request.partition_key)].append(one)
    lines = []
    for members in sorted(groups.values(), key=len, reverse=True):
        untils = [one.until for one in members if one.until is not None]
        told = Waiting(members[0].why, min(one.since for one in members), min(untils, default=None))
        lines.append(f"{len(members)} of them: {told}" if len(members) > 1 else str(told))
    more = [f"and {len(lines) - _MOST_LINES} other reasons"] if len(lines) > _MOST_LINES else []
    return [*lines[:_MOST_LINES], *more]


def _moment(moment: datetime) -> str:
    return format_instant(moment.replace(microsecond=0))
