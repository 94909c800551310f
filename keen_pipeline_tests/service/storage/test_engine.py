"""What the engine does at its bounds: little memory, long lines, wide collections, an older catalog."""

from __future__ import annotations

import sqlite3
import threading
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import duckdb
import pytest

from keen_pipeline.errors import ConfigurationError, RetryableError
from keen_pipeline.service.application import Service
from keen_pipeline.service.config import MIB, ServiceConfig
from keen_pipeline.service.extractions.csv_export import Selection, write_csv
from keen_pipeline.service.extractions.records import ExtractionRecords
from keen_pipeline.service.http.answers import error_answer
from keen_pipeline.service.storage import upkeep
from keen_pipeline.service.storage.engine import Engine, MemoryBudget, MemoryShortageError, QueryTimeoutError
from keen_pipeline.service.storage.files import EventFiles, mergeable
from keen_pipeline.service.storage.folder.state import SqliteDatabase
from keen_pipeline.service.storage.parts import DataFile, LogPart
from keen_pipeline_tests.service.stores import Place, fold, n_of, number, rule


def test_a_query_without_memory_may_be_asked_again(tmp_path: Path) -> None:
    engine = Engine(tmp_path, 64, 60)
    with pytest.raises(MemoryShortageError, match="--memory-mib") as raised, engine.query() as cursor:
        cursor.execute("SELECT list(repeat('x', 1000) || i) FROM range(1000000) t(i)").fetchone()
    assert error_answer(raised.value).status_code == 503
    with engine.query() as cursor:
        assert cursor.execute("SELECT 1").fetchone() == (1,)
    engine.close()


@pytest.mark.parametrize(("mib", "most"), [(128, 1), (255, 1), (512, 4), (1_048_576, 8192)])
def test_threads_share_the_memory_however_many_processors_there_are(tmp_path: Path, mib: int, most: int) -> None:
    engine = Engine(tmp_path, mib, 60)
    with engine.query() as cursor, duckdb.connect() as usual:
        (threads,), (processors,) = (c.execute("SELECT current_setting('threads')").fetchall()[0] for c in (cursor, usual))
    assert threads == min(most, processors)
    engine.close()


@pytest.mark.parametrize("folded", [False, True])
def test_long_lists_are_looked_through_with_the_least_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, folded: bool) -> None:
    monkeypatch.setattr(upkeep, "DUE_BYTES", 2**40)  # a fold beside the query would take of the memory
    place = Place(tmp_path)
    service = place.open(memory_mib=128)
    words = [f"{n:x}" * 8 for n in range(40_000, 55_000)]
    for n in range(0, 60, 6):
        assert (
            service.add_events("shop", [{"n": n + k, "list": [*words, "a,", f"needle{(n + k) % 10}", '"x"']} for k in range(6)])
            == [None] * 6
        )
    if folded:
        fold(service, "shop")
    service.add_events(
        "shop",
        [
            {"n": 60, "list": [13.4, 52.5]},
            {"n": 61, "list": "needle3 and more"},
            {"n": 62, "list": [["needle3"]]},
            {"list": ["13.4", "52.5"]},
        ],
    )
    expected = {"needle3": 7, "needle": 1, "absent": 0}
    assert {text: number(service, "shop", rule("list", "contains", text)) for text in expected} == expected
    near = {"coordinates": [13.4, 52.5], "max_distance_miles": 1}
    assert n_of(service, "shop", rule("list", "within", near)) == [60]
    place.close()


def test_a_query_that_begins_while_the_engine_closes_is_cancelled_too(tmp_path: Path) -> None:
    engine = Engine(tmp_path, memory_mib=128, query_seconds=60)
    given, closing = threading.Event(), threading.Event()
    ended: list[BaseException] = []

    def run() -> None:
        try:
            with engine.cursor() as cursor:
                given.set()
                closing.wait(20)
                time.sleep(0.1)  # as long as files are fetched
                cursor.execute("SELECT sum(a.range * b.range) FROM range(1000000) a, range(1000000) b").fetchall()
        except RetryableError as error:
            ended.append(error)

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    given.wait(20)
    closing.set()
    engine.close()
    thread.join(5)
    assert [str(error) for error in ended] == ["the service is shutting down"]


def test_a_fold_that_the_end_of_the_service_cancels_is_no_error_in_its_log(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    service, began, usual = (
        Service(ServiceConfig(tmp_path, fold_seconds=0.1), "http://127.0.0.1"),
        threading.Event(),
        EventFiles.fold,
    )

    def fold(self: EventFiles, logs: Any) -> Any:
        began.set()
        while not self.engine._closed:
            time.sleep(0.01)
        return usual(self, logs)

    monkeypatch.setattr(EventFiles, "fold", fold)
    service.add_event("shop", {"n": 1}, version="v3")
    assert began.wait(20)
    service.close()
    assert [record.getMessage() for record in caplog.records if record.levelname == "ERROR"] == []


def test_a_query_whose_time_ends_between_two_statements_is_cancelled_too(tmp_path: Path) -> None:
    engine = Engine(tmp_path, memory_mib=128, query_seconds=0.05)

    def run(cursor: duckdb.DuckDBPyConnection) -> None:
        time.sleep(0.3)  # as long as files are fetched
        cursor.execute("SELECT sum(a.range * b.range) FROM range(1000000) a, range(1000000) b").fetchall()

    with pytest.raises(QueryTimeoutError) as raised, engine.query() as cursor:
        run(cursor)
    assert error_answer(raised.value).status_code == 504


def test_the_largest_events_and_a_collection_of_the_most_properties_are_folded(tmp_path: Path) -> None:
    # Planning an expression for each column once took 190 seconds and all memory for 990 of them.
    config = ServiceConfig(tmp_path, max_event_bytes=4_000_000, fold_seconds=3600)
    service = Service(config, "http://127.0.0.1:1")
    try:
        large = [{"n": n, "text": "\\x" * 900_000} for n in range(3)]
        room = config.max_properties - 3  # the timestamp, the time of arrival and the id are properties too
        wide = [{f"k{k}": n, f"k{k + 1}": "x"} for n, k in enumerate(range(0, room - 1, 2))]
        assert service.add_events("large", large) == [None] * 3
        problems = service.add_events("wide", [*wide, {"one": 1, "more": 2}, {"k0": 1}])
        (refused,) = filter(None, problems)
        assert str(refused).startswith(
            "event: its collection would have more than 1120 properties, those of deleted events too; use"
        )
        for name, events, properties in (("large", 3, 2), ("wide", len(wide) + 1, room - room % 2)):
            for _ in range(2):  # from the logs, then from files
                with service.store.snapshot(name) as snapshot, service.engine.cursor() as cursor:
                    assert sum(part.events for part in snapshot.segments) == events
                    assert sum(1 for path in snapshot.columns if not path.startswith("keen.")) == properties
                    assert write_csv(cursor, Selection(snapshot, (), None, "v2"), tmp_path / "out.csv") == events
                fold(service, name)
            written = [str(path) for path in (tmp_path / "events" / name).glob("*.parquet")]
            with duckdb.connect() as connection:
                assert connection.execute("SELECT count(*) FROM read_parquet(?)", [written]).fetchone() == (events,)
    finally:
        service.close()


def test_a_catalog_of_the_first_version_is_brought_up_and_a_newer_one_refused(tmp_path: Path) -> None:
    path = tmp_path / "state.db"
    records = ExtractionRecords(SqliteDatabase(path))
    made = records.create("purchases", names="v2", filters=(), timeframe=None, email=None, delay=0, max_queue=1)
    with sqlite3.connect(path) as connection:
        for column in ("options", "turn", "lost", "holder", "held_until"):
            connection.execute(f"ALTER TABLE extractions DROP COLUMN {column}")
        connection.execute("PRAGMA user_version = 1")
    found = ExtractionRecords(SqliteDatabase(path)).get(made.id)
    assert found is not None
    assert (replace(found, options=made.options), found.shape) == (made, made.shape)
    with sqlite3.connect(path) as connection:
        connection.execute("PRAGMA user_version = 99")
    with pytest.raises(ConfigurationError, match="schema 99"):
        SqliteDatabase(path)


@pytest.mark.slow
def test_wide_extractions_beside_each_other_and_beside_ingest_take_turns_for_the_memory(tmp_path: Path) -> None:
    config = ServiceConfig(tmp_path, memory_mib=128, max_concurrency=4)
    service = Service(config, "http://127.0.0.1:1")
    try:
        width = config.max_properties - 3
        for batch in range(10):
            events = [{f"k{(n * 7 + batch * 31 + j * j) % width}": "x" * 20 for j in range(40)} for n in range(2000)]
            assert service.add_events("wide", events) == [None] * len(events)
        made = [service.create_extraction("wide", {}, names="v2").id for _ in range(6)]
        deadline = time.monotonic() + 120
        while service.records.count_waiting():
            assert time.monotonic() < deadline, "the extractions did not end"
            service.add_events("wide", [{"k1": 1}])
            time.sleep(0.05)
        ended = [service.records.get(one) for one in made]
        assert [(one.status, one.message) for one in ended if one] == [("complete", None)] * 6
        assert min(one.events or 0 for one in ended if one) >= 20_000
    finally:
        service.close()


def test_a_log_of_which_fewer_events_are_read_than_it_has_is_not_taken_for_folded(tmp_path: Path) -> None:
    engine = Engine(tmp_path, 128, 60)
    files, log = EventFiles(engine, tmp_path / "work"), tmp_path / "1.log"
    log.write_text('{"t":1,"p0":"1"}\n{"t":2,"p0":"2"}\n')
    part = LogPart(log, 1, 1, 2, 1, 2, log.stat().st_size, 17, ("p0",))
    whole = files.fold([part])
    with pytest.raises(RuntimeError, match="2 events were written, 3 were expected"):
        files.fold([replace(part, events=3)])
    assert [path.name for path in (tmp_path / "work").iterdir()] == [whole.name]
    engine.close()


@pytest.mark.parametrize(("mib", "merged"), [(1, 8), (31, 8), (33, 0)])
def test_merging_makes_no_file_beyond_the_largest(mib: int, merged: int) -> None:
    small = [DataFile(f"{number}-", events=100, first=0, last=0, bytes=mib * MIB) for number in range(1, 9)]
    assert len(mergeable(small)) == merged


def test_memory_is_given_in_the_order_of_arrival(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("keen_pipeline.service.storage.engine.RESERVE_SECONDS", 0.01)
    budget, first = MemoryBudget(100), object()
    budget._waiting.append(first)  # who needs more than is free
    with pytest.raises(MemoryShortageError), budget.reserved(1):
        pass
    budget._waiting.remove(first)
    with budget.reserved(1):
        assert (list(budget._waiting), budget._used) == ([], 1)
    assert budget._used == 0
