"""What is kept of events: through folds, merges, deletes, restarts and copies; in a folder, and on S3 with PostgreSQL."""

from __future__ import annotations

import csv
import io
import json
import shutil
import threading
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from keen_pipeline.errors import InvalidInputError
from keen_pipeline.service.application import Service
from keen_pipeline.service.config import MIB
from keen_pipeline.service.events import analyses
from keen_pipeline.service.extractions.csv_export import count
from keen_pipeline.service.storage import store, upkeep
from keen_pipeline.service.storage.engine import QueryTimeoutError
from keen_pipeline.service.storage.files import EventFiles
from keen_pipeline.timeframe import Timeframe, parse_instant
from keen_pipeline_tests.servers.s3 import ACCESS_KEY, REGION, SECRET_KEY, S3Server
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
    n_of,
    number,
    rule,
    selected,
    store_of,
    until,
)


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
        assert number(service, "shop") == sum(part.events for part in before.segments) == 30
        service.add_events("shop", [{"n": 1}])  # after the delete began: it stays
        assert fold(service, "shop") == 1
        assert number(service, "shop") == 31
        go_on.set()
        deleting.join()
        assert number(service, "shop") == 16
        assert sum(part.events for part in before.segments) == 30
        before.fetch(before.segments)


def test_a_delete_reads_only_the_files_of_which_it_can_not_tell(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    service = place.open()
    for day in (1, 2, 3):
        service.add_events("shop", [{"n": day, "keen": {"timestamp": f"2026-01-0{day}T{hour}:00:00Z"}} for hour in ("06", "18")])
        fold(service, "shop")
    first, _, last = files(service, "shop")
    read: list[str] = []
    usual = EventFiles.without

    def without(self: EventFiles, cursor: Any, file: Any, *arguments: Any) -> Any:
        read.append(file.name)
        return usual(self, cursor, file, *arguments)

    monkeypatch.setattr(EventFiles, "without", without)
    window = Timeframe(parse_instant("2026-01-02T06:00:00Z"), parse_instant("2026-01-03T18:00:00Z"))
    assert delete(service, "shop", window=window) == 3
    assert read == [last]
    assert files(service, "shop")[0] == first
    assert n_of(service, "shop") == [1, 1, 3]
    assert delete(service, "shop", rule("n", "eq", 1), window=Timeframe(parse_instant("2026-01-01"), window.end)) == 2
    assert read == [last, first]
    assert delete(service, "shop") == 1
    assert read == [last, first]


def test_a_delete_that_takes_too_long_ends_and_deletes_nothing(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    service = place.open(query_seconds=1)
    service.add_events("shop", [{"n": 1}])

    def without(self: EventFiles, cursor: Any, *arguments: Any) -> Any:
        cursor.execute("SELECT sum(a.range * b.range) FROM range(1000000) a, range(1000000) b").fetchall()

    monkeypatch.setattr(EventFiles, "without", without)
    with pytest.raises(QueryTimeoutError, match="shorter timeframe"):
        delete(service, "shop", rule("n", "eq", 1))
    assert n_of(service, "shop") == [1]


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
        found = analyses.unique_values(cursor, selection, "a", MIB)
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
@settings(max_examples=60, deadline=None)
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
    with service.query("shop", {"filters": [rule("body:n", "eq", 2)]}, "v2") as (cursor, selection):
        assert count(cursor, selection) == 1


def test_figures_at_the_edges(folder: Place) -> None:
    service = folder.open()
    large = [2**53, 2**53 + 1, -(2**60) - 1, -(2**60)]
    service.add_events("shop", [{"n": n, "big": 1e308, "few": few} for n, few in zip(large, (20, 10, 10, 20), strict=True)])
    with selected(service, "shop") as (cursor, selection):
        figures = {name: analyses.figure(cursor, selection, name, "n") for name in ("minimum", "maximum")}
        assert figures == {"minimum": -(2**60) - 1, "maximum": 2**53 + 1}
        assert str(analyses.figure(cursor, selection, "sum", "n")) == "-2.287828610704212e+18"  # no digits that it doesn't have
        assert analyses.figure(cursor, selection, "median", "few") == 10
        assert analyses.figure(cursor, selection, "percentile", "few", 50) == 15
        with pytest.raises(InvalidInputError, match="range of a double"):
            analyses.figure(cursor, selection, "sum", "big")
        assert analyses.figure(cursor, selection, "average", "big") == 1e308
        assert analyses.figure(cursor, selection, "average", "few") == 15
        assert analyses.figure(cursor, selection, "average", "nothing") is None
        assert analyses.figure(cursor, selection, "sum", "nothing") == 0
        assert analyses.figure(cursor, selection, "median", "nothing") is None


def test_unique_values_are_counted_however_many(folder: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(analyses, "MAX_UNIQUE_VALUES", 100)
    service = folder.open()
    service.add_events("shop", [{"n": n if n % 2 else float(n)} for n in range(150)] + [{"n": n} for n in range(150)])
    with selected(service, "shop") as (cursor, selection):
        assert analyses.count_unique(cursor, selection, "n") == 150
        with pytest.raises(InvalidInputError, match="more than 100"):
            analyses.unique_values(cursor, selection, "n", MIB)


def test_a_fold_that_ends_between_a_reader_s_look_at_the_table_and_at_the_log_hides_nothing(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    service = place.open()
    service.add_events("shop", [{"n": 1}, {"n": 2}])
    table = collection_of(service, "shop").table
    folding = threading.Thread(target=fold, args=[service, "shop"])
    written, looked = threading.Event(), threading.Event()
    commit, state = table.commit, table.state

    def commit_once_looked(**changes: Any) -> None:
        written.set()
        assert looked.wait(20)
        commit(**changes)

    def state_before_the_commit() -> Any:
        seen = state()
        if threading.current_thread() is not folding and not looked.is_set():
            looked.set()
            until(lambda: state().watermark == 1, "it was not folded")
            folding.join(0.5)
        return seen

    monkeypatch.setattr(table, "commit", commit_once_looked)
    folding.start()
    assert written.wait(20)
    monkeypatch.setattr(table, "state", state_before_the_commit)
    assert n_of(service, "shop") == [1, 2]
    folding.join()
    assert n_of(service, "shop") == [1, 2]


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
        assert sum(part.events for part in snapshot.segments) == 9
    store_of(service).sweep(collection_of(service, "shop"), 0)
    assert set(files(service, "shop")).isdisjoint(names)
    assert n_of(service, "shop") == list(range(9))


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
