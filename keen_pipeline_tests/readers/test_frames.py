"""Thirty landed days read alike by every library, from every encoding, on every kind of storage."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import duckdb
import pandas as pd
import polars as pl
import pyarrow as pa
import pytest
from pyarrow import dataset

from keen_pipeline.collection import Encoding
from keen_pipeline.errors import ConfigurationError, InvalidInputError
from keen_pipeline_tests.readers.conftest import KEYS, Landed, Source, expected_rows

TO_ARROW: dict[Any, Callable[[Any], pa.Table]] = {
    pd.DataFrame: lambda frame: pa.Table.from_pandas(frame, preserve_index=False),
    pl.DataFrame: lambda frame: frame.to_arrow(),
    pl.LazyFrame: lambda frame: frame.collect().to_arrow(),
    pa.Table: lambda table: table,
    dataset.Dataset: lambda found: found.to_table(),
    duckdb.DuckDBPyRelation: lambda relation: relation.to_arrow_table(),
}
TYPES = {
    "header:timestamp": pa.timestamp("us", "UTC"),
    "body:member": pa.string(),
    "body:paid": pa.bool_(),
    "body:score": pa.float64(),
    "body:tags": pa.string(),
    "body:text": pa.string(),
    "body:visits": pa.float64(),
    "body:coupon:code": pa.string(),
    "body:coupon:off": pa.float64(),
}


@pytest.mark.parametrize("kind", TO_ARROW, ids=lambda kind: f"{kind.__module__.split('.')[0]}.{kind.__name__}")
def test_thirty_days_are_equal_whatever_reads_them(landed: Landed, kind: Any) -> None:
    table = TO_ARROW[kind](landed.reader.load("visits", KEYS, kind))
    assert table.column_names == list(TYPES)
    # Libraries have several layouts for the same text; the values are compared as of one.
    rows = table.cast(pa.schema(list(TYPES.items()))).to_pylist()
    assert rows == expected_rows()
    assert all(row["body:coupon:code"] is None for row in rows[: 19 * 20])
    assert rows[19 * 20]["body:coupon:code"] == "000"


def test_pandas_types_are_the_same_with_and_without_nulls(source: Source) -> None:
    days = [source.csv.reader.load("visits", KEYS[n], pd.DataFrame).dtypes.astype(str).to_dict() for n in (0, 29)]
    assert days[1] | days[0] == days[1]
    assert days[1]["body:paid"] == "boolean"
    assert days[1]["header:timestamp"] == "datetime64[us, UTC]"


def test_only_the_asked_columns_in_their_order_null_where_no_event_has_them(landed: Landed) -> None:
    table = landed.reader.load("visits", KEYS[:2], pa.Table, columns=["body:coupon:off", "body:visits"])
    assert table.schema == pa.schema([("body:coupon:off", pa.float64()), ("body:visits", pa.float64())])
    assert table.column(0).null_count == table.num_rows == 40


def test_column_that_nobody_knows_is_refused(source: Source) -> None:
    with pytest.raises(InvalidInputError, match=r"neither a landed file nor Keen knows body:amuont; known are body:coupon:code,"):
        source.csv.reader.load("visits", KEYS[:1], pa.Table, columns=["body:amuont"])


def test_types_of_ones_own_need_no_service(source: Source) -> None:
    asked = len(source.types_asked)
    types = {"body:member": "int", "body:visits": "int"}
    table = source.csv.reader.load("visits", KEYS[:1], pa.Table, columns=list(types), types=types)
    assert table.column("body:member").to_pylist() == list(range(20))
    assert len(source.types_asked) == asked


def test_cell_that_is_not_of_its_type_names_partition_and_column(landed: Landed) -> None:
    for kind in (pa.Table, pd.DataFrame):
        with pytest.raises(ConfigurationError, match=r"visits\[2026-01-01\]: a cell of body:text is not of the column's type num"):
            landed.reader.load("visits", KEYS, kind, types={"body:text": "num"})
    lazy = landed.reader.load("visits", KEYS, pl.LazyFrame, types={"body:text": "num"})
    assert lazy.select("body:visits").collect().height == 600
    # Some versions of polars wrap it.
    with pytest.raises((ConfigurationError, pl.exceptions.ComputeError), match=r"visits\[2026-01-01\]: a cell of body:text"):
        lazy.collect()


def test_places_of_files(landed: Landed) -> None:
    uris = landed.reader.uris("visits", KEYS)
    assert list(uris) == KEYS
    assert uris[KEYS[0]] == landed.destination.target_uri("visits", KEYS[0])
    load = landed.reader.load
    assert load("visits", KEYS[0]) == load("visits", KEYS[0], str) == uris[KEYS[0]]
    assert load("visits", KEYS) == load("visits", KEYS, dict[str, str]) == uris
    assert load("visits", KEYS, list[str]) == list(uris.values())
    if "://" in landed.destination.uri:
        with pytest.raises(InvalidInputError, match="is no path"):
            load("visits", KEYS[0], Path)
    else:
        assert load("visits", KEYS[:2], list[Path]) == [Path(uri) for uri in list(uris.values())[:2]]


def test_frames_by_partition(source: Source) -> None:
    frames = source.csv.reader.load(
        "visits", [KEYS[0], "2026-02-04"], dict[str, pl.DataFrame], missing="empty", columns=["body:paid"]
    )
    assert {key: (frame.height, frame.schema) for key, frame in frames.items()} == {
        KEYS[0]: (20, {"body:paid": pl.Boolean}),
        "2026-02-04": (0, {"body:paid": pl.Boolean}),
    }


@pytest.mark.parametrize("kind", TO_ARROW, ids=lambda kind: f"{kind.__module__.split('.')[0]}.{kind.__name__}")
def test_partition_that_is_not_landed(source: Source, kind: Any) -> None:
    with pytest.raises(ConfigurationError, match=r"visits: 1 of 2 partitions are not landed at .*: 2026-02-04; materialize"):
        source.csv.reader.load("visits", [KEYS[0], "2026-02-04"], kind)
    empty = source.csv.reader.load("visits", ["2026-02-04"], kind, missing="empty", columns=["body:visits", "body:member"])
    table = TO_ARROW[kind](empty)
    assert (table.num_rows, table.column_names) == (0, ["body:visits", "body:member"])
    with pytest.raises(InvalidInputError, match="0 files of 1 partitions can't be one str"):
        source.csv.reader.load("visits", ["2026-02-04"], str, missing="empty")


def test_file_that_is_gone_is_said_so(source: Source, tmp_path: Path) -> None:
    landed = source.landed(str(tmp_path), Encoding.CSV)
    Path(landed.destination.target_uri("visits", KEYS[4])).unlink()
    with pytest.raises(ConfigurationError, match=r"visits\[2026-01-05\]: .* is gone, though the ledger has it as landed"):
        landed.reader.load("visits", KEYS, pl.LazyFrame)


@pytest.mark.parametrize("wrong", [dict, list[int], "DataFrame", int])
def test_unknown_kind_is_refused(source: Source, wrong: Any) -> None:
    with pytest.raises(InvalidInputError, match=r"use one of pandas\.DataFrame"):
        source.csv.reader.load("visits", KEYS, wrong)


def test_wrong_options_are_refused_before_anything_is_read(source: Source) -> None:
    with pytest.raises(InvalidInputError, match="missing: must be error or empty, not 'skip'"):
        source.csv.reader.load("visits", KEYS, pa.Table, missing="skip")
    with pytest.raises(InvalidInputError, match="types: body:paid can't be 'boolean', only num, int"):
        source.csv.reader.load("visits", KEYS, pa.Table, types={"body:paid": "boolean"})


def test_relations_of_two_inputs_join(source: Source) -> None:
    first = source.csv.reader.load("visits", KEYS[0], duckdb.DuckDBPyRelation)
    second = source.csv.reader.load("visits", KEYS[1], duckdb.DuckDBPyRelation)
    assert first is not second
    joined = duckdb.sql('SELECT count(*) FROM first JOIN second ON first."body:visits" = second."body:visits"')
    assert joined.fetchall() == [(20,)]


def test_lazy_frame_reads_the_columns_and_events_that_it_needs(source: Source, monkeypatch: pytest.MonkeyPatch) -> None:
    from keen_pipeline.readers.scan import Scan

    asked: list[Any] = []
    batches = Scan.batches

    def watched(scan: Scan, columns: Any = None, **options: Any) -> Any:
        for batch in batches(scan, columns, **options):
            asked.append((columns, batch.num_rows))
            yield batch

    monkeypatch.setattr(Scan, "batches", watched)
    lazy = source.csv.reader.load("visits", KEYS, pl.LazyFrame)
    assert asked == []
    assert lazy.filter(pl.col("body:visits") > 17).select("body:member").head(3).collect().to_series().to_list() == [
        "00018",
        "00019",
        "00118",
    ]
    assert {tuple(columns) for columns, _ in asked} == {("body:member", "body:visits")} or {
        tuple(sorted(columns)) for columns, _ in asked
    } == {("body:member", "body:visits")}
