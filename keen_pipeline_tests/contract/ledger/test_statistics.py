"""The ledger's statistics, read a little at a time, against all of its rows; on every database."""

from __future__ import annotations

import threading
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import timedelta

import pytest
import sqlalchemy as sa

from keen_pipeline.errors import RateLimitedError, ServiceUnavailableError
from keen_pipeline.extraction import Kind, Status
from keen_pipeline.ledger import LedgerRateLimiter, SqlLedger, open_engine, statistics
from keen_pipeline.ledger.database.tables import entries
from keen_pipeline.ledger.ledger import Slice
from keen_pipeline.ledger.rows import new_row
from keen_pipeline.ledger.statistics import OTHERS, StatisticsReader
from keen_pipeline.testing import FakeClock
from keen_pipeline.timeframe import Timeframe
from keen_pipeline_tests.benchmarks.sensor_tick import explain, reads_everything, statements
from keen_pipeline_tests.ledgers import LIMITS, OTHER_SCOPE, SCOPE, asked, clock, day, land, landing, ledger, submit, url

__all__ = ["clock", "ledger", "url"]

# Past which an entry is not read again once it has ended.
SETTLED_SECONDS = 601


@pytest.fixture
def reader(ledger: SqlLedger, clock: FakeClock) -> StatisticsReader:
    return StatisticsReader(ledger)


def ask(ledger: SqlLedger, *numbers: int) -> list[int]:
    return asked(ledger, *(day(number) for number in numbers))


def test_a_life_is_counted_at_each_of_its_steps_and_once(ledger: SqlLedger, reader: StatisticsReader, clock: FakeClock) -> None:
    assert reader.read().collections == {}
    begun = clock.now()
    [one, two] = ask(ledger, 0, 1)
    clock.advance(7)
    worker = ledger.workers.register("a run")
    submit(ledger, one, worker)
    clock.advance(45)
    ledger.complete([one], worker)
    found = reader.read().collections["purchases"]
    assert found.open == {Status.COMPLETE: 1, Status.REQUESTED: 1}
    assert (found.oldest_open_at, found.totals.requested, found.totals.submitted, found.totals.landed) == (begun, 2, 1, 0)
    assert (found.totals.submitting.count, found.totals.submitting.milliseconds) == (1, 7000)
    assert found.totals.submitting.counts == (0, 0, 1, 1, 1, 1, 1)
    assert found.totals.waiting.count == 0
    ledger.landing_failed(one, worker, "the disk is full", clock.now())
    ledger.landed(one, worker, landing())
    landed_at = clock.now()
    for advance in (0, SETTLED_SECONDS):  # among the newest, then settled
        clock.advance(advance)
        found = reader.read().collections["purchases"]
        sums = found.totals
        assert (sums.landed, sums.landed_events, sums.landed_bytes, sums.landing_failures) == (1, 2, 10, 1)
        assert (sums.waiting.count, sums.waiting.milliseconds, sums.landing.milliseconds) == (1, 45_000, 500)
        assert (sums.last_landed_at, sums.newest_end, sums.newest_seconds) == (landed_at, day(0).timeframe.end, 86400)
        assert (found.unreported, found.abandoned) == (1, 0)
    ledger.reported([one])
    ledger.fail(two, "refused", limits=LIMITS)
    [three] = ledger.open_entries()
    ledger.fail(three.entry_id, "refused again", limits=LIMITS)
    found = reader.read().collections["purchases"]
    assert (found.totals.requested, found.totals.failed, found.totals.abandoned, found.abandoned) == (3, 2, 1, 1)
    assert found.totals.landing_failures == 1  # what was refused never came as far as a landing
    assert (found.unreported, found.open, found.oldest_open_at) == (1, {}, None)
    ask(ledger, 1)
    found = reader.read().collections["purchases"]
    assert (found.totals.abandoned, found.abandoned) == (1, 0)  # it happened, and it is being mended


def test_slices_are_extractions_and_nobodys_files(ledger: SqlLedger, reader: StatisticsReader, clock: FakeClock) -> None:
    [whole] = ask(ledger, 0)
    request = day(0)
    middle = request.timeframe.start + timedelta(hours=12)
    halves = [Timeframe(request.timeframe.start, middle), Timeframe(middle, request.timeframe.end)]
    part = replace(request, kind=Kind.SLICE)
    parts = [
        Slice(replace(part, timeframe=half, partition_key=f"{whole}.{n}", path=f"_slices/{n}.csv"), 1, None)
        for n, half in enumerate(halves)
    ]
    made = ledger.split(whole, parts, "too large")
    for entry in made:
        land(ledger, entry.entry_id)
    assert reader.read().collections["purchases"].open == {Status.SPLIT: 1}
    clock.advance(300)
    assert ledger.joined(whole, 2)
    worker = ledger.workers.register("a run")
    ledger.claim([whole], worker)
    ledger.landed(whole, worker, landing())
    sums = reader.read().collections["purchases"].totals
    assert (sums.requested, sums.submitted, sums.landed, sums.landed_events) == (3, 2, 1, 2)
    assert (sums.waiting.count, sums.waiting.milliseconds, sums.landing.count) == (2, 0, 1)


def test_what_is_given_up_is_counted_once_with_all_its_slices(ledger: SqlLedger, reader: StatisticsReader) -> None:
    [whole] = ask(ledger, 0)
    [made] = ledger.split(whole, [Slice(replace(day(0), kind=Kind.SLICE, partition_key="0", path="_slices/0.csv"), 1, None)], "")
    assert ledger.fail(made.entry_id, "it broke", limits=LIMITS, final=True)
    sums = reader.read().collections["purchases"].totals
    assert (sums.failed, sums.abandoned) == (1, 0)
    assert ledger.fail(whole, "a slice ended without a file", limits=LIMITS, final=True)
    sums = reader.read().collections["purchases"].totals
    assert (sums.failed, sums.abandoned) == (2, 1)


def test_an_ad_hoc_extraction_makes_no_partition_fresh(ledger: SqlLedger, reader: StatisticsReader) -> None:
    key = "20260101T000000Z_20260201T000000Z"
    long = Timeframe(day(0).timeframe.start, day(31).timeframe.start)
    [answer] = ledger.request([replace(day(0), timeframe=long, partition_key=key, path=f"purchases/{key}.csv", kind=Kind.AD_HOC)])
    land(ledger, answer.entry.entry_id)
    sums = reader.read().collections["purchases"].totals
    assert (sums.landed, sums.newest_end) == (1, None)
    land(ledger, ask(ledger, 2)[0])
    assert reader.read().collections["purchases"].totals.newest_end == day(2).timeframe.end


def test_the_budget_and_its_refusals(ledger: SqlLedger, reader: StatisticsReader, clock: FakeClock) -> None:
    limiter = LedgerRateLimiter(ledger.engine, 3, budget=SCOPE.source, clock=clock)
    for _ in range(3):
        limiter.acquire(timeout=0)
    with pytest.raises(RateLimitedError):
        limiter.acquire(timeout=0)
    LedgerRateLimiter(ledger.engine, 3, budget="another", clock=clock).acquire(timeout=0)
    found = reader.read()
    assert (found.api_requests, found.api_refusals, found.api_paused_until) == (3, 0, None)
    assert StatisticsReader(ledger, budget="another").read().api_requests == 1
    clock.advance(70)
    limiter.refuse_until(30)
    limiter.refuse_until(5)
    found = reader.read()
    assert (found.api_requests, found.api_refusals) == (0, 2)
    assert found.api_paused_until == clock.now() + timedelta(seconds=30)  # the longer one holds
    assert StatisticsReader(ledger, budget="another").read().api_refusals == 0


def test_collections_are_bounded(
    ledger: SqlLedger, reader: StatisticsReader, clock: FakeClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(statistics, "MOST_COLLECTIONS", 2)
    named = [day(0, collection=f"c{n}") for n in range(5)]
    ids = asked(ledger, *named)
    ledger.fail(ids[3], "refused", limits=LIMITS, final=True)
    for advance in (0, SETTLED_SECONDS):
        clock.advance(advance)
        found = reader.read().collections
        assert [*found] == ["c0", "c1", OTHERS] or sorted(found)[0] == OTHERS
        assert sum(one.totals.requested for one in found.values()) == 5
        assert sum(one.abandoned for one in found.values()) == 1
        assert sum((Counter(one.open) for one in found.values()), Counter()) == {Status.REQUESTED: 4}


def test_a_ledger_that_is_gone_is_told_in_one_line(ledger: SqlLedger, reader: StatisticsReader) -> None:
    with ledger.engine.begin() as connection:
        connection.execute(sa.text("ALTER TABLE keen_entries RENAME TO gone"))
    with pytest.raises(ServiceUnavailableError, match=r"the ledger can't be read: .*keen_entries") as told:
        reader.read()
    assert "\n" not in str(told.value)
    with ledger.engine.begin() as connection:
        connection.execute(sa.text("ALTER TABLE gone RENAME TO keen_entries"))
    assert reader.read().collections == {}


def test_what_is_committed_late_is_counted(postgres_url: str, clock: FakeClock) -> None:
    """A transaction that began first ends last: its ids are lower than those that were read already."""
    engine = open_engine(postgres_url)
    ledger = SqlLedger(engine, SCOPE, clock=clock)
    reader = StatisticsReader(ledger)
    with engine.connect() as late, late.begin():
        query = sa.insert(entries).values(new_row(day(0), ledger.scope_id, SCOPE, clock.now(), run_id=None)).returning(entries.c.id)
        late_id = late.execute(query).scalar_one()
        [early_id] = ask(ledger, 1)
        assert late_id < early_id
        land(ledger, early_id)
        clock.advance(300)
        assert reader.read().collections["purchases"].totals.requested == 1
    land(ledger, late_id)
    for advance in (0, SETTLED_SECONDS):
        clock.advance(advance)
        sums = reader.read().collections["purchases"].totals
        assert (sums.requested, sums.landed) == (2, 2)
    engine.dispose()


def test_each_reading_is_of_one_moment(url: str) -> None:
    """Entries move on in other threads while they are counted: none is seen twice, or not at all."""
    engine = open_engine(url)
    ledger = SqlLedger(engine, SCOPE)
    number = 24
    ids = ask(ledger, *range(number))
    reader = StatisticsReader(ledger)
    done = threading.Event()

    def live(entry_id: int) -> None:
        land(ledger, entry_id)

    def read() -> int:
        readings = 0
        while not done.is_set():
            found = reader.read().collections["purchases"]
            assert found.totals.requested == number
            assert sum(found.open.values()) + found.totals.landed == number
            readings += 1
        return readings

    with ThreadPoolExecutor(3) as pool:
        readings = pool.submit(read)
        list(pool.map(live, ids))
        done.set()
        assert readings.result() > 0
    assert reader.read().collections["purchases"].totals.landed == number
    engine.dispose()


def test_a_long_history_is_not_read_again(ledger: SqlLedger, reader: StatisticsReader, clock: FakeClock) -> None:
    number = 300
    for entry_id in ask(ledger, *range(5)):
        land(ledger, entry_id)
    with ledger.engine.begin() as connection:
        row = connection.execute(sa.select(entries).limit(1)).one()._asdict()
        del row["id"]
        connection.execute(sa.insert(entries), [{**row, "path": f"/h/{n}", "reported_at": clock.now()} for n in range(number)])
    clock.advance(SETTLED_SECONDS)
    assert reader.read().collections["purchases"].totals.landed == number + 5
    ask(ledger, 10)
    with ledger.engine.begin() as connection:
        # What has ended is remembered: a history that is changed behind the reader's back is not noticed.
        connection.execute(sa.update(entries).where(entries.c.path.like("/h/%")).values(records=0))
    with statements(ledger.engine) as found:
        sums = reader.read().collections["purchases"].totals
    assert (sums.landed_events, sums.requested) == (2 * (number + 5), number + 6)
    if ledger.engine.dialect.name == "sqlite":  # PostgreSQL reads a table of so few pages whole, whatever it is asked
        plans = explain(ledger.engine, found)
        assert len(plans) >= 7
        assert [plan for plan in plans if reads_everything(plan)] == []


def test_what_another_scope_asks_for_makes_nothing_good_that_was_given_up_here(ledger: SqlLedger, clock: FakeClock) -> None:
    [given_up] = ask(ledger, 0)
    ledger.fail(given_up, "refused", limits=LIMITS, final=True)
    for asks, left in ((SqlLedger(ledger.engine, OTHER_SCOPE, clock=clock), 1), (ledger, 0)):
        ask(asks, 0)
        assert StatisticsReader(ledger).read().collections["purchases"].abandoned == left
