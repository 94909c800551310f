"""The requests-per-minute budget, kept in the ledger's database so that every process draws on the same one."""

from __future__ import annotations

from datetime import datetime, timedelta

import sqlalchemy as sa

from keen_pipeline.errors import RateLimitedError
from keen_pipeline.ledger.database.clock import clock_of, now_expression
from keen_pipeline.ledger.database.tables import api_pauses, api_requests
from keen_pipeline.ledger.database.transactions import transaction
from keen_pipeline.ports import Clock

# A minute, and the most by which one request may be longer under way than another: the service counts on arrival.
WINDOW = timedelta(seconds=61)
# A refusal is never longer: what says so was written by a clock that was ahead.
_LONGEST_PAUSE_SECONDS = 3600.0
# Between two looks while waiting; also the most a waiter oversleeps.
_LONGEST_NAP_SECONDS = 5.0
# PostgreSQL's advisory lock that makes counting and inserting one step.
_ADVISORY_LOCK = 0x6B65656F


class LedgerRateLimiter:
    """At most `per_minute` requests of one budget in any 61 seconds, over all processes on one ledger.

    A sliding window over the requests really sent, a second wider than the minute, so that a service with fixed or with
    sliding minutes sees no more than it allows, unless some requests are a second longer under way than others.
    `budget`: whose limit it is; the source, or a name that several projects of one organization share.
    """

    def __init__(self, engine: sa.Engine, per_minute: int, *, budget: str, clock: Clock | None = None) -> None:
        self.engine = engine
        self._per_minute = per_minute
        self._clock: Clock = clock or clock_of(engine)
        self._budget = budget

    def acquire(self, *, timeout: float) -> None:
        """Take one request from the budget, waiting at most `timeout` seconds.

        Raises RateLimitedError with the seconds until one comes free.
        """
        deadline = self._clock.now() + timedelta(seconds=timeout)
        while True:
            wait = self._try()
            if wait <= 0:
                return
            left = (deadline - self._clock.now()).total_seconds()
            if wait > left:
                raise RateLimitedError(
                    f"the budget of {self._per_minute} requests a minute (KEEN_PIPELINE_REQUESTS_PER_MINUTE) is used up "
                    f"for another {wait:.0f} s",
                    retry_after=wait,
                )
            self._clock.sleep(min(wait, _LONGEST_NAP_SECONDS))

    @transaction
    def refuse_until(self, connection: sa.Connection, seconds: float) -> None:
        """The service refused a request: nobody sends another for `seconds` (0 to 3600), or longer if it said so before."""
        self._lock(connection)
        now = self._now(connection)
        until = now + timedelta(seconds=min(max(seconds, 0.0), _LONGEST_PAUSE_SECONDS))
        mine = api_pauses.c.name == self._budget
        known = connection.execute(sa.select(api_pauses.c.until).where(mine)).scalar()
        if known is None:
            connection.execute(sa.insert(api_pauses).values(name=self._budget, until=until, refusals=1))
            return
        longer = max(until, known) if _is_believable(known, now) else until
        connection.execute(sa.update(api_pauses).where(mine).values(until=longer, refusals=api_pauses.c.refusals + 1))

    @transaction
    def _try(self, connection: sa.Connection) -> float:
        """Take one now (0), or the seconds until it is worth asking again."""
        self._lock(connection)
        now = self._now(connection)
        paused = connection.execute(sa.select(api_pauses.c.until).where(api_pauses.c.name == self._budget)).scalar()
        if paused is not None and paused > now and _is_believable(paused, now):
            return float((paused - now).total_seconds())
        # What lies ahead was sent by a clock that was wrong.
        over = sa.or_(api_requests.c.sent_at <= now - WINDOW, api_requests.c.sent_at > now)
        connection.execute(sa.delete(api_requests).where(over))
        mine = api_requests.c.budget == self._budget
        count, oldest = connection.execute(sa.select(sa.func.count(), sa.func.min(api_requests.c.sent_at)).where(mine)).one()
        if count >= self._per_minute:
            return max(0.01, float((oldest + WINDOW - now).total_seconds()))
        connection.execute(sa.insert(api_requests).values(sent_at=now, budget=self._budget))
        return 0.0

    def _now(self, connection: sa.Connection) -> datetime:
        """Read after the lock: a statement that had to wait for it would tell an earlier time."""
        now: datetime = connection.execute(sa.select(now_expression(self._clock))).scalar_one()
        return now

    def _lock(self, connection: sa.Connection) -> None:
        if self.engine.dialect.name == "postgresql":
            connection.execute(sa.select(sa.func.pg_advisory_xact_lock(_ADVISORY_LOCK)))


def _is_believable(until: datetime, now: datetime) -> bool:
    return until <= now + timedelta(seconds=_LONGEST_PAUSE_SECONDS)
