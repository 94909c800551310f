"""The first half of the ledger: intents, claims, submissions, and the service's word. One public method is one transaction.

What may follow what stands in `lifecycle.TRANSITIONS` alone: a change is made to an entry in a status from which its target may be
reached, that nobody else has claimed. Otherwise nothing is changed, and the method raises ClaimLostError or leaves the entry out of
its answer, as it says.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

import sqlalchemy as sa

from keen_pipeline.errors import ClaimLostError, UnreadableAnswerError
from keen_pipeline.extraction import ExtractionRequest, Status
from keen_pipeline.ledger.database.tables import collections, entries, is_open, is_to_land, scopes, workers
from keen_pipeline.ledger.database.transactions import lock_rows, transaction
from keen_pipeline.ledger.reader import REPLACED, LedgerReader, chunks
from keen_pipeline.ledger.rows import bounded, new_row, next_attempt_row
from keen_pipeline.ledger.workers import Worker
from keen_pipeline.lifecycle import Entry, Limits, backoff_seconds, history, sources_of

# A list call that comes later than this after the one before says nothing about the time between them.
_LONGEST_TICK_SECONDS = 60.0
# Unfinished extractions that are noted of one list call; whoever waits for others of them asks the service himself.
_MOST_PENDING = 10_000
_NO_PROBLEM: Mapping[str, Any] = {"problem": None, "problem_since": None, "problem_until": None}


@dataclass(frozen=True)
class Requested:
    """What became of one intent: the entry, and whether it was `created` now or adopted."""

    entry: Entry
    created: bool


class LedgerSubmissions(LedgerReader):
    """What happens to an entry up to its result; `SqlLedger` is the whole.

    `worker`: the id of a registered worker, which is what a claim is. A method that takes one acts on what that worker has claimed,
    or on what nobody has if it says so.
    """

    def working(self, doing: str, limits: Limits) -> Worker:
        """A worker for the block's time, whose claims are given back at its end; those that are gone are taken over first."""
        self.workers.prune(limits.lease_seconds)
        return Worker(self.workers, doing, limits.lease_seconds)

    # -- intents ------------------------------------------------------------------------------------------------------

    @transaction
    def request(
        self,
        connection: sa.Connection,
        requests: Sequence[ExtractionRequest],
        *,
        keep: Callable[[Entry], bool] = lambda _: True,
        run_id: str | None = None,
        waits: bool = True,
    ) -> list[Requested]:
        """Journal intents, in order. An open attempt of the same request is adopted instead of repeated.

        So is a valid landing with `keep(entry)` true. An open attempt of another question for the same partition is cancelled.
        Who `waits` would notice if an adopted intent was withdrawn; for others it is theirs from now on, which nobody withdraws.
        """
        is_simple = len({request.place for request in requests}) == len(requests)
        together = [requests] if is_simple else [[request] for request in requests]  # the second of two finds the first
        return [answer for some in together for answer in self._requested(connection, some, keep, run_id, waits)]

    def _requested(
        self,
        connection: sa.Connection,
        requests: Sequence[ExtractionRequest],
        keep: Callable[[Entry], bool],
        run_id: str | None,
        waits: bool,
    ) -> list[Requested]:
        now, known = self.clock.now(), self._newest(connection, [r.place for r in requests])
        adopted: dict[tuple[str, str], Entry] = {}
        for request in requests:
            entry, wanted = known.get(request.place), request.fingerprint(self.scope)
            if entry is not None and not entry.status.is_terminal and entry.fingerprint != wanted:
                self._cancel(connection, entries.c.id == entry.entry_id, REPLACED)
                # What had landed before may be what is wanted, as if a configuration was changed and changed back.
                entry = self._newest(connection, [request.place])[request.place]
            if entry is not None and entry.fingerprint == wanted:
                valid = entry.status is Status.LANDED and not entry.unproven
                if not entry.status.is_terminal or (valid and keep(entry)):
                    own = {} if waits or entry.status is not Status.REQUESTED else {"run_id": run_id}
                    adopted[request.place] = self._adopted(connection, entry, request, own)
                    continue
        new = (request for request in requests if request.place not in adopted)
        created = self._insert(connection, *(new_row(r, self.scope_id, self.scope, now, run_id=run_id) for r in new))
        made = {entry.request.place: entry for entry in created}
        return [Requested(made.get(r.place) or adopted[r.place], created=r.place in made) for r in requests]

    def _adopted(self, connection: sa.Connection, entry: Entry, request: ExtractionRequest, own: Mapping[str, Any]) -> Entry:
        """Today's configuration decides what a wrong count means and who is mailed, also of what was asked for before."""
        same = entry.request.count_check is request.count_check and entry.request.email == request.email
        if same and not own:
            return entry
        values = {"count_check": request.count_check.value, "email": request.email, **own}
        return self._update_one(connection, entry.entry_id, sa.true(), **values) or entry

    @transaction
    def withdraw(self, connection: sa.Connection, entry_ids: Iterable[int], *, run_id: str | None = None) -> list[int]:
        """Forget a stopped run's intents among these that were never posted, as if nobody had asked; answers them.

        One that took the place of an open attempt stays: without it nobody would ask for the partition again.
        """
        gone: list[int] = []
        unposted = sa.and_(entries.c.status == Status.REQUESTED.value, entries.c.posted_at.is_(None), entries.c.attempt == 1)
        before = entries.alias("before")
        here = (before.c[name] == entries.c[name] for name in ("scope_id", "collection", "partition_key"))
        replaces = sa.exists().where(*here, before.c.status == Status.CANCELLED.value, before.c.error == REPLACED)
        never = sa.and_(self._mine, unposted, entries.c.run_id.is_not_distinct_from(run_id), sa.not_(replaces))
        for chunk in chunks(self._lock(connection, entry_ids)):
            query = sa.delete(entries).where(never, entries.c.id.in_(chunk)).returning(entries.c.id)
            gone += connection.execute(query).scalars()
        return gone

    # -- claims -------------------------------------------------------------------------------------------------------

    @transaction
    def claim(self, connection: sa.Connection, entry_ids: Iterable[int], worker: str) -> list[Entry]:
        """Take what nobody has claimed, whatever its status; answers those that are the worker's now. None for one that is gone.

        What a run is to land is due for whoever claims it first, be it another one.
        """
        now = self.clock.now()
        alive = sa.select(workers.c.id).where(workers.c.id == worker).with_for_update(read=True)
        if connection.execute(alive).first() is None:
            return []
        # Of a landing that failed, the error says so: that one is not due before.
        dispatched = sa.and_(is_to_land, entries.c.error.is_(None), entries.c.due_at > now)
        due_at = sa.case((dispatched, now), else_=entries.c.due_at)
        return self._update(connection, entry_ids, self._free_for(worker), claimed_by=worker, due_at=due_at)

    @transaction
    def release(self, connection: sa.Connection, entry_ids: Iterable[int], worker: str) -> None:
        """Give claims back; those of others stay."""
        self._update(connection, entry_ids, entries.c.claimed_by == worker, claimed_by=None)

    # -- submission ---------------------------------------------------------------------------------------------------

    @transaction
    def posting(self, connection: sa.Connection, entry_id: int, worker: str) -> None:
        """The POST of a claimed intent is about to leave. Raises ClaimLostError."""
        lost_answer = sa.case((entries.c.posted_at.is_not(None), 1), else_=0)
        values = {"posted_at": self.clock.now(), "orphans": entries.c.orphans + lost_answer}
        self._change(connection, entry_id, worker, {Status.REQUESTED}, **values)

    @transaction
    def postpone(
        self, connection: sa.Connection, entry_id: int, worker: str, due_at: datetime, reason: str, *, ambiguous: bool = False
    ) -> None:
        """Post a claimed intent again, not before `due_at`: the POST had no effect or, if `ambiguous`, its answer was lost.

        Raises ClaimLostError.
        """
        values: dict[str, Any] = {} if ambiguous else {"posted_at": None}
        values |= {"due_at": due_at, "error": bounded(reason), "post_tries": entries.c.post_tries + 1}
        self._change(connection, entry_id, worker, {Status.REQUESTED}, **values)

    @transaction
    def submitted(self, connection: sa.Connection, entry_id: int, worker: str, extraction_id: str) -> Entry:
        """requested ▶ submitted, of a claimed intent.

        Raises ClaimLostError, and UnreadableAnswerError if the service has made that extraction for other events: an answer that
        a proxy has kept, or two of one request.
        """
        # Of two answers at once with one id, the second sees the first.
        lock_rows(connection, scopes.c.id, scopes.c.id == self.scope_id)
        tick = sa.select(collections.c.answered_seconds).where(
            collections.c.scope_id == self.scope_id, collections.c.collection == entries.c.collection
        )
        values = {"extraction_id": extraction_id, "submitted_at": self.clock.now(), "error": None}
        values |= {"submitted_tick": sa.func.coalesce(tick.scalar_subquery(), 0.0)}
        entry = self._move(connection, entry_id, worker, Status.SUBMITTED, **values)
        of_one_id = sa.and_(self._mine, entries.c.extraction_id == extraction_id, entries.c.id != entry_id)
        for other in self._found(connection, of_one_id):
            if not other.request.asks_as(entry.request):
                raise UnreadableAnswerError(
                    f"{entry.request}: the service answers with extraction {extraction_id}, which it made for {other.request}"
                )
        return entry

    # -- the service's word -------------------------------------------------------------------------------------------

    @transaction
    def listed(self, connection: sa.Connection, collection: str, pending: Iterable[str]) -> float:
        """A list call was answered: these extractions of the collection are unfinished. Whatever kept the collection is over.

        Answers for how many seconds its list calls were answered, ever.
        """
        now, row = self.clock.now(), self._collection(connection, collection)
        passed = 0.0 if row.listed_at is None else (now - row.listed_at).total_seconds()
        answered: float = row.answered_seconds + min(max(passed, 0.0), _LONGEST_TICK_SECONDS)
        noted = json.dumps(sorted(pending)[:_MOST_PENDING])
        values = {"listed_at": now, "pending": noted, "answered_seconds": answered, **_NO_PROBLEM}
        connection.execute(sa.update(collections).where(self._is_collection(collection)).values(values))
        return answered

    @transaction
    def hindered(self, connection: sa.Connection, collection: str, problem: str | None, until: datetime | None = None) -> None:
        """Why nothing of the collection goes on now, not tried before `until`; None: something does."""
        values = _NO_PROBLEM
        if problem is not None:
            since = self._collection(connection, collection).problem_since or self.clock.now()
            values = {"problem": bounded(problem), "problem_since": since, "problem_until": until}
        connection.execute(sa.update(collections).where(self._is_collection(collection)).values(values))

    def _is_collection(self, collection: str) -> sa.ColumnElement[bool]:
        return sa.and_(collections.c.scope_id == self.scope_id, collections.c.collection == collection)

    def _collection(self, connection: sa.Connection, collection: str) -> sa.Row[Any]:
        """What is known of a collection; its row is made the first time."""
        query = sa.select(collections).where(self._is_collection(collection))
        row = connection.execute(query).first()
        if row is not None:
            return row
        connection.execute(sa.insert(collections).values(scope_id=self.scope_id, collection=collection))
        return connection.execute(query).one()

    @transaction
    def complete(self, connection: sa.Connection, entry_ids: Iterable[int], worker: str | None = None) -> list[Entry]:
        """submitted ▶ complete, of what nobody else has claimed; answers those it moved.

        What a run is to land stays put off for others than the `worker` that has claimed it.
        """
        now = self.clock.now()
        submitted = sa.and_(entries.c.status == Status.SUBMITTED.value, self._free_for(worker))
        due_at = now if worker is not None else sa.case((entries.c.due_at > now, entries.c.due_at), else_=now)
        values = {"status": Status.COMPLETE.value, "completed_at": now, "due_at": due_at, "error": None}
        return self._update(connection, entry_ids, submitted, **values)

    @transaction
    def fail(
        self,
        connection: sa.Connection,
        entry_id: int,
        reason: str,
        *,
        limits: Limits,
        worker: str | None = None,
        jitter: float = 1.0,
        final: bool = False,
    ) -> Entry | None:
        """An open attempt that nobody else has claimed ▶ failed with the next attempt journalled, or ▶ abandoned.

        The answer is the next attempt, claimed as this one was, or the abandoned entry; None if it had moved on already. `final`
        leaves no further attempt.
        """
        self._lock(connection, [entry_id])
        row = self._known(connection, entry_id)
        if row is None:
            return None
        is_last = final or row.attempt >= limits.max_attempts
        earlier = [*self._earlier(connection, row), self._entry(row)]
        error = history(earlier, reason) if is_last else reason
        status = Status.ABANDONED if is_last else Status.FAILED
        values = {"status": status.value, "error": bounded(error), "claimed_by": None}
        ended = self._update_one(connection, entry_id, sa.and_(is_open, self._free_for(worker)), **values)
        if ended is None:
            return None
        self._cancel(connection, entries.c.parent_id == entry_id, "the extraction it is part of has failed")
        if is_last:
            return ended
        now = self.clock.now()
        due_at = now + timedelta(seconds=backoff_seconds(row.attempt, limits, jitter))
        values = next_attempt_row(row, now, due_at) | {"claimed_by": row.claimed_by, "error": bounded(reason)}
        return self._insert(connection, values)[0]

    def _earlier(self, connection: sa.Connection, row: sa.Row[Any]) -> list[Entry]:
        if row.series_id is None:
            return []
        series = sa.or_(entries.c.series_id == row.series_id, entries.c.id == row.series_id)
        return self._found(connection, sa.and_(series, entries.c.id < row.id))

    @transaction
    def cancel(self, connection: sa.Connection, entry_ids: Iterable[int], reason: str) -> list[Entry]:
        """Open attempts ▶ cancelled with their slices, whoever has claimed them: a person's word. Answers those it moved."""
        moved: list[Entry] = []
        for chunk in chunks(self._lock(connection, entry_ids)):
            moved += self._cancel(connection, entries.c.id.in_(chunk), reason)
        return moved

    def _cancel(self, connection: sa.Connection, which: sa.ColumnElement[bool], reason: str) -> list[Entry]:
        open_ = sa.and_(self._mine, which, is_open)
        lock_rows(connection, entries.c.id, open_)
        values = {"status": Status.CANCELLED.value, "error": bounded(reason), "claimed_by": None}
        change = sa.update(entries).where(open_).values(values).returning(entries)
        moved = [self._entry(row) for row in connection.execute(change)]
        for chunk in chunks([entry.entry_id for entry in moved if entry.parent_id is None]):
            self._cancel(connection, entries.c.parent_id.in_(chunk), reason)
        return moved

    @transaction
    def due_now(self, connection: sa.Connection, entry_ids: Iterable[int]) -> list[Entry]:
        """Open attempts that wait for a back-off, and their slices, are due at once: a person's word. Answers those it moved."""
        now, ids = self.clock.now(), sorted(entry_ids)
        slices = (sa.select(entries.c.id).where(self._mine, entries.c.parent_id.in_(chunk)) for chunk in chunks(ids))
        ids += [number for query in slices for number in connection.execute(query).scalars()]
        return self._update(connection, ids, sa.and_(is_open, entries.c.due_at > now), due_at=now)

    # -- inside a transaction -----------------------------------------------------------------------------------------

    def _lock(self, connection: sa.Connection, entry_ids: Iterable[int]) -> list[int]:
        """Those ids, ascending; on PostgreSQL their rows are held until the transaction ends."""
        ordered = sorted(set(entry_ids))
        for chunk in chunks(ordered):
            lock_rows(connection, entries.c.id, entries.c.id.in_(chunk))
        return ordered

    def _insert(self, connection: sa.Connection, *rows: Mapping[str, Any]) -> list[Entry]:
        """New entries, thousands with one statement: meanwhile nobody else can write to a SQLite ledger."""
        inserted = connection.execute(sa.insert(entries).returning(entries), rows).all() if rows else ()
        return [self._entry(row) for row in inserted]

    def _update(
        self, connection: sa.Connection, entry_ids: Iterable[int], condition: sa.ColumnElement[bool], **values: Any
    ) -> list[Entry]:
        """Change those of the entries that meet the condition; answers these, by ascending id."""
        changed: list[Entry] = []
        for chunk in chunks(self._lock(connection, entry_ids)):
            mine = sa.and_(self._mine, entries.c.id.in_(chunk), condition)
            change = sa.update(entries).where(mine).values(values).returning(entries)
            changed += [self._entry(row) for row in connection.execute(change)]
        return sorted(changed, key=lambda entry: entry.entry_id)

    def _update_one(
        self, connection: sa.Connection, entry_id: int, condition: sa.ColumnElement[bool], **values: Any
    ) -> Entry | None:
        """Change one entry if it meets the condition; None if it doesn't."""
        mine = sa.and_(self._mine, entries.c.id == entry_id, condition)
        row = connection.execute(sa.update(entries).where(mine).values(values).returning(entries)).first()
        return None if row is None else self._entry(row)

    def _free_for(self, worker: str | None) -> sa.ColumnElement[bool]:
        free = entries.c.claimed_by.is_(None)
        return free if worker is None else sa.or_(free, entries.c.claimed_by == worker)

    def _move(self, connection: sa.Connection, entry_id: int, worker: str, target: Status, **values: Any) -> Entry:
        """A claimed entry into a status that may follow its own; raises ClaimLostError."""
        return self._change(connection, entry_id, worker, sources_of(target), status=target.value, **values)

    def _change(self, connection: sa.Connection, entry_id: int, worker: str, expected: Iterable[Status], **values: Any) -> Entry:
        """Change one claimed entry that is in an expected status, or raise ClaimLostError without a change."""
        claimed = sa.and_(entries.c.status.in_([s.value for s in expected]), entries.c.claimed_by == worker)
        changed = self._update_one(connection, entry_id, claimed, **values)
        if changed is not None:
            return changed
        row = self._row(connection, entry_id)
        holder = "claimed by another process" if row.claimed_by not in (None, worker) else "no longer claimed"
        raise ClaimLostError(
            f"{self._entry(row)} is {row.status} and {holder}; nothing was changed, whoever holds it carries on with it"
        )
