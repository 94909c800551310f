"""The budget of requests a minute: over all processes, whatever their clocks and the database's defaults say."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from datetime import datetime, timedelta

import pytest
import sqlalchemy as sa

from keen_pipeline.errors import RateLimitedError
from keen_pipeline.ledger import LedgerRateLimiter, SqlLedger, open_engine
from keen_pipeline.testing import FakeClock
from keen_pipeline_tests.contract.database.host import REQUESTS_PER_MINUTE, Host
from keen_pipeline_tests.ledgers import clock, ledger, memory, url

__all__ = ["clock", "ledger", "memory", "url"]


def limiter(ledger: SqlLedger, per_minute: int = 5, *, budget: str = "projects/p1") -> LedgerRateLimiter:
    return LedgerRateLimiter(ledger.engine, per_minute, budget=budget, clock=ledger.clock)


def wait_of(one: LedgerRateLimiter) -> float:
    """Seconds until a request is free, 0 if one was taken."""
    try:
        one.acquire(timeout=0)
    except RateLimitedError as error:
        return error.retry_after or -1.0
    return 0.0


def test_the_budget_holds_in_any_minute_and_over_processes(ledger: SqlLedger, clock: FakeClock) -> None:
    limiters = [limiter(ledger), limiter(ledger)]
    sent: list[datetime] = []
    for turn in range(23):
        limiters[turn % 2].acquire(timeout=600)
        sent.append(clock.now())
        clock.advance(1.7)
    for first in sent:
        assert sum(first <= moment < first + timedelta(seconds=60) for moment in sent) <= 5


def test_a_used_up_budget_says_when_to_come_again(memory: SqlLedger, clock: FakeClock) -> None:
    one = limiter(memory, 1)
    one.acquire(timeout=0)
    with pytest.raises(RateLimitedError, match="KEEN_PIPELINE_REQUESTS_PER_MINUTE") as refused:
        one.acquire(timeout=60.9)
    assert refused.value.retry_after == 61
    begun = clock.now()
    one.acquire(timeout=61)
    assert clock.now() - begun == timedelta(seconds=61)


def test_a_budget_is_its_own(memory: SqlLedger) -> None:
    first, second = limiter(memory, 1), limiter(memory, 1, budget="projects/p2")
    assert (wait_of(first), wait_of(second)) == (0, 0)
    assert (wait_of(first), wait_of(second)) == (61, 61)
    limiter(memory, budget="projects/p3").refuse_until(600)
    assert wait_of(limiter(memory)) == 0


@pytest.mark.parametrize(("first", "second", "wait"), [(600, 1, 600), (1, 600, 600), (30, 30, 30), (9999, 1, 3600), (-5, 0, 0)])
def test_a_shorter_refusal_never_shortens_a_longer_one(memory: SqlLedger, first: float, second: float, wait: float) -> None:
    one = limiter(memory)
    one.refuse_until(first)
    one.refuse_until(second)
    assert wait_of(one) == wait
    with memory.engine.connect() as connection:
        assert connection.exec_driver_sql("SELECT name, refusals FROM keen_api_pauses").all() == [("projects/p1", 2)]


def test_a_refusal_ends(memory: SqlLedger, clock: FakeClock) -> None:
    one = limiter(memory)
    one.refuse_until(600)
    clock.advance(599)
    assert wait_of(one) == 1
    clock.advance(1)
    assert wait_of(one) == 0
    one.refuse_until(10)  # a new one, the old one is over
    assert wait_of(one) == 10


def test_a_clock_that_was_ahead_blocks_nobody_afterwards(memory: SqlLedger, clock: FakeClock) -> None:
    one = limiter(memory, 2)
    clock.advance(86_400)
    assert (wait_of(one), wait_of(one)) == (0, 0)
    one.refuse_until(600)
    clock.advance(-86_400)
    assert (wait_of(one), wait_of(one)) == (0, 0)
    assert wait_of(one) == 61  # what it really sent counts
    one.refuse_until(5)  # and a pause of that clock is forgotten
    clock.advance(61)
    assert wait_of(one) == 0


def test_a_clock_that_was_behind_counts_nothing_twice(memory: SqlLedger, clock: FakeClock) -> None:
    one = limiter(memory, 1)
    clock.advance(-86_400)
    assert wait_of(one) == 0
    clock.advance(86_400)
    assert wait_of(one) == 0


@pytest.mark.parametrize("level", ["read committed", "repeatable read", "serializable"])
def test_no_isolation_of_a_database_grants_more(postgres_url: str, level: str) -> None:
    admin = sa.create_engine(postgres_url, isolation_level="AUTOCOMMIT")
    with admin.connect() as connection:
        name = sa.make_url(postgres_url).database
        connection.exec_driver_sql(f"ALTER DATABASE {name} SET default_transaction_isolation = '{level}'")
    admin.dispose()
    engines = [open_engine(postgres_url) for _ in range(3)]

    def spend(number: int) -> int:
        one = LedgerRateLimiter(engines[number % 3], 10, budget="b")
        return sum(wait_of(one) == 0 for _ in range(4))

    with ThreadPoolExecutor(6) as pool:
        assert sum(pool.map(spend, range(6))) == 10
    for engine in engines:
        engine.dispose()


def test_the_budget_of_a_minute_is_one_for_all_clocks(postgres_url: str) -> None:
    open_engine(postgres_url).dispose()
    with Host(postgres_url, 600) as first, Host(postgres_url, -600) as second, Host(postgres_url) as third:
        taken, waits = zip(*[host.ask("spend") for host in (second, first, third, second, first)], strict=True)
    assert sum(taken) == REQUESTS_PER_MINUTE
    assert all(0 < wait <= 61 for wait in waits)
