"""Extractions of one service: its threads outlive any of them, results go where they are kept, and go after their time."""

from __future__ import annotations

import errno
import itertools
import os
import sqlite3
import threading
import time
from contextlib import closing
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import duckdb
import pytest

from keen_pipeline.cli.local.serve import StorageObjects
from keen_pipeline.errors import ConfigurationError, KeenPipelineError, NotFoundError, RetryableError, ServiceUnavailableError
from keen_pipeline.service.application import Service
from keen_pipeline.service.config import ServiceConfig
from keen_pipeline.service.extractions import records as extraction_records
from keen_pipeline.service.extractions import worker
from keen_pipeline.service.extractions.records import COMPLETE, FAILED, MAIL_PENDING, ExtractionRecords, Turn
from keen_pipeline.service.storage.engine import DiskFullError
from keen_pipeline.service.storage.folder.state import SqliteDatabase
from keen_pipeline.service.storage.places import StorageError
from keen_pipeline_tests.service.stores import await_status, until


@pytest.mark.parametrize("name", ["finish", "expired"])
def test_the_extraction_thread_outlives_a_database_that_fails(service: Service, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    monkeypatch.setattr(worker, "PAUSE_SECONDS", 0.05)
    failures = iter(range(3))
    original = getattr(service.records, name)

    def sometimes(*args: Any, **options: Any) -> Any:
        if next(failures, None) is not None:
            raise sqlite3.OperationalError("database is locked")
        return original(*args, **options)

    monkeypatch.setattr(service.records, name, sometimes)
    monkeypatch.setattr(service.worker, "_sweep_seconds", 0.01)
    made = service.create_extraction("purchases", {}, names="v2")
    await_status(service, made.id, COMPLETE)
    assert all(thread.is_alive() for thread in service.worker._threads)


@pytest.mark.parametrize("error", [IndexError("string index out of range"), ConfigurationError("/var/lib/keen lacks files")])
def test_an_extraction_that_fails_in_a_way_nobody_expected_ends_and_the_next_one_runs(
    service: Service, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    original, broken = worker.write_csv, iter([True])

    def once(*args: Any, **options: Any) -> int:
        if next(broken, False):
            raise error
        return original(*args, **options)

    monkeypatch.setattr(worker, "write_csv", once)
    first = service.create_extraction("purchases", {}, names="v2")
    await_status(service, first.id, FAILED)
    found = service.records.get(first.id)
    assert found is not None
    assert found.message == f"the service could not write the result ({type(error).__name__})"
    await_status(service, service.create_extraction("purchases", {}, names="v2").id, COMPLETE)


def test_what_was_asked_for_and_put_off_while_the_clock_was_ahead_waits_no_longer_than_usual(
    data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data.mkdir()
    database = SqliteDatabase(data / "state.db")
    records, now = ExtractionRecords(database), database.now()
    asked = {"names": "v2", "filters": (), "timeframe": None, "email": "a@example.com", "max_queue": 10}
    rests = records.create("purchases", delay=3600, **asked)  # type: ignore[arg-type]
    monkeypatch.setattr(database, "now", lambda: now + 30 * 86_400)
    ahead = records.create("purchases", delay=0, **asked)  # type: ignore[arg-type]
    records.finish(Turn(rests.id), COMPLETE, events=1, size=1, message=None)
    records.mail_tried(rests.id, MAIL_PENDING, database.now() + 3600)
    records.put_off(Turn(ahead.id), 60)
    assert records.claim_mail(database.now()) is None
    monkeypatch.setattr(database, "now", lambda: now)
    turn = Turn(ahead.id, 1)
    assert records.take_turn([]) == turn
    assert (mailed := records.claim_mail(now)) is not None
    assert mailed.id == rests.id
    again = records.create("purchases", delay=3600, **asked)  # type: ignore[arg-type]
    records.put_off(turn, 60)
    assert records.take_turn([]) is None, again
    # Read before another thread creates one, and used after it: a delay of one in ten was skipped under load.
    monkeypatch.setattr(database, "now", lambda: now - 0.01)
    assert records.take_turn([]) is None, again


def test_an_extraction_that_ends_the_service_at_each_start_is_given_up_and_the_next_one_runs(data: Path) -> None:
    with closing(Service(ServiceConfig(data), "http://127.0.0.1")) as service:
        service.add_event("purchases", {"a": 1}, version="v3")
        service.worker.close()
        ends, other = (service.create_extraction("purchases", {}, names="v2").id for _ in range(2))
        for _ in range(worker.LOST_TURNS):  # killed before any of them had an end
            turn = ExtractionRecords(service.backend.database).take_turn([])
            assert turn is not None
            assert turn.extraction_id == ends
            assert (
                service.backend.database.rows("SELECT held_until FROM extractions WHERE id = ?", [ends])[0][0] == 0
            )  # by no clock
    with closing(Service(ServiceConfig(data), "http://127.0.0.1")) as service:
        await_status(service, ends, FAILED)
        found = service.records.get(ends)
        assert found is not None
        assert found.message == "given up: the service ended 5 times while it wrote this extraction"
        await_status(service, other, COMPLETE)


def test_a_list_sorts_none_of_those_that_are_kept_in_a_database_of_an_older_release_too(data: Path) -> None:
    data.mkdir()
    with closing(SqliteDatabase(data / "state.db")) as older:
        older.rows("DROP INDEX extractions_listed")
    with closing(SqliteDatabase(data / "state.db")) as database:
        chosen = "SELECT * FROM extractions WHERE collection = ? ORDER BY (finished IS NOT NULL), created DESC, id DESC LIMIT ?"
        assert chosen in extraction_records._LISTED
        plan = database.rows(f"EXPLAIN QUERY PLAN {chosen}", ["shop", 10])
        assert [row["detail"] for row in plan] == ["SEARCH extractions USING INDEX extractions_listed (collection=?)"]


def test_results_that_an_older_database_does_not_know_are_kept_as_long_as_any(service: Service, data: Path) -> None:
    made = service.create_extraction("purchases", {}, names="v2").id
    await_status(service, made, COMPLETE)
    unknown, old, known = (data / "results" / f"{name}.csv" for name in ("unknown", "old", f"{made}-1"))
    unknown.write_text("a\n")
    old.write_text("a\n")
    for path in (old, known):
        os.utime(path, (0, 0))
    service.worker._remove_old()
    assert (unknown.exists(), old.exists(), known.exists()) == (True, False, True)


def test_a_result_that_can_not_be_removed_keeps_no_other(service: Service, data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made = [service.create_extraction("purchases", {}, names="v2").id for _ in range(3)]
    for one in made:
        await_status(service, one, COMPLETE)
    usual = service.results.remove

    def remove(name: str) -> None:
        if name == f"{made[0]}-1":
            raise PermissionError("it is locked")
        usual(name)

    monkeypatch.setattr(service.results, "remove", remove)
    monkeypatch.setattr(service.worker, "_retention_seconds", -1)
    monkeypatch.setattr(service.results, "remove_unknown", lambda known, before: None)
    service.worker._remove_old()
    assert [one for one in made if service.records.get(one)] == made[:1]
    assert [path.stem for path in (data / "results").iterdir()] == [f"{made[0]}-1"]


def test_a_storage_that_removes_nothing_is_not_asked_for_every_result(service: Service, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(service.results, "remove", remove := Mock(side_effect=RetryableError("it is away")))
    monkeypatch.setattr(service.results, "remove_unknown", lambda known, before: None)
    monkeypatch.setattr(service.records, "expired", lambda before: [(f"old-{number}", 1) for number in range(9)])
    service.worker._remove_old()
    assert remove.call_count == worker.MOST_FAILURES == 3


@pytest.mark.parametrize(
    "error",
    [duckdb.OutOfMemoryException("failed to pin"), duckdb.IOException("No space left on device"), OSError(errno.ENOSPC, "")],
)
def test_an_extraction_that_finds_no_memory_or_no_room_gets_another_turn(
    service: Service, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    monkeypatch.setattr(worker, "PAUSE_SECONDS", 0.01)
    monkeypatch.setattr(service.results, "publish", Mock(side_effect=[error, error, 7]))
    made = service.create_extraction("purchases", {}, names="v2")
    await_status(service, made.id, COMPLETE)
    found = service.records.get(made.id)
    assert (found is not None and found.bytes, service.worker._put_off) == (7, {})


def test_threads_that_find_no_room_rest_though_others_wake_them(data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(worker, "PAUSE_SECONDS", 60)
    full, tried = DiskFullError("no room"), list[str]()
    with closing(Service(ServiceConfig(data=data, max_concurrency=2), "http://127.0.0.1")) as service:
        service.add_event("purchases", {"a": 1}, version="v3")
        monkeypatch.setattr(service.worker, "_write", Mock(side_effect=lambda *_: (tried.append("write"), raised(full))))
        monkeypatch.setattr(service.records, "put_off", Mock(side_effect=full))
        for _ in range(4):
            service.create_extraction("purchases", {}, names="v2")
        until(lambda: len(tried) == 2, "not both threads tried")
        time.sleep(0.5)  # in which they were at it all the time
        assert len(tried) == 2


def raised(error: Exception) -> None:
    raise error


def test_extractions_whose_events_are_away_keep_no_other_waiting(service: Service, monkeypatch: pytest.MonkeyPatch) -> None:
    service.add_event("away", {"a": 1}, version="v3")
    usual, back = service.store.snapshot, threading.Event()

    def snapshot(name: str) -> Any:
        if name == "away" and threading.current_thread().name.startswith("extraction") and not back.is_set():
            raise ServiceUnavailableError("the storage lacks a file")
        return usual(name)

    monkeypatch.setattr(service.store, "snapshot", snapshot)
    away = [service.create_extraction("away", {}, names="v2").id for _ in range(3)]
    await_status(service, service.create_extraction("purchases", {}, names="v2").id, COMPLETE)
    back.set()
    for one in away:
        await_status(service, one, COMPLETE)


def test_a_mail_that_no_server_is_set_for_is_told_in_the_log(service: Service, caplog: pytest.LogCaptureFixture) -> None:
    service.create_extraction("purchases", {}, names="v2")
    assert [record for record in caplog.records if record.levelname == "WARNING"] == []
    made = service.create_extraction("purchases", {"email": "ada@example.com"}, names="v2")
    (told,) = [record for record in caplog.records if record.levelname == "WARNING"]
    assert ("SMTP_HOST" in told.getMessage(), told.extraction) == (True, made.id)  # type: ignore[attr-defined]


class Refusing:
    """A storage of results that raises `error` so many times."""

    def __init__(self, error: Exception, times: int) -> None:
        self.errors = itertools.repeat(error, times)
        self.kept: list[str] = []

    def put(self, name: str, source: Path) -> None:
        error = next(self.errors, None)
        if error is not None:
            raise error
        self.kept.append(name)

    def open(self, name: str) -> Any:
        raise FileNotFoundError(name)

    def remove(self, name: str) -> None:
        pass


def test_what_was_written_before_results_went_elsewhere_can_still_be_read(data: Path) -> None:
    with closing(Service(ServiceConfig(data=data), "http://127.0.0.1")) as service:
        service.add_event("purchases", {"a": 1}, version="v3")
        made = service.create_extraction("purchases", {}, names="v2")
        await_status(service, made.id, COMPLETE)
        written = list(service.results.read(f"{made.id}-1", 0, 1000))
    elsewhere = Refusing(StorageError("it refuses"), 0)
    with closing(Service(ServiceConfig(data=data), "http://127.0.0.1", results=elsewhere)) as service:
        assert list(service.results.read(f"{made.id}-1", 0, 1000)) == written


def test_an_extraction_that_never_ends_ends(service: Service, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(worker, "MOST_SECONDS", 0.05)
    slow = "SELECT count(*) FROM range(100000000000) a(x) WHERE hash(x) = 1"
    monkeypatch.setattr(worker, "write_csv", lambda cursor, *_, **__: cursor.execute(slow).fetchone()[0])
    made = service.create_extraction("purchases", {}, names="v2")
    await_status(service, made.id, FAILED)
    assert "longer than 0.05 s" in str(service.records.get(made.id))


@pytest.mark.parametrize(
    ("error", "times", "status"),
    [
        (ServiceUnavailableError("it is away"), worker.TRIES + 2, COMPLETE),
        (StorageError("it refuses"), worker.TRIES, COMPLETE),
        (StorageError("it refuses"), worker.TRIES + 1, FAILED),
    ],
)
def test_results_wait_for_a_storage_that_is_away_and_not_for_ever_for_one_that_refuses(
    data: Path, monkeypatch: pytest.MonkeyPatch, error: Exception, times: int, status: str
) -> None:
    monkeypatch.setattr(worker, "PAUSE_SECONDS", 0.01)
    results = Refusing(error, times)
    service = Service(ServiceConfig(data=data, max_concurrency=1), "http://127.0.0.1", results=results)
    try:
        service.add_event("purchases", {"a": 1}, version="v3")
        made = service.create_extraction("purchases", {}, names="v2")
        await_status(service, made.id, status)
        assert results.kept == ([f"{made.id}-{times + 1}.csv"] if status == COMPLETE else [])
        assert list((data / "results").iterdir()) == []
        assert service.worker._put_off == {}
        with pytest.raises(NotFoundError, match="no longer kept"):
            list(service.results.read(made.id, 0, 10))
    finally:
        service.close()


def test_the_words_of_a_storage_are_logged_and_shown_to_nobody_who_asks(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    objects = StorageObjects(str(tmp_path / "secret-bucket"))
    objects.prove()
    with pytest.raises(FileNotFoundError):
        objects.open("absent")
    errors: dict[type[KeenPipelineError], KeenPipelineError] = {
        StorageError: ConfigurationError("destination secret-bucket: no right to write"),
        ServiceUnavailableError: RetryableError("secret-bucket: it is away", retry_after=7),
    }
    for raised, cause in errors.items():
        monkeypatch.setattr(objects._storage, "remove", Mock(side_effect=cause))
        with pytest.raises(raised) as caught:
            objects.remove("one")
        assert "secret-bucket" not in str(caught.value)
    assert [record.reason for record in caplog.records] == [str(cause) for cause in errors.values()]  # type: ignore[attr-defined]
    assert getattr(caught.value, "retry_after", None) == 7
