"""Which type a column of numbers gets: the first that holds every number exactly, whatever the numbers are."""

from __future__ import annotations

import json
from decimal import Decimal
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pyarrow import parquet

from keen_pipeline.collection import Collection, Encoding
from keen_pipeline.extraction import Landing
from keen_pipeline.readers.files import LandedFile
from keen_pipeline.readers.numbers import NotANumberError, Numbers, numbers_of
from keen_pipeline.readers.scan import converted
from keen_pipeline.readers.types import KEENS_NUMBER, known_words
from keen_pipeline.testing import KeenLanding
from keen_pipeline_tests.ledgers import day

INT, DOUBLE, TEXT = pa.int64(), pa.float64(), pa.string()


@pytest.mark.parametrize(
    ("cells", "kind"),
    [
        (["0", "-5", str(2**53)], INT),
        (["5", str(2**53 + 1)], INT),
        ([str(2**63 - 1), str(-(2**63))], INT),
        ([str(2**63)], pa.decimal128(38, 0)),
        (["5", "0.5"], DOUBLE),
        (["5.0"], DOUBLE),
        (["-0"], DOUBLE),
        (["0.1", "1e300", "0.30000000000000004", "1.50", "1E-7"], DOUBLE),
        (["0.5", str(2**53 + 1)], pa.decimal128(38, 1)),
        (["0.1000000000000000055511151231257827"], pa.decimal128(38, 34)),
        ([str(10**19), f"0.{'1' * 18}"], pa.decimal128(38, 18)),
        ([str(10**19), f"0.{'1' * 19}"], TEXT),  # 39 digits together
        (["1e400"], TEXT),
        (["1e300", str(2**53 + 1)], TEXT),
        (["9" * 39], TEXT),
        ([], DOUBLE),
        ([None], DOUBLE),
        ([None, "7"], INT),
    ],
)
def test_type(cells: list[str | None], kind: pa.DataType) -> None:
    column = pa.array(cells, pa.string())
    found = numbers_of(column) | numbers_of(column, digits=True)
    assert found.arrow_type == kind


@pytest.mark.parametrize("cell", ["007", "+5", "0x10", "1.", ".5", "NaN", "inf", "1e", "five", " 5", "", "5\n"])
def test_what_is_no_json_number_is_none(cell: str) -> None:
    for cells in ([cell], ["5", cell], ["0.5", cell]):
        with pytest.raises(NotANumberError):
            numbers_of(pa.array(cells, pa.string()))


@given(st.lists(st.one_of(st.integers(-(10**25), 10**25), st.floats(allow_nan=False, allow_infinity=False)), min_size=1))
def test_the_type_holds_every_number(values: list[float]) -> None:
    texts = [json.dumps(value) for value in values]
    column = pa.array(texts, pa.string())
    kind = (numbers_of(column) | numbers_of(column, digits=True)).arrow_type
    made = texts if kind == TEXT else column.cast(kind).to_pylist()
    assert [Decimal(repr(one) if isinstance(one, float) else one) for one in made] == [Decimal(text) for text in texts]


@given(st.lists(st.integers(-(10**20), 10**20)), st.lists(st.floats(allow_nan=False, allow_infinity=False)))
def test_two_parts_are_as_one(left: list[int], right: list[float]) -> None:
    one, other = (pa.array([json.dumps(value) for value in values], pa.string()) for values in (left, right))
    both = pa.concat_arrays([one, other])
    assert numbers_of(one, digits=True) | numbers_of(other, digits=True) == numbers_of(both, digits=True)


@pytest.mark.parametrize(
    ("cells", "kind", "expected"),
    [
        (["5", str(2**53 + 1)], pa.string(), INT),
        ([5.0, 7.0], pa.float64(), INT),
        ([5.0, 0.5], pa.float64(), DOUBLE),
        ([2.0**60], pa.float64(), DOUBLE),
        ([5, 2**53 + 1], pa.int64(), INT),
        ([Decimal(5), Decimal(2**53 + 1)], pa.decimal128(38, 3), INT),
        ([Decimal("0.5")], pa.decimal128(38, 3), DOUBLE),
    ],
)
def test_numbers_of_a_parquet_file(cells: list[Any], kind: pa.DataType, expected: pa.DataType) -> None:
    assert numbers_of(pa.array(cells, kind)).arrow_type == expected


def test_a_double_becomes_the_decimal_that_keen_had() -> None:
    doubles = pa.array([0.1, 1e15, None, -7.25])
    assert converted(doubles, pa.decimal128(38, 20)).to_pylist() == [Decimal("0.1"), Decimal(10**15), None, Decimal("-7.25")]


def test_files_of_other_encodings_and_types_are_one_column(keen_landing: KeenLanding) -> None:
    """A folder where one day's numbers are doubles, another's text, and a third's a CSV."""
    days: dict[str, tuple[Encoding, list[Any]]] = {
        "2026-01-01": (Encoding.PARQUET, [0.1, 5]),
        "2026-01-02": (Encoding.PARQUET, [2**53 + 1, 7]),
        "2026-01-03": (Encoding.CSV, [1.2345678901234567e-05, 2**53 + 3]),
    }
    for key, (encoding, numbers) in days.items():
        keen_landing.land(Collection("visits", "2026-01-01", encoding=encoding), {key: [{"n": number} for number in numbers]})
    stored = {parquet.read_schema(path).field("body:n").type for path in Path(keen_landing.destination.uri).rglob("*.parquet")}
    assert len(stored) == 2
    table = keen_landing.reader.load("visits", list(days), pa.Table, columns=["body:n"])
    assert table.schema.field(0).type == pa.decimal128(38, 21)
    assert table.column(0).to_pylist() == [Decimal(str(number)) for _, numbers in days.values() for number in numbers]
    whole = keen_landing.reader.load("visits", ["2026-01-02"], dict[str, pa.Table], columns=["body:n"])["2026-01-02"]
    assert whole.schema.field(0).type == INT


def test_a_type_that_keen_changed_is_text_on_every_day(keen_landing: KeenLanding) -> None:
    keen_landing.land(Collection("visits", "2026-01-01", encoding=Encoding.PARQUET), {"2026-01-01": [{"n": True, "m": 5}]})
    keen_landing.land("visits", {"2026-01-02": [{"n": "yes", "m": None}]})
    keen_landing.land("visits", {"2026-01-03": [{"m": 6}]})
    table = keen_landing.reader.load("visits", ["2026-01-01", "2026-01-02"], pa.Table, columns=["body:n", "body:m"])
    assert table.to_pylist() == [{"body:n": "true", "body:m": 5}, {"body:n": "yes", "body:m": None}]
    assert table.schema.types == [pa.string(), pa.int64()]
    alone = keen_landing.reader.load("visits", "2026-01-01", pa.Table, columns=["body:n"])
    assert alone.to_pylist() == [{"body:n": "true"}]


def test_instants_read_as_text_are_as_keen_wrote_them() -> None:
    stored = pa.array([1767225600123000, None], pa.timestamp("us", "UTC"))
    assert converted(stored, pa.string()).to_pylist() == ["2026-01-01T00:00:00.123Z", None]


def test_nothing_is_known_of_no_files() -> None:
    assert known_words([]) == {}
    assert Numbers().arrow_type == DOUBLE


def test_a_long_number_is_looked_at() -> None:
    assert numbers_of(pa.array([str(2**53)], pa.string())).exact
    assert not numbers_of(pa.array([str(2**53 + 1)], pa.string())).exact
    assert numbers_of(pa.array(["0.1234567890123456"], pa.string())).arrow_type == DOUBLE
    assert not numbers_of(pa.array(["12345678901.234567"], pa.string())).exact


def test_one_word_for_all_landings_of_a_column() -> None:
    asked = day(0, collection="visits")

    def landed(*words: str, **masked: str) -> LandedFile:
        return LandedFile(asked, Landing("x", 9, 1, "", ("n",), 9, 0.0, property_types=words, masked=masked), "")

    assert known_words([landed("num", n="hash")]) == {"n": "string"}
    assert known_words([landed("num")]) == known_words([landed("null"), landed("num")]) == {"n": KEENS_NUMBER}
    assert known_words([landed("num", other="drop")]) == {"n": KEENS_NUMBER}
    assert known_words([landed("null")]) == known_words([landed(""), landed("num")]) == known_words([landed()]) == {"n": "string"}
