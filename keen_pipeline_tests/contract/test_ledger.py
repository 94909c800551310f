"""One suite for the ledger on every database."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import datetime, timedelta, timezone
from pathlib import Path

import pytest
import sqlalchemy as sa

from keen_pipeline.errors import ConfigurationError, LeaseLostError, LedgerVersionError, RateLimitedError
from keen_pipeline.extraction import ExtractionRequest, Landing, Status
from keen_pipeline.filters import Filter
from keen_pipeline.ledger import LedgerRateLimiter, SqlLedger, open_engine
from keen_pipeline.ledger.tables import metadata
from keen_pipeline.lifecycle import Limits
from keen_pipeline.testing import FakeClock
from keen_pipeline.timeframe import Timeframe

LIMITS = Limits(max_attempts=2, retry_seconds=10, lease_seconds=60)


@pytest.fixture(params=["sqlite", "postgres"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path / 'ledger.db'}"
    found: str = request.getfixturevalue("postgres_url")
    return found


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock()


@pytest.fixture
def ledger(url: str, clock: FakeClock) -> Iterator[SqlLedger]:
    engine = open_engine(url)
    yield SqlLedger(engine, clock=clock)
    engine.dispose()


def day(number: int, *, filters: tuple[Filter, ...] = ()) -> ExtractionRequest:
    start = datetime(2026, 1, 1, tzinfo=timezone.utc) + timedelta(days=number)
    return ExtractionRequest(
        "purchases", Timeframe(start, start + timedelta(days=1)), f"{start:%Y-%m-%d}", f"/x/{start:%Y-%m-%d}.csv", filters
    )


def landing(uri: str) -> Landing:
    return Landing(
        uri,
        bytes=10,
        records=2,
        sha256="ab" * 32,
        columns=("a", "b,c"),
        stored_bytes=10,
        seconds=0.5,
        column_types=("double", "string"),
    )


def submit(ledger: SqlLedger, entry_id: int, extraction_id: str = "e1") -> None:
    assert ledger.claim([entry_id], Status.REQUESTED, "me", 60)
    ledger.posting(entry_id, "me")
    ledger.submitted(entry_id, "me", extraction_id)


def land(ledger: SqlLedger, entry_id: int) -> None:
    submit(ledger, entry_id)
    assert ledger.complete([entry_id])
    assert ledger.claim([entry_id], Status.COMPLETE, "me", 60)
    ledger.landed(entry_id, "me", landing("/x"))


def test_an_entry_comes_back_as_it_was_asked(ledger: SqlLedger, clock: FakeClock) -> None:
    request = day(0, filters=(Filter("body:amount", "gt", 3.5), Filter("body:tags", "in", ["a", "é"])))
    [asked] = ledger.request([replace(request, email="a@b.example")], run_id="run-1")
    [entry] = ledger.entries([asked.entry.entry_id])
    assert asked.created
    assert entry.request == replace(request, email="a@b.example")
    assert (entry.status, entry.attempt, entry.run_id, entry.requested_at) == (Status.REQUESTED, 1, "run-1", clock.now())


def test_open_and_landed_requests_are_adopted_and_forced_ones_supersede(ledger: SqlLedger) -> None:
    [first] = ledger.request([day(0)])
    assert ledger.request([day(0)])[0] == replace(first, created=False)
    land(ledger, first.entry.entry_id)
    assert not ledger.request([day(0)])[0].created
    [forced] = ledger.request([day(0)], force=True)
    assert forced.created
    assert ledger.latest([day(0)])[0] is not None
    assert ledger.entries([first.entry.entry_id])[0].status is Status.LANDED  # valid until the new file lies there
    land(ledger, forced.entry.entry_id)
    assert [e.status for e in ledger.entries([first.entry.entry_id, forced.entry.entry_id])] == [Status.SUPERSEDED, Status.LANDED]


def test_other_filters_for_the_same_file_make_the_older_question_moot(ledger: SqlLedger) -> None:
    [old] = ledger.request([day(0)])
    [new] = ledger.request([day(0, filters=(Filter("body:a", "eq", 1),))])
    assert new.created
    assert ledger.entries([old.entry.entry_id])[0].status is Status.CANCELLED


def test_the_way_of_a_landing(ledger: SqlLedger, clock: FakeClock) -> None:
    [asked] = ledger.request([day(0)])
    number = asked.entry.entry_id
    submit(ledger, number, "e-9")
    clock.advance(30)
    [complete] = ledger.complete([number])
    assert ledger.complete([number]) == []  # a second poll changes nothing
    assert (complete.extraction_id, complete.waiting_seconds) == ("e-9", 30.0)
    assert ledger.claim([number], Status.COMPLETE, "me", 60)
    ledger.landed(number, "me", landing("/x/2026-01-01.csv"))
    [entry] = ledger.entries([number])
    assert entry.landing == replace(landing("/x/2026-01-01.csv"), uri=entry.request.target)
    assert ledger.unreported() == []  # whoever landed it still holds it, and reports it
    clock.advance(61)
    assert [e.entry_id for e in ledger.unreported()] == [number]
    ledger.reported([number])
    assert ledger.unreported() == []
    assert ledger.summary().counts == {Status.LANDED: 1}


def test_a_claim_keeps_others_out_until_it_expires(ledger: SqlLedger, clock: FakeClock) -> None:
    [asked] = ledger.request([day(0)])
    number = asked.entry.entry_id
    assert ledger.claim([number], Status.REQUESTED, "a", 60)
    assert ledger.claim([number], Status.REQUESTED, "b", 60) == []
    with pytest.raises(LeaseLostError, match="claimed by another"):
        ledger.posting(number, "b")
    clock.advance(61)
    assert ledger.claim([number], Status.REQUESTED, "b", 60)
    with pytest.raises(LeaseLostError):
        ledger.submitted(number, "a", "e1")
    assert ledger.entries([number])[0].extraction_id is None
    ledger.release([number], "a")  # not a's any more
    assert ledger.claim([number], Status.REQUESTED, "c", 60) == []


def test_a_failed_attempt_is_followed_by_the_next_and_the_last_tells_the_story(ledger: SqlLedger, clock: FakeClock) -> None:
    [asked] = ledger.request([day(0)])
    submit(ledger, asked.entry.entry_id, "first")
    second = ledger.fail(asked.entry.entry_id, "it broke", limits=LIMITS)
    assert second is not None
    assert (second.attempt, second.status) == (2, Status.REQUESTED)
    assert second.due_at == clock.now() + timedelta(seconds=10)
    assert ledger.fail(asked.entry.entry_id, "again", limits=LIMITS) is None  # moved on already
    assert not ledger.request([day(0)])[0].created  # the open second attempt is adopted
    submit(ledger, second.entry_id, "second")
    end = ledger.fail(second.entry_id, "it broke again", limits=LIMITS)
    assert end is not None
    assert end.status is Status.ABANDONED
    assert end.error is not None
    for part in ("purchases[2026-01-01]", "2 attempts", "first", "it broke;", "second", "it broke again"):
        assert part in end.error
    assert [e.entry_id for e in ledger.unreported()] == [end.entry_id]
    assert ledger.request([day(0)])[0].created  # asked again, it begins anew


def test_a_lost_answer_is_counted_as_an_orphan(ledger: SqlLedger, clock: FakeClock) -> None:
    [asked] = ledger.request([day(0)])
    number = asked.entry.entry_id
    ledger.claim([number], Status.REQUESTED, "dies", 60)
    ledger.posting(number, "dies")
    clock.advance(61)
    submit(ledger, number)
    assert ledger.summary().orphans == 1


def test_a_refused_post_is_no_orphan(ledger: SqlLedger, clock: FakeClock) -> None:
    [asked] = ledger.request([day(0)])
    number = asked.entry.entry_id
    ledger.claim([number], Status.REQUESTED, "me", 60)
    ledger.posting(number, "me")
    ledger.postpone(number, "me", clock.now() + timedelta(seconds=5), "429")
    submit(ledger, number)
    assert ledger.summary().orphans == 0


def test_a_list_calls_unfinished_extractions_are_known_for_some_seconds(ledger: SqlLedger, clock: FakeClock) -> None:
    ledger.listed("purchases", ["e2", "e1"])
    ledger.listed("logins", [])
    assert ledger.pending(["purchases", "logins", "views"], 4) == {"purchases": {"e1", "e2"}, "logins": frozenset()}
    clock.advance(4)
    assert ledger.pending(["purchases"], 4) == {}
    ledger.listed("purchases", ["e2"])
    assert ledger.pending(["purchases"], 4) == {"purchases": {"e2"}}


def test_many_processes_asking_at_once_make_one_entry(url: str) -> None:
    engines = [open_engine(url) for _ in range(4)]
    barrier = threading.Barrier(4)
    created: list[bool] = []

    def ask(engine: sa.Engine) -> None:
        barrier.wait()
        created.extend(r.created for r in SqlLedger(engine).request([day(n) for n in range(20)]))

    threads = [threading.Thread(target=ask, args=(engine,)) for engine in engines]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert (len(created), sum(created)) == (80, 20)
    assert len(SqlLedger(engines[0]).open_entries()) == 20
    for engine in engines:
        engine.dispose()


def test_processes_starting_together_migrate_once(url: str) -> None:
    errors: list[BaseException] = []
    barrier = threading.Barrier(4)

    def start() -> None:
        try:
            barrier.wait()
            engine = open_engine(url)
            SqlLedger(engine).summary()
            engine.dispose()
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=start) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert errors == []


def test_connections_that_turn_new_sqlite_ledgers_to_wal_together_wait_for_each_other(tmp_path: Path) -> None:
    # Each file is a chance of its own: one in fifteen met "database is locked" before. All six threads start each file at once.
    together = threading.Barrier(6)

    def start(number: int) -> None:
        for file in range(40):
            together.wait(60)
            open_engine(f"sqlite:///{tmp_path / str(file)}.db").dispose()

    with ThreadPoolExecutor(6) as threads:
        list(threads.map(start, range(6)))


def test_the_replayed_migrations_equal_the_tables(url: str) -> None:
    from alembic.autogenerate import compare_metadata
    from alembic.migration import MigrationContext

    engine = open_engine(url)
    with engine.connect() as connection:
        context = MigrationContext.configure(connection, opts={"compare_type": True, "version_table": "keen_ledger_version"})
        assert compare_metadata(context, metadata) == []
        indexes = {i["name"] for i in sa.inspect(connection).get_indexes("keen_entries")}
    assert indexes == {i.name for i in metadata.tables["keen_entries"].indexes}
    engine.dispose()


def test_a_newer_ledger_is_refused_and_left_alone(url: str) -> None:
    engine = open_engine(url)
    with engine.begin() as connection:
        connection.exec_driver_sql("UPDATE keen_ledger_version SET version_num = '9999'")
        connection.exec_driver_sql("UPDATE keen_ledger_compatibility SET oldest_code = '9998'")
    engine.dispose()
    with pytest.raises(LedgerVersionError, match="upgrade keen_pipeline"):
        open_engine(url)
    raw = sa.create_engine(url)
    with raw.connect() as connection:
        assert connection.exec_driver_sql("SELECT version_num FROM keen_ledger_version").scalar() == "9999"
    raw.dispose()


def test_the_budget_holds_in_any_minute_and_over_processes(url: str) -> None:
    engine, clock = open_engine(url), FakeClock()
    limiters = [LedgerRateLimiter(engine, 5, clock=clock), LedgerRateLimiter(engine, 5, clock=clock)]
    sent: list[datetime] = []
    for turn in range(23):
        limiters[turn % 2].acquire(timeout=600)
        sent.append(clock.now())
        clock.advance(1.7)
    for first in sent:
        assert sum(first <= moment < first + timedelta(seconds=60) for moment in sent) <= 5
    engine.dispose()


def test_a_used_up_budget_says_when_to_come_again(url: str) -> None:
    engine, clock = open_engine(url), FakeClock()
    limiter = LedgerRateLimiter(engine, 1, clock=clock)
    limiter.acquire(timeout=0)
    with pytest.raises(RateLimitedError, match="KEEN_PIPELINE_REQUESTS_PER_MINUTE") as refused:
        limiter.acquire(timeout=5)
    assert refused.value.retry_after == pytest.approx(61)
    limiter.refuse_until(300)
    clock.advance(62)
    with pytest.raises(RateLimitedError):
        limiter.acquire(timeout=5)
    clock.advance(240)
    limiter.acquire(timeout=0)
    engine.dispose()


def test_a_url_that_can_not_be_used_is_one_line_without_its_password() -> None:
    with pytest.raises(ConfigurationError) as refused:
        open_engine("postgresql://keen:s3cret@127.0.0.1:1/nothing")
    assert "s3cret" not in str(refused.value)
    assert "\n" not in str(refused.value)
