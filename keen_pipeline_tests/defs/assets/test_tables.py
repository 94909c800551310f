"""Landed partitions in tables of real databases, by dlt: replaced whole, exact, widened, side by side, loaded by many at once. No
service runs."""

from __future__ import annotations

import gc
import multiprocessing
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import dagster as dg
import duckdb
import pytest
import sqlalchemy as sa

from keen_pipeline import Collection, TableDatabase, table_asset
from keen_pipeline.defs.partitions import partitions_definition
from keen_pipeline.errors import ConfigurationError
from keen_pipeline.tables import TableLoader, place_of_url
from keen_pipeline.tables.names import PARTITION_COLUMN
from keen_pipeline.testing import KeenLanding
from keen_pipeline.testing.landing import Event
from keen_pipeline_tests.readers.conftest import EMPTY, KEYS, event, events, expected_rows, land_all

Query = Callable[[str], list[tuple[Any, ...]]]


@pytest.fixture(params=["sqlite", "duckdb", "postgresql"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    if request.param != "postgresql":
        return f"{request.param}:///{tmp_path / 'warehouse.db'}"
    found: str = request.getfixturevalue("postgres_url")
    return found


@pytest.fixture
def query(url: str) -> Query:
    def ask(sql: str) -> list[tuple[Any, ...]]:
        if url.startswith("duckdb"):
            with duckdb.connect(url.removeprefix("duckdb:///")) as connection:
                return connection.execute(sql).fetchall()
        engine = sa.create_engine(url)
        try:
            with engine.begin() as connection:
                result = connection.execute(sa.text(sql))
                return [tuple(row) for row in result] if result.returns_rows else []
        finally:
            engine.dispose()

    return ask


@pytest.fixture
def load(url: str, keen_landing: KeenLanding) -> Callable[..., Any]:
    def one(key: str, collection: str = "visits", table: str = "visits", **options: Any) -> Any:
        place = place_of_url(url)
        loader = TableLoader(place, keen_landing.reader, collection, table, source=f"keen/{collection}", **options)
        return loader.load(key)

    return one


COLUMNS = {
    "header:timestamp": "keen_timestamp",
    "body:userId": "user_id_2bf6c21a",
    "body:coupon:code": "coupon__code",
    "body:coupon:off": "coupon__off",
}


def plain(value: Any) -> Any:
    """A cell as it is in any of the databases: SQLite has no zones, and what 64 bits can't hold is text."""
    if isinstance(value, datetime):
        return value.astimezone(timezone.utc).isoformat(" ", "milliseconds")[:23]
    return str(value) if isinstance(value, int) and value >= 2**63 else value


@pytest.mark.slow
def test_thirty_days_are_in_the_table_as_they_are_in_the_files(url: str, query: Query, keen_landing: KeenLanding) -> None:
    land_all(keen_landing)
    asset = table_asset(Collection("visits", KEYS[0]))
    database = {"keen_database": TableDatabase(url=url)}
    for last in (KEYS[-1], KEYS[1]):  # some of them once more
        assert keen_landing.materialize(asset, partition_keys=[KEYS[0], last], resources=database).success
    expected = expected_rows()
    columns = [f'"{COLUMNS.get(name, name.removeprefix("body:"))}"' for name in expected[0]]
    rows = query(f"SELECT {', '.join(columns)} FROM visits ORDER BY keen_timestamp")
    assert len(rows) == len(expected)
    for row, wanted in zip(rows, expected, strict=True):
        instant, *cells = row
        shown = plain(instant) if isinstance(instant, datetime) else str(instant)[:23]
        assert [shown, *cells] == [plain(value) for value in wanted.values()]
    counted = dict(query("SELECT keen_partition, count(*) FROM visits GROUP BY keen_partition"))
    assert counted == {key: len(events(day)) for day, key in enumerate(KEYS) if day != EMPTY}
    assert query("SELECT DISTINCT keen_source FROM visits") == [("keen/visits",)]


def test_what_a_load_tells(keen_landing: KeenLanding, load: Callable[..., Any], query: Query) -> None:
    keen_landing.land("visits", {"2026-01-01": [{"n": 1}, {"n": 2}], "2026-01-02": [{"n": 3}]})
    first = load("2026-01-01")
    assert (first.rows, first.replaced, first.added, first.widened) == (2, 0, ("keen_timestamp", "n"), ())
    load("2026-01-02")
    keen_landing.land("visits", {"2026-01-01": [{"n": 5, "late": ""}]}, force=True)
    again = load("2026-01-01")
    assert (again.rows, again.replaced, again.added, again.widened) == (1, 2, ("late",), ())
    assert sorted(query("SELECT n, late FROM visits")) == [(3, None), (5, "")]


def test_an_emptied_partition_loses_its_rows_and_no_other_does(
    keen_landing: KeenLanding, load: Callable[..., Any], query: Query
) -> None:
    keen_landing.land("visits", {"2026-01-01": [{"n": 1}], "2026-01-02": [{"n": 2}]})
    load("2026-01-01")
    load("2026-01-02")
    keen_landing.land("visits", {"2026-01-01": []}, force=True)
    emptied = load("2026-01-01")
    assert (emptied.rows, emptied.replaced) == (0, 1)
    assert query("SELECT n FROM visits") == [(2,)]


def test_two_collections_in_one_table_stand_side_by_side(keen_landing: KeenLanding, load: Callable[..., Any], query: Query) -> None:
    keen_landing.land("visits", {"2026-01-01": [{"n": 1}]})
    keen_landing.land("Sign Ups", {"2026-01-01": [{"n": 2, "plan": "x"}]})
    for _ in range(2):
        load("2026-01-01", table="events")
        load("2026-01-01", "Sign Ups", "events")
    assert sorted(query("SELECT keen_source, n, plan FROM events")) == [("keen/Sign Ups", 2, "x"), ("keen/visits", 1, None)]


WIDER: list[tuple[Any, Any, list[Any], tuple[str, ...]]] = [
    (5, 2**53 + 1, [5, 2**53 + 1], ()),
    (2**53 + 1, 5, [5, 2**53 + 1], ()),
    (5, 0.5, [0.5, 5.0], ("n",)),
    (0.5, 5, [0.5, 5.0], ()),
    (2**53 + 1, 0.5, ["0.5", str(2**53 + 1)], ("n",)),
    (0.30000000000000004, 2**53 + 1, ["0.30000000000000004", str(2**53 + 1)], ("n",)),
    (0.30000000000000004, 2**64, ["0.30000000000000004", str(2**64)], ("n",)),
    (5, 2**63, ["5", str(2**63)], ("n",)),
    (5, "007", ["007", "5"], ("n",)),
    (True, "yes", ["true", "yes"], ("n",)),
    ("007", 5, ["007", "5"], ()),
    (None, 5, [None, "5"], ()),
    (5, None, [None, 5], ()),
    (["a"], [], ['["a"]', "[]"], ()),
    ({}, [1], ["[1]", "{}"], ()),
    (None, True, [None, "true"], ()),
]


def test_columns_hold_every_day_exactly(keen_landing: KeenLanding, load: Callable[..., Any], query: Query) -> None:
    for key, place in (("2026-01-01", 0), ("2026-01-02", 1)):
        keen_landing.land("visits", {key: [{f"n{number}": one[place] for number, one in enumerate(WIDER)}]})
        widened = load(key).widened
    assert sorted(widened) == sorted(f"n{number}" for number, one in enumerate(WIDER) if one[3])
    for number, (_, _, expected, _) in enumerate(WIDER):
        found = [value for (value,) in query(f"SELECT n{number} FROM visits")]
        assert sorted(found, key=str) == sorted(expected, key=str), WIDER[number]
        assert {type(value) for value in found} == {type(value) for value in expected}, WIDER[number]


def test_a_whole_number_that_was_a_double_is_text_without_a_point(
    keen_landing: KeenLanding, load: Callable[..., Any], query: Query
) -> None:
    days: dict[str, list[Event]] = {
        "2026-01-01": [{"n": 1}, {"n": -7}],
        "2026-01-02": [{"n": 0.5}, {"n": 1e300}],
        "2026-01-03": [{"n": 2**53 + 1}],
    }
    keen_landing.land("visits", days)
    assert [load(key).widened for key in days] == [(), ("n",), ("n",)]
    assert sorted(query("SELECT n FROM visits")) == [("-7",), ("0.5",), ("1",), ("1e+300",), (str(2**53 + 1),)]


def test_doubles_that_are_whole_become_bigint_when_one_needs_it(
    keen_landing: KeenLanding, load: Callable[..., Any], query: Query
) -> None:
    keen_landing.land("visits", {"2026-01-01": [{"n": 5}, {"n": 0.5}], "2026-01-02": [{"n": 6}]})
    load("2026-01-01")
    load("2026-01-02")
    keen_landing.land("visits", {"2026-01-01": [{"n": 5}]}, force=True)
    load("2026-01-01")
    keen_landing.land("visits", {"2026-01-03": [{"n": 2**53 + 1}]})
    assert load("2026-01-03").widened == ("n",)
    assert sorted(query("SELECT n FROM visits")) == [(5,), (6,), (2**53 + 1,)]


def test_an_instant_that_is_text_one_day(keen_landing: KeenLanding, load: Callable[..., Any], query: Query) -> None:
    keen_landing.land("visits", {"2026-01-01": [{"moment": "2026-01-31T08:00:00.120Z"}], "2026-01-02": [{"moment": "soon"}]})
    load("2026-01-01", types={"body:moment": "datetime"})
    assert load("2026-01-02").widened == ("moment",)
    assert sorted(query("SELECT moment FROM visits")) == [("2026-01-31T08:00:00.120Z",), ("soon",)]


def test_types_of_ones_own(keen_landing: KeenLanding, load: Callable[..., Any], query: Query) -> None:
    keen_landing.land("visits", {"2026-01-01": [{"member": "007", "n": 5}]})
    load("2026-01-01", types={"body:member": "int", "body:n": "num"})
    [(member, n)] = query("SELECT member, n FROM visits")
    assert (member, n, type(n)) == (7, 5.0, float)


def test_many_loads_at_once_leave_each_partition_once(url: str, keen_landing: KeenLanding, query: Query) -> None:
    days = {KEYS[day]: [event(day, number) for number in range(3 + day)] for day in range(3)}
    keen_landing.land("visits", days)
    place = place_of_url(url)

    def one(number: int) -> None:
        TableLoader(place, keen_landing.reader, "visits", "visits", source="keen/visits").load(KEYS[number % 3])

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(one, range(6)))
    counted = "SELECT keen_partition, count(*) FROM visits GROUP BY keen_partition ORDER BY 1"
    assert query(counted) == [(key, len(made)) for key, made in days.items()]


@pytest.mark.slow
def test_processes_that_load_at_once_leave_each_partition_once(
    url: str, tmp_path: Path, keen_landing: KeenLanding, query: Query
) -> None:
    keen_landing.land("visits", {key: [{f"p{day}": n} for n in range(3 + day)] for day, key in enumerate(KEYS[:2])})
    context = multiprocessing.get_context("spawn")
    processes = [context.Process(target=load_in_a_process, args=(url, str(tmp_path / "keen"), key)) for key in KEYS[:2]]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
    assert [process.exitcode for process in processes] == [0, 0]
    assert query("SELECT keen_partition, count(*), count(p0), count(p1) FROM visits GROUP BY keen_partition ORDER BY 1") == [
        (KEYS[0], 3, 3, 0),
        (KEYS[1], 4, 0, 4),
    ]


def load_in_a_process(url: str, root: str, key: str) -> None:
    landing = KeenLanding(Path(root))
    for _ in range(2):
        TableLoader(place_of_url(url), landing.reader, "visits", "visits", source="keen/visits").load(key)


def test_a_load_that_fails_leaves_the_rows_as_they_were(keen_landing: KeenLanding, load: Callable[..., Any], query: Query) -> None:
    keen_landing.land("visits", {"2026-01-01": [{"n": 1}, {"n": 2}]})
    load("2026-01-01")
    keen_landing.land("visits", {"2026-01-01": [{"n": 3}, {"n": "z"}]}, force=True)
    with pytest.raises(ConfigurationError, match=r"visits\[2026-01-01\]: a cell of body:n is not of the column's type int"):
        load("2026-01-01", types={"body:n": "int"})
    assert sorted(query("SELECT n FROM visits")) == [(1,), (2,)]
    load("2026-01-01")
    assert sorted(query("SELECT n FROM visits")) == [("3",), ("z",)]


def test_a_nul_in_a_text_is_kept_or_its_column_named(
    url: str, keen_landing: KeenLanding, load: Callable[..., Any], query: Query
) -> None:
    keen_landing.land("visits", {"2026-01-01": [{"n": 1, "t": "a\0b"}]})
    options: dict[str, Any] = {}
    if url.startswith("postgres"):
        with pytest.raises(ConfigurationError, match=r"visits\[2026-01-01\]: .* NUL, as body:t has.*types=\{'body:t': 'bytes'\}"):
            load("2026-01-01")
        options = {"table": "again", "types": {"body:t": "bytes"}}
    load("2026-01-01", **options)
    [(text,)] = query(f"SELECT t FROM {options.get('table', 'visits')}")
    assert (text.encode() if isinstance(text, str) else bytes(text)) == b"a\0b"


def test_a_table_that_was_dropped_is_made_again(keen_landing: KeenLanding, load: Callable[..., Any], query: Query) -> None:
    keen_landing.land("visits", {"2026-01-01": [{"n": 1}]})
    load("2026-01-01")
    query("DROP TABLE visits")
    load("2026-01-01")
    assert query("SELECT n FROM visits") == [(1,)]


def test_a_table_of_somebody_else_is_left_alone(keen_landing: KeenLanding, load: Callable[..., Any], query: Query) -> None:
    keen_landing.land("visits", {"2026-01-01": [{"n": 1}]})
    for its_own in ("id", PARTITION_COLUMN):
        query(f"CREATE TABLE visits ({its_own} text)")
        with pytest.raises(ConfigurationError, match="was not made here; nothing was changed"):
            load("2026-01-01")
        assert query("SELECT * FROM visits") == []
        query("DROP TABLE visits")


def test_a_partition_that_has_not_landed_fails_and_the_others_are_loaded(url: str, keen_landing: KeenLanding, query: Query) -> None:
    keen_landing.land("visits", {"2026-01-01": [{"n": 1}], "2026-01-03": [{"n": 3}]})
    asset = table_asset(Collection("visits", "2026-01-01"))
    with pytest.raises(dg.Failure, match="1 of 3 partitions not loaded: visits: 1 of 1 partitions are not landed"):
        keen_landing.materialize(
            asset, partition_keys=["2026-01-01", "2026-01-03"], resources={"keen_database": TableDatabase(url=url)}
        )
    assert sorted(query("SELECT n FROM visits")) == [(1,), (3,)]


def test_a_range_may_begin_before_the_start_date(tmp_path: Path, keen_landing: KeenLanding) -> None:
    late = Collection("visits", "2026-01-02")
    keen_landing.land(late, {"2026-01-02": [{"n": 2}]})
    asset = table_asset(late, partitions_def=partitions_definition(late, together_with=[Collection("logins", "2026-01-01")]))
    database = TableDatabase(url=f"sqlite:///{tmp_path / 'w.db'}")
    result = keen_landing.materialize(asset, partition_keys=["2026-01-01", "2026-01-02"], resources={"keen_database": database})
    made = result.asset_materializations_for_node("keen_tables__visits")
    assert [(one.partition, one.metadata["dagster/partition_row_count"].value) for one in made if one.partition] == [
        ("2026-01-01", 0),
        ("2026-01-02", 1),
    ]


def test_nothing_but_the_database_is_written(
    url: str, tmp_path: Path, keen_landing: KeenLanding, load: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    import dlt.common.runtime.anon_tracker as telemetry

    def refuse(*_: object) -> None:
        raise AssertionError("telemetry")

    monkeypatch.setattr(telemetry, "track", refuse)
    monkeypatch.setattr(telemetry, "get_anonymous_id", refuse)
    monkeypatch.chdir(tmp_path)
    keen_landing.land("visits", {"2026-01-01": [{"n": 1}]})
    load("2026-01-01")
    assert {path.name for path in tmp_path.iterdir()} <= {
        "keen",
        "warehouse.db",
        "warehouse.db-wal",
        "warehouse.db-shm",
        "warehouse.db.keen-lock",
    }


def test_what_dlt_looked_up_for_a_load_is_forgotten(tmp_path: Path, keen_landing: KeenLanding) -> None:
    def notes() -> int:
        return sum(type(one).__name__ == "ResolvedValueTrace" for one in gc.get_objects())

    keen_landing.land("visits", {key: [{"n": 1}] for key in KEYS[:3]})
    place = place_of_url(f"sqlite:///{tmp_path / 'w.db'}")
    loader = TableLoader(place, keen_landing.reader, "visits", "visits", source="keen/visits")
    before = notes()
    for key in KEYS[:3]:
        loader.load(key)
    gc.collect()
    assert notes() == before


def test_the_metadata_of_a_load(tmp_path: Path, keen_landing: KeenLanding) -> None:
    keen_landing.land("visits", {"2026-01-01": [{"n": 1}]})
    asset = table_asset(Collection("visits", "2026-01-01"), table="events")
    database = TableDatabase(url=f"sqlite:///{tmp_path / 'w.db'}")
    result = keen_landing.materialize(asset, partition_keys="2026-01-01", resources={"keen_database": database})
    [made] = [one.metadata for one in result.asset_materializations_for_node("keen_tables__events") if one.partition]
    assert {name: value.value for name, value in made.items() if name != "keen/loading_seconds"} == {
        "dagster/partition_row_count": 1,
        "dagster/table_name": "events",
        "keen/replaced_rows": 0,
        "keen/added_columns": ["keen_timestamp", "n"],
    }


def test_a_dlt_destination_is_a_database_too(tmp_path: Path, keen_landing: KeenLanding) -> None:
    import dlt

    keen_landing.land("visits", {"2026-01-01": [{"n": 2**53 + 1}]})
    database = TableDatabase(destination=dlt.destinations.duckdb(str(tmp_path / "w.duckdb")), schema_name="lake")
    asset = table_asset(Collection("visits", "2026-01-01"))
    assert keen_landing.materialize(asset, partition_keys="2026-01-01", resources={"keen_database": database}).success
    with duckdb.connect(str(tmp_path / "w.duckdb")) as connection:
        assert connection.execute("SELECT n FROM lake.visits").fetchall() == [(2**53 + 1,)]
    with pytest.raises(ConfigurationError, match="dlt has no destination 'snow'"):
        TableDatabase(destination="snow").open()
