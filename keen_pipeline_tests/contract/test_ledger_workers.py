"""Hosts whose clocks are ten minutes off, on one PostgreSQL ledger: its time is the database's."""

from __future__ import annotations

import time
from collections.abc import Iterator
from datetime import datetime, timedelta

import pytest
import sqlalchemy as sa

from keen_pipeline.extraction import Status
from keen_pipeline.ledger import SqlLedger, open_engine
from keen_pipeline.lifecycle import Entry
from keen_pipeline_tests.contract.host import LEASE_SECONDS, RETRY_SECONDS, Host
from keen_pipeline_tests.contract.test_ledger import day

AHEAD = 600.0
# How exactly a busy machine compares two clocks, at the worst.
EXACT = timedelta(seconds=1)
# Long enough for any machine, short against the ten minutes.
PATIENCE = 30.0

FIRST_AHEAD = pytest.mark.parametrize("ahead", [AHEAD, -AHEAD], ids=["first ahead", "first behind"])


@pytest.fixture
def ledger(postgres_url: str) -> Iterator[SqlLedger]:
    engine = open_engine(postgres_url)
    yield SqlLedger(engine)
    engine.dispose()


def database_now(ledger: SqlLedger) -> datetime:
    with ledger.engine.connect() as connection:
        return connection.execute(sa.select(sa.func.clock_timestamp())).scalar_one()


def ask_until(host: Host, order: str, *arguments: object) -> object:
    """The first answer that is not empty."""
    deadline = time.monotonic() + PATIENCE
    while not (answer := host.ask(order, *arguments)):
        assert time.monotonic() < deadline
        time.sleep(0.05)
    return answer


def one(ledger: SqlLedger, entry_id: int) -> Entry:
    [entry] = ledger.entries([entry_id])
    return entry


@FIRST_AHEAD
def test_a_lease_ends_when_its_seconds_are_over_and_not_before(ledger: SqlLedger, postgres_url: str, ahead: float) -> None:
    [asked] = ledger.request([day(0)])
    number = asked.entry.entry_id
    with Host(postgres_url, ahead) as first, Host(postgres_url, -ahead) as second:
        assert second.ask("claim", [], "requested", "second", 1) == []  # it is up
        before = database_now(ledger)
        assert first.ask("claim", [number], "requested", "first", 3) == [number]
        until = one(ledger, number).lease_until
        assert until is not None
        assert before - EXACT <= until - timedelta(seconds=3) <= database_now(ledger) + EXACT
        assert ask_until(second, "claim", [number], "requested", "second", 3) == [number]
        assert database_now(ledger) >= until - EXACT
        assert one(ledger, number).lease_owner == "second"


def test_a_vanished_hosts_claim_is_taken_over_and_a_living_ones_never(ledger: SqlLedger, postgres_url: str) -> None:
    [asked] = ledger.request([day(0)])
    with Host(postgres_url, AHEAD) as first, Host(postgres_url, -AHEAD) as second:
        assert first.ask("post") == [asked.entry.entry_id]
        assert first.ask("keep", [asked.entry.entry_id], "first") == [asked.entry.entry_id]
        end = time.monotonic() + 2 * LEASE_SECONDS
        while time.monotonic() < end:
            assert second.ask("claim", [asked.entry.entry_id], "submitted", "second", 60) == []
            time.sleep(0.05)
        first.kill()
        assert ask_until(second, "claim", [asked.entry.entry_id], "submitted", "second", 60) == [asked.entry.entry_id]


@FIRST_AHEAD
def test_the_next_attempt_is_posted_when_its_back_off_is_over(ledger: SqlLedger, postgres_url: str, ahead: float) -> None:
    [asked] = ledger.request([day(0)])
    with Host(postgres_url, ahead) as first, Host(postgres_url, -ahead) as second:
        assert first.ask("post") == [asked.entry.entry_id]
        before = database_now(ledger)
        number = first.ask("fail", asked.entry.entry_id)
        after = database_now(ledger)
        following = one(ledger, number)
        assert before - EXACT <= following.requested_at <= after + EXACT
        assert following.due_at - following.requested_at == timedelta(seconds=RETRY_SECONDS)
        assert ask_until(second, "post") == [number]
        posted = one(ledger, number)
        assert posted.status is Status.SUBMITTED
        assert posted.posted_at is not None
        assert posted.posted_at >= following.due_at - EXACT
        assert posted.submitted_at is not None
        assert posted.submitted_at <= database_now(ledger) + EXACT


def test_the_budget_of_a_minute_is_one_for_all_clocks(postgres_url: str) -> None:
    open_engine(postgres_url).dispose()
    with Host(postgres_url, AHEAD, 7) as first, Host(postgres_url, -AHEAD, 7) as second, Host(postgres_url, 0.0, 7) as third:
        taken, waits = zip(*[host.ask("spend") for host in (second, first, third, second, first)], strict=True)
    assert sum(taken) == 7
    assert all(0 < wait <= 61 for wait in waits)
