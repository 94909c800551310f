"""Types that a caller asks for: a Parquet file has the same cells for them as a CSV of the same events, or the same error."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import date
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from keen_pipeline.collection import Collection, Encoding
from keen_pipeline.errors import ConfigurationError
from keen_pipeline.readers import TYPES
from keen_pipeline.testing import KeenLanding
from keen_pipeline.testing.landing import Event

KEY = "2026-01-01"
VALUES: Mapping[str, list[Any]] = {
    "numbers": [1, 2.5, None],
    "whole numbers": [1, 0],
    "large numbers": [2**53 + 1, 5],
    "zeros": [-0.0, 0, 0.5],
    "truth": [True, False, None],
    "texts of numbers": ["1", "0"],
    "texts of truth": ["true", "false"],
    "other words for it": ["True", "1"],
    "instants": ["2026-01-01T00:00:00.000Z", "2026-01-01 05:00:00+02:00"],
    "dates": ["2026-01-01", "2026-01-01T00:00:00"],
    "other numbers": ["0x10", "1_0", "NaN", ""],
    "lists": [[1], {"a": None}],
}


@pytest.fixture(scope="module", params=VALUES)
def landings(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> list[KeenLanding]:
    """The same events as CSV and as Parquet."""
    made = []
    for encoding in (Encoding.CSV, Encoding.PARQUET):
        landing = KeenLanding(tmp_path_factory.mktemp("types"))
        landing.land(Collection("c", date(2026, 1, 1), encoding=encoding), {KEY: [{"a": value} for value in VALUES[request.param]]})
        made.append(landing)
    return made


def cells(landing: KeenLanding, column: str, word: str) -> tuple[str, str]:
    try:
        table = landing.reader.load("c", KEY, pa.Table, types={column: word})
    except ConfigurationError as error:
        return "refused", str(error).partition(";")[0].partition(" (")[0]
    return str(table.schema.field(column).type), repr(table.column(column).to_pylist())  # -0.0 equals 0.0


@pytest.mark.parametrize("word", TYPES)
@pytest.mark.parametrize("column", ["body:a", "header:timestamp"])
def test_a_type_means_the_same_in_every_encoding(column: str, word: str, landings: list[KeenLanding]) -> None:
    of_csv, of_parquet = (cells(landing, column, word) for landing in landings)
    assert of_parquet == of_csv
    if of_csv[0] == "refused":
        assert of_csv[1] == f"c[{KEY}]: a cell of {column} is not of the column's type {word}"


def test_whole_numbers_with_a_negative_zero_are_doubles(tmp_path: Path) -> None:
    landing = KeenLanding(tmp_path)
    days: dict[str, list[Event]] = {"2026-01-01": [{"a": -0.0, "b": 0.0}, {"a": 1, "b": 1}], "2026-01-02": []}
    landing.land(Collection("c", date(2026, 1, 1), encoding=Encoding.PARQUET), days)
    table = landing.reader.load("c", list(days), pa.Table)
    assert repr(table.column("body:a").to_pylist()) == "[-0.0, 1.0]"
    assert repr(table.column("body:b").to_pylist()) == "[0, 1]"


@pytest.mark.parametrize("encoding", [Encoding.CSV, Encoding.CSV_GZ, Encoding.PARQUET])
def test_a_cell_that_is_not_of_its_type_shows_in_no_message(encoding: Encoding, tmp_path: Path) -> None:
    landing = KeenLanding(tmp_path)
    landing.land(Collection("c", date(2026, 1, 1), encoding=encoding), {KEY: [{"a": "ann@example.com" * 1_000, "b": 1}]})
    for word in ("int", "bool", "datetime", "num", "decimal"):
        with pytest.raises(ConfigurationError, match="a cell of body:a is not of the column's type") as refused:
            landing.reader.load("c", KEY, pa.Table, types={"body:a": word})
        assert "ann@" not in str(refused.value)
        assert len(str(refused.value)) < 200
