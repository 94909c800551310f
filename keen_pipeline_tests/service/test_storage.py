"""What is kept of events: through folds, merges, deletes, restarts, copies and losses; in a folder, and on S3 with PostgreSQL."""

from __future__ import annotations

import csv
import errno
import io
import json
import os
import shutil
import tarfile
import threading
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from keen_pipeline.errors import ConfigurationError, InvalidInputError, ServiceUnavailableError
from keen_pipeline.service.application import Service
from keen_pipeline.service.events import analyses
from keen_pipeline.service.extractions.csv_export import count
from keen_pipeline.service.storage import event_log, store, upkeep
from keen_pipeline.service.storage.engine import DiskFullError
from keen_pipeline.service.storage.files import EventFiles
from keen_pipeline_tests.contract.s3 import ACCESS_KEY, REGION, SECRET_KEY, S3Server
from keen_pipeline_tests.service import naive
from keen_pipeline_tests.service.stores import (
    Place,
    collection_of,
    csv_text,
    delete,
    events,
    files,
    fold,
    merge,
    number,
    selected,
    store_of,
    until,
)

LAYOUT_1 = Path(__file__).with_name("layout_1.tar.gz")


@pytest.fixture(params=["folder", "shared"])
def place(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Place]:
    if request.param == "folder":
        made = Place(tmp_path)
    else:
        bucket: S3Server = request.getfixturevalue("bucket")
        keys = {"AWS_ACCESS_KEY_ID": ACCESS_KEY, "AWS_SECRET_ACCESS_KEY": SECRET_KEY, "AWS_DEFAULT_REGION": REGION}
        for name, value in {**keys, "AWS_ENDPOINT_URL": bucket.endpoint}.items():
            monkeypatch.setenv(name, value)
        made = Place(tmp_path, request.getfixturevalue("postgres_url"), f"{bucket.uri}/{uuid.uuid4().hex}")
    yield made
    made.close()


@pytest.fixture
def folder(tmp_path: Path) -> Iterator[Place]:
    made = Place(tmp_path)
    yield made
    made.close()


def n_of(service: Service, name: str, *filters: dict[str, Any]) -> list[Any]:
    return [event["n"] for event in events(service, name, *filters)]


def rule(name: str, operator: str, value: Any) -> dict[str, Any]:
    return {"property_name": name, "operator": operator, "property_value": value}


def test_events_stand_in_order_of_arrival_through_folds_merges_and_deletes(place: Place, tmp_path: Path) -> None:
    service = place.open()
    for n in range(20):
        assert service.add_events("shop", [{"n": n}, {"n": n, f"late{n % 3}": {"x": n}}]) == [None, None]
        if n % 2:
            assert fold(service, "shop") == 1
    expected = [n for n in range(20) for _ in range(2)]
    assert n_of(service, "shop") == expected
    assert merge(service, "shop")
    assert len(files(service, "shop")) == 1
    service.add_events("shop", [{"n": 20}])
    assert n_of(service, "shop") == [*expected, 20]
    assert delete(service, "shop", rule("n", "gte", 15)) == 11
    assert delete(service, "shop", rule("n", "gte", 15)) == 0
    rest = [n for n in expected if n < 15]
    assert n_of(service, "shop") == rest
    rows = list(csv.DictReader(io.StringIO(csv_text(service, "shop", tmp_path / "out.csv"))))
    assert [int(row["n"]) for row in rows] == rest
    assert number(service, "shop") == number(service, "shop", rule("n", "exists", value=True)) == 30
    with service.store.snapshot("shop") as snapshot:
        assert analyses.schema(snapshot, "v3")["n"] == {"num": 30}
    place.close()
    again = place.open()
    assert n_of(again, "shop") == rest
    assert again.store.names() == ["shop"]
    assert delete(again, "shop") == 30
    assert (number(again, "shop"), events(again, "shop")) == (0, [])


def test_a_reader_sees_a_delete_whole_or_not_at_all_and_is_not_held_up(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    service = place.open()
    for _n in range(3):
        service.add_events("shop", [{"n": i} for i in range(10)])
        fold(service, "shop")
    began, go_on = threading.Event(), threading.Event()
    usual = EventFiles.without

    def without(self: EventFiles, *arguments: Any) -> Any:
        kept = usual(self, *arguments)
        began.set()
        assert go_on.wait(20)
        return kept

    monkeypatch.setattr(EventFiles, "without", without)
    deleting = threading.Thread(target=delete, args=(service, "shop", rule("n", "lt", 5)))
    deleting.start()
    assert began.wait(20)
    with service.store.snapshot("shop") as before:
        assert number(service, "shop") == before.events == 30
        service.add_events("shop", [{"n": 1}])  # after the delete began: it stays
        assert fold(service, "shop") == 1
        assert number(service, "shop") == 31
        go_on.set()
        deleting.join()
        assert number(service, "shop") == 16
        assert before.events == 30
        before.fetch(before.segments)


TEXTS = st.one_of(
    st.text(st.characters(exclude_categories=["Cs"]), max_size=12),
    st.sampled_from(
        ["", "1", "null", "[1,]", "[1,2]", "[NaN]", '{"a":1,}', '{"a":1}', '"x"', "\0", "a\0b", "\\", "\u2028", "🙂", "é"]
    ),
)
NUMBERS = st.one_of(
    st.integers(-(10**30), 10**30),
    st.integers(-3, 3),
    st.floats(allow_nan=False, allow_infinity=False),
    st.sampled_from([0.0, -0.0, 1.0, 1e16, 10**16, 2**53, 2**53 + 1, float(2**53), 1e30, 10**30, 10**300, 1e300, 2**127]),
)
SCALARS = st.one_of(TEXTS, NUMBERS, st.booleans(), st.none())
VALUES = st.recursive(SCALARS, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXTS.filter(bool), inner, max_size=2))
EVENTS = st.lists(
    st.dictionaries(st.sampled_from(["a", "b", "late", "header:x", "a.b"]), VALUES, min_size=1, max_size=4), min_size=1, max_size=6
)


def plain(event: dict[str, Any]) -> str:
    """An event as text that tells 1 from 1.0 and true from 1, without what the service adds."""
    return json.dumps({key: value for key, value in event.items() if key != "keen"}, sort_keys=True)


def unique_key(value: Any) -> Any:
    if isinstance(value, (int, float)) and not isinstance(value, bool):
        return ("number", value)
    return json.dumps(value, sort_keys=True)


def leaf(event: dict[str, Any], name: str) -> Any:
    value = event.get(name, naive.MISSING)
    return naive.MISSING if isinstance(value, dict) and value else value


def check(service: Service, name: str, expected: list[dict[str, Any]], target: Path, wanted: Any) -> None:
    """Extraction as JSON and CSV, count, filters and unique values equal plain Python."""
    assert [plain(event) for event in events(service, name)] == [plain(event) for event in expected]
    values = [value for event in expected if (value := leaf(event, "a")) is not naive.MISSING]
    with selected(service, name) as (cursor, selection):
        assert count(cursor, selection) == len(expected)
        found = analyses.unique_values(cursor, selection, "a")
        assert {unique_key(value) for value in found} == {unique_key(value) for value in values}
        assert len(found) == analyses.count_unique(cursor, selection, "a") == len({unique_key(value) for value in values})
        numbers = [value for value in values if naive.is_number(value)]
        for figure, choose in (("minimum", min), ("maximum", max)):
            assert analyses.figure(cursor, selection, figure, "a") == (choose(numbers) if numbers else None)
    operators = ("eq", "ne", "lt", "gt") if not isinstance(wanted, bool) and wanted is not None else ("eq", "ne")
    for operator in (*operators, *(("lte", "gte") if naive.is_number(wanted) else ())):
        condition = rule("a", operator, wanted)
        passing = [event for event in expected if passes(event, condition)]
        assert number(service, name, condition) == len(passing), condition
    rows = list(csv.reader(io.StringIO(csv_text(service, name, target), newline="")))
    column = rows[0].index("a") if "a" in rows[0] else None
    for row, event in zip(rows[1:], expected, strict=True):
        value = leaf(event, "a")
        text = "" if value is naive.MISSING else value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
        if column is not None and not isinstance(value, (list, dict)):
            assert row[column] == text


def passes(event: dict[str, Any], condition: dict[str, Any]) -> bool:
    """As `naive.passes`, whose names are dotted, while `a.b` is a key here."""
    return naive.passes({"a": leaf(event, "a")} if leaf(event, "a") is not naive.MISSING else {}, condition)


def through_everything(folder: Path, batches: list[list[dict[str, Any]]], wanted: Any) -> None:
    """Check events as they come in, folded, after a delete, after a restart, and in a copy of the folder."""
    place = Place(folder)
    try:
        service = place.open()
        expected: list[dict[str, Any]] = []
        for n, batch in enumerate(batches):
            assert service.add_events("typed", batch) == [None] * len(batch)
            expected += batch
            check(service, "typed", expected, folder / "out.csv", wanted)
            if n == 0:
                fold(service, "typed")
                check(service, "typed", expected, folder / "out.csv", wanted)
        shutil.copytree(folder / "one", folder / "copy")
        gone = rule("a", "exists", value=False)
        delete(service, "typed", gone)
        kept = [event for event in expected if "a" in event and event["a"] is not naive.MISSING]
        check(service, "typed", kept, folder / "out.csv", wanted)
        place.close()
        check(place.open(), "typed", kept, folder / "out.csv", wanted)
        check(place.open("copy"), "typed", expected, folder / "out.csv", wanted)
    finally:
        place.close()


typed_events = given(batches=st.lists(EVENTS, min_size=1, max_size=3), wanted=SCALARS)


@settings(max_examples=6, deadline=None)
@typed_events
def test_typed_values_equal_plain_python_through_everything(
    tmp_path_factory: pytest.TempPathFactory, batches: list[list[dict[str, Any]]], wanted: Any
) -> None:
    through_everything(tmp_path_factory.mktemp("typed"), batches, wanted)


@pytest.mark.slow
@pytest.mark.timeout(1200)
@settings(max_examples=300, deadline=None)
@typed_events
def test_many_typed_values_equal_plain_python_through_everything(
    tmp_path_factory: pytest.TempPathFactory, batches: list[list[dict[str, Any]]], wanted: Any
) -> None:
    through_everything(tmp_path_factory.mktemp("typed"), batches, wanted)


def test_halves_of_surrogate_pairs_are_refused_one_event_at_a_time(folder: Place) -> None:
    service = folder.open()
    bad = [{"a\ud800": 1}, {"a": "\udfff"}, {"a": ["\ud800"]}, {"deep": {"x\ud800": 1}}, {"a": 10**400}, {"a": [10**400]}]
    problems = service.add_events("shop", [{"n": 1}, *bad, {"n": 2}])
    assert [type(problem) for problem in problems] == [type(None), *[InvalidInputError] * 6, type(None)]
    assert n_of(service, "shop") == [1, 2]
    with service.store.snapshot("shop") as snapshot:
        assert sorted(snapshot.columns) == ["keen.created_at", "keen.id", "keen.timestamp", "n"]


def test_names_with_prefixes_can_be_addressed_in_v3(folder: Place) -> None:
    service = folder.open()
    service.add_events("shop", [{"n": 1, "header:x": 1, "body:n": 5}, {"n": 2, "body:y": {"z": 1}}, {"n": 3}])
    assert n_of(service, "shop", rule("header:x", "eq", 1)) == [1]
    assert n_of(service, "shop", rule("body:n", "eq", 5)) == [1]
    assert n_of(service, "shop", rule("body:y.z", "exists", value=True)) == [2]
    assert n_of(service, "shop", rule("body:y", "exists", value=True)) == [2]
    window = rule("header:timestamp", "gt", "2020-01-01T00:00:00Z")
    assert n_of(service, "shop", window) == [1, 2, 3]
    second = service.filters({"filters": [rule("body:n", "eq", 2)]})
    with service.select("shop", second, None, "v2") as selection, service.engine.query() as cursor:
        assert count(cursor, selection) == 1


def test_figures_at_the_edges(folder: Place) -> None:
    service = folder.open()
    large = [2**53, 2**53 + 1, -(2**60) - 1, -(2**60)]
    service.add_events("shop", [{"n": n, "big": 1e308, "few": few} for n, few in zip(large, (20, 10, 10, 20), strict=True)])
    with selected(service, "shop") as (cursor, selection):
        figures = {name: analyses.figure(cursor, selection, name, "n") for name in ("minimum", "maximum")}
        assert figures == {"minimum": -(2**60) - 1, "maximum": 2**53 + 1}
        assert analyses.figure(cursor, selection, "median", "few") == 10
        assert analyses.figure(cursor, selection, "percentile", "few", 50) == 15
        for name in ("sum", "average"):
            with pytest.raises(InvalidInputError, match="range of a double"):
                analyses.figure(cursor, selection, name, "big")
        assert analyses.figure(cursor, selection, "sum", "nothing") == 0
        assert analyses.figure(cursor, selection, "median", "nothing") is None


def test_unique_values_are_counted_however_many(folder: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(analyses, "MAX_UNIQUE_VALUES", 100)
    service = folder.open()
    service.add_events("shop", [{"n": n if n % 2 else float(n)} for n in range(150)] + [{"n": n} for n in range(150)])
    with selected(service, "shop") as (cursor, selection):
        assert analyses.count_unique(cursor, selection, "n") == 150
        with pytest.raises(InvalidInputError, match="more than 100"):
            analyses.unique_values(cursor, selection, "n")


def test_small_files_are_merged_and_replaced_ones_stay_for_a_while(place: Place) -> None:
    service = place.open()
    for n in range(9):
        service.add_events("shop", [{"n": n}])
        fold(service, "shop")
    names = files(service, "shop")
    with service.store.snapshot("shop") as snapshot:
        assert merge(service, "shop")
        assert not merge(service, "shop")
        store_of(service).sweep(collection_of(service, "shop"), 48 * 3600)
        snapshot.fetch(snapshot.segments)
        assert snapshot.events == 9
    store_of(service).sweep(collection_of(service, "shop"), 0)
    assert set(files(service, "shop")).isdisjoint(names)
    assert n_of(service, "shop") == list(range(9))


# The folder alone


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


def test_a_lost_file_whose_log_is_gone_is_refused_by_name(folder: Place, tmp_path: Path) -> None:
    service = folder.open()
    service.add_events("shop", [{"n": 1}])
    service.add_events("other", [{"n": 1}])
    fold(service, "shop")
    store_of(service).sweep(collection_of(service, "shop"), 0)
    folder.close()
    (file,) = (tmp_path / "one" / "events" / "shop").glob("*.parquet")
    file.unlink()
    again = folder.open()
    with pytest.raises(ConfigurationError, match="lacks files of events"):
        number(again, "shop")
    assert number(again, "other") == 1


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
    (data / "state.db").write_bytes(b"torn" * 3000)
    assert n_of(folder.open(), "shop") == [1, 2]
    assert list(data.glob("state.db.set-aside-*")) != []


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


def test_a_collection_that_can_not_be_folded_holds_up_no_others(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(upkeep, "PAUSE_SECONDS", 0.05)
    usual = store.EventStore.fold
    sound = [False]

    def fails(self: store.EventStore, collection: store.Collection) -> bool:
        if collection.name.startswith("broken") and not sound[0]:
            raise RuntimeError("no memory")
        return usual(self, collection)

    monkeypatch.setattr(store.EventStore, "fold", fails)
    service = place.open(fold_seconds=0.1)
    names = [*(f"broken-{n}" for n in range(7)), "sound-1", "sound-2"]
    for name in names:
        service.add_events(name, [{"n": 1}])
    until(lambda: all(files(service, name) for name in names[7:]), "the sound ones were never folded")
    assert [number(service, name) for name in names] == [1] * len(names)
    sound[0] = True
    until(lambda: all(files(service, name) for name in names), "what failed was not tried again")


def test_what_the_last_process_left_is_folded_though_nobody_asks_for_it(folder: Place, tmp_path: Path) -> None:
    service = folder.open()
    service.add_events("shop", [{"n": 1}])
    folder.close()
    folder.open(fold_seconds=0.1)
    until(lambda: list((tmp_path / "one" / "events").glob("shop/*.parquet")), "it was not folded")


def test_an_append_that_failed_leaves_nothing_behind(folder: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    service = folder.open()
    service.add_events("shop", [{"n": 1}])
    usual = os.fdatasync
    monkeypatch.setattr(os, "fdatasync", lambda descriptor: (_ for _ in ()).throw(OSError(28, "No space left on device")))
    with pytest.raises(DiskFullError, match="no room on the disk") as raised:
        service.add_events("shop", [{"n": 2, "new": 1}])
    assert raised.value.errno == errno.ENOSPC
    assert n_of(service, "shop") == [1]
    with pytest.raises(DiskFullError):
        service.add_events("new", [{"n": 2}])
    monkeypatch.setattr(os, "fdatasync", usual)
    service.add_events("shop", [{"n": 3, "new": 2}])
    service.add_events("new", [{"n": 3}])
    assert (n_of(service, "shop"), n_of(service, "new")) == ([1, 3], [3])
    folder.close()
    assert n_of(folder.open(), "shop", rule("new", "eq", 2)) == [3]
