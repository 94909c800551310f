"""Many at once on the same rows of PostgreSQL, and a PostgreSQL that goes away: nobody is refused, and nothing is done twice."""

from __future__ import annotations

import random
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import pytest
import sqlalchemy as sa

from keen_pipeline.errors import LedgerUnavailableError
from keen_pipeline.extraction import Status
from keen_pipeline.ledger import LedgerRateLimiter, SqlLedger, open_engine
from keen_pipeline.ledger.notices import SqlNotices
from keen_pipeline.lifecycle import Limits
from keen_pipeline_tests.contract.database.test_time import ledger as ledger
from keen_pipeline_tests.contract.ledger.rules import halves
from keen_pipeline_tests.ledgers import SCOPE, day, land
from keen_pipeline_tests.servers.postgres import away, deadlocks

THREADS = 8
ENTRIES = 60


def test_changes_of_many_entries_at_once_never_wait_for_each_other_in_a_circle(ledger: SqlLedger) -> None:
    ids = [r.entry.entry_id for r in ledger.request([day(n) for n in range(ENTRIES)])]
    for entry_id in ids[: ENTRIES // 2]:
        land(ledger, entry_id)

    def work(seed: int) -> None:
        choose = random.Random(seed)
        worker = ledger.workers.register(f"thread {seed}")
        for _ in range(25):
            some = choose.sample(ids, ENTRIES - 5)
            kind = choose.randrange(9)
            if kind == 0:
                ledger.claim(some, worker)
            elif kind == 1:
                ledger.release(some, worker)
            elif kind == 2:
                ledger.reported(some)
            elif kind == 3:
                ledger.counted(dict.fromkeys(some, 2))
            elif kind == 4:
                ledger.planned(some, 2)
            elif kind == 5:
                ledger.complete(some)
            elif kind == 6:
                ledger.due_now(some)
            elif kind == 7:
                ledger.workers.retire(worker)
                worker = ledger.workers.register(f"thread {seed}")
            else:
                ledger.cancel(some[:2], "not wanted")

    with ThreadPoolExecutor(THREADS) as pool:
        for done in [pool.submit(work, seed) for seed in range(THREADS)]:
            done.result()
    assert deadlocks(ledger.engine) == 0
    assert len(ledger.entries(ids)) == ENTRIES


def test_a_slice_is_split_while_its_parent_is_cancelled(ledger: SqlLedger) -> None:
    """Either all of it is cancelled, the new slices too, or nothing is split."""
    days = [r.entry for r in ledger.request([day(n) for n in range(40)])]
    slices = [ledger.split(entry.entry_id, halves(entry.request), "too large")[0] for entry in days]
    with ThreadPoolExecutor(2) as pool:
        for entry, part in zip(days, slices, strict=True):
            cancelled = pool.submit(ledger.cancel, [entry.entry_id], "not wanted")
            split = pool.submit(ledger.split, part.entry_id, halves(part.request), "still too large")
            assert [e.entry_id for e in cancelled.result()] == [entry.entry_id]
            split.result()
    assert ledger.open_entries() == []
    assert deadlocks(ledger.engine) == 0


def test_a_transaction_that_was_ended_for_a_deadlock_is_done_again(ledger: SqlLedger) -> None:
    """A stranger takes the second entry, then the first, and has more patience than the ledger, whose transaction is ended."""
    first, second = (r.entry.entry_id for r in ledger.request([day(0), day(1)]))
    me = ledger.workers.register("me")
    stranger = sa.create_engine(ledger.engine.url)
    change = "UPDATE keen_entries SET error = 'changed by a stranger' WHERE id = {}"
    with ThreadPoolExecutor(1) as pool, stranger.begin() as connection:
        connection.exec_driver_sql("SET LOCAL deadlock_timeout = '60s'")
        connection.exec_driver_sql(change.format(second))
        claim = pool.submit(ledger.claim, [first, second], me)
        waiting = "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'"
        while not connection.exec_driver_sql(waiting).scalar_one():
            connection.exec_driver_sql("SELECT pg_stat_clear_snapshot()")
        connection.exec_driver_sql(change.format(first))
        connection.commit()
        claimed = claim.result()
    stranger.dispose()
    assert [(e.entry_id, e.claimed_by, e.error) for e in claimed] == [(n, me, "changed by a stranger") for n in (first, second)]
    assert deadlocks(ledger.engine) == 1


def test_reading_and_writing_wait_for_a_database_that_is_away(ledger: SqlLedger, caplog: pytest.LogCaptureFixture) -> None:
    [asked] = ledger.request([day(0)])
    me = ledger.workers.register("me")
    limiter, notices = LedgerRateLimiter(ledger.engine, 10, budget="b"), SqlNotices(ledger.engine)
    with ThreadPoolExecutor(5) as pool:
        with away(ledger.engine.url):
            reading = pool.submit(ledger.open_entries)
            claiming = pool.submit(ledger.claim, [asked.entry.entry_id], me)
            asking = pool.submit(ledger.request, [day(1)])
            spending = pool.submit(limiter.acquire, timeout=0)
            planning = pool.submit(notices.plan, "digest", "mail")
            while not caplog.records:
                time.sleep(0.02)
        assert asked.entry.entry_id in [e.entry_id for e in reading.result()]
        assert [e.claimed_by for e in claiming.result()] == [me]
        assert [r.created for r in asking.result()] == [True]
        spending.result()
        assert planning.result()
    assert len(ledger.open_entries()) == 2
    # Once for the outage, not for each of the five.
    [record] = caplog.records
    assert record.getMessage().startswith("the ledger's database does not answer, asked again for 45 s: ")


def test_who_waits_in_vain_is_told_what_becomes_of_it(postgres_url: str) -> None:
    engine = open_engine(postgres_url, patience_seconds=0.5)
    ledger = SqlLedger(engine, SCOPE)
    with away(engine.url):
        with pytest.raises(LedgerUnavailableError, match=r"has not answered for .* s: .* what is open stays open"):
            ledger.request([day(0)])
        # The patience is the outage's: who asks later does not wait for it anew.
        with pytest.raises(LedgerUnavailableError, match="has not answered for"):
            ledger.open_entries()
    assert ledger.open_entries() == []
    engine.dispose()


@pytest.fixture
def lost_commits(ledger: SqlLedger) -> Iterator[list[bool]]:
    """The server ends a connection as it commits, once for each element that a test adds: after the commit (True) or before it."""
    left: list[bool] = []
    admin = sa.create_engine(ledger.engine.url, isolation_level="AUTOCOMMIT")

    def commit(connection: sa.Connection) -> None:
        if left:
            number = connection.exec_driver_sql("SELECT pg_backend_pid()").scalar_one()
            if left.pop():
                connection.exec_driver_sql("COMMIT")
            with admin.connect() as other:
                other.exec_driver_sql(f"SELECT pg_terminate_backend({number}, 5000)")

    sa.event.listen(ledger.engine, "commit", commit)
    yield left
    admin.dispose()


@pytest.mark.parametrize("committed", [True, False])
def test_a_change_whose_commit_got_no_answer_is_made_once(ledger: SqlLedger, lost_commits: list[bool], committed: bool) -> None:
    me = ledger.workers.register("me")
    lost_commits.append(committed)
    [asked] = ledger.request([day(0)])
    assert asked.created
    entry_id = asked.entry.entry_id
    ledger.claim([entry_id], me)
    lost_commits.append(committed)
    ledger.posting(entry_id, me)
    lost_commits.append(committed)
    assert ledger.submitted(entry_id, me, "x1").status is Status.SUBMITTED
    lost_commits.append(committed)
    assert [e.entry_id for e in ledger.complete([entry_id], me)] == [entry_id]
    lost_commits.append(committed)
    following = ledger.fail(entry_id, "it broke", limits=Limits(max_attempts=2), worker=me)
    assert following is not None
    assert lost_commits == []
    found = ledger.entries([entry_id, following.entry_id])
    assert [(e.attempt, e.status, e.extraction_id) for e in found] == [(1, Status.FAILED, "x1"), (2, Status.REQUESTED, None)]
    assert (ledger.orphans(), len(ledger.open_entries())) == (0, 1)


def test_an_error_of_the_database_shows_no_values(ledger: SqlLedger) -> None:
    with pytest.raises(sa.exc.DataError) as caught:
        ledger.request([replace(day(0), email="somebody@example.com" * 30)])
    assert "somebody" not in str(caught.value)
