"""Several services on one catalogue and one storage: what one does, the others know, and no two do it."""

from __future__ import annotations

import contextlib
import csv
import io
import random
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from keen_pipeline.cli.local.serve import StorageObjects
from keen_pipeline.errors import RetryableError
from keen_pipeline.service.application import Service
from keen_pipeline.service.config import MIB
from keen_pipeline.service.extractions.records import COMPLETE
from keen_pipeline.service.storage import store, upkeep
from keen_pipeline.service.storage.parts import LogPart
from keen_pipeline.service.storage.shared.cache import FileCache, FileGoneError
from keen_pipeline.service.storage.shared.database import CatalogueUnavailableError, PostgresDatabase
from keen_pipeline.service.storage.shared.log import SharedLog
from keen_pipeline.service.storage.store import EventStore
from keen_pipeline.service.storage.tables import OvertakenError
from keen_pipeline_tests.service.stores import (
    Services,
    collection_of,
    csv_text,
    delete,
    fold,
    n_of,
    store_of,
    until,
)
from keen_pipeline_tests.service.stores import number as events


def rows(service: Service, collection: str, target: Path) -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO(csv_text(service, collection, target))))


def test_what_one_acknowledged_the_other_has_and_what_one_deleted_is_gone(services: Services, tmp_path: Path) -> None:
    one, other = services.open("one"), services.open("other")
    for n in range(12):  # more parts than a tail keeps apart
        writer, reader = (one, other) if n % 2 else (other, one)
        assert writer.add_events("shop", [{"n": n}, {"n": n, f"only{n}": "x"}]) == [None, None]
        assert events(reader, "shop") == 2 * (n + 1)
        if n == 5:
            assert fold(writer, "shop") == 1
    assert one.store.names() == other.store.names() == ["shop"]
    assert rows(one, "shop", tmp_path / "a") == rows(other, "shop", tmp_path / "b")
    assert [row["n"] for row in rows(one, "shop", tmp_path / "a")] == [str(n) for n in range(12) for _ in range(2)]
    assert delete(other, "shop", {"property_name": "n", "operator": "gte", "property_value": 4}) == 16
    assert events(one, "shop") == events(other, "shop") == 8
    assert {row["n"] for row in rows(one, "shop", tmp_path / "c")} == {"0", "1", "2", "3"}


def test_properties_have_one_column_each_whoever_names_them_first(services: Services, tmp_path: Path) -> None:
    pair = [services.open("one"), services.open("other")]
    failures: list[BaseException] = []

    def post(service: Service, worker: int) -> None:
        try:
            for n in range(15):
                assert service.add_events("wide", [{"worker": worker, f"p{n}": f"{worker}:{n}", f"own{worker}-{n}": n}]) == [None]
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=post, args=(pair[worker % 2], worker)) for worker in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []
    fold(pair[0], "wide")
    seen = set()
    for row in rows(pair[1], "wide", tmp_path / "out.csv"):
        worker = row["worker"]
        (n,) = [n for n in range(15) if row[f"p{n}"]]
        assert row[f"p{n}"] == f"{worker}:{n}"
        assert {name: value for name, value in row.items() if name.startswith("own") and value} == {f"own{worker}-{n}": str(n)}
        seen.add((worker, n))
    assert len(seen) == 60


def test_a_writer_that_was_overtaken_changes_nothing(services: Services, monkeypatch: pytest.MonkeyPatch) -> None:
    slow, quick = services.open("slow"), services.open("quick")
    slow.add_events("shop", [{"n": n} for n in range(10)])
    tables = store_of(slow)._tables
    published = tables.publish

    def publish(name: str, files: Any) -> None:
        assert fold(quick, "shop") == 1  # which took the name, as the slow one had lost its connection
        published(name, files)

    with monkeypatch.context() as patch:
        patch.setattr(tables, "publish", publish)
        with pytest.raises(OvertakenError):
            fold(slow, "shop")
    assert events(slow, "shop") == events(quick, "shop") == 10
    assert len(services.files()) == 2
    usual = EventStore.fold

    def overtaken(self: EventStore, collection: Any) -> bool:
        usual(store_of(quick), collection_of(quick, "shop"))
        return usual(self, collection)

    slow.add_events("shop", [{"n": 10}])
    monkeypatch.setattr(EventStore, "fold", overtaken)
    assert delete(slow, "shop", {"property_name": "n", "operator": "gte", "property_value": 5}) == 6


def test_a_fold_that_ends_within_what_another_process_read_as_one_leaves_nothing_out(
    services: Services, monkeypatch: pytest.MonkeyPatch
) -> None:
    folding, reading = services.open("folding"), services.open("reading")
    folding.add_events("shop", [{"n": 1}])
    tables = store_of(folding)._tables
    published = tables.publish

    def publish(name: str, files: Any) -> None:
        for n in (2, 3, 4):
            reading.add_events("shop", [{"n": n}])
            if n != 2:
                assert events(reading, "shop") == n  # one file of the appends 1 to 3, and one of the fourth
        published(name, files)

    with monkeypatch.context() as patch:
        patch.setattr(tables, "publish", publish)
        store_of(folding).fold(collection_of(folding, "shop"))
    assert events(reading, "shop") == events(folding, "shop") == 4
    assert fold(reading, "shop") == 1
    assert events(reading, "shop") == events(folding, "shop") == 4


@pytest.mark.parametrize("seed", range(6))
def test_however_reads_and_folds_of_several_processes_follow_each_other_every_append_is_read_once(
    services: Services, seed: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each process looks at what is there, and commits a fold of some of it at some later time, perhaps after another's."""
    monkeypatch.setattr("keen_pipeline.service.storage.shared.log.MAX_PARTS", 4)
    chance = random.Random(seed)
    processes = [services.open(name) for name in ("one", "other", "third")]
    processes[0].add_events("shop", [{"n": 0}])
    begun: dict[int, tuple[int, list[LogPart]]] = {}
    acknowledged = 1
    for _ in range(60):
        number = chance.randrange(len(processes))
        process, collection = processes[number], collection_of(processes[number], "shop")
        step = chance.choice(["append", "append", "read", "read", "begin", "commit"])
        if step == "append":
            process.add_events("shop", [{"n": acknowledged}])
            acknowledged += 1
        elif step == "read":
            assert n_of(process, "shop") == list(range(acknowledged)), (seed, number)
        elif step == "begin":
            state, logs = collection.look()
            begun[number] = (state.watermark, logs[: chance.randint(1, max(len(logs), 1))])
        elif begun.get(number, (0, []))[1]:
            watermark, logs = begun.pop(number)
            made = store_of(process)._files.fold(logs)
            store_of(process)._tables.publish("shop", [made])
            with contextlib.suppress(OvertakenError):
                change = (watermark, logs[-1].last_number)
                collection.table.commit(add=[made], watermark=change, columns=collection.log.columns)
    for process in processes:
        assert n_of(process, "shop") == list(range(acknowledged)), seed


def test_two_deletes_beside_folds_leave_what_neither_asked_for(services: Services) -> None:
    pair = [services.open(name, fold_seconds=0.1) for name in ("one", "other")]
    for n in range(40):
        assert pair[n % 2].add_events("shop", [{"n": n, "half": n % 2}]) == [None]
    failures: list[BaseException] = []

    def run(worker: int) -> None:
        try:
            for low in range(0, 30, 10):
                filters = [
                    {"property_name": "half", "operator": "eq", "property_value": worker},
                    {"property_name": "n", "operator": "lt", "property_value": low + 10},
                ]
                delete(pair[worker], "shop", *filters)
                pair[worker].add_events("shop", [{"n": 100 + low, "half": worker}])
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=run, args=(worker,)) for worker in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []
    assert events(pair[0], "shop") == events(pair[1], "shop") == 10 + 6


@pytest.mark.parametrize("away", [1, 3])
def test_an_append_whose_answer_was_lost_is_there_once(services: Services, away: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """`away`: the connections that end, that of the commit and those that ask what became of it."""
    service = services.open("one")
    service.add_events("shop", [{"n": 1}])
    usual = PostgresDatabase.transaction
    asked = [0]

    @contextlib.contextmanager
    def transaction(self: PostgresDatabase, lock: str | None = None) -> Iterator[Any]:
        with usual(self, lock) as connection:
            yield connection
        asked[0] += 1
        if asked[0] <= away:
            raise CatalogueUnavailableError("the connection ended after the commit")

    with monkeypatch.context() as patch:
        patch.setattr(PostgresDatabase, "transaction", transaction)
        assert service.add_events("shop", [{"n": 2, "new": 1}]) == [None]
    assert asked[0] == away + 1
    assert events(service, "shop") == 2


def test_appends_that_were_swept_between_the_look_at_the_table_and_at_the_log_are_missed(
    services: Services,
) -> None:
    service = services.open("one")
    service.add_events("shop", [{"n": 1}])
    log = collection_of(service, "shop").log
    fold(service, "shop")
    log.sweep(1, -1)
    with pytest.raises(CatalogueUnavailableError, match="ask again"):
        log.parts(0)
    assert log.parts(1) == []


def test_an_older_copy_of_the_database_gives_out_no_number_of_the_table_again(
    services: Services, catalogue: PostgresDatabase
) -> None:
    service = services.open("one")
    for n in range(3):
        service.add_events("shop", [{"n": n, f"p{n}": 1}])
    assert fold(service, "shop") == 1
    services.close()
    catalogue.rows("DELETE FROM event_log")
    catalogue.rows("DELETE FROM properties WHERE number > 3")
    catalogue.rows("UPDATE collections SET next_number = 2, folded = 1, properties = 4")
    again = services.open("again")
    again.add_events("shop", [{"n": 3, "p3": 1}])
    assert events(again, "shop") == 4
    assert fold(again, "shop") == 1
    assert events(again, "shop") == 4


def test_a_database_that_was_put_back_beside_a_running_process_gives_out_no_number_of_the_table_again(
    services: Services, catalogue: PostgresDatabase
) -> None:
    service = services.open("one")
    for n in range(3):
        service.add_events("shop", [{"n": n}])
    assert fold(service, "shop") == 1
    catalogue.rows("DELETE FROM event_log")
    catalogue.rows("UPDATE collections SET next_number = 2, folded = 1")  # as after a failover to a standby that was behind
    assert events(service, "shop") == 3
    service.add_events("shop", [{"n": 3}])
    assert n_of(service, "shop") == [0, 1, 2, 3]
    assert fold(service, "shop") == 1
    assert n_of(service, "shop") == [0, 1, 2, 3]


def test_what_was_replaced_is_removed_once_it_is_old(services: Services, catalogue: PostgresDatabase) -> None:
    service = services.open("one")
    for n in range(3):
        service.add_events("shop", [{"n": n}])
        fold(service, "shop")
    delete(service, "shop", {"property_name": "n", "operator": "lt", "property_value": 2})
    assert len(services.files()) == 3
    assert catalogue.rows("SELECT count(*) AS n FROM event_log")[0]["n"] == 3
    sweeper = services.open("sweeper", fold_seconds=0.2)
    sweeper.backend.upkeep._keep_seconds = 0
    until(lambda: len(services.files()) == 1, "the files stayed")
    until(lambda: catalogue.rows("SELECT count(*) AS n FROM event_log")[0]["n"] == 0, "the appends stayed")
    assert events(sweeper, "shop") == events(service, "shop") == 1


def test_a_reader_that_comes_late_to_a_removed_file_may_ask_again(services: Services) -> None:
    service, other = services.open("one"), services.open("other")
    service.add_events("shop", [{"n": 1}, {"n": 2}])
    fold(service, "shop")
    with other.store.snapshot("shop") as snapshot:
        delete(service, "shop", {"property_name": "n", "operator": "eq", "property_value": 1})
        store_of(service).sweep(collection_of(service, "shop"), 0)
        with pytest.raises(FileGoneError) as raised:
            snapshot.fetch(snapshot.segments)
    assert isinstance(raised.value, RetryableError)
    assert n_of(other, "shop") == [2]


def on_disk(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.iterdir())


def test_small_files_are_merged_and_the_cache_keeps_its_bound(services: Services, tmp_path: Path) -> None:
    service = services.open("one", fold_seconds=0.1)
    for n in range(10):
        service.add_events("shop", [{"n": n, "text": "x" * 100}])
        until(lambda: not store_of(service)._logs.backlogs(), "nothing was folded")
    merged = collection_of(service, "shop").table.state().files
    assert len(merged) < 5
    assert sum(file.events for file in merged) == 10
    assert [row["n"] for row in rows(service, "shop", tmp_path / "out.csv")] == [str(n) for n in range(10)]
    names = [f"events/shop/{file.name}" for file in merged]
    sizes = [file.bytes for file in merged]
    objects = StorageObjects(str(services.storage))
    cache = FileCache(tmp_path / "cache", objects, max(sizes))
    cache.hold(names)
    assert on_disk(tmp_path / "cache") == sum(sizes)
    assert all(cache.path(name).exists() for name in names)
    cache.path(names[0]).unlink()  # as somebody who tidies up would
    cache.hold(names)
    assert all(cache.path(name).exists() for name in names)
    for _ in range(2):
        cache.release(names)
    assert on_disk(tmp_path / "cache") <= max(sizes)
    cache.close()
    cache.path(names[0]).write_bytes(b"PAR1" + bytes(100))  # as a machine without power would leave it
    after = FileCache(tmp_path / "cache", objects, max(sizes))
    after.hold(names[:1])
    assert cache.path(names[0]).stat().st_size == sizes[0]
    after.close()
    again = FileCache(tmp_path / "cache", objects, 0)
    assert list((tmp_path / "cache").glob("*.parquet")) == []
    again.close()


def test_many_appends_are_read_as_few_files_and_none_is_left(
    services: Services, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("keen_pipeline.service.storage.shared.log.PART_BYTES", 1000)
    monkeypatch.setattr("keen_pipeline.service.storage.shared.log.MAX_PARTS", 4)
    service = services.open("one")
    for n in range(20):
        service.add_events("shop", [{"n": n}] * 3)
        assert events(service, "shop") == 3 * (n + 1)
        assert len(rows(service, "shop", tmp_path / "out.csv")) == 3 * (n + 1)
    log = collection_of(service, "shop").log
    assert isinstance(log, SharedLog)
    lines = list((services.folder / "one" / "shared" / "log").iterdir())
    assert len(lines) == len(log.parts(0)) <= 20
    del lines
    while fold(service, "shop"):
        pass
    assert log.parts(collection_of(service, "shop").table.state().watermark) == []
    until(lambda: not list((services.folder / "one" / "shared" / "log").iterdir()), "files stayed")
    assert events(service, "shop") == 60


class Away(StorageObjects):
    """A storage that takes nothing, as long as it is `away`."""

    away = False

    def put(self, name: str, source: Path) -> None:
        if self.away:
            raise RetryableError("the storage is away")
        super().put(name, source)


def test_events_are_taken_and_read_while_the_storage_is_away_up_to_a_bound(
    services: Services, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(store, "MAX_BACKLOG_BYTES", MIB)
    monkeypatch.setattr(upkeep, "PAUSE_SECONDS", 0.1)
    objects = Away(str(services.storage))
    service = services.open("one", objects, fold_seconds=0.1)
    objects.away = True
    for n in range(3):  # the last one goes past the bound
        service.add_events("shop", [{"n": n, "text": "x" * 400_000}])
    assert events(service, "shop") == 3
    until(lambda: service.store.unfolded_bytes() > MIB, "the backlog was never seen")
    with pytest.raises(RetryableError, match="too many events wait"):
        service.add_events("shop", [{"n": 5}])
    service.add_events("another", [{"n": 5}])
    made = service.create_extraction("shop", {}, names="v2")
    assert b"keen_events_unfolded_bytes 1.2" in service.metrics.text()
    objects.away = False
    until(lambda: service.records.get(made.id).status == COMPLETE, "the extraction did not outlive it")  # type: ignore[union-attr]
    until(lambda: not service.store.unfolded_bytes(), "the backlog stayed")
    service.add_events("shop", [{"n": 5}])
    assert events(service, "shop") == 4
