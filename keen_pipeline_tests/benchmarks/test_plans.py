"""However long the history is, what runs and ticks ask the ledger reads the few entries that matter, on every database."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from datetime import timedelta
from pathlib import Path

import pytest

from keen_pipeline.ledger import SqlLedger, open_engine
from keen_pipeline.ledger.statistics import StatisticsReader
from keen_pipeline.lifecycle import Limits
from keen_pipeline_tests.benchmarks.sensor_tick import explain, fill_landed, reads_everything, statements
from keen_pipeline_tests.ledgers import SCOPE, day, land

HISTORY = 5_000
LIMITS = Limits()


@pytest.fixture(params=["sqlite", "postgresql"])
def ledger(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[SqlLedger]:
    url = f"sqlite:///{tmp_path / 'ledger.db'}" if request.param == "sqlite" else request.getfixturevalue("postgres_url")
    engine = open_engine(url)
    ledger = SqlLedger(engine, SCOPE)
    fill_landed(ledger, day(0), HISTORY)
    yield ledger
    engine.dispose()


def a_night(ledger: SqlLedger) -> None:
    """Everything that happens to some partitions, one of them asked for twice and one failing, and to what is left of them."""
    with ledger.working("a test", LIMITS) as worker:
        asked = [answer.entry.entry_id for answer in ledger.request([day(n) for n in range(1, 5)])]
        for entry_id in asked[:3]:
            land(ledger, entry_id, worker.id)
        ledger.claim(asked[3:], worker.id)
        ledger.posting(asked[3], worker.id)
        ledger.submitted(asked[3], worker.id, "e")
        ledger.fail(asked[3], "no", limits=LIMITS, worker=worker.id)
        ledger.reported(asked[:2])
        ledger.counted({asked[0]: 10})
        [again] = ledger.request([day(1)], keep=lambda _: False)
        land(ledger, again.entry.entry_id, worker.id)
        for stale in ledger.stale_files():
            assert ledger.claim_stale(stale.entry_id, worker.id) is None  # another landing lies at its path
    assert len(ledger.open_entries()) == 1
    assert {entry.entry_id for entry in ledger.outbox()} == {asked[2], again.entry.entry_id}


def a_look(ledger: SqlLedger) -> None:
    """What a tick, a night and a check ask."""
    ledger.workers.prune(60)
    ledger.uncounted()
    ledger.stale_slices()
    ledger.slices([1])
    ledger.others_at(["purchases/2026-01-02.csv"])
    ledger.landed_entries("purchases", start=day(0).timeframe.start, end=day(0).timeframe.start + timedelta(days=7))
    assert all(entry is not None for entry in ledger.current([day(n) for n in range(1, 5)]))


@pytest.mark.parametrize("use", [a_night, a_look])
def test_nothing_reads_the_whole_history(ledger: SqlLedger, use: Callable[[SqlLedger], None]) -> None:
    if use is not a_night:
        a_night(ledger)
    with statements(ledger.engine) as found:
        use(ledger)
    plans = explain(ledger.engine, found)
    assert len(plans) >= 5
    assert [plan for plan in plans if reads_everything(plan)] == []


def test_a_scrape_reads_what_is_new(ledger: SqlLedger) -> None:
    reader = StatisticsReader(ledger)
    assert reader.read().collections["purchases"].totals.landed == HISTORY
    a_night(ledger)
    with statements(ledger.engine) as found:
        assert reader.read().collections["purchases"].totals.landed == HISTORY + 4
    plans = explain(ledger.engine, found)
    assert len(plans) >= 5
    assert [plan for plan in plans if reads_everything(plan)] == []
