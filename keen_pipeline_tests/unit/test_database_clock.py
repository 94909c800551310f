"""The database's time by a host's steady clock: better comparisons replace worse ones, and a clock that was set is followed."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from keen_pipeline.ledger.database.clock import RENEW_SECONDS, DatabaseClock

START = 1_800_000_000.0


class Database:
    """A DBAPI connection to a server whose clock, round trips and host a test owns."""

    def __init__(self) -> None:
        self.host, self.server = 50.0, START
        self.there = self.back = 0.001
        self.readings = self.rollbacks = 0

    def pass_by(self, seconds: float) -> None:
        self.host += seconds
        self.server += seconds

    def cursor(self) -> Database:
        return self

    def execute(self, _query: str) -> None:
        self.readings += 1
        self.pass_by(self.there)
        self._answer = self.server
        self.pass_by(self.back)

    def fetchone(self) -> tuple[float]:
        return (self._answer,)

    def close(self) -> None:
        pass

    def rollback(self) -> None:
        self.rollbacks += 1


@pytest.fixture
def database() -> Database:
    return Database()


@pytest.fixture
def clock(database: Database) -> DatabaseClock:
    return started(database)


def started(database: Database) -> DatabaseClock:
    clock = DatabaseClock(lambda: database.host)
    clock.renew(database)
    return clock


def off_by(clock: DatabaseClock, database: Database) -> float:
    return clock.now().timestamp() - database.server


def test_it_tells_the_servers_time_whatever_the_host_counts_from(clock: DatabaseClock, database: Database) -> None:
    assert off_by(clock, database) == pytest.approx(0, abs=1e-4)
    database.pass_by(45)
    assert off_by(clock, database) == pytest.approx(0, abs=1e-4)


def test_it_asks_once_a_minute_and_leaves_no_transaction(clock: DatabaseClock, database: Database) -> None:
    for _ in range(10):
        database.pass_by(RENEW_SECONDS / 10 - 0.1)
        clock.renew(database)
    assert database.readings == 1
    database.pass_by(2)
    clock.renew(database)
    assert (database.readings, database.rollbacks) == (2, 2)


def test_a_slow_comparison_is_repeated_a_little_and_does_not_replace_a_better_one(clock: DatabaseClock, database: Database) -> None:
    database.there, database.back = 8.0, 0.0
    database.pass_by(RENEW_SECONDS)
    clock.renew(database)
    assert database.readings == 1 + 3
    assert off_by(clock, database) == pytest.approx(0, abs=1e-4)


def test_a_better_comparison_replaces_a_slow_one(database: Database) -> None:
    database.there, database.back = 8.0, 0.0
    clock = started(database)
    assert abs(off_by(clock, database)) > 3
    database.there = database.back = 0.001
    database.pass_by(RENEW_SECONDS)
    clock.renew(database)
    assert off_by(clock, database) == pytest.approx(0, abs=1e-3)


@pytest.mark.parametrize("step", [3600.0, -3600.0, 2.0])
def test_a_servers_clock_that_was_set_is_followed_even_by_a_slow_comparison(
    clock: DatabaseClock, database: Database, step: float
) -> None:
    database.server += step
    database.there = database.back = 0.5
    database.pass_by(RENEW_SECONDS)
    clock.renew(database)
    assert off_by(clock, database) == pytest.approx(0, abs=0.5)


@given(
    trips=st.lists(st.tuples(st.floats(0.0001, 5), st.floats(0.0001, 5), st.floats(0, 300)), min_size=1, max_size=20),
    drift=st.floats(-0.0002, 0.0002),
)
def test_it_is_never_further_off_than_its_best_comparison_allows(trips: list[tuple[float, float, float]], drift: float) -> None:
    database = Database()
    plain: Callable[[float], None] = database.pass_by

    def pass_by(seconds: float) -> None:
        plain(seconds)
        database.server += drift * seconds

    database.pass_by = pass_by  # type: ignore[method-assign]
    clock, allowed = DatabaseClock(lambda: database.host), float("inf")
    for there, back, rest in trips:
        database.there, database.back = there, back
        before = database.readings
        clock.renew(database)
        spent = (database.readings - before) * (there + back)
        if spent:
            allowed = min(allowed + 0.0005 * spent, (there + back) / 2 + 0.0005 * spent)
        database.pass_by(rest)
        allowed += 0.0005 * rest
        assert abs(off_by(clock, database)) <= allowed + 1e-3
