"""`layout: hive`: other people's readers see a folder of landed files as one table with partition columns."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import date, datetime, timedelta, timezone
from pathlib import Path

import duckdb
import polars as pl
import pyarrow.dataset as ds
import pytest

from keen_pipeline.client import KeenClient
from keen_pipeline.service.embedded import Endpoint
from keen_pipeline.testing import live_service
from keen_pipeline_tests.acceptance.place import Place, make_place

DAYS = [date(2026, 1, 1) + timedelta(days=number) for number in range(30)]
EXPECTED = {day: n for n, day in enumerate(DAYS, 1) if n != 10}
HOURS = [datetime(2026, 1, 1, hour, tzinfo=timezone.utc) for hour in range(24)]


@pytest.fixture(scope="module")
def endpoint() -> Iterator[Endpoint]:
    # One event at noon of the first day, two of the second ..., none on the tenth; of another collection one in each hour.
    daily = [
        {"keen": {"timestamp": f"{day}T12:00:00Z"}, "n": n} for n, day in enumerate(DAYS, 1) for _ in range(n if n != 10 else 0)
    ]
    hourly = [{"keen": {"timestamp": hour.isoformat()}, "n": hour.hour} for hour in HOURS]
    with live_service() as service:
        with KeenClient(service.base_url, service.project_id, read_key=service.read_key, write_key=service.write_key) as client:
            client.add_events({"purchases": daily, "visits": hourly})
        yield service


@pytest.fixture
def place(endpoint: Endpoint, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Place:
    return make_place(endpoint, tmp_path, monkeypatch, capsys)


def by_polars(folder: Path, suffix: str) -> dict[date, int]:
    schema = {"date": pl.Date}
    if suffix == "parquet":
        lazy = pl.scan_parquet(folder, hive_partitioning=True, hive_schema=schema, missing_columns="insert")
        return dict(lazy.group_by("date").len().collect().rows())
    # polars has no hive partitions for CSV: the path is the column.
    files = [path for path in folder.glob(f"*/*.{suffix}") if path.read_bytes().count(b"\n") > 1]
    frame = pl.scan_csv(files, include_file_paths="path", infer_schema=False).select(
        pl.col("path").str.extract(r"date=([0-9-]+)/").str.to_date().alias("date")
    )
    return dict(frame.group_by("date").len().collect().rows())


def by_duckdb(folder: Path, suffix: str) -> dict[date, int]:
    read = "read_parquet" if suffix == "parquet" else "read_csv"
    options = "" if suffix == "parquet" else ", all_varchar=true"
    options += ", hive_partitioning=true, union_by_name=true"
    query = f"SELECT date, count(*) FROM {read}('{folder}/*/*.{suffix}'{options}) GROUP BY 1"
    return {day if isinstance(day, date) else date.fromisoformat(day): number for day, number in duckdb.sql(query).fetchall()}


def by_pyarrow(folder: Path, suffix: str) -> dict[date, int]:
    kind = "parquet" if suffix == "parquet" else "csv"
    table = ds.dataset(folder, format=kind, partitioning="hive").to_table(columns=["date"])
    return {date.fromisoformat(str(row["values"])): row["counts"] for row in table["date"].value_counts().to_pylist()}


@pytest.mark.parametrize("encoding", ["csv", "parquet"])
def test_a_month_is_one_table(place: Place, encoding: str) -> None:
    place.collections(f"layout: hive, encoding: {encoding}")
    assert place.run("backfill", "purchases", "--from", str(DAYS[0]), "--to", str(DAYS[-1]))[0] == 0
    folder = place.folder / "landing" / "purchases"
    files = {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}
    assert files == {f"date={day}/events.{encoding}" for day in DAYS}
    for read in (by_polars, by_duckdb, by_pyarrow):
        assert read(folder, encoding) == EXPECTED, read
    assert place.json("verify")[0] == 0


@pytest.mark.parametrize("encoding", ["csv", "parquet"])
def test_hours_are_partitions_of_their_day(place: Place, encoding: str) -> None:
    (place.folder / "collections.yaml").write_text(
        f"collections: [{{name: visits, start_date: 2026-01-01, granularity: hourly, layout: hive, encoding: {encoding}}}]"
    )
    assert place.run("backfill", "visits", "--from", "2026-01-01-00:00", "--to", "2026-01-01-23:00")[0] == 0
    folder = place.folder / "landing" / "visits"
    read = "read_parquet" if encoding == "parquet" else "read_csv"
    query = f"""SELECT date, hour::INT, "body:n"::DOUBLE::INT FROM {read}('{folder}/*/*/*.{encoding}', hive_partitioning=true)"""
    rows = {(str(day), hour, n) for day, hour, n in duckdb.sql(query).fetchall()}
    assert rows == {("2026-01-01", hour.hour, hour.hour) for hour in HOURS}
    table = ds.dataset(folder, format=encoding, partitioning="hive").to_table()
    assert sorted(table["hour"].to_pylist()) == list(range(24))
    assert set(map(str, table["date"].to_pylist())) == {"2026-01-01"}
    assert place.json("verify")[0] == 0
