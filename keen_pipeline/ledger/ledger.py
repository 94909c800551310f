"""The whole ledger: what `LedgerSubmissions` has, and landings, counts, slices and files that nobody needs any more."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

import sqlalchemy as sa

from keen_pipeline.collection import CountPolicy
from keen_pipeline.extraction import OPEN_STATUSES, ExtractionRequest, Kind, Landing, Status
from keen_pipeline.ledger.database.tables import (
    entries,
    is_claimed,
    is_landed,
    is_open,
    is_publishing,
    is_stale,
    is_to_land,
    scopes,
)
from keen_pipeline.ledger.database.transactions import lock_rows, transaction
from keen_pipeline.ledger.reader import chunks
from keen_pipeline.ledger.rows import bounded, landing_values, new_row, next_attempt_row
from keen_pipeline.ledger.submissions import LedgerSubmissions
from keen_pipeline.lifecycle import Entry, Limits, backoff_seconds, sources_of

_SPLITTABLE = [status.value for status in sources_of(Status.SPLIT)]


@dataclass(frozen=True)
class Slice:
    """A part of a request's timeframe. `depth`: how often it was halved; `expected`: its count, None if it is not known."""

    request: ExtractionRequest
    depth: int
    expected: int | None


class SqlLedger(LedgerSubmissions):
    """The durable history of one scope's extractions, on an engine of `open_engine`. Every method is one transaction."""

    # -- landing ------------------------------------------------------------------------------------------------------

    @transaction
    def dispatch(self, connection: sa.Connection, entry_ids: Iterable[int], until: datetime) -> list[Entry]:
        """A run will land these entries, which are at the service or complete: until then nobody asks for another one.

        Whoever claims them may land them at once. Answers those that nobody has claimed.
        """
        # Without an error it is due again for whoever claims it, see `claim`: an earlier try is over once a run is asked for.
        return self._update(connection, entry_ids, sa.and_(is_to_land, self._free_for(None)), due_at=until, error=None)

    @transaction
    def landing_failed(self, connection: sa.Connection, entry_id: int, worker: str, reason: str, due_at: datetime) -> Entry:
        """Count a landing of a claimed entry that can be tried again, not before `due_at`. Raises ClaimLostError."""
        values = {"landing_tries": entries.c.landing_tries + 1, "error": bounded(reason), "due_at": due_at}
        return self._change(connection, entry_id, worker, {Status.COMPLETE}, **values)

    @transaction
    def publishing(self, connection: sa.Connection, entry_id: int, worker: str) -> None:
        """The file of a claimed entry is about to be switched into place; the worker says with `landed` or `published` that it was.

        Until then the file that lies there may be either one: an earlier landing at its path is unproven, be it that of another
        project that landed at the same destination. So is this one, if somebody else has come as far as this at the path and has
        not been heard of since: such a file may still come. Raises ClaimLostError: then nothing may be switched.
        """
        # Two projects that come to one path at the same moment: the second finds the first.
        lock_rows(connection, scopes.c.id, scopes.c.destination == self.scope.destination)
        was_anothers = sa.func.coalesce(entries.c.publisher != worker, sa.false())
        entry = self._change(connection, entry_id, worker, {Status.COMPLETE}, unproven=was_anothers, publisher=worker)
        # Whoever is about to remove an older file from this path loses that claim, and says so in `removed`, if still alive.
        at_work = sa.or_(is_publishing, is_landed, sa.and_(is_stale, is_claimed))
        others = sa.and_(self._at_destination, _at_path(entry.request), entries.c.id != entry_id, at_work)
        claimed_by = sa.case((is_stale, sa.null()), else_=entries.c.claimed_by)
        values = {"unproven": sa.true(), "publisher": None, "claimed_by": claimed_by}
        found = connection.execute(sa.update(entries).where(others).values(values).returning(entries.c.status)).scalars()
        if any(status != Status.LANDED.value for status in found):
            self._update_one(connection, entry_id, entries.c.publisher == worker, unproven=sa.true())

    @transaction
    def published(self, connection: sa.Connection, entry_id: int, worker: str) -> None:
        """What the worker was about to switch into place lies there, or never comes."""
        self._update_one(connection, entry_id, entries.c.publisher == worker, publisher=None)

    @transaction
    def landed(self, connection: sa.Connection, entry_id: int, worker: str, landing: Landing) -> Entry:
        """complete ▶ landed, with the proof; earlier landings of the partition ▶ superseded. Raises ClaimLostError.

        The claim stays until Dagster has heard of it and its count is known.
        """
        now = self.clock.now()
        is_slice = entries.c.kind == Kind.SLICE.value  # nobody's asset: its claim has done its work
        values = {
            **landing_values(landing),
            "landed_at": now,
            "error": None,
            "publisher": None,
            "reported_at": sa.case((is_slice, now), else_=sa.null()),
            "claimed_by": sa.case((is_slice, sa.null()), else_=entries.c.claimed_by),
        }
        landed = self._move(connection, entry_id, worker, Status.LANDED, **values)
        self._supersede_earlier(connection, landed, now)
        return landed

    def _supersede_earlier(self, connection: sa.Connection, entry: Entry, now: datetime) -> None:
        at_path = _at_path(entry.request)
        earlier = sa.or_(entries.c.status == Status.LANDED.value, sa.and_(is_stale, at_path))
        values = {
            "status": Status.SUPERSEDED.value,
            "claimed_by": None,
            "unproven": sa.false(),
            # A file at the same path was replaced; one at another path is still there.
            "removed_at": sa.case((at_path, now), else_=entries.c.removed_at),
        }
        others = sa.and_(self._mine, _at_place(entry.request), entries.c.id != entry.entry_id, earlier)
        connection.execute(sa.update(entries).where(others).values(values))

    @transaction
    def mark_unproven(self, connection: sa.Connection, entry: Entry) -> None:
        """Who published for `entry` lost the claim meanwhile: what lies at its path may be that file or another's."""
        self._doubt(connection, entry)

    @transaction
    def reject(self, connection: sa.Connection, entry_id: int, reason: str) -> Entry | None:
        """An ad hoc landing ▶ abandoned: its count contradicts it, and the file was kept aside. None if it had moved on."""
        values = {"status": Status.ABANDONED.value, "error": bounded(reason), "claimed_by": None}
        return self._update_one(connection, entry_id, entries.c.status == Status.LANDED.value, **values)

    @transaction
    def reported(self, connection: sa.Connection, entry_ids: Iterable[int]) -> None:
        """Dagster has heard of these landings or ends."""
        ended = sa.and_(sa.not_(is_open), entries.c.reported_at.is_(None))
        self._update(connection, entry_ids, ended, reported_at=self.clock.now())

    @transaction
    def report_again(self, connection: sa.Connection, entry_ids: Iterable[int]) -> None:
        """Dagster is to hear of these landings once more."""
        self._update(connection, entry_ids, entries.c.status == Status.LANDED.value, reported_at=None)

    # -- counts -------------------------------------------------------------------------------------------------------

    @transaction
    def counted(self, connection: sa.Connection, counts: Mapping[int, int]) -> list[Entry]:
        """Note the service's count of landed entries; answers those that are landed still."""
        landed, now = entries.c.status == Status.LANDED.value, self.clock.now()
        ids = self._lock(connection, counts)
        noted = [self._update_one(connection, i, landed, counted=counts[i], counted_at=now) for i in ids]
        return [entry for entry in noted if entry is not None]

    @transaction
    def ask_again(
        self, connection: sa.Connection, entry_id: int, reason: str, *, limits: Limits, worker: str | None = None
    ) -> Entry | None:
        """Journal the next attempt of a landed entry that is not whole; its file stays until the new one supersedes it.

        The new attempt is `worker`'s claim. If the same is asked for already, it is that one; None if something else is, or if no
        attempt is left.
        """
        now, row = self.clock.now(), self._known(connection, entry_id)
        if row is None or row.status != Status.LANDED.value or row.attempt >= limits.max_attempts:
            return None
        asked = self._found(connection, sa.and_(is_open, _at_place(row)))
        if asked:
            return asked[0] if asked[0].fingerprint == row.fingerprint else None
        due_at = now + timedelta(seconds=backoff_seconds(row.attempt, limits))
        values = next_attempt_row(row, now, due_at) | {"claimed_by": worker, "error": bounded(reason)}
        return self._insert(connection, values)[0]

    # -- slices -------------------------------------------------------------------------------------------------------

    @transaction
    def planned(self, connection: sa.Connection, entry_ids: Iterable[int], expected: int | None) -> None:
        """The service's count lets these intents be posted whole; `expected`: that count of each, None if it is not known."""
        waiting = entries.c.status == Status.REQUESTED.value
        self._update(connection, entry_ids, waiting, planned_at=self.clock.now(), expected=expected)

    @transaction
    def split(
        self,
        connection: sa.Connection,
        entry_id: int,
        slices: Sequence[Slice],
        reason: str,
        *,
        worker: str | None = None,
        expected: int | None = None,
    ) -> list[Entry]:
        """An entry that nobody else has claimed ▶ split, with an intent for each slice.

        A slice that is split again ▶ failed, and the new slices are its parent's. Answers the new entries, claimed as the entry
        was; none if it had moved on.
        """
        row = self._known(connection, entry_id)
        if row is None:
            return []
        # Held first: whoever cancels the parent at this moment does it before the new slices are there, or with them.
        self._lock(connection, [entry_id] if row.parent_id is None else [row.parent_id, entry_id])
        row, now = self._row(connection, entry_id), self.clock.now()
        values: dict[str, Any] = {"status": Status.SPLIT.value, "planned_at": now, "expected": expected, "due_at": now}
        if row.parent_id is not None:
            values = {"status": Status.FAILED.value, "error": bounded(reason), "claimed_by": None}
        splittable = sa.and_(entries.c.status.in_(_SPLITTABLE), self._free_for(worker))
        if self._update_one(connection, entry_id, splittable, **values) is None:
            return []
        parent_id = row.parent_id or entry_id
        made = self._insert(connection, *(self._slice_row(row, parent_id, part, now) for part in slices))
        deepest = max(entry.depth for entry in made)
        shallower = sa.and_(entries.c.id == parent_id, entries.c.depth < deepest)
        connection.execute(sa.update(entries).where(shallower).values(depth=deepest))
        return made

    def _slice_row(self, row: sa.Row[Any], parent_id: int, part: Slice, now: datetime) -> dict[str, Any]:
        values = new_row(part.request, self.scope_id, self.scope, now, run_id=row.run_id)
        values |= {"parent_id": parent_id, "depth": row.depth + part.depth, "expected": part.expected}
        planned_at = now if part.expected is not None else None
        return values | {"planned_at": planned_at, "count_check": CountPolicy.OFF.value, "claimed_by": row.claimed_by}

    @transaction
    def joined(self, connection: sa.Connection, entry_id: int, slices: int, worker: str | None = None) -> Entry | None:
        """split ▶ complete: all its slices have landed. None if it had moved on, or somebody else has claimed it."""
        now = self.clock.now()
        split = sa.and_(entries.c.status == Status.SPLIT.value, self._free_for(worker))
        values = {"status": Status.COMPLETE.value, "completed_at": now, "due_at": now, "slices": slices}
        return self._update_one(connection, entry_id, split, **values)

    # -- files that nobody needs any more -----------------------------------------------------------------------------

    @transaction
    def claim_stale(self, connection: sa.Connection, entry_id: int, worker: str) -> Entry | None:
        """Take a superseded landing or a slice whose file may be removed; None unless nothing else is or will be at its path."""
        row = self._known(connection, entry_id)
        if row is None:
            return None
        # Another project's file at the same destination is nobody's to remove either.
        at_path = sa.and_(self._at_destination, _at_path(row), entries.c.id != entry_id)
        is_used = sa.or_(is_open, entries.c.status == Status.LANDED.value)
        in_use = sa.select(entries.c.id).where(at_path, is_used).limit(1)
        if connection.execute(in_use).first() is not None:
            return None
        over = [Status.SUPERSEDED.value, Status.LANDED.value] if row.kind == Kind.SLICE.value else [Status.SUPERSEDED.value]
        free = sa.and_(entries.c.status.in_(over), self._free_for(None))
        return self._update_one(connection, entry_id, free, claimed_by=worker, status=Status.SUPERSEDED.value)

    @transaction
    def removed(self, connection: sa.Connection, entry: Entry, worker: str) -> bool:
        """The file of a stale entry is gone. False if the claim was lost meanwhile: what lands at its path is unproven."""
        stale = sa.and_(entries.c.status == Status.SUPERSEDED.value, entries.c.claimed_by == worker)
        values = {"removed_at": self.clock.now(), "claimed_by": None}
        if self._update_one(connection, entry.entry_id, stale, **values) is not None:
            return True
        self._doubt(connection, entry)
        return False

    def restore(self, landed: Sequence[Entry]) -> list[Entry]:
        """Take over landings that another ledger had noted, `entry_id` aside; answers those that are valid here now.

        Of several of one partition the last is valid, the others' files may be removed. What this ledger itself landed later, or
        knows by its token, stays. Nobody is told of them again.
        """
        places: dict[tuple[str, str], list[Entry]] = defaultdict(list)
        for entry in sorted(landed, key=_landed_at):
            places[entry.request.place].append(entry)
        restored: list[Entry] = []
        for chunk in chunks(sorted(places)):
            restored += self._restore([places[place] for place in chunk])
        return restored

    @transaction
    def _restore(self, connection: sa.Connection, places: Sequence[Sequence[Entry]]) -> list[Entry]:
        now = self.clock.now()
        tokens = self._among(connection, entries.c.token, [entry.token for group in places for entry in group], self._mine)
        restored = []
        for group in places:
            here = _at_place(group[-1].request)
            known = self._found(connection, sa.and_(here, entries.c.status == Status.LANDED.value))
            # A backup of a ledger doesn't know what has landed since.
            if known and _landed_at(known[0]) >= _landed_at(group[-1]):
                continue
            new = [entry for entry in group if entry.token not in tokens]
            made = self._insert(connection, *(self._restored_row(entry, now, is_valid=entry is group[-1]) for entry in new))
            for entry in made:
                if entry.status is Status.LANDED:
                    self._supersede_earlier(connection, entry, now)
                    restored.append(entry)
        return restored

    def _restored_row(self, entry: Entry, now: datetime, *, is_valid: bool) -> dict[str, Any]:
        assert entry.landing is not None
        names = ("token", "attempt", "extraction_id", "landed_at", "expected", "counted", "counted_at")
        return {
            **new_row(entry.request, self.scope_id, self.scope, entry.requested_at, run_id=None),
            **landing_values(entry.landing),
            **{name: getattr(entry, name) for name in names},
            "status": (Status.LANDED if is_valid else Status.SUPERSEDED).value,
            "reported_at": now,
        }

    def _doubt(self, connection: sa.Connection, entry: Entry) -> None:
        """What lies at an entry's path, or is about to, may be another's file."""
        at_work = entries.c.status.in_([Status.COMPLETE.value, Status.LANDED.value])
        here = sa.and_(self._at_destination, _at_path(entry.request), at_work)
        connection.execute(sa.update(entries).where(here).values(unproven=sa.true()))

    @transaction
    def prune(self, connection: sa.Connection, before: datetime) -> int:
        """Forget attempts that ended before that and mean nothing any more; answers how many.

        Kept: what is open or landed, what still has a file, and the newest attempt of a partition; of a slice nothing once the
        partition has ended, which without it would be taken for whole.
        """
        later, whole = entries.alias("later"), entries.alias("whole")
        newer = sa.exists().where(
            *(later.c[name] == entries.c[name] for name in ("scope_id", "collection", "partition_key")), later.c.id > entries.c.id
        )
        is_needed = sa.exists().where(whole.c.id == entries.c.parent_id, whole.c.status.in_([s.value for s in OPEN_STATUSES]))
        is_old = sa.or_(newer, sa.and_(entries.c.kind == Kind.SLICE.value, sa.not_(is_needed)))
        over = [Status.FAILED.value, Status.SUPERSEDED.value, Status.ABANDONED.value, Status.CANCELLED.value]
        ended = sa.and_(self._mine, entries.c.status.in_(over), entries.c.requested_at < before, sa.not_(is_stale), is_old)
        return connection.execute(sa.delete(entries).where(ended)).rowcount


def _at_place(of: ExtractionRequest | sa.Row[Any]) -> sa.ColumnElement[bool]:
    return sa.and_(entries.c.collection == of.collection, entries.c.partition_key == of.partition_key)


def _at_path(of: ExtractionRequest | sa.Row[Any]) -> sa.ColumnElement[bool]:
    return sa.and_(entries.c.collection == of.collection, entries.c.path == of.path)


def _landed_at(entry: Entry) -> datetime:
    assert entry.landed_at is not None
    return entry.landed_at
