"""Thirty landed days read alike by every library, from every encoding, on every kind of storage."""

from __future__ import annotations

import errno
import gc
import shutil
import tempfile
from collections.abc import Callable
from datetime import date
from decimal import Decimal
from pathlib import Path
from typing import Any

import duckdb
import pandas as pd
import polars as pl
import pyarrow as pa
import pytest
from pyarrow import dataset, parquet

from keen_pipeline.collection import Collection, Encoding
from keen_pipeline.errors import ConfigurationError, InvalidInputError
from keen_pipeline.landing import FileDestination
from keen_pipeline.partitions import EVER, partition_for_key
from keen_pipeline.pipeline import partition_request
from keen_pipeline.readers.frames import duckdb_names
from keen_pipeline.testing import KeenLanding
from keen_pipeline_tests.readers.conftest import EMPTY, EVENTS, KEYS, PER_DAY, expected_rows, land_all

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
    "body:hash": pa.decimal128(38, 0),
    "body:id": pa.int64(),
    "body:member": pa.string(),
    "body:nothing": pa.string(),
    "body:paid": pa.bool_(),
    "body:score": pa.float64(),
    "body:tags": pa.string(),
    "body:text": pa.string(),
    "body:userId": pa.string(),
    "body:userid": pa.int64(),
    "body:void": pa.string(),
    "body:coupon:code": pa.string(),
    "body:coupon:off": pa.float64(),
}
READERS = pytest.mark.parametrize("kind", TO_ARROW, ids=lambda kind: f"{kind.__module__.split('.')[0]}.{kind.__name__}")


def read(landing: KeenLanding, kind: Any, keys: Any = KEYS, **options: Any) -> pa.Table:
    """What a reader gives, as a table with the names of the properties."""
    table = TO_ARROW[kind](landing.reader.load("visits", keys, kind, **options))
    if kind is duckdb.DuckDBPyRelation and "columns" not in options:
        assert table.column_names == duckdb_names(list(TYPES))
        return table.rename_columns(list(TYPES))
    return table


def schema_of(table: pa.Table) -> pa.Schema:
    """Its types; libraries have several layouts of the same text, no type for a column of nulls only, pandas' decimals are
    Python's, and DuckDB shows instants in the session's zone."""
    layouts = {pa.large_string(): pa.string(), pa.string_view(): pa.string(), pa.null(): pa.string()}
    layouts[pa.timestamp("us", "Etc/UTC")] = pa.timestamp("us", "UTC")
    kinds = [pa.decimal128(38, one.scale) if pa.types.is_decimal(one) else layouts.get(one, one) for one in table.schema.types]
    return pa.schema(list(zip(table.column_names, kinds, strict=True)))


@READERS
def test_thirty_days_are_equal_exact_and_of_one_type_whatever_reads_them(landed: KeenLanding, kind: Any) -> None:
    table = read(landed, kind)
    assert schema_of(table) == pa.schema(list(TYPES.items()))
    assert table.cast(pa.schema(list(TYPES.items()))).to_pylist() == expected_rows()


@READERS
def test_a_selection_has_the_types_of_the_whole(landed: KeenLanding, kind: Any) -> None:
    names = ["body:coupon:off", "body:id"]
    table = read(landed, kind, columns=names)
    assert schema_of(table) == pa.schema([(name, TYPES[name]) for name in names])
    assert table.column("body:id").to_pylist() == [row["body:id"] for row in expected_rows()]


@READERS
def test_a_day_without_events_has_the_columns_of_the_collection(landed: KeenLanding, kind: Any) -> None:
    table = read(landed, kind, KEYS[EMPTY])
    assert (table.num_rows, table.column_names) == (0, list(TYPES))
    assert {name: kind for name, kind in TYPES.items() if kind == schema_of(table).field(name).type} == {
        name: kind for name, kind in TYPES.items() if kind not in (pa.int64(), pa.decimal128(38, 0))
    }


def test_a_partition_of_a_range_has_the_types_of_the_range(landed: KeenLanding) -> None:
    tables = landed.reader.load("visits", [KEYS[0], KEYS[EMPTY], KEYS[-1]], dict[str, pa.Table])
    assert {table.schema for table in tables.values()} == {pa.schema(list(TYPES.items()))}
    assert {key: table.num_rows for key, table in tables.items()} == {KEYS[0]: PER_DAY, KEYS[EMPTY]: 0, KEYS[-1]: PER_DAY}


def test_names_that_differ_in_case_never_stand_for_each_other_in_duckdb(csv: KeenLanding) -> None:
    assert duckdb_names(["a", "A", "a_1", "b"]) == ["a_2", "A_3", "a_1", "b"]
    relation = csv.reader.load("visits", KEYS[0], duckdb.DuckDBPyRelation)
    assert relation.project('"body:userId_1"').fetchall() == [(f"upper {n}",) for n in range(PER_DAY)]
    assert relation.project('"body:userid_2"').fetchall() == [(n,) for n in range(PER_DAY)]
    for name in ("body:userId", "body:userid"):
        with pytest.raises(duckdb.BinderException):
            relation.project(f'"{name}"')
        alone = csv.reader.load("visits", KEYS[0], duckdb.DuckDBPyRelation, columns=[name])
        assert alone.columns == [name]
        assert alone.project(f'"{name}"').fetchall()[1] == (("upper 1",) if name == "body:userId" else (1,))


def test_pandas_types_are_the_same_with_and_without_nulls(csv: KeenLanding) -> None:
    days = [csv.reader.load("visits", KEYS[n], pd.DataFrame).dtypes.astype(str).to_dict() for n in (1, 29)]
    assert days[0] == days[1]
    assert days[1]["body:paid"] == "boolean"
    assert days[1]["body:id"] == "Int64"
    assert days[1]["header:timestamp"] == "datetime64[us, UTC]"


@pytest.mark.parametrize("encoding", [Encoding.CSV, Encoding.CSV_ZST, Encoding.PARQUET])
def test_name_that_no_text_can_hold_loses_no_value(keen_landing: KeenLanding, encoding: Encoding) -> None:
    visits = Collection("visits", KEYS[0], encoding=encoding)
    keen_landing.land(visits, {KEYS[0]: [{"a\0b": "x"}], KEYS[1]: [{"a": "y", "c\0\nd": "z"}], KEYS[2]: [{"a": "w"}]})
    table = keen_landing.reader.load("visits", KEYS[:3], pa.Table, columns=["body:a\\x00b", "body:a", "body:c\\x00\nd"])
    assert [list(row.values()) for row in table.to_pylist()] == [["x", None, None], [None, "y", "z"], [None, "w", None]]


@pytest.mark.parametrize("end", ["\0", "\0\r\n", "\n\r\0"])
def test_header_that_no_text_can_hold_takes_no_event_with_it(keen_landing: KeenLanding, end: str) -> None:
    keen_landing.land("visits", {KEYS[0]: [{f"a{end}": "x", "b": "y"}, {f"a{end}": "z"}]})
    assert keen_landing.reader.load("visits", KEYS[0], pa.Table, columns=["body:b"]).to_pylist() == [
        {"body:b": "y"},
        {"body:b": None},
    ]


def test_record_that_is_longer_than_any_of_keens_is_not_said_to_be_of_another_type(keen_landing: KeenLanding) -> None:
    keen_landing.land("visits", {KEYS[0]: [{"a": "x" * (9 * 1024 * 1024)}]})
    with pytest.raises(ConfigurationError, match=rf"{KEYS[0]}\]: \S+ can't be read: .*straddling"):
        keen_landing.reader.load("visits", KEYS[0], pa.Table)


def test_column_that_nobody_knows_is_refused(csv: KeenLanding) -> None:
    with pytest.raises(InvalidInputError, match=r"no landed file has body:amuont; known are body:coupon:code,"):
        csv.reader.load("visits", KEYS[:1], pa.Table, columns=["body:amuont"])
    table = csv.reader.load("visits", KEYS[:1], pa.Table, columns=["body:later"], types={"body:later": "decimal"})
    assert table.column(0).null_count == PER_DAY


def test_type_of_no_column_is_refused(csv: KeenLanding, caplog: pytest.LogCaptureFixture) -> None:
    wrong = {"body:paid": "string", "body:amuont": "int"}
    with pytest.raises(InvalidInputError, match=r"types: no landed file has body:amuont; known are body:coupon:code,.* 4 more"):
        csv.reader.load("visits", KEYS[:1], pa.Table, types=wrong)
    assert csv.reader.load("visits", KEYS[:1], pa.Table, columns=["body:id"], types={"body:paid": "string"}).num_columns == 1
    csv.reader.scan("visits", [csv.reader.files("visits", KEYS[:1])[KEYS[0]]], types=wrong).close()  # into a table that stays
    assert "visits: types: no landed file has body:amuont" in caplog.text


@READERS
def test_before_the_first_event_there_is_a_column_all_the_same(keen_landing: KeenLanding, kind: Any) -> None:
    load = keen_landing.reader.load
    assert TO_ARROW[kind](load("visits", KEYS[0], kind, missing="empty")).column_names == ["header:timestamp"]
    table = TO_ARROW[kind](load("visits", KEYS[0], kind, missing="empty", types={"body:id": "int"}))
    assert schema_of(table) == pa.schema({"header:timestamp": TYPES["header:timestamp"], "body:id": pa.int64()})


def test_types_of_ones_own(landed: KeenLanding) -> None:
    types = {"body:member": "int", "body:score": "decimal", "body:id": "num", "body:userid": "string"}
    table = landed.reader.load("visits", KEYS[:2], pa.Table, columns=list(types), types=types)
    assert [field.type for field in table.schema] == [pa.int64(), pa.decimal128(38, 2), pa.float64(), pa.string()]
    assert table.column("body:member").to_pylist() == [*range(20), *range(100, 120)]
    assert table.column("body:score").to_pylist()[:3] == [Decimal("0.00"), Decimal("0.25"), Decimal("0.50")]
    assert table.column("body:userid").to_pylist()[:3] == ["0", "1", "2"]


def test_cell_that_is_not_of_its_type_names_partition_and_column(landed: KeenLanding) -> None:
    for kind in (pa.Table, pd.DataFrame):
        with pytest.raises(ConfigurationError, match=r"visits\[2026-01-01\]: a cell of body:text is not of the column's type num"):
            landed.reader.load("visits", KEYS, kind, types={"body:text": "num"})
    lazy = landed.reader.load("visits", KEYS, pl.LazyFrame, types={"body:text": "num"})
    assert lazy.select("body:userid").collect().height == EVENTS
    # Some versions of polars wrap it.
    with pytest.raises((ConfigurationError, pl.exceptions.ComputeError), match=r"visits\[2026-01-01\]: a cell of body:text"):
        lazy.collect()
    with pytest.raises(
        ConfigurationError, match=r"visits\[2026-01-01\]: a cell of body:text is not of the .* decimal \(no number\)"
    ):
        landed.reader.load("visits", KEYS, pl.LazyFrame, types={"body:text": "decimal"})


def test_places_of_files(landed: KeenLanding) -> None:
    uris = landed.reader.uris("visits", KEYS)
    assert list(uris) == KEYS
    assert uris[KEYS[0]].startswith(landed.destination.target_uri("visits", KEYS[0]).removesuffix("csv"))
    load = landed.reader.load
    assert load("visits", KEYS[0]) == load("visits", KEYS[0], str) == uris[KEYS[0]]
    assert load("visits", KEYS) == load("visits", KEYS, dict[str, str]) == uris
    assert load("visits", KEYS, list[str]) == list(uris.values())
    if "://" in landed.destination.uri:
        with pytest.raises(InvalidInputError, match=r"isn.t a path"):
            load("visits", KEYS[0], Path)
    else:
        assert load("visits", KEYS[:2], list[Path]) == [Path(uri) for uri in list(uris.values())[:2]]


@READERS
def test_partition_that_is_not_landed(csv: KeenLanding, kind: Any) -> None:
    with pytest.raises(ConfigurationError, match=r"visits: 1 of 2 partitions are not landed at .*: 2026-02-04; materialize"):
        csv.reader.load("visits", [KEYS[0], "2026-02-04"], kind)
    empty = csv.reader.load("visits", ["2026-02-04"], kind, missing="empty", columns=["body:score", "body:member"])
    table = TO_ARROW[kind](empty)
    assert (table.num_rows, table.column_names) == (0, ["body:score", "body:member"])
    with pytest.raises(InvalidInputError, match="0 files of 1 partitions can't be one str"):
        csv.reader.load("visits", ["2026-02-04"], str, missing="empty")


def test_file_that_is_gone_is_said_so(tmp_path: Path) -> None:
    landed = land_all(KeenLanding(tmp_path))
    Path(landed.destination.target_uri("visits", KEYS[4])).unlink()
    with pytest.raises(ConfigurationError, match=r"visits\[2026-01-05\]: .* is gone, though the ledger has it as landed"):
        landed.reader.load("visits", KEYS, pl.LazyFrame)


def test_a_day_without_any_of_the_wanted_columns_has_its_events(landed: KeenLanding) -> None:
    table = landed.reader.load("visits", KEYS[17:20], pa.Table, columns=["body:coupon:code"])  # which comes with the last day
    assert (table.num_rows, table.column(0).null_count) == (3 * PER_DAY, 2 * PER_DAY)
    days = landed.reader.load("visits", KEYS[17:20], dict[str, pl.LazyFrame], columns=["body:coupon:code"])
    assert [frame.collect().height for frame in days.values()] == [PER_DAY] * 3


@pytest.mark.parametrize("encoding", [Encoding.CSV, Encoding.PARQUET])
@pytest.mark.parametrize("storage", ["local", "s3"])
def test_file_that_is_not_the_one_that_landed_gives_no_fewer_events(
    request: pytest.FixtureRequest, tmp_path: Path, storage: str, encoding: Encoding
) -> None:
    destination = None
    if storage == "s3":
        server = request.getfixturevalue("s3")
        destination = FileDestination(f"{server.uri}/changed-{encoding.value}", transport=server.transport)
    landing = KeenLanding(tmp_path, destination)
    landing.land(Collection("visits", KEYS[0], encoding=encoding), {KEYS[0]: [{"n": "x" * 1000}, {"n": "y" * 1000}]})
    path, name = f"visits/{KEYS[0]}.{encoding.value}", rf"visits\[{KEYS[0]}\]: .*visits/{KEYS[0]}"
    data = landing.destination.read(path, 10_000)
    landing.destination.write(path, data[: data.rindex(b"2026")] if encoding is Encoding.CSV else data[:-1])
    with pytest.raises(ConfigurationError, match=rf"{name}.* has \d+ bytes, {len(data)} landed"):
        landing.reader.load("visits", KEYS[:1], pa.Table)
    if encoding is Encoding.PARQUET:
        landing.destination.write(path, data[:4] + b"\xff" * (len(data) - 12) + data[-8:])
        with pytest.raises(ConfigurationError, match=name):
            landing.reader.load("visits", KEYS[:1], pa.Table)


@pytest.mark.parametrize("landed", ["s3 parquet"], indirect=True)
def test_only_the_columns_that_are_asked_for_are_read_of_a_remote_file(
    landed: KeenLanding, monkeypatch: pytest.MonkeyPatch
) -> None:
    read: list[str] = []
    real = parquet.ParquetFile.iter_batches

    def noted(self: Any, *arguments: Any, columns: list[str], **options: Any) -> Any:
        read.extend(columns)
        return real(self, *arguments, columns=columns, **options)

    monkeypatch.setattr(parquet.ParquetFile, "iter_batches", noted)
    landed.reader.load("visits", KEYS[0], pa.Table, columns=["body:userId"])
    assert read == ["body:userId"]


@pytest.mark.parametrize("landed", ["s3 csv.zst", "s3 parquet"], indirect=True)
def test_full_temporary_folder_is_named_and_not_the_file(landed: KeenLanding, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object, **__: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(shutil, "copyfileobj", full)
    monkeypatch.setattr(parquet.ParquetWriter, "write_batch", full)
    with pytest.raises(ConfigurationError, match=r"temporary folder .* is full"):
        landed.reader.load("visits", KEYS, pa.Table)


def test_file_with_two_columns_of_one_name_is_read_by_its_uri_alone(keen_landing: KeenLanding) -> None:
    visits = Collection("visits", KEYS[0])
    keen_landing.land(visits, {KEYS[1]: []})
    request = partition_request(visits, partition_for_key(visits, KEYS[0], EVER))
    keen_landing._land(request, b"header:timestamp,body:n,body:n\n2026-01-01T00:00:00Z,1,2\n", None, force=False)
    with pytest.raises(InvalidInputError, match=r"visits\[2026-01-01\]: two columns are called body:n; read the file by its URI"):
        keen_landing.reader.load("visits", KEYS[0], pa.Table)
    assert keen_landing.reader.load("visits", KEYS[0], str).endswith("visits/2026-01-01.csv")


@pytest.mark.parametrize("wrong", [dict, list[int], dict[str, int], "DataFrame", int])
def test_unknown_kind_is_refused(csv: KeenLanding, wrong: Any) -> None:
    with pytest.raises(InvalidInputError, match=r"use one of pandas\.DataFrame"):
        csv.reader.load("visits", KEYS, wrong)


def test_wrong_options_are_refused_before_anything_is_read(csv: KeenLanding) -> None:
    with pytest.raises(InvalidInputError, match="missing: must be error or empty, not 'skip'"):
        csv.reader.load("visits", KEYS, pa.Table, missing="skip")
    with pytest.raises(InvalidInputError, match="types: body:paid can't be 'boolean', only num, int"):
        csv.reader.load("visits", KEYS, pa.Table, types={"body:paid": "boolean"})
    with pytest.raises(InvalidInputError, match="types: must be a mapping of names to types, not"):
        csv.reader.load("visits", KEYS, pa.Table, types=["body:paid"])  # type: ignore[arg-type]
    for keys in ([date(2026, 1, 1)], 20260101):
        with pytest.raises(InvalidInputError, match="partition_keys: must be text such as '2026-01-01', not"):
            csv.reader.load("visits", keys, pa.Table)  # type: ignore[call-overload]
    assert csv.reader.uris("visits", KEYS[0]) == csv.reader.uris("visits", KEYS[:1])
    for columns in ("body:paid", [1]):
        with pytest.raises(InvalidInputError, match="columns: must be a list of names, not"):
            csv.reader.load("visits", KEYS, pa.Table, columns=columns)  # type: ignore[arg-type]


def test_relations_of_two_inputs_join(csv: KeenLanding) -> None:
    first = csv.reader.load("visits", KEYS[0], duckdb.DuckDBPyRelation)
    second = csv.reader.load("visits", KEYS[1], duckdb.DuckDBPyRelation)
    assert first is not second
    joined = duckdb.sql('SELECT count(*) FROM first JOIN second ON first."body:userid_2" = second."body:userid_2"')
    assert joined.fetchall() == [(20,)]


def test_lazy_frame_reads_the_columns_and_events_that_it_needs(csv: KeenLanding, monkeypatch: pytest.MonkeyPatch) -> None:
    from keen_pipeline.readers.scan import Part

    asked: list[Any] = []
    batches = Part.batches

    def watched(part: Part, columns: Any = None, **options: Any) -> Any:
        for batch in batches(part, columns, **options):
            asked.append((columns, batch.num_rows))
            yield batch

    monkeypatch.setattr(Part, "batches", watched)
    lazy = csv.reader.load("visits", KEYS, pl.LazyFrame)
    assert asked == []
    wanted = lazy.filter(pl.col("body:userid") > 17).select("body:member").head(3).collect()
    assert wanted.to_series().to_list() == ["00018", "00019", "00118"]
    assert {tuple(sorted(columns)) for columns, _ in asked} == {("body:member", "body:userid")}


def _chosen(of: Any) -> Any:
    """A day's events of a number, made of what was read and not read yet; and what counts them."""
    if isinstance(of, pl.LazyFrame):
        frame = of.filter(pl.col("body:n") == "2")
        return frame, lambda: frame.collect().height
    relation = duckdb.sql("SELECT * FROM of").filter("\"body:n\" = '2'")
    return relation, lambda: len(relation.fetchall())


@pytest.mark.parametrize("kind", [pl.LazyFrame, duckdb.DuckDBPyRelation])
def test_copies_go_with_the_last_lazy_value_that_reads_them(
    keen_landing: KeenLanding, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: Any
) -> None:
    (tmp_path / "copies").mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "copies"))
    events = [{"n": 1}, {"n": 2}]
    keen_landing.land(Collection("visits", KEYS[0], encoding=Encoding.PARQUET), dict.fromkeys(KEYS[:2], events))
    # As text, for which the Parquet files are copied.
    texts = {"header:timestamp": "string", "body:n": "string"}
    days = keen_landing.reader.load("visits", KEYS[:2], dict[str, kind], types=texts)
    value, count = _chosen(days.pop(KEYS[1]))
    del days  # of which the other day is in the same folder of copies
    gc.collect()
    assert count() == 1
    del value, count
    gc.collect()
    assert list((tmp_path / "copies").iterdir()) == []
