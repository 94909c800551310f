"""A data folder: what copies, losses, damage, older layouts and shortages make of it."""

from __future__ import annotations

import json
import os
import shutil
import tarfile
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import pytest

from keen_pipeline.errors import ConfigurationError, ServiceUnavailableError
from keen_pipeline.service.application import Service
from keen_pipeline.service.storage import store, upkeep
from keen_pipeline.service.storage.engine import DiskFullError
from keen_pipeline.service.storage.files import EventFiles
from keen_pipeline.service.storage.folder import event_log
from keen_pipeline_tests.service.stores import (
    Place,
    collection_of,
    events,
    fold,
    merge,
    n_of,
    number,
    rule,
    store_of,
    until,
)

LAYOUT_1 = Path(__file__).with_name("layout_1.tar.gz")


def copied(source: Path, target: Path, order: Callable[[list[Path]], list[Path]]) -> None:
    """A copy, file by file, of a folder that others write to."""
    target.mkdir()
    for path in order(sorted(source.iterdir())):
        try:
            if path.is_dir():
                copied(path, target / path.name, order)
            elif path.suffix not in (".lock", ".sock"):
                shutil.copyfile(path, target / path.name)
        except FileNotFoundError:
            continue


@pytest.mark.parametrize("backwards", [False, True])
def test_a_copy_of_the_running_folder_has_what_was_acknowledged_before_it(
    folder: Place, tmp_path: Path, backwards: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(event_log, "SEAL_BYTES", 20_000)
    monkeypatch.setattr(upkeep, "DUE_BYTES", 20_000)
    service = folder.open(fold_seconds=0.1)
    stop, acknowledged = threading.Event(), [0]

    def post() -> None:
        while not stop.is_set():
            number = acknowledged[0]
            assert service.add_events("shop", [{"n": number, "text": "x" * 50}] * 20) == [None] * 20
            acknowledged[0] = number + 1
            service.add_events(f"shop-{number % 5}", [{"n": number}])

    thread = threading.Thread(target=post)
    thread.start()
    copies: dict[str, int] = {}
    try:
        until(lambda: acknowledged[0] > 50, "nothing was stored")
        for n in range(4):
            copies[f"copy-{n}"] = acknowledged[0]
            copied(tmp_path / "one", tmp_path / f"copy-{n}", lambda paths: paths[::-1] if backwards else paths)
            until(lambda: acknowledged[0] > copies[f"copy-{n}"] + 30, "nothing more was stored")  # noqa: B023 - called at once
    finally:
        stop.set()
        thread.join()
    for name, batches in copies.items():
        found = n_of(folder.open(name), "shop")
        assert found == sorted(found)
        assert {found.count(n) for n in range(batches)} == {20}
    assert n_of(service, "shop") == [n for n in range(acknowledged[0]) for _ in range(20)]


def test_a_commit_whose_file_the_copy_lacks_is_set_aside_and_the_log_read_again(folder: Place, tmp_path: Path) -> None:
    service = folder.open()
    for n in range(3):
        service.add_events("shop", [{"n": n}])
        fold(service, "shop")
    folder.close()
    table = tmp_path / "one" / "events" / "shop"
    newest = sorted(table.glob("*.parquet"))[-1]
    newest.rename(tmp_path / "missing.parquet")
    again = folder.open()
    assert n_of(again, "shop") == [0, 1, 2]
    assert list((table / "_set_aside").iterdir()) != []
    fold(again, "shop")
    assert n_of(again, "shop") == [0, 1, 2]


@pytest.mark.parametrize("left", ["torn commits", "no commits"])
def test_a_table_whose_commits_are_lost_is_not_taken_for_an_empty_one(folder: Place, tmp_path: Path, left: str) -> None:
    service = folder.open()
    service.add_events("shop", [{"n": 1}])
    fold(service, "shop")
    folder.close()
    data = tmp_path / "one"
    commits = data / "events" / "shop" / "_delta_log"
    if left == "torn commits":
        for path in commits.iterdir():
            path.write_bytes(bytes(path.stat().st_size))
    else:
        shutil.rmtree(commits)
    assert n_of(folder.open(), "shop") == [1]  # by its log
    folder.close()
    shutil.rmtree(data / "log")
    again = folder.open()
    assert store_of(again).names() == ["shop"]
    for action in (lambda: number(again, "shop"), lambda: again.add_events("shop", [{"n": 2}])):
        with pytest.raises(ConfigurationError, match="or commits that name them"):
            action()


def test_nothing_that_is_lost_beside_them_loses_events_and_nothing_unknown_is_removed(folder: Place, tmp_path: Path) -> None:
    service = folder.open()
    service.add_events("shop", [{"n": 1}])
    fold(service, "shop")
    service.add_events("shop", [{"n": 2}])
    folder.close()
    data = tmp_path / "one"
    unknown = [data / "events" / "shop" / "x.parquet", data / "events" / "notes.txt", data / "log" / "shop" / "y.tmp"]
    for path in unknown:
        path.write_text("mine")
    for path in data.glob("state.db*"):
        path.unlink()
    (data / "layout.json").unlink()
    again = folder.open()
    assert n_of(again, "shop") == [1, 2]
    assert [path.read_text() for path in unknown] == ["mine"] * 3
    folder.close()
    whole = (data / "state.db").read_bytes()
    for torn in (b"torn" * 3000, whole[:8192] + b"torn" * 1024 + whole[12288:]):  # of the second one the first pages can be read
        (data / "state.db").write_bytes(torn)
        again = folder.open()
        assert (n_of(again, "shop"), again.records.of_collection("shop", 9, 9)) == ([1, 2], [])
        folder.close()
        (aside,) = data.glob("state.db.set-aside-*")
        aside.unlink()


def test_a_log_stays_for_a_while_after_its_fold_however_old_it_is(folder: Place, tmp_path: Path) -> None:
    service = folder.open()
    service.add_events("shop", [{"n": 1}])
    (log,) = (tmp_path / "one" / "log" / "shop").glob("*.ndjson")
    store_of(service).sweep(collection_of(service, "shop"), 0)
    assert log.exists()  # it is in no table yet
    os.utime(log, (1, 1))
    fold(service, "shop")
    store_of(service).sweep(collection_of(service, "shop"), 3600)
    assert log.exists()
    os.utime(log, (1, 1))
    store_of(service).sweep(collection_of(service, "shop"), 3600)
    assert not log.exists()
    assert n_of(service, "shop") == [1]


def test_a_damaged_log_loses_only_what_is_damaged_and_that_is_set_aside(folder: Place, tmp_path: Path) -> None:
    service = folder.open()
    for n in range(3):
        service.add_events("shop", [{"n": n}])
    folder.close()
    (log,) = (tmp_path / "one" / "log" / "shop").glob("*.ndjson")
    text = log.read_bytes()
    middle = text.index(b'"1"')
    log.write_bytes(text[:middle] + b'"7"' + text[middle + 3 :])
    assert n_of(folder.open(), "shop") == [0]
    (aside,) = log.parent.glob("*.set-aside")
    assert b'"2"' in aside.read_bytes()


def logs(service: Service, tmp_path: Path, *batches: dict[str, Any]) -> list[Path]:
    """One log for each batch, as a read seals the one before it."""
    for event in batches:
        service.add_events("shop", [event])
        number(service, "shop")
    return sorted((tmp_path / "one" / "log" / "shop").glob("*.ndjson"))


def test_logs_after_one_that_is_missing_are_set_aside_as_it_may_have_named_their_columns(folder: Place, tmp_path: Path) -> None:
    """Read without it, the third event's `n` would have become the next new property, whatever that is called."""
    _, second, third, _ = logs(folder.open(), tmp_path, {"a": 1}, {"a": 2, "n": 2}, {"a": 3, "n": 3}, {"a": 4, "n": 4})
    folder.close()
    second.unlink()
    text = third.read_bytes()
    again = folder.open()
    again.add_events("shop", [{"a": 5, "other": 5}])
    assert [{k: v for k, v in event.items() if k != "keen"} for event in events(again, "shop")] == [{"a": 1}, {"a": 5, "other": 5}]
    assert [path.read_bytes() for path in third.parent.glob(f"{third.name}.set-aside-*")] == [text]
    folder.close()
    assert number(folder.open(), "shop") == 2
    assert len(list(third.parent.glob("*.set-aside-*"))) == 2


@pytest.mark.parametrize(("names", "found"), [(True, [{"a": 1}]), (False, [{"a": 1}, {"a": 3}])])
def test_logs_after_one_that_is_damaged_are_read_if_their_columns_are_known(
    folder: Place, tmp_path: Path, names: bool, found: list[Any]
) -> None:
    _, second, third = logs(folder.open(), tmp_path, {"a": 1}, {"n": 2} if names else {"a": 2}, {"a": 3})
    folder.close()
    second.write_bytes(second.read_bytes().replace(b'2"', b'7"'))
    again = folder.open()
    assert [{k: v for k, v in event.items() if k != "keen"} for event in events(again, "shop")] == found
    assert len(list(second.parent.glob(f"{second.name}.*set-aside"))) == 1
    assert third.exists() != names


def test_a_file_of_somebody_else_beside_the_logs_is_no_log(folder: Place, tmp_path: Path) -> None:
    (log,) = logs(folder.open(), tmp_path, {"n": 1})
    folder.close()
    others = [log.with_name("2.ndjson"), log.with_name("notes.ndjson"), log.with_name("2026-01-01.ndjson")]
    for other in others:
        other.write_text("mine")
    assert n_of(folder.open(), "shop") == [1]
    assert [other.read_text() for other in others] == ["mine"] * 3


def test_a_folder_of_the_first_layout_is_converted(folder: Place, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with tarfile.open(LAYOUT_1) as archive:
        archive.extractall(tmp_path / "one", filter="data")
    told = json.loads((tmp_path / "one" / "expected.json").read_text().replace("T00:00:00Z", "T00:00:00.000Z"))
    shutil.copytree(tmp_path / "one", tmp_path / "torn")
    service = folder.open(project_id="p" * 24, read_key="r" * 32, write_key="w" * 32, master_key="m" * 32)
    found = events(service, "nasty")
    assert [json.dumps(event, sort_keys=True) for event in found] == [json.dumps(event, sort_keys=True) for event in told["nasty"]]
    assert [sorted(event) for event in events(service, "users")] == [["keen", "late"], ["a.b", "keen"], ["keen", "late2"]]
    record = service.records.get(told["extraction"])
    assert record is not None
    assert record.status == "complete"
    (aside,) = (tmp_path / "one").glob("events.set-aside-*")
    assert len(list(aside.rglob("*.parquet"))) == 3
    folder.close()
    assert number(folder.open(), "nasty") == len(told["nasty"])

    # A crash between the steps of the switch.
    usual = Path.rename
    for step in range(3):
        left = [step]

        def rename(self: Path, target: Any, left: list[int] = left) -> Path:
            if "torn" in str(self) and ("migration" in str(self) or self.name == "events"):
                if not left[0]:
                    raise KeyboardInterrupt
                left[0] -= 1
            return usual(self, target)

        torn = f"torn-{step}"
        shutil.copytree(tmp_path / "torn", tmp_path / torn)
        with monkeypatch.context() as patch:
            patch.setattr(Path, "rename", rename)
            with pytest.raises(KeyboardInterrupt):
                folder.open(torn)
        again = folder.open(torn)
        assert number(again, "nasty") == len(told["nasty"])
        assert number(again, "users") == 3


def test_an_older_folder_without_its_catalog_is_set_aside_and_a_newer_one_refused(folder: Place, tmp_path: Path) -> None:
    with tarfile.open(LAYOUT_1) as archive:
        archive.extractall(tmp_path / "one", filter="data")
    (tmp_path / "one" / "state.db").unlink()
    assert folder.open().store.names() == []
    assert len(list((tmp_path / "one").glob("events.set-aside-*/*/*.parquet"))) == 3
    folder.close()
    (tmp_path / "one" / "layout.json").write_text('{"layout": 9}')
    with pytest.raises(ConfigurationError, match="layout 9"):
        folder.open()


def test_a_new_collection_is_made_without_a_look_at_all_the_others(folder: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    service = folder.open()
    with monkeypatch.context() as patched:
        patched.setattr(event_log.FileLogs, "names", Mock(side_effect=AssertionError("two thousand of them took a minute")))
        assert service.add_events("shop", [{"n": 1}]) == [None]
        assert n_of(service, "shop") == [1]
    assert service.store.names() == ["shop"]


def test_what_storage_makes_is_private(folder: Place, tmp_path: Path) -> None:
    before = os.umask(0o022)
    try:
        service = folder.open()
        service.add_events("user:signup", [{"n": 1}])
        fold(service, "user:signup")
        for _ in range(9):
            service.add_events("user:signup", [{"n": 1}])
            fold(service, "user:signup")
        merge(service, "user:signup")
    finally:
        os.umask(before)
    made = [
        path
        for folder in ("events", "log", "work")
        for path in [tmp_path / "one" / folder, *(tmp_path / "one" / folder).rglob("*")]
    ]
    made += (tmp_path / "one").glob("state.db*")
    assert len(made) > 20
    assert {(path.is_dir(), path.stat().st_mode & 0o777) for path in made} == {(True, 0o700), (False, 0o600)}
    assert (tmp_path / "one" / "events" / "user~3Asignup").is_dir()


def test_appends_are_refused_while_too_much_waits_and_taken_again_after(folder: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(store, "MAX_BACKLOG_BYTES", 100_000)
    monkeypatch.setattr(upkeep, "PAUSE_SECONDS", 0.05)
    usual = EventFiles.fold
    broken = [True]

    def fails(self: EventFiles, logs: Any) -> Any:
        if broken[0]:
            raise RuntimeError("no memory")
        return usual(self, logs)

    monkeypatch.setattr(EventFiles, "fold", fails)
    service = folder.open(fold_seconds=0.1)
    taken = 0

    def post() -> bool:
        nonlocal taken
        try:
            service.add_events("shop", [{"n": taken, "text": "x" * 20_000}])
        except ServiceUnavailableError as error:
            return error.retry_after is not None
        taken += 1
        return False

    until(post, "the backlog was never bounded")
    assert number(service, "shop") == taken
    service.add_events("another", [{"n": 1}])
    broken[0] = False
    until(lambda: not post(), "the backlog stayed")
    until(lambda: service.store.unfolded_bytes() == 0, "it was not folded")
    assert number(service, "shop") == taken


def test_a_log_that_is_larger_than_a_file_should_be_is_folded_alone(folder: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(store, "FOLD_BYTES", 1)
    service = folder.open()
    for n in range(3):
        service.add_events("shop", [{"n": n}])
        assert number(service, "shop") == n + 1
    assert fold(service, "shop") == 3


def test_a_property_of_the_append_that_fills_a_log_is_folded_and_what_a_log_holds_is_looked_up_once(
    folder: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(event_log, "SEAL_BYTES", 1)
    service = folder.open()
    for n in range(3):
        service.add_events("shop", [{"n": n, f"new{n}": n}])
    kept = [{k: v for k, v in event.items() if k != "keen"} for event in events(service, "shop")]
    assert kept == [{"n": n, f"new{n}": n} for n in range(3)]
    with service.store.snapshot("shop") as one, service.store.snapshot("shop") as other:
        assert one.segments == other.segments  # by which what they hold is remembered
    fold(service, "shop")
    assert [{k: v for k, v in event.items() if k != "keen"} for event in events(service, "shop")] == kept


def test_what_the_last_process_left_is_folded_though_nobody_asks_for_it(folder: Place, tmp_path: Path) -> None:
    service = folder.open()
    service.add_events("shop", [{"n": 1}])
    folder.close()
    folder.open(fold_seconds=0.1)
    until(lambda: list((tmp_path / "one" / "events").glob("shop/*.parquet")), "it was not folded")


def test_an_append_that_failed_leaves_nothing_behind(folder: Place, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    service = folder.open()
    service.add_events("shop", [{"n": 1}])
    usual = os.fdatasync
    monkeypatch.setattr(os, "fdatasync", lambda descriptor: (_ for _ in ()).throw(OSError(28, "No space left on device")))
    before = (log := next((tmp_path / "one" / "log" / "shop").iterdir())).read_bytes()
    with pytest.raises(DiskFullError, match="no room on the disk"):
        service.add_events("shop", [{"n": 2, "new": 1}])
    assert log.read_bytes() == before  # for whoever copies the folder now
    assert n_of(service, "shop") == [1]
    with pytest.raises(DiskFullError):
        service.add_events("new", [{"n": 2}])
    monkeypatch.setattr(os, "fdatasync", usual)
    service.add_events("shop", [{"n": 3, "new": 2}])
    service.add_events("new", [{"n": 3}])
    assert (n_of(service, "shop"), n_of(service, "new")) == ([1, 3], [3])
    folder.close()
    assert n_of(folder.open(), "shop", rule("new", "eq", 2)) == [3]
