"""The requests-per-minute budget, kept in the ledger's database so that every process draws on the same one."""

from __future__ import annotations

from datetime import timedelta

import sqlalchemy as sa

from keen_pipeline.errors import RateLimitedError
from keen_pipeline.ledger.clock import clock_of, instant
from keen_pipeline.ledger.tables import api_pauses, api_requests
from keen_pipeline.ledger.transactions import changing
from keen_pipeline.ports import Clock

# A minute, and the most by which one request may be longer under way than another: the service counts where they arrive.
WINDOW = timedelta(seconds=61)
# The one budget of a ledger, where its user names no other.
API = "api"
# Between two looks while waiting; also the most a waiter oversleeps.
_LONGEST_NAP_SECONDS = 5.0
# PostgreSQL's advisory lock that makes counting and inserting one step.
_ADVISORY_LOCK = 0x6B65656F


class LedgerRateLimiter:
    """At most `per_minute` requests in any 61 seconds, over all processes on one ledger.

    A sliding window over the requests really sent, a second wider than the minute, so that a service with fixed or with
    sliding minutes sees no more than it allows, unless some requests are a second longer under way than others.
    """

    def __init__(self, engine: sa.Engine, per_minute: int, *, clock: Clock | None = None, name: str = API) -> None:
        self.engine = engine
        self._per_minute = per_minute
        self._clock: Clock = clock or clock_of(engine)
        self._name = name

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

    @changing
    def refuse_until(self, connection: sa.Connection, seconds: float) -> None:
        """The service refused a request: nobody sends another for `seconds` (0 to 3600)."""
        self._lock(connection)
        until = self._clock.now() + timedelta(seconds=min(max(seconds, 0.0), 3600.0))
        more = {"until": until, "refusals": api_pauses.c.refusals + 1}
        moved = connection.execute(sa.update(api_pauses).where(api_pauses.c.name == self._name).values(more)).rowcount
        if not moved:
            connection.execute(sa.insert(api_pauses).values(name=self._name, until=until, refusals=1))

    @changing
    def _try(self, connection: sa.Connection) -> float:
        """Take one now (0), or the seconds until it is worth asking again."""
        self._lock(connection)
        pause = sa.select(api_pauses.c.until).where(api_pauses.c.name == self._name).scalar_subquery()
        paused, now = connection.execute(sa.select(pause, instant(self._clock))).one()
        if paused is not None and paused > now:
            return float((paused - now).total_seconds())
        connection.execute(sa.delete(api_requests).where(api_requests.c.sent_at <= now - WINDOW))
        count, oldest = connection.execute(sa.select(sa.func.count(), sa.func.min(api_requests.c.sent_at))).one()
        if count >= self._per_minute:
            return max(0.01, float((oldest + WINDOW - now).total_seconds()))
        connection.execute(sa.insert(api_requests).values(sent_at=now))
        return 0.0

    def _lock(self, connection: sa.Connection) -> None:
        if self.engine.dialect.name == "postgresql":
            connection.execute(sa.select(sa.func.pg_advisory_xact_lock(_ADVISORY_LOCK)))
