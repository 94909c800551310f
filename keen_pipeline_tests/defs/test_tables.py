"""Landed partitions in tables of real databases: replaced whole, columns added, types widened, loaded by many at once."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import dagster as dg
import pytest
import sqlalchemy as sa

from keen_pipeline import Collection, TableDatabase, table_asset
from keen_pipeline.client import KeenClient
from keen_pipeline.errors import ConfigurationError
from keen_pipeline.landing import FileDestination
from keen_pipeline.readers import LandedReader
from keen_pipeline.tables import TableLoader
from keen_pipeline_tests.defs.conftest import DAYS, MakePlace, Place

ASSET = "keen_tables/purchases"


@pytest.fixture(params=["sqlite", "postgresql"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path / 'warehouse.db'}"
    found: str = request.getfixturevalue("postgres_url")
    return found


@pytest.fixture
def place(make_place: MakePlace, url: str) -> Place:
    place = make_place()
    place.defs = dg.Definitions.merge(
        place.defs,
        dg.Definitions(
            assets=[table_asset(Collection("purchases", "2026-01-01"))], resources={"keen_database": TableDatabase(url=url)}
        ),
    )
    return place


def rows(url: str, query: str) -> list[tuple[Any, ...]]:
    engine = sa.create_engine(url)
    try:
        with engine.connect() as connection:
            return [tuple(row) for row in connection.execute(sa.text(query))]
    finally:
        engine.dispose()


def add(place: Place, *events: dict[str, Any]) -> None:
    keys = {"read_key": place.endpoint.read_key, "write_key": place.endpoint.write_key}
    with KeenClient(place.endpoint.base_url, place.endpoint.project_id, **keys) as client:
        assert client.add_events({"purchases": list(events)}) == {"purchases": [None] * len(events)}


def land(place: Place, days: Sequence[str], *, force: bool = False) -> None:
    ops = {op.name for op in place.defs.resolve_implicit_global_asset_job_def().nodes if op.name.startswith("keen_daily")}
    config = {"ops": {op: {"config": {"force": force}} for op in ops}}
    assert place.backfill(["keen/purchases"], days[0], days[-1], config).success


def load(place: Place, first: str, last: str) -> dg.ExecuteInProcessResult:
    return place.backfill([ASSET], first, last)


def reader(place: Place) -> LandedReader:
    service = place.endpoint
    client = KeenClient(service.base_url, service.project_id, read_key=service.read_key)
    return LandedReader(place.ledger, FileDestination(str(place.root)), lambda: client)


def test_partitions_are_loaded_replaced_and_told(place: Place, url: str) -> None:
    land(place, DAYS)
    assert load(place, DAYS[0], DAYS[-1]).success
    counted = "SELECT keen_partition, count(*) FROM purchases GROUP BY keen_partition ORDER BY 1"
    assert rows(url, counted) == [(day, 3 + n) for n, day in enumerate(DAYS)]
    assert place.materialized(ASSET) == list(DAYS)
    assert place.metadata(ASSET, DAYS[1])["dagster/partition_row_count"] == 4
    # Keen's types: numbers can be summed; a text keeps its quotes and its end of line.
    assert rows(url, f"SELECT sum(amount), max(text) FROM purchases WHERE keen_partition = '{DAYS[0]}'") == [
        (3.0, f'purchases, "{DAYS[0]}"\nline')
    ]

    add(place, {"keen": {"timestamp": f"{DAYS[0]}T20:00:00Z"}, "amount": 100, "coupon": "", "Text": "other case"})
    land(place, DAYS[:1], force=True)
    assert load(place, DAYS[0], DAYS[0]).success
    assert rows(url, counted)[:2] == [(DAYS[0], 4), (DAYS[1], 4)]
    metadata = place.metadata(ASSET, DAYS[0])
    assert metadata["keen/replaced_rows"] == 3
    added = metadata["keen/added_columns"]
    assert [name.split("_")[0] for name in added] == ["Text", "coupon"]
    assert len(added[0].split("_")[1]) == 8  # SQL takes `Text` for `text`
    assert rows(url, "SELECT amount, coupon FROM purchases WHERE coupon IS NOT NULL") == [(100.0, "")]


def test_a_column_that_has_text_one_day_is_widened_and_loses_nothing(place: Place, url: str) -> None:
    land(place, DAYS[:2])
    assert load(place, DAYS[0], DAYS[1]).success
    add(place, {"keen": {"timestamp": f"{DAYS[2]}T20:00:00Z"}, "amount": "007"})
    land(place, DAYS[2:3])
    assert load(place, DAYS[2], DAYS[2]).success
    assert place.metadata(ASSET, DAYS[2])["keen/widened_columns"] == ["amount"]
    kept = rows(url, "SELECT keen_partition, amount FROM purchases ORDER BY keen_partition, amount")
    assert [(day, float(amount)) for day, amount in kept if day == DAYS[0]] == [(DAYS[0], float(n)) for n in range(3)]
    assert (DAYS[2], "007") in kept
    # A partition whose cells are all numbers is text there too.
    assert load(place, DAYS[1], DAYS[1]).success
    assert sorted(float(a) for day, a in rows(url, "SELECT keen_partition, amount FROM purchases") if day == DAYS[1]) == [
        0,
        1,
        2,
        3,
    ]


def test_two_that_load_a_partition_at_once_leave_it_once(place: Place, url: str) -> None:
    land(place, DAYS[:2])
    loaders = [TableLoader(url, reader(place), "purchases", "purchases") for _ in range(4)]
    with ThreadPoolExecutor(4) as pool:
        done = list(pool.map(lambda number: loaders[number % 4].load(DAYS[number % 2]), range(12)))
    for loader in loaders:
        loader.close()
    assert {one.rows for one in done} == {3, 4}
    counted = "SELECT keen_partition, count(*) FROM purchases GROUP BY keen_partition ORDER BY 1"
    assert rows(url, counted) == [(DAYS[0], 3), (DAYS[1], 4)]
    told = "SELECT partition_key, row_count FROM keen_table_partitions WHERE partition_key <> '*' ORDER BY 1"
    assert rows(url, told) == [(DAYS[0], 3), (DAYS[1], 4)]


def test_a_partition_that_has_not_landed_fails_and_the_others_are_loaded(place: Place, url: str) -> None:
    land(place, DAYS[:1])
    result = load(place, DAYS[0], DAYS[1])
    assert not result.success
    assert "1 of 2 partitions not loaded: purchases: 1 of 1 partitions are not landed" in place.failure(result)
    assert place.materialized(ASSET) == [DAYS[0]]
    assert rows(url, "SELECT count(*) FROM purchases") == [(3,)]


def test_a_table_of_somebody_else_is_left_alone(place: Place, url: str) -> None:
    land(place, DAYS[:1])
    engine = sa.create_engine(url)
    with engine.begin() as connection:
        connection.execute(sa.text("CREATE TABLE purchases (id integer)"))
    engine.dispose()
    result = load(place, DAYS[0], DAYS[0])
    assert "was not made here; nothing was changed" in place.failure(result)
    assert rows(url, "SELECT * FROM purchases") == []


def test_a_url_that_is_none_and_a_missing_driver_are_plain_errors(place: Place) -> None:
    for wrong, words in (("no url", "SQLAlchemy URL"), ("nothing://u:secret@h/d", "no driver")):
        with pytest.raises(ConfigurationError, match=words) as raised:
            TableLoader(wrong, reader(place), "purchases", "purchases")
        assert "secret" not in str(raised.value)
