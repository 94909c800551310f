"""Many at once on the same rows of PostgreSQL: nobody is refused, and rows are taken in one order."""

from __future__ import annotations

import random
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import pytest
import sqlalchemy as sa

from keen_pipeline.extraction import Status
from keen_pipeline.ledger import SqlLedger, open_engine
from keen_pipeline.lifecycle import Entry
from keen_pipeline.ports import Slice
from keen_pipeline.timeframe import Timeframe
from keen_pipeline_tests.contract.test_ledger import day, land
from keen_pipeline_tests.postgres import deadlocks

THREADS = 8
ENTRIES = 60


@pytest.fixture
def ledger(postgres_url: str) -> Iterator[SqlLedger]:
    engine = open_engine(postgres_url)
    yield SqlLedger(engine)
    engine.dispose()


def test_changes_of_many_entries_at_once_never_wait_for_each_other_in_a_circle(ledger: SqlLedger) -> None:
    ids = [r.entry.entry_id for r in ledger.request([day(n) for n in range(ENTRIES)])]
    for entry_id in ids[: ENTRIES // 2]:
        land(ledger, entry_id)

    def work(seed: int) -> None:
        choose = random.Random(seed)
        owner = f"thread {seed}"
        for _ in range(25):
            some = choose.sample(ids, ENTRIES - 5)
            kind = choose.randrange(8)
            if kind == 0:
                ledger.claim(some, choose.choice([Status.REQUESTED, Status.LANDED]), owner, 0.01)
            elif kind == 1:
                ledger.release(some, owner)
            elif kind == 2:
                ledger.reported(some)
            elif kind == 3:
                ledger.counted(dict.fromkeys(some, 2))
            elif kind == 4:
                ledger.planned(some, 2)
            elif kind == 5:
                ledger.complete(some)
            elif kind == 6:
                ledger.supersede(some[:2])
            else:
                ledger.cancel(some[:2], "not wanted")

    with ThreadPoolExecutor(THREADS) as pool:
        for done in [pool.submit(work, seed) for seed in range(THREADS)]:
            done.result()
    assert deadlocks(ledger.engine) == 0
    assert len(ledger.entries(ids)) == ENTRIES


def halves(entry: Entry) -> list[Slice]:
    start, end = entry.request.timeframe.start, entry.request.timeframe.end
    middle = start + (end - start) / 2
    frames = [Timeframe(start, middle), Timeframe(middle, end)]
    return [Slice(replace(entry.request, timeframe=f, target=f"{entry.request.target}.{n}"), 1, None) for n, f in enumerate(frames)]


def test_a_slice_is_split_while_its_parent_is_cancelled(ledger: SqlLedger) -> None:
    """Either all of it is cancelled, the new slices too, or nothing is split."""
    days = [r.entry for r in ledger.request([day(n) for n in range(40)])]
    slices = [ledger.split(entry.entry_id, halves(entry), "too large")[0] for entry in days]
    with ThreadPoolExecutor(2) as pool:
        for entry, part in zip(days, slices, strict=True):
            cancelled = pool.submit(ledger.cancel, [entry.entry_id], "not wanted")
            split = pool.submit(ledger.split, part.entry_id, halves(part), "still too large")
            assert [e.entry_id for e in cancelled.result()] == [entry.entry_id]
            split.result()
    assert ledger.open_entries() == []
    assert deadlocks(ledger.engine) == 0


def test_a_transaction_that_was_ended_for_a_deadlock_is_done_again(ledger: SqlLedger) -> None:
    """A stranger takes the second entry, then the first, and has more patience than the ledger, whose transaction is ended."""
    first, second = (r.entry.entry_id for r in ledger.request([day(0), day(1)]))
    stranger = sa.create_engine(ledger.engine.url)
    change = "UPDATE keen_entries SET error = 'changed by a stranger' WHERE id = {}"
    with ThreadPoolExecutor(1) as pool, stranger.begin() as connection:
        connection.exec_driver_sql("SET LOCAL deadlock_timeout = '60s'")
        connection.exec_driver_sql(change.format(second))
        claim = pool.submit(ledger.claim, [first, second], Status.REQUESTED, "me", 60)
        waiting = "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'"
        while not connection.exec_driver_sql(waiting).scalar_one():
            connection.exec_driver_sql("SELECT pg_stat_clear_snapshot()")
        connection.exec_driver_sql(change.format(first))
        connection.commit()
        claimed = claim.result()
    stranger.dispose()
    assert [(e.entry_id, e.lease_owner, e.error) for e in claimed] == [(n, "me", "changed by a stranger") for n in (first, second)]
    assert deadlocks(ledger.engine) == 1
