"""The ledger on SQLAlchemy. One public method = one transaction, whose every change names the state it expects."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from contextlib import suppress
from datetime import datetime, timedelta
from typing import Any

import sqlalchemy as sa

from keen_pipeline.errors import LeaseLostError
from keen_pipeline.extraction import OPEN_STATUSES, CountPolicy, ExtractionRequest, Landing, Status
from keen_pipeline.ledger.reader import LedgerReader, chunks
from keen_pipeline.ledger.rows import landing_values, new_row, next_attempt_row, to_entry
from keen_pipeline.ledger.tables import entries, is_open, is_uncounted, listings
from keen_pipeline.ledger.transactions import changing, take_in_order
from keen_pipeline.lifecycle import TRANSITIONS, Entry, Limits, next_attempt_at, story
from keen_pipeline.ports import Requested, Slice

# Two submitters that insert the same target at once: the second looks again and adopts.
_REQUEST_TRIES = 3
_NO_LEASE = {"lease_owner": None, "lease_until": None}
_SPLITTABLE = [status.value for status, after in TRANSITIONS.items() if Status.SPLIT in after]
_OPEN = sorted(s.value for s in OPEN_STATUSES)


class SqlLedger(LedgerReader):
    """`keen_pipeline.ports.Ledger` on an engine of `open_engine`; the protocol documents the methods."""

    # -- intents ------------------------------------------------------------------------------------------------------

    def request(self, requests: Sequence[ExtractionRequest], *, force: bool = False, run_id: str | None = None) -> list[Requested]:
        for last in range(_REQUEST_TRIES):
            try:
                return self._request(requests, force, run_id)
            except sa.exc.IntegrityError:
                if last == _REQUEST_TRIES - 1:
                    raise
        raise AssertionError("unreachable")

    @changing
    def _request(
        self, connection: sa.Connection, requests: Sequence[ExtractionRequest], force: bool, run_id: str | None
    ) -> list[Requested]:
        now = self.clock.now()
        known = self._newest(connection, [r.target for r in requests])
        answers: list[Requested] = []
        for request in requests:
            entry = known.get(request.target)
            same = entry is not None and entry.request.fingerprint == request.fingerprint
            if entry is not None and same and (not entry.status.is_terminal or (entry.status is Status.LANDED and not force)):
                answers.append(Requested(entry, created=False))
                continue
            if entry is not None and not entry.status.is_terminal:
                # The same file is asked with other filters or another window: the older question is moot.
                self._cancel(connection, [entry.entry_id], "another extraction was asked for the same file", now)
            new_id = connection.execute(
                sa.insert(entries).values(new_row(request, now, run_id=run_id)).returning(entries.c.id)
            ).scalar_one()
            created = to_entry(self._row(connection, new_id))
            known[request.target] = created
            answers.append(Requested(created, created=True))
        return answers

    # -- claims -------------------------------------------------------------------------------------------------------

    @changing
    def claim(self, connection: sa.Connection, entry_ids: Sequence[int], status: Status, owner: str, seconds: float) -> list[Entry]:
        claimed: list[Entry] = []
        entry_ids = self._take(connection, entry_ids)
        now = self.clock.now()
        free = sa.or_(entries.c.lease_until.is_(None), entries.c.lease_until <= now, entries.c.lease_owner == owner)
        for chunk in chunks(entry_ids):
            mine = sa.and_(entries.c.id.in_(chunk), entries.c.status == status.value)
            connection.execute(
                sa.update(entries).where(mine, free).values(lease_owner=owner, lease_until=now + timedelta(seconds=seconds))
            )
            query = sa.select(entries).where(mine, entries.c.lease_owner == owner, entries.c.lease_until > now)
            claimed += [to_entry(row) for row in connection.execute(query.order_by(entries.c.id))]
        return claimed

    @changing
    def release(self, connection: sa.Connection, entry_ids: Sequence[int], owner: str) -> None:
        for chunk in chunks(self._take(connection, entry_ids)):
            connection.execute(sa.update(entries).where(entries.c.id.in_(chunk), entries.c.lease_owner == owner).values(_NO_LEASE))

    # -- submission ---------------------------------------------------------------------------------------------------

    @changing
    def posting(self, connection: sa.Connection, entry_id: int, owner: str) -> None:
        lost_answer = sa.case((entries.c.posted_at.is_not(None), 1), else_=0)
        self._move(
            connection,
            entry_id,
            owner,
            {Status.REQUESTED},
            posted_at=self.clock.now(),
            orphans=entries.c.orphans + lost_answer,
        )

    @changing
    def postpone(
        self, connection: sa.Connection, entry_id: int, owner: str, due_at: datetime, reason: str, *, ambiguous: bool = False
    ) -> None:
        values: dict[str, Any] = {} if ambiguous else {"posted_at": None}
        self._move(connection, entry_id, owner, {Status.REQUESTED}, due_at=due_at, error=reason, **values)

    @changing
    def submitted(self, connection: sa.Connection, entry_id: int, owner: str, extraction_id: str) -> Entry:
        self._move(
            connection,
            entry_id,
            owner,
            {Status.REQUESTED},
            status=Status.SUBMITTED.value,
            extraction_id=extraction_id,
            submitted_at=self.clock.now(),
            error=None,
        )
        return to_entry(self._row(connection, entry_id))

    # -- status -------------------------------------------------------------------------------------------------------

    @changing
    def complete(self, connection: sa.Connection, entry_ids: Sequence[int]) -> list[Entry]:
        moved: list[Entry] = []
        entry_ids = self._take(connection, entry_ids)
        now = self.clock.now()
        for chunk in chunks(entry_ids):
            query = (
                sa.update(entries)
                .where(entries.c.id.in_(chunk), entries.c.status == Status.SUBMITTED.value)
                .values(status=Status.COMPLETE.value, completed_at=now)
                .returning(entries)
            )
            moved += [to_entry(row) for row in connection.execute(query)]
        return sorted(moved, key=lambda entry: entry.entry_id)

    def listed(self, collection: str, pending: Sequence[str]) -> None:
        with suppress(sa.exc.IntegrityError):  # another run has just listed it too
            self._listed(collection, pending)

    @changing
    def _listed(self, connection: sa.Connection, collection: str, pending: Sequence[str]) -> None:
        values = {"listed_at": self.clock.now(), "pending": json.dumps(sorted(pending))}
        known = sa.update(listings).where(listings.c.collection == collection).values(values)
        if not connection.execute(known).rowcount:
            connection.execute(sa.insert(listings).values(collection=collection, **values))

    @changing
    def fail(
        self,
        connection: sa.Connection,
        entry_id: int,
        reason: str,
        *,
        owner: str | None = None,
        limits: Limits,
        jitter: float = 1.0,
        final: bool = False,
    ) -> Entry | None:
        now = self.clock.now()
        row = self._row(connection, entry_id)
        entry = to_entry(row)
        due_at = None if final else next_attempt_at(entry, now, limits, jitter)
        status = Status.FAILED if due_at else Status.ABANDONED
        error = reason if due_at else story([*self._earlier(connection, row), entry], reason)
        guard = [entries.c.id == entry_id, entries.c.status == entry.status.value, is_open]
        if owner is not None:
            guard.append(entries.c.lease_owner == owner)
        change = sa.update(entries).where(*guard).values(status=status.value, error=error, **_NO_LEASE)
        if connection.execute(change).rowcount != 1:
            return None
        self._cancel_slices(connection, [entry_id], "the extraction it is part of has failed")
        if due_at is not None:
            values = next_attempt_row(row, now, due_at)
            if owner is not None:
                # Whoever waits for the failed attempt waits for the next one too.
                values |= {"lease_owner": owner, "lease_until": row.lease_until}
            entry_id = connection.execute(sa.insert(entries).values(values).returning(entries.c.id)).scalar_one()
        return to_entry(self._row(connection, entry_id))

    def _earlier(self, connection: sa.Connection, row: sa.Row[Any]) -> list[Entry]:
        if row.series_id is None:
            return []
        series = sa.or_(entries.c.series_id == row.series_id, entries.c.id == row.series_id)
        query = sa.select(entries).where(series, entries.c.id < row.id).order_by(entries.c.id)
        return [to_entry(earlier) for earlier in connection.execute(query)]

    @changing
    def cancel(self, connection: sa.Connection, entry_ids: Sequence[int], reason: str) -> list[Entry]:
        return self._cancel(connection, entry_ids, reason, self.clock.now())

    def _cancel(self, connection: sa.Connection, entry_ids: Sequence[int], reason: str, now: datetime) -> list[Entry]:
        moved: list[Entry] = []
        for chunk in chunks(self._take(connection, entry_ids)):
            query = (
                sa.update(entries)
                .where(entries.c.id.in_(chunk), is_open)
                .values(status=Status.CANCELLED.value, error=reason, **_NO_LEASE)
                .returning(entries)
            )
            moved += [to_entry(row) for row in connection.execute(query)]
            self._cancel_slices(connection, chunk, reason)
        return moved

    def _cancel_slices(self, connection: sa.Connection, parent_ids: Sequence[int], reason: str) -> None:
        part = sa.and_(entries.c.parent_id.in_(parent_ids), is_open)
        take_in_order(connection, entries.c.id, part)
        connection.execute(sa.update(entries).where(part).values(status=Status.CANCELLED.value, error=reason, **_NO_LEASE))

    # -- landing ------------------------------------------------------------------------------------------------------

    @changing
    def landing_failed(self, connection: sa.Connection, entry_id: int, owner: str, reason: str, due_at: datetime) -> Entry:
        tries = entries.c.landing_tries + 1
        self._move(connection, entry_id, owner, {Status.COMPLETE}, landing_tries=tries, error=reason, due_at=due_at)
        return to_entry(self._row(connection, entry_id))

    @changing
    def landed(self, connection: sa.Connection, entry_id: int, owner: str, landing: Landing) -> Entry:
        values = landing_values(landing)
        self._move(
            connection,
            entry_id,
            owner,
            {Status.COMPLETE},
            status=Status.LANDED.value,
            landed_at=self.clock.now(),
            error=None,
            **values,
        )
        row = self._row(connection, entry_id)
        if row.parent_id is not None:
            # A slice is nobody's asset: there is nothing to report, and its claim has done its work.
            change = sa.update(entries).where(entries.c.id == entry_id).values(reported_at=self.clock.now(), **_NO_LEASE)
            connection.execute(change)
            return to_entry(self._row(connection, entry_id))
        connection.execute(
            sa.update(entries)
            .where(entries.c.target == row.target, entries.c.status == Status.LANDED.value, entries.c.id != entry_id)
            .values(status=Status.SUPERSEDED.value, **_NO_LEASE)
        )
        return to_entry(row)

    @changing
    def reported(self, connection: sa.Connection, entry_ids: Sequence[int]) -> None:
        entry_ids = self._take(connection, entry_ids)
        now = self.clock.now()
        for chunk in chunks(entry_ids):
            connection.execute(
                sa.update(entries)
                .where(entries.c.id.in_(chunk), entries.c.status.not_in(_OPEN), entries.c.reported_at.is_(None))
                .values(reported_at=now)
            )
            # Who landed it holds it until it is counted too.
            done = sa.and_(entries.c.id.in_(chunk), entries.c.status.not_in(_OPEN), sa.not_(is_uncounted))
            connection.execute(sa.update(entries).where(done).values(_NO_LEASE))

    # -- counts -------------------------------------------------------------------------------------------------------

    @changing
    def counted(self, connection: sa.Connection, counts: Mapping[int, int | None]) -> list[Entry]:
        answers: list[Entry] = []
        self._take(connection, list(counts))
        now = self.clock.now()
        for entry_id, number in counts.items():
            landed = sa.and_(entries.c.id == entry_id, entries.c.status == Status.LANDED.value)
            change = sa.update(entries).where(landed).values(counted=number, counted_at=now).returning(entries)
            answers += [to_entry(row) for row in connection.execute(change)]
            connection.execute(sa.update(entries).where(landed, entries.c.reported_at.is_not(None)).values(_NO_LEASE))
        return answers

    def again(self, entry_id: int, *, limits: Limits, jitter: float = 1.0) -> Entry | None:
        try:
            return self._again(entry_id, limits, jitter)
        except sa.exc.IntegrityError:
            return None  # the same file is asked for already

    @changing
    def _again(self, connection: sa.Connection, entry_id: int, limits: Limits, jitter: float) -> Entry | None:
        now = self.clock.now()
        row = self._row(connection, entry_id)
        due_at = next_attempt_at(to_entry(row), now, limits, jitter)
        if row.status != Status.LANDED.value or due_at is None:
            return None
        values = next_attempt_row(row, now, due_at)
        new_id = connection.execute(sa.insert(entries).values(values).returning(entries.c.id)).scalar_one()
        return to_entry(self._row(connection, new_id))

    # -- slices -------------------------------------------------------------------------------------------------------

    @changing
    def planned(self, connection: sa.Connection, entry_ids: Sequence[int], expected: int | None) -> None:
        entry_ids = self._take(connection, entry_ids)
        now = self.clock.now()
        for chunk in chunks(entry_ids):
            waiting = sa.and_(entries.c.id.in_(chunk), entries.c.status == Status.REQUESTED.value)
            connection.execute(sa.update(entries).where(waiting).values(planned_at=now, expected=expected))

    @changing
    def split(
        self,
        connection: sa.Connection,
        entry_id: int,
        slices: Sequence[Slice],
        reason: str,
        *,
        owner: str | None = None,
        expected: int | None = None,
    ) -> list[Entry]:
        now = self.clock.now()
        row = self._row(connection, entry_id)
        if row.parent_id is not None:
            # Held first: whoever cancels the parent at this moment does it before the new slices are there, or with them.
            self._take(connection, [row.parent_id, entry_id])
        guard = [entries.c.id == entry_id, entries.c.status.in_(_SPLITTABLE)]
        if owner is not None:
            guard.append(entries.c.lease_owner == owner)
        values: dict[str, Any] = {"status": Status.SPLIT.value, "planned_at": now, "expected": expected}
        if row.parent_id is not None:
            values = {"status": Status.FAILED.value, "error": reason, **_NO_LEASE}
        if connection.execute(sa.update(entries).where(*guard).values(values)).rowcount != 1:
            return []
        parent_id = row.parent_id or entry_id
        lease = {"lease_owner": row.lease_owner, "lease_until": row.lease_until} if owner is not None else {}
        made = []
        for part in slices:
            first = new_row(part.request, now, run_id=row.run_id)
            extra = {"parent_id": parent_id, "depth": row.depth + part.depth, "expected": part.expected}
            extra |= {"planned_at": now if part.expected is not None else None, "count_check": CountPolicy.OFF.value}
            insert = sa.insert(entries).values(first | extra | lease).returning(entries.c.id)
            made.append(to_entry(self._row(connection, connection.execute(insert).scalar_one())))
        deepest = max(entry.depth for entry in made)
        shallower = sa.and_(entries.c.id == parent_id, entries.c.depth < deepest)
        connection.execute(sa.update(entries).where(shallower).values(depth=deepest))
        return made

    @changing
    def joined(self, connection: sa.Connection, entry_id: int, slices: int) -> Entry | None:
        split = sa.and_(entries.c.id == entry_id, entries.c.status == Status.SPLIT.value)
        values = {"status": Status.COMPLETE.value, "completed_at": self.clock.now(), "slices": slices}
        if connection.execute(sa.update(entries).where(split).values(values)).rowcount != 1:
            return None
        return to_entry(self._row(connection, entry_id))

    @changing
    def supersede(self, connection: sa.Connection, entry_ids: Sequence[int]) -> None:
        for chunk in chunks(self._take(connection, entry_ids)):
            landed = sa.and_(entries.c.id.in_(chunk), entries.c.status == Status.LANDED.value)
            connection.execute(sa.update(entries).where(landed).values(status=Status.SUPERSEDED.value, **_NO_LEASE))

    # -- inside a transaction -----------------------------------------------------------------------------------------

    def _take(self, connection: sa.Connection, entry_ids: Sequence[int]) -> list[int]:
        """Those ids, ascending; on PostgreSQL their rows are held until the transaction ends."""
        ordered = sorted(set(entry_ids))
        for chunk in chunks(ordered if len(ordered) > 1 else []):
            take_in_order(connection, entries.c.id, entries.c.id.in_(chunk))
        return ordered

    def _move(self, connection: sa.Connection, entry_id: int, owner: str, expected: set[Status], **values: Any) -> None:
        """Change one claimed entry that is in an expected state, or raise LeaseLostError without a change."""
        if "status" in values:
            assert all(Status(values["status"]) in TRANSITIONS[status] for status in expected)
        guard = sa.and_(entries.c.id == entry_id, entries.c.status.in_([s.value for s in expected]), entries.c.lease_owner == owner)
        if connection.execute(sa.update(entries).where(guard).values(values)).rowcount != 1:
            row = self._row(connection, entry_id)
            raise LeaseLostError(
                f"{to_entry(row)} is {row.status} and {'claimed by another process' if row.lease_owner else 'not claimed'}; "
                "nothing was changed, whoever holds it goes on with it"
            )
