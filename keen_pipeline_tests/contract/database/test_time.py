"""Hosts whose clocks are ten minutes off, on one PostgreSQL ledger: its time is the database's."""

from __future__ import annotations

import time
from collections.abc import Iterator
from datetime import datetime, timedelta

import pytest
import sqlalchemy as sa

from keen_pipeline.extraction import Status
from keen_pipeline.ledger import SqlLedger, open_engine
from keen_pipeline_tests.contract.database.host import RETRY_SECONDS, Host
from keen_pipeline_tests.ledgers import SCOPE, asked, day, one

AHEAD = 600.0
# How exactly a busy machine compares two clocks, at the worst.
EXACT = timedelta(seconds=1)
# Long enough for any machine, short against the ten minutes.
PATIENCE = 30.0


@pytest.fixture
def ledger(postgres_url: str) -> Iterator[SqlLedger]:
    engine = open_engine(postgres_url)
    yield SqlLedger(engine, SCOPE)
    engine.dispose()


def database_now(ledger: SqlLedger) -> datetime:
    with ledger.engine.connect() as connection:
        return connection.execute(sa.select(sa.func.clock_timestamp())).scalar_one()


@pytest.mark.parametrize("ahead", [AHEAD, -AHEAD], ids=["first ahead", "first behind"])
def test_the_next_attempt_is_posted_when_its_back_off_is_over(ledger: SqlLedger, postgres_url: str, ahead: float) -> None:
    [entry_id] = asked(ledger, day(0))
    # By their clocks each would take the other's heartbeats for twenty minutes old.
    with Host(postgres_url, ahead, 60) as first, Host(postgres_url, -ahead, 60) as second:
        assert first.ask("post") == [entry_id]
        assert second.ask("claim", [entry_id]) == []
        before = database_now(ledger)
        number = first.ask("fail", entry_id)
        after = database_now(ledger)
        following = one(ledger, number)
        assert before - EXACT <= following.requested_at <= after + EXACT
        assert following.due_at - following.requested_at == timedelta(seconds=RETRY_SECONDS)
        deadline = time.monotonic() + PATIENCE
        while not (answer := second.ask("post")):
            assert time.monotonic() < deadline
            time.sleep(0.05)
        assert answer == [number]
        posted = one(ledger, number)
        assert posted.status is Status.SUBMITTED
        assert posted.posted_at is not None
        assert posted.submitted_at is not None
        assert following.due_at - EXACT <= posted.posted_at <= posted.submitted_at <= database_now(ledger) + EXACT
