"""A landed Parquet file gives back every value of the CSV, in the column type that Keen's property type asks for."""

from __future__ import annotations

import csv
import hashlib
import io
import json
from collections.abc import Mapping
from datetime import datetime, timezone
from decimal import Decimal
from pathlib import Path
from typing import Any

import duckdb
import polars
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pyarrow import parquet

from keen_pipeline.collection import Encoding
from keen_pipeline.errors import ConfigurationError, VerificationError
from keen_pipeline.landing.parquet import source as parquet_source
from keen_pipeline.landing.parquet import write as parquet_write
from keen_pipeline.landing.parquet.convert import Conversion
from keen_pipeline.landing.parquet.types import wider
from keen_pipeline.landing.transfer.intake import Intake
from keen_pipeline_tests.landing.conftest import BytesSource

TYPES = {"n": "num", "b": "bool", "t": "datetime", "s": "string"}
CELLS = st.one_of(
    st.sampled_from(
        ["", "1", "-0", "007", "1e5", "9007199254740993", "0.1", "1.50", "nan", "inf", "1e999", "true", "True", " 1", "+1"]
    ),
    st.sampled_from(
        ["2026-01-31T08:00:00.000Z", "2026-02-31T08:00:00.000Z", "2026-01-31T08:00:00+02:00", "a,b", 'q"q', "x\r\ny", "é\0"]
    ),
    st.floats(allow_nan=False, allow_infinity=False).map(repr),
    st.integers(-(2**70), 2**70).map(str),
    st.text(max_size=5, alphabet=st.characters(exclude_categories=["Cs"])),
)


def made(data: bytes, types: Mapping[str, str], earlier: Mapping[str, str] | None = None) -> tuple[bytes, tuple[str, ...]]:
    """The Parquet file of a CSV, and what its columns' types are said to be."""
    target = io.BytesIO()
    with Conversion(target, types, earlier) as conversion:
        intake, stream = Intake(conversion.body, Encoding.CSV, "identity"), BytesSource(data).open()
        while intake.pull(stream):
            pass
        intake.finish()
        column_types = conversion.finish(intake)
        assert (conversion.stored_bytes, conversion.stored_sha256) == facts(target.getvalue())
    return target.getvalue(), column_types


def facts(data: bytes) -> tuple[int, str]:
    return len(data), hashlib.sha256(data).hexdigest()


def converted(data: bytes, types: Mapping[str, str]) -> tuple[pa.Table, tuple[str, ...]]:
    file, column_types = made(data, types)
    table = parquet.read_table(io.BytesIO(file))
    assert column_types == tuple(str(field.type) for field in table.schema)[: len(column_types)]
    return table, tuple(json.loads((table.schema.metadata or {})[b"keen_pipeline.text_columns"]))


def rendered(rows: list[list[str | None]], header: list[str]) -> bytes:
    """None is an empty cell, the empty string a quoted one."""

    def cell(value: str | None) -> str:
        if value is None:
            return ""
        return '"' + value.replace('"', '""') + '"' if value in ("", "null") or set(value) & set(',"\r\n') else value

    return "".join(",".join(map(cell, row)) + "\r\n" for row in [header, *rows]).encode()


def is_kept(text: str | None, value: Any) -> bool:
    """Whether the value of a Parquet cell is the one that the text of the CSV's cell stands for."""
    if text is None or value is None:
        return text is value
    if isinstance(value, bool):
        return text == str(value).lower()
    if isinstance(value, float):
        return Decimal(text) == Decimal(repr(value)) and text.lstrip("-")[:1].isdigit()
    if isinstance(value, datetime):
        return datetime.strptime(text, "%Y-%m-%dT%H:%M:%S.%fZ").replace(tzinfo=timezone.utc) == value
    return bool(text == value)


@settings(max_examples=200)
@given(rows=st.lists(st.lists(st.one_of(st.none(), CELLS), min_size=5, max_size=5), max_size=6))
def test_every_value_is_kept(rows: list[list[str | None]]) -> None:
    table, _ = converted(rendered(rows, ["n", "b", "t", "s", "unknown"]), TYPES)
    columns = [column.to_pylist() for column in table.columns]
    assert table.num_rows == len(rows)
    for number, row in enumerate(rows):
        for text, column in zip(row, columns, strict=True):
            assert is_kept(text, column[number]), (text, column[number])


PLAIN = [b"a", b"7", b"0.5", b"\0", b"\xff", "é".encode(), b" "]
UNQUOTED = st.tuples(st.sampled_from(PLAIN), st.lists(st.sampled_from([*PLAIN, b'"'])).map(b"".join)).map(b"".join)
QUOTED = st.lists(st.sampled_from([*PLAIN, b'""', b",", b"\n", b"\r", b"\r\n"])).map(lambda parts: b'"' + b"".join(parts) + b'"')
RAW = st.one_of(st.just(b""), st.sampled_from([b"7", b"0.5", b"-3"]), UNQUOTED, QUOTED)


@settings(max_examples=150)
@given(
    rows=st.lists(st.tuples(RAW, RAW, st.sampled_from([b"\n", b"\r\n", b"\r"]))),
    bom=st.booleans(),
    ended=st.booleans(),
    block=st.sampled_from([1, 2, 16, 1024 * 1024]),
)
def test_any_csv_has_the_values_that_python_reads(
    rows: list[tuple[bytes, bytes, bytes]], bom: bool, ended: bool, block: int
) -> None:
    body = b"n,s\n" + b"".join(first + b"," + second + end for first, second, end in rows)
    body = body if ended else body.rstrip(b"\r\n")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(parquet_source, "BLOCK_BYTES", block)
        table, _ = converted(b"\xef\xbb\xbf" + body if bom else body, {"n": "num"})
    # One character a byte, since a cell may be no text.
    expected = list(csv.reader(io.StringIO(body.decode("latin-1"), newline="")))[1:]
    found = [list(row.values()) for row in table.to_pylist()]
    assert len(found) == len(expected) == len(rows)
    for values, texts, raw in zip(found, expected, rows, strict=True):
        for value, text, cell in zip(values, texts, raw[:2], strict=True):
            assert value == stands_for(text, value) if cell else value is None


def stands_for(text: str, value: Any) -> Any:
    """A cell's bytes in the type of `value`."""
    data = text.encode("latin-1")
    return float(data) if isinstance(value, float) else data.decode() if isinstance(value, str) else data


def test_columns_have_keens_types() -> None:
    table, text = converted(b"n,b,t,s,unknown\n1.5,true,2026-01-31T08:00:00.000Z,x,1\n,,,,\n", TYPES)
    assert text == ()
    assert [str(field.type) for field in table.schema] == ["double", "bool", "timestamp[us, tz=UTC]", "string", "string"]
    assert table.to_pylist()[0] == {
        "n": 1.5,
        "b": True,
        "t": datetime(2026, 1, 31, 8, tzinfo=timezone.utc),
        "s": "x",
        "unknown": "1",
    }
    assert set(table.to_pylist()[1].values()) == {None}


def test_null_of_json_is_null_and_leaves_its_column_typed() -> None:
    table, text = converted(b'n,s\n1,null\nnull,"null"\n', TYPES)
    assert (table.to_pylist(), text) == ([{"n": 1.0, "s": None}, {"n": None, "s": "null"}], ())


@pytest.mark.parametrize(
    "cell",
    [
        "007",
        "9007199254740993",
        "9007199254740994",
        "-18014398509481984",
        "nan",
        "1e400",
        '""',
        "one",
        "0x10",
        " 1",
        "1.2.3",
        "0.12345678901234567890",
    ],
)
def test_number_that_a_double_does_not_keep_leaves_its_column_text(cell: str) -> None:
    table, text = converted(f"n,s\n1,a\n{cell},b\n".encode(), TYPES)
    assert text == ("n",)
    assert table.column("n").to_pylist() == ["1", "" if cell == '""' else cell]


def test_doubles_of_seventeen_digits_are_numbers() -> None:
    table, text = converted(b"n,s\n0.30000000000000004,a\n1e-7,b\n", TYPES)
    assert (table.column("n").to_pylist(), text) == ([0.1 + 0.2, 1e-7], ())


def test_whole_numbers_up_to_2_to_53_are_numbers() -> None:
    table, text = converted(b"n,s\n9007199254740992,a\n-9007199254740991,b\n1e300,c\n", TYPES)
    assert (table.column("n").to_pylist(), text) == ([2.0**53, -(2.0**53 - 1), 1e300], ())


@pytest.mark.parametrize(
    "cell", ["0000-12-31T23:59:59.999Z", "10000-01-01T00:00:00.000Z", "2026-01-31T08:00:00+02:00", "2026-02-30T08:00:00Z"]
)
def test_instant_that_readers_cannot_show_leaves_its_column_text(cell: str) -> None:
    first = "0001-01-01T00:00:00.000Z"
    table, text = converted(f"t,s\n{first},a\n9999-12-31T23:59:59.999Z,b\n".encode(), TYPES)
    assert (text, table.column("t").to_pylist()[0]) == ((), datetime(1, 1, 1, tzinfo=timezone.utc))
    table, text = converted(f"t,s\n{first},a\n{cell},b\n".encode(), TYPES)
    assert (text, table.column("t").to_pylist()) == (("t",), [first, cell])


ROWS = {
    "num": ["1", "9007199254740993"],
    "bool": ["true", "yes"],
    "datetime": ["2026-01-31T08:00:00.000Z", "0000-01-01T00:00:00.000Z"],
}
RANK = {"string": 1, "binary": 2}


@given(
    st.lists(
        st.tuples(st.sampled_from(["num", "bool", "datetime", "string", ""]), st.sampled_from([0, 1, 2])), min_size=1, max_size=5
    )
)
def test_column_never_gets_narrower_from_file_to_file(days: list[tuple[str, int]]) -> None:
    earlier: dict[str, str] = {}
    seen: list[str] = []
    for keens_type, which in days:
        cell = b"\xff" if which == 2 else ROWS.get(keens_type, ["a", "b"])[which].encode()
        file, (word, _) = made(b"n,s\n" + cell + b",x\n", {"n": keens_type}, earlier)
        [value] = parquet.read_table(io.BytesIO(file)).column("n").to_pylist()
        if word in RANK:
            assert value == (cell if word == "binary" else cell.decode())
        earlier["n"] = wider(earlier.get("n", word), word)
        assert earlier["n"] == word  # the rule needs no look at what lies between
        seen.append(word)
    assert [RANK.get(word, 0) for word in seen] == sorted(RANK.get(word, 0) for word in seen)
    assert len(set(seen)) <= 3


def test_type_of_a_folder_is_one_after_it_has_widened(tmp_path: Path) -> None:
    days = [b"n,s\n9007199254740993,a\n", b"n,s\n5,b\n", b"n,s\n1e400,c\n"]
    earlier: dict[str, str] = {}
    for number, data in enumerate(days):
        file, words = made(data, TYPES, earlier)
        (tmp_path / f"{number}.parquet").write_bytes(file)
        earlier = dict(zip(["n", "s"], words, strict=True))
    digits = ["9007199254740993", "5", "1e400"]
    found = duckdb.sql(f"SELECT n FROM read_parquet('{tmp_path}/*.parquet', filename = true) ORDER BY filename").fetchall()
    assert [row[0] for row in found] == digits
    assert polars.read_parquet(tmp_path / "*.parquet")["n"].to_list() == digits


def test_folder_from_before_and_after_has_every_digit_when_its_types_are_united(tmp_path: Path) -> None:
    first, (narrow, _) = made(b"n,s\n5,b\n", TYPES)
    second, (wide, _) = made(b"n,s\n9007199254740993,a\n", TYPES, {"n": narrow})
    assert (narrow, wide, wider(narrow, wide), wider(wide, narrow)) == ("double", "string", "string", "string")
    for name, file in (("1", first), ("2", second)):
        (tmp_path / f"{name}.parquet").write_bytes(file)
    found = duckdb.sql(f"SELECT n FROM read_parquet('{tmp_path}/*.parquet', union_by_name = true) ORDER BY s").fetchall()
    assert [row[0] for row in found] == ["9007199254740993", "5.0"]


def test_bytes_that_are_no_utf8_are_kept() -> None:
    table, text = converted(b"n,s\n1,\xff\xfe\n2,a\n", TYPES)
    assert (table.column("s").to_pylist(), table.column("n").to_pylist(), text) == ([b"\xff\xfe", b"a"], [1.0, 2.0], ("s",))


def test_no_line_end_within_quotes_is_lost_between_two_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(parquet_source, "BLOCK_BYTES", 64)
    cells = ["x" * number + "\r\n\r\r\n" + "y" * (number * 7 % 11) for number in range(30)]
    data = "n,s\r\n" + "".join(f'1,"{cell}"\r\n' for cell in cells)
    table, _ = converted(data.encode(), TYPES)
    assert table.column("s").to_pylist() == cells


@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
@pytest.mark.parametrize("block", [700, 1 << 20])
def test_a_few_odd_records_among_many_plain_ones(monkeypatch: pytest.MonkeyPatch, end: str, block: int) -> None:
    monkeypatch.setattr(parquet_source, "BLOCK_BYTES", block)
    cells = ['5" pipe' if number % 97 == 0 else "\xff" if number == 1500 else f"plain {number}" for number in range(3000)]
    data = f"n,s{end}" + "".join(f"{number},{cell}{end}" for number, cell in enumerate(cells))
    table, text = converted(data.encode("latin-1"), TYPES)
    assert text == ("s",)
    assert table.column("s").to_pylist() == [cell.encode("latin-1") for cell in cells]
    assert table.column("n").to_pylist() == [float(number) for number in range(3000)]


def test_wide_file_has_longer_blocks_that_hold_more_than_a_few_records(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(parquet_source, "BLOCK_BYTES", 1000)
    monkeypatch.setattr(parquet_source, "BLOCK_COLUMNS", 100)
    lengths: list[int] = []
    texts = parquet_write._texts
    monkeypatch.setattr(parquet_write, "_texts", lambda block, width: lengths.append(len(block)) or texts(block, width))
    names = [f"c{number}" for number in range(800)]
    table, _ = converted(",".join(names).encode() + b"\n" + (b"1," * 799 + b"2\n") * 20, dict.fromkeys(names, "num"))
    assert table.num_rows == 20
    assert len(lengths) == 4  # of 5 records, not of a half
    assert table.column("c799").to_pylist() == [2.0] * 20


def test_record_longer_than_any_block_is_refused_with_advice(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(parquet_source, "BLOCK_BYTES", 16)
    monkeypatch.setattr(parquet_source, "LONGEST_BLOCK_BYTES", 4096)
    with pytest.raises(ConfigurationError, match="use encoding csv for this collection"):
        converted(b"n,s\n1," + b"x" * 9000 + b"\n", TYPES)


def test_misfit_in_the_last_row_group_begins_the_file_anew(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(parquet_source, "BLOCK_BYTES", 4102)  # the last line end in a block is one in quotes
    monkeypatch.setattr(parquet_write, "ROW_GROUP_RECORDS", 500)
    data = b"n,s\n" + b'1,"x,\n"\n' * 5000 + b"x,y\n"
    table, text = converted(data, TYPES)
    assert text == ("n",)
    assert table.column("n").to_pylist() == ["1"] * 5000 + ["x"]
    assert table.column("s").to_pylist() == ["x,\n"] * 5000 + ["y"]


@pytest.mark.parametrize(
    ("data", "names"),
    [
        (b"", ["header:timestamp", "n", "s"]),
        (b"s,s\r\n", ["s", "s#2", "header:timestamp", "n"]),
        (b'\xef\xbb\xbf"header:timestamp"', ["header:timestamp", "n", "s"]),
    ],
)
def test_file_without_events_has_the_collections_columns(tmp_path: Path, data: bytes, names: list[str]) -> None:
    types = {"s": "string", "n": "num", "header:timestamp": "datetime"}
    file, words = made(data, types, {"n": "string"})
    (tmp_path / "1.parquet").write_bytes(file)
    table = parquet.read_table(tmp_path / "1.parquet")
    kinds = {"n": "string", "header:timestamp": "timestamp[us, tz=UTC]"}
    assert [(field.name, str(field.type)) for field in table.schema] == [(name, kinds.get(name, "string")) for name in names]
    assert (table.num_rows, len(words)) == (0, data.count(b",") + 1 if data else 0)
    assert duckdb.sql(f"SELECT * FROM read_parquet('{tmp_path}/1.parquet')").columns == names


def test_file_of_a_collection_without_known_columns_is_readable(tmp_path: Path) -> None:
    (tmp_path / "1.parquet").write_bytes(made(b"", {})[0])
    assert duckdb.sql(f"SELECT count(*) FROM read_parquet('{tmp_path}/1.parquet')").fetchall() == [(0,)]


def test_file_without_events_has_no_two_columns_of_one_name() -> None:
    table, _ = converted(b"a,a\n", {"a": "num", "a#2": "bool"})
    assert [str(field.type) for field in table.schema] == ["double", "double", "bool"]
    assert table.column_names == ["a", "a#2", "a#2#2"]


def test_two_columns_of_one_name_stay_two() -> None:
    table, _ = converted(b"a,a\n1,2\n", {})
    assert table.to_pylist() == [{"a": "1", "a#2": "2"}]


def test_a_column_that_is_known_by_earlier_files_alone_is_there_too() -> None:
    file, _ = made(b"n\n", {"of_keen": "bool"}, {"of_files": "double"})
    assert parquet.read_schema(io.BytesIO(file)).names == ["n", "of_files", "of_keen"]


def test_a_reader_that_sees_fewer_records_than_the_csv_has_lands_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    typed = parquet_write._typed_batches

    def fewer(*args: Any) -> Any:
        yield from (batch.slice(1) for batch in typed(*args))

    monkeypatch.setattr(parquet_write, "_typed_batches", fewer)
    with pytest.raises(VerificationError, match="as Parquet it would have 1 records, the CSV has 2"):
        made(b"n\n1\n2\n", {"n": "num"})
