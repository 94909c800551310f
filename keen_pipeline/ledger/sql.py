"""The ledger on SQLAlchemy. One public method = one transaction, whose every change names the state it expects."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from datetime import datetime, timedelta
from typing import Any, TypeVar

import sqlalchemy as sa

from keen_pipeline.errors import LeaseLostError
from keen_pipeline.extraction import OPEN_STATUSES, ExtractionRequest, Landing, Status
from keen_pipeline.ledger.database import reading
from keen_pipeline.ledger.rows import landing_values, new_row, next_attempt_row, to_entry
from keen_pipeline.ledger.tables import OUTBOX_STATUSES, entries
from keen_pipeline.lifecycle import TRANSITIONS, Entry, Limits, next_attempt_at, story
from keen_pipeline.ports import Clock, LedgerSummary, Requested, SystemClock

_T = TypeVar("_T")
# Bound of one IN list: well under every database's limit of parameters.
_CHUNK = 500
# Two submitters that insert the same target at once: the second looks again and adopts.
_REQUEST_TRIES = 3
_SHOWN_FAILURES = 50
_NO_LEASE = {"lease_owner": None, "lease_until": None}
_OPEN = sorted(s.value for s in OPEN_STATUSES)
_is_open = entries.c.status.in_(_OPEN)
_outbox = sa.and_(entries.c.status.in_(OUTBOX_STATUSES), entries.c.reported_at.is_(None))


def _chunks(items: Sequence[_T]) -> Iterator[Sequence[_T]]:
    for start in range(0, len(items), _CHUNK):
        yield items[start : start + _CHUNK]


class SqlLedger:
    """`keen_pipeline.ports.Ledger` on an engine of `open_engine`; the protocol documents the methods."""

    def __init__(self, engine: sa.Engine, *, clock: Clock | None = None) -> None:
        self.engine = engine
        self._clock: Clock = clock or SystemClock()

    # -- intents ------------------------------------------------------------------------------------------------------

    def request(self, requests: Sequence[ExtractionRequest], *, force: bool = False, run_id: str | None = None) -> list[Requested]:
        for last in range(_REQUEST_TRIES):
            try:
                with self.engine.begin() as connection:
                    return self._request(connection, requests, force, run_id)
            except sa.exc.IntegrityError:
                if last == _REQUEST_TRIES - 1:
                    raise
        raise AssertionError("unreachable")

    def _request(
        self, connection: sa.Connection, requests: Sequence[ExtractionRequest], force: bool, run_id: str | None
    ) -> list[Requested]:
        now = self._clock.now()
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

    def _newest(self, connection: sa.Connection, targets: Sequence[str]) -> dict[str, Entry]:
        """Per target the open attempt, else the landing that is valid, else the newest attempt."""
        found: dict[str, Entry] = {}
        for chunk in _chunks(targets):
            rank = sa.case((_is_open, 0), (entries.c.status == Status.LANDED.value, 1), else_=2)
            first = sa.func.row_number().over(partition_by=entries.c.target, order_by=(rank, entries.c.id.desc()))
            ranked = sa.select(entries.c.id, first.label("rank")).where(entries.c.target.in_(chunk)).subquery()
            query = sa.select(entries).join(ranked, ranked.c.id == entries.c.id).where(ranked.c.rank == 1)
            found.update((row.target, to_entry(row)) for row in connection.execute(query))
        return found

    # -- claims -------------------------------------------------------------------------------------------------------

    def claim(self, entry_ids: Sequence[int], status: Status, owner: str, seconds: float) -> list[Entry]:
        claimed: list[Entry] = []
        with self.engine.begin() as connection:
            now = self._clock.now()
            free = sa.or_(entries.c.lease_until.is_(None), entries.c.lease_until <= now, entries.c.lease_owner == owner)
            for chunk in _chunks(entry_ids):
                mine = sa.and_(entries.c.id.in_(chunk), entries.c.status == status.value)
                connection.execute(
                    sa.update(entries).where(mine, free).values(lease_owner=owner, lease_until=now + timedelta(seconds=seconds))
                )
                query = sa.select(entries).where(mine, entries.c.lease_owner == owner, entries.c.lease_until > now)
                claimed += [to_entry(row) for row in connection.execute(query.order_by(entries.c.id))]
        return claimed

    def release(self, entry_ids: Sequence[int], owner: str) -> None:
        with self.engine.begin() as connection:
            for chunk in _chunks(entry_ids):
                connection.execute(
                    sa.update(entries).where(entries.c.id.in_(chunk), entries.c.lease_owner == owner).values(_NO_LEASE)
                )

    # -- submission ---------------------------------------------------------------------------------------------------

    def posting(self, entry_id: int, owner: str) -> None:
        with self.engine.begin() as connection:
            lost_answer = sa.case((entries.c.posted_at.is_not(None), 1), else_=0)
            self._move(
                connection,
                entry_id,
                owner,
                {Status.REQUESTED},
                posted_at=self._clock.now(),
                orphans=entries.c.orphans + lost_answer,
            )

    def postpone(self, entry_id: int, owner: str, due_at: datetime, reason: str, *, ambiguous: bool = False) -> None:
        values: dict[str, Any] = {} if ambiguous else {"posted_at": None}
        with self.engine.begin() as connection:
            self._move(connection, entry_id, owner, {Status.REQUESTED}, due_at=due_at, error=reason, **values)

    def submitted(self, entry_id: int, owner: str, extraction_id: str) -> Entry:
        with self.engine.begin() as connection:
            self._move(
                connection,
                entry_id,
                owner,
                {Status.REQUESTED},
                status=Status.SUBMITTED.value,
                extraction_id=extraction_id,
                submitted_at=self._clock.now(),
                error=None,
            )
            return to_entry(self._row(connection, entry_id))

    # -- status -------------------------------------------------------------------------------------------------------

    def complete(self, entry_ids: Sequence[int]) -> list[Entry]:
        moved: list[Entry] = []
        with self.engine.begin() as connection:
            now = self._clock.now()
            for chunk in _chunks(entry_ids):
                query = (
                    sa.update(entries)
                    .where(entries.c.id.in_(chunk), entries.c.status == Status.SUBMITTED.value)
                    .values(status=Status.COMPLETE.value, completed_at=now)
                    .returning(entries)
                )
                moved += [to_entry(row) for row in connection.execute(query)]
        return sorted(moved, key=lambda entry: entry.entry_id)

    def fail(
        self, entry_id: int, reason: str, *, owner: str | None = None, limits: Limits, jitter: float = 1.0, final: bool = False
    ) -> Entry | None:
        with self.engine.begin() as connection:
            now = self._clock.now()
            row = self._row(connection, entry_id)
            entry = to_entry(row)
            due_at = None if final else next_attempt_at(entry, now, limits, jitter)
            status = Status.FAILED if due_at else Status.ABANDONED
            error = reason if due_at else story([*self._earlier(connection, row), entry], reason)
            guard = [entries.c.id == entry_id, entries.c.status == entry.status.value, _is_open]
            if owner is not None:
                guard.append(entries.c.lease_owner == owner)
            change = sa.update(entries).where(*guard).values(status=status.value, error=error, **_NO_LEASE)
            if connection.execute(change).rowcount != 1:
                return None
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

    def cancel(self, entry_ids: Sequence[int], reason: str) -> list[Entry]:
        with self.engine.begin() as connection:
            return self._cancel(connection, entry_ids, reason, self._clock.now())

    def _cancel(self, connection: sa.Connection, entry_ids: Sequence[int], reason: str, now: datetime) -> list[Entry]:
        moved: list[Entry] = []
        for chunk in _chunks(entry_ids):
            query = (
                sa.update(entries)
                .where(entries.c.id.in_(chunk), _is_open)
                .values(status=Status.CANCELLED.value, error=reason, **_NO_LEASE)
                .returning(entries)
            )
            moved += [to_entry(row) for row in connection.execute(query)]
        return moved

    # -- landing ------------------------------------------------------------------------------------------------------

    def landing_failed(self, entry_id: int, owner: str, reason: str, due_at: datetime) -> Entry:
        with self.engine.begin() as connection:
            tries = entries.c.landing_tries + 1
            self._move(connection, entry_id, owner, {Status.COMPLETE}, landing_tries=tries, error=reason, due_at=due_at)
            return to_entry(self._row(connection, entry_id))

    def landed(self, entry_id: int, owner: str, landing: Landing) -> Entry:
        with self.engine.begin() as connection:
            values = landing_values(landing)
            self._move(
                connection,
                entry_id,
                owner,
                {Status.COMPLETE},
                status=Status.LANDED.value,
                landed_at=self._clock.now(),
                error=None,
                **values,
            )
            row = self._row(connection, entry_id)
            connection.execute(
                sa.update(entries)
                .where(entries.c.target == row.target, entries.c.status == Status.LANDED.value, entries.c.id != entry_id)
                .values(status=Status.SUPERSEDED.value, **_NO_LEASE)
            )
            return to_entry(row)

    def reported(self, entry_ids: Sequence[int]) -> None:
        with self.engine.begin() as connection:
            now = self._clock.now()
            for chunk in _chunks(entry_ids):
                connection.execute(
                    sa.update(entries)
                    .where(entries.c.id.in_(chunk), entries.c.status.not_in(_OPEN), entries.c.reported_at.is_(None))
                    .values(reported_at=now, **_NO_LEASE)
                )

    # -- reading ------------------------------------------------------------------------------------------------------

    def entries(self, entry_ids: Sequence[int]) -> list[Entry]:
        found: list[Entry] = []
        with reading(self.engine) as connection:
            for chunk in _chunks(sorted(entry_ids)):
                found += [
                    to_entry(row)
                    for row in connection.execute(sa.select(entries).where(entries.c.id.in_(chunk)).order_by(entries.c.id))
                ]
        return found

    def latest(self, requests: Sequence[ExtractionRequest]) -> list[Entry | None]:
        with reading(self.engine) as connection:
            known = self._newest(connection, [r.target for r in requests])
        found = [known.get(request.target) for request in requests]
        return [
            e if e is not None and e.request.fingerprint == r.fingerprint else None for e, r in zip(found, requests, strict=True)
        ]

    def open_entries(self, *, collections: Sequence[str] | None = None) -> list[Entry]:
        query = sa.select(entries).where(_is_open).order_by(entries.c.id)
        if collections is not None:
            query = query.where(entries.c.collection.in_(collections))
        with reading(self.engine) as connection:
            return [to_entry(row) for row in connection.execute(query)]

    def unreported(self) -> list[Entry]:
        now = self._clock.now()
        free = sa.or_(entries.c.lease_until.is_(None), entries.c.lease_until <= now)
        query = sa.select(entries).where(_outbox, free).order_by(entries.c.id)
        with reading(self.engine) as connection:
            return [to_entry(row) for row in connection.execute(query)]

    def summary(self) -> LedgerSummary:
        with reading(self.engine) as connection:
            now = self._clock.now()
            counts = {
                Status(s): n for s, n in connection.execute(sa.select(entries.c.status, sa.func.count()).group_by(entries.c.status))
            }
            open_ = tuple(to_entry(row) for row in connection.execute(sa.select(entries).where(_is_open).order_by(entries.c.id)))
            newest = sa.select(sa.func.max(entries.c.id)).group_by(entries.c.target)
            bad = sa.and_(entries.c.status == Status.ABANDONED.value, entries.c.id.in_(newest))
            failures = sa.select(entries).where(bad).order_by(entries.c.id.desc()).limit(_SHOWN_FAILURES)
            failed = tuple(to_entry(row) for row in connection.execute(failures))
            unreported = connection.execute(sa.select(sa.func.count()).where(_outbox)).scalar_one()
            orphans = connection.execute(sa.select(sa.func.coalesce(sa.func.sum(entries.c.orphans), 0))).scalar_one()
        oldest = max(((now - e.requested_at).total_seconds() for e in open_), default=None)
        return LedgerSummary(counts, oldest, open_, failed, unreported, int(orphans))

    # -- inside a transaction -----------------------------------------------------------------------------------------

    def _row(self, connection: sa.Connection, entry_id: int) -> sa.Row[Any]:
        return connection.execute(sa.select(entries).where(entries.c.id == entry_id)).one()

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
