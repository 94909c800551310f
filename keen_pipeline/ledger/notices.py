"""The outbox of what is told to people: each notice once for each channel, tried again until it is sent."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

import sqlalchemy as sa

from keen_pipeline.ledger.database.clock import clock_of
from keen_pipeline.ledger.database.tables import is_waiting_notice, notices
from keen_pipeline.ledger.database.transactions import read_transaction, transaction
from keen_pipeline.lifecycle import MAX_WAIT
from keen_pipeline.ports import Clock


@dataclass(frozen=True)
class Notice:
    """One message of the outbox. `name`: what it is about, as `digest/2026-01-05`; `channel`: mail or slack; `attempts`: with the
    present one; `body`: None if it is written when it is sent."""

    notice_id: int
    name: str
    channel: str
    created_at: datetime
    attempts: int
    body: Mapping[str, Any] | None


class SqlNotices:
    """The notices in the ledger's database. Every method is one transaction.

    `of`: what the names of one pipeline's notices begin with; others' are not claimed. Unless given, all are.
    """

    def __init__(self, engine: sa.Engine, *, of: str = "", clock: Clock | None = None) -> None:
        self.engine = engine
        self._mine = notices.c.name.startswith(of, autoescape=True)
        self._clock: Clock = clock or clock_of(engine)

    @transaction
    def plan(self, connection: sa.Connection, name: str, channel: str, body: Mapping[str, Any] | None = None) -> bool:
        """Have `name` sent by `channel`; False, and nothing changed, if it was planned before."""
        now = self._clock.now()
        values = {"name": name, "channel": channel, "created_at": now, "due_at": now, "attempts": 0}
        same = sa.and_(notices.c.name == name, notices.c.channel == channel)
        if connection.execute(sa.select(notices.c.id).where(same)).first() is not None:
            return False
        connection.execute(sa.insert(notices).values(body=json.dumps(body) if body is not None else None, **values))
        return True

    @transaction
    def claim(self, connection: sa.Connection, channels: set[str], hold_seconds: float) -> Notice | None:
        """The oldest notice that is due, for the caller alone; due again after `hold_seconds`, should the caller die."""
        now = self._clock.now()
        # What is put off for longer was put off by a clock that was ahead.
        is_due = sa.or_(notices.c.due_at <= now, notices.c.due_at > now + MAX_WAIT)
        due = sa.and_(self._mine, is_waiting_notice, is_due, notices.c.channel.in_(sorted(channels)))
        row = connection.execute(sa.select(notices).where(due).order_by(notices.c.id).limit(1)).first()
        if row is None:
            return None
        mine = sa.and_(notices.c.id == row.id, notices.c.due_at == row.due_at, is_waiting_notice)
        taken = {"due_at": now + timedelta(seconds=hold_seconds), "attempts": row.attempts + 1}
        if connection.execute(sa.update(notices).where(mine).values(taken)).rowcount != 1:
            return None
        body = json.loads(row.body) if row.body is not None else None
        return Notice(row.id, row.name, row.channel, row.created_at, row.attempts + 1, body)

    @transaction
    def failed(self, connection: sa.Connection, notice_id: int, error: str, due_at: datetime) -> None:
        """It is tried again, not before `due_at`."""
        connection.execute(sa.update(notices).where(notices.c.id == notice_id).values(error=error, due_at=due_at))

    @read_transaction
    def waiting(self, connection: sa.Connection) -> list[tuple[str, str, int, str | None]]:
        """(name, channel, attempts, last error) of what is not out yet, oldest first."""
        query = sa.select(notices).where(is_waiting_notice).order_by(notices.c.id)
        return [(row.name, row.channel, row.attempts, row.error) for row in connection.execute(query)]

    @transaction
    def prune(self, connection: sa.Connection, before: datetime) -> int:
        """Forget what ended before that; answers how many."""
        return connection.execute(sa.delete(notices).where(notices.c.ended_at < before)).rowcount

    @transaction
    def end(self, connection: sa.Connection, notice_id: int, *, error: str | None = None) -> None:
        """It is out, or given up because of `error`."""
        ended = {"ended_at": self._clock.now(), "error": error}
        connection.execute(sa.update(notices).where(notices.c.id == notice_id).values(ended))
