"""The texts of values in SQL against plain Python: comparisons, kinds, CSV fields, and what is one unique value."""

from __future__ import annotations

import csv
import io
import json
import math
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import duckdb
import pytest

from keen_pipeline.filters import AnyOf, Filter
from keen_pipeline.service.events.query import where
from keen_pipeline.service.events.values import encode_value
from keen_pipeline.service.storage.engine import Engine

ODD = [
    0,
    1,
    2,
    3,
    5,
    10,
    2**53 - 1,
    2**53,
    2**53 + 1,
    2**53 + 2,
    2**63,
    2**127 - 1,
    2**127,
    10**30 - 1,
    10**30,
    10**30 + 1,
    10**300,
]
DOUBLES = [0.5, 1.0, 2.5, 1e-300, float(2**53), 1e16, 1e30, 1e300, 123456789.125, 9.999999999999999e29, float(2**127)]
NUMBERS: list[float] = [sign * number for number in [*ODD, *DOUBLES] for sign in (1, -1)]
COMPARE: dict[str, Callable[[Any, Any], bool]] = {
    "eq": lambda a, b: bool(a == b),
    "lt": lambda a, b: bool(a < b),
    "lte": lambda a, b: bool(a <= b),
    "gt": lambda a, b: bool(a > b),
    "gte": lambda a, b: bool(a >= b),
}
TEXTS = [
    "",
    "a",
    'a"b',
    "a\\b",
    "a,b",
    "\n",
    "\r",
    "é",
    "\0",
    "[1,]",
    "[1]",
    '{"a":1}',
    "null",
    '"x"',
    "🙂",
    "1",
    "NaN",
    " a ",
    "\u2028",
]


@pytest.fixture
def cursor(tmp_path: Path) -> Iterator[duckdb.DuckDBPyConnection]:
    engine = Engine(tmp_path, 128, 60)
    with engine.query() as made:
        yield made
    engine.close()


@pytest.mark.parametrize("operator", COMPARE)
def test_numbers_of_any_size_compare_exactly(cursor: duckdb.DuckDBPyConnection, operator: str) -> None:
    cursor.execute("CREATE TEMP TABLE x (t BIGINT, p0 VARCHAR)")
    others = [encode_value(other) for other in ("5", True, None, [5], {})]
    rows = [*enumerate(map(encode_value, NUMBERS)), *((-1, text) for text in others)]
    cursor.executemany("INSERT INTO x VALUES (?, ?)", rows)
    for wanted in NUMBERS:
        condition = where({"n": "p0"}, [Filter("n", operator, wanted)], None)
        found = cursor.execute(f"SELECT t FROM x WHERE {condition.sql} ORDER BY t", condition.parameters).fetchall()
        assert [t for (t,) in found] == [i for i, number in enumerate(NUMBERS) if COMPARE[operator](number, wanted)], wanted


def test_a_string_is_its_own_field_or_becomes_one(cursor: duckdb.DuckDBPyConnection) -> None:
    for text in TEXTS:
        sql = "SELECT value_string(v), csv_field(v), value_kind(v), is_csv_field(v) FROM (SELECT ?::VARCHAR AS v)"
        row = cursor.execute(sql, [encode_value(text)]).fetchone()
        assert row is not None
        assert (row[0], row[2]) == (text, "string")
        assert next(csv.reader(io.StringIO(row[1], newline=""))) == [text]
        assert row[3] == ("\\" not in encode_value(text)) == (row[1] == encode_value(text))


def test_every_other_value_is_its_json(cursor: duckdb.DuckDBPyConnection) -> None:
    values: dict[str, list[Any]] = {
        "num": NUMBERS,
        "bool": [True, False],
        "null": [None],
        "array": [[], [1], [1, 2], ["a"], [{"b": "x,y", "a": None}], ["\\", "\n"]],
        "object": [{}],
    }
    for kind, some in values.items():
        for value in some:
            row = cursor.execute(
                "SELECT csv_field(v), value_kind(v) FROM (SELECT ?::VARCHAR AS v)", [encode_value(value)]
            ).fetchone()
            assert row is not None
            assert row[1] == kind
            (field,) = next(csv.reader(io.StringIO(row[0], newline="")))
            assert repr(json.loads(field)) == repr(json.loads(json.dumps(value, sort_keys=True)))


def test_equal_numbers_have_one_unique_text(cursor: duckdb.DuckDBPyConnection) -> None:
    for value in NUMBERS:
        row = cursor.execute("SELECT unique_text(?)", [encode_value(value)]).fetchone()
        assert row is not None
        assert row[0] == (str(int(value)) if float(value).is_integer() else encode_value(value))


@pytest.mark.parametrize("value", [math.inf, -math.inf, math.nan, 10**400, [10**400], [{"a": math.inf}]])
def test_numbers_outside_the_range_of_a_double_are_refused(value: Any) -> None:
    with pytest.raises((ValueError, OverflowError)):
        encode_value(value)


def test_a_condition_that_is_given_often_is_planned_once() -> None:
    """Of a collection with a thousand properties, 200 of them took nine seconds and a gigabyte."""
    columns = {f"a.k{n}": f"p{n}" for n in range(1000)}
    there, other = Filter("a", "exists", property_value=True), Filter("a.k1", "exists", property_value=True)
    one, both = where(columns, [there], None), where(columns, [there, other], None)
    assert where(columns, [there] * 200, None) == one
    assert where(columns, [there, other] * 100, None) == both != one
    assert len(where(columns, [AnyOf((there,) * 200)], None).sql) < 1.1 * len(one.sql)
    assert one.parameters == (True,)
    with duckdb.connect() as connection:
        row = f"(SELECT {', '.join(f'NULL AS p{n}' if n != 7 else 'true AS p7' for n in range(1000))})"
        for conditions, expected in (([there], 1), ([there, other], 0), ([Filter("b", "exists", property_value=False)], 1)):
            condition = where(columns, conditions, None)
            sql = f"SELECT count(*) FROM {row} WHERE {condition.sql}"
            assert connection.execute(sql, condition.parameters).fetchone() == (expected,)
