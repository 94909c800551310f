"""Analyses over a selection: counts, unique values, and figures of numbers.

Numbers are read as doubles, save that the least and the greatest one keep their digits. Values of other types, and null, take no
part; without any number the sum is 0 and the others are null. Percentiles interpolate linearly between neighbours. The median is a
number that is there: of an even number of values the lower of the two in the middle, as in Keen's live service ([10, 20]: 10).
A unique value is any value but a missing one, null included; 1 and 1.0 are one value.
"""

# ruff: noqa: S608 - only our own file names, column names and bound parameters are put together here
from __future__ import annotations

import json
import math
from collections.abc import Sequence
from typing import Any

import duckdb

from keen_pipeline.errors import ExtractionTooLargeError, InvalidInputError
from keen_pipeline.service.events.properties import CREATED_AT, EVENT_ID, TIMESTAMP, matching_paths, paths_within, unflatten
from keen_pipeline.service.extractions.csv_export import Selection, column_name
from keen_pipeline.service.storage.engine import one_row
from keen_pipeline.service.storage.store import Snapshot

MAX_UNIQUE_VALUES = 1_000_000
_FETCH_EVENTS = 256  # each may have hundreds of kilobytes
_NAME_OVERHEAD = 6  # quotes, colon, comma and bracket around a name and its value

FIGURES: dict[str, str] = {
    "sum": "coalesce(fsum(v), 0)",
    "minimum": "min(v)",
    "maximum": "max(v)",
    # Of large numbers the sum alone may be outside the range of a double.
    "average": f"CASE WHEN isfinite(fsum(v)) THEN favg(v) ELSE favg(v / {2**64}) * {2**64} END",
    "median": "quantile_disc(v, 0.5)",
    "percentile": "quantile_cont(v, {share})",
}


def figure(
    cursor: duckdb.DuckDBPyConnection, selection: Selection, name: str, target: str, percentile: float = 50
) -> float | int | None:
    """One figure of the numbers of property `target`. `percentile`: 0 to 100.

    Raises InvalidInputError if the sum is outside the range of a double.
    """
    aggregate = FIGURES[name].format(share=float(percentile) / 100)
    numbers, parameters = selection.rows(f"{_value(selection, target)} AS x, value_number(x) AS v")
    value: float | None
    (value,) = one_row(cursor, f"SELECT {aggregate} FROM ({numbers}) WHERE v IS NOT NULL", parameters)
    if value is None:
        return None
    if not math.isfinite(value):
        raise InvalidInputError(
            f"{target}: the {name} is outside the range of a double; narrow the filters", field="target_property"
        )
    if name in ("minimum", "maximum") and abs(value) >= 2**53:
        # Several whole numbers may be one double.
        texts = cursor.execute(f"SELECT DISTINCT x FROM ({numbers}) WHERE v = ?", [*parameters, value]).fetchall()
        choose = min if name == "minimum" else max
        exact: float | int = choose(json.loads(text) for (text,) in texts)
        return exact
    # Whole results are shown as whole numbers, as far as a double counts them exactly.
    return int(value) if float(value).is_integer() and abs(value) < 2**53 else value


def unique_values(cursor: duckdb.DuckDBPyConnection, selection: Selection, target: str, most_bytes: int) -> list[Any]:
    """The unique values of property `target`, in the order of their texts.

    Raises InvalidInputError past a million, ExtractionTooLargeError when they have more than `most_bytes`.
    """
    rows, parameters = _values(selection, target)
    # All values are measured first, which is cheap; the unique ones only when all are too large together.
    for measured in (rows, f"SELECT DISTINCT v FROM ({rows})"):
        (size,) = one_row(cursor, f"SELECT coalesce(sum(strlen(v)), 0)::BIGINT FROM ({measured})", parameters)
        if size <= most_bytes:
            break
    else:
        raise ExtractionTooLargeError(
            f"the unique values are too large: {size} bytes, at most {most_bytes} at once; shorten the timeframe or give filters"
        )
    sql = f"SELECT min(v) AS v FROM ({rows}) GROUP BY unique_text(v) ORDER BY v LIMIT {MAX_UNIQUE_VALUES + 1}"
    texts = cursor.execute(sql, parameters).fetchall()
    if len(texts) > MAX_UNIQUE_VALUES:
        raise InvalidInputError(
            f"{target}: more than {MAX_UNIQUE_VALUES} unique values; narrow the timeframe or the filters", field="timeframe"
        )
    return [json.loads(text) for (text,) in texts]


def count_unique(cursor: duckdb.DuckDBPyConnection, selection: Selection, target: str) -> int:
    """How many unique values property `target` has, however many."""
    rows, parameters = _values(selection, target)
    (counted,) = one_row(cursor, f"SELECT count(DISTINCT unique_text(v)) FROM ({rows})", parameters)
    return int(counted)


def events(
    cursor: duckdb.DuckDBPyConnection, selection: Selection, *, latest: int | None, paths: list[str] | None
) -> list[dict[str, Any]]:
    """The events themselves, as nested objects, in order of arrival; or the `latest` newest ones, the newest first.

    `paths`: only these properties.
    """
    chosen = _chosen(selection, paths)
    sql, parameters = selection.rows(", ".join(chosen.values()) or "NULL", latest=latest)
    cursor.execute(sql, parameters)
    result: list[dict[str, Any]] = []
    while rows := cursor.fetchmany(_FETCH_EVENTS):
        for row in rows:
            leaves = ((path, json.loads(text)) for path, text in zip(chosen, row, strict=False) if text is not None)
            result.append(unflatten(leaves))
    return result


def check_size(
    cursor: duckdb.DuckDBPyConnection, selection: Selection, *, latest: int | None, paths: list[str] | None, most_bytes: int
) -> None:
    """Raises ExtractionTooLargeError when such events have more than `most_bytes`, names included. Nothing of them is read."""
    columns = _chosen(selection, paths).items()
    # One sum for each: DuckDB takes no expression of a thousand terms.
    sums = ", ".join(f"sum(strlen({column}) + {len(path) + _NAME_OVERHEAD})" for path, column in columns)
    sql, parameters = selection.rows(", ".join(column for _, column in columns) or "NULL", latest=latest)
    size = sum(map(int, filter(None, one_row(cursor, f"SELECT {sums or '0'} FROM ({sql})", parameters))))
    if size > most_bytes:
        raise ExtractionTooLargeError(
            f"the extraction is too large: {size} bytes, at most {most_bytes} at once; shorten the timeframe or give an email"
        )


def schema(snapshot: Snapshot, names: str) -> dict[str, dict[str, int]]:
    """Per property name how often it appears as which type: string, num, bool, null, array, object, datetime."""
    total = snapshot.facts(snapshot.segments).kinds
    shown = {}
    for path in sorted(path for path, column in snapshot.columns.items() if column in total):
        if names == "v2" and path in (CREATED_AT, EVENT_ID):
            continue
        counts = total[snapshot.columns[path]]
        if path in (TIMESTAMP, CREATED_AT):
            counts = {"datetime": sum(counts.values())}
        shown[column_name(path, names)] = counts
    return shown


def inferred_type(counts: dict[str, int]) -> str:
    """The most frequent type of a property; null only if it is nothing else."""
    known = sorted((-number, kind) for kind, number in counts.items() if kind != "null")
    return known[0][1] if known else "null"


def paths_of(selection: Selection, names: Sequence[str]) -> list[str]:
    """The paths that property names mean, each once, those within an object too; a name that no event has stands for itself."""
    columns = selection.snapshot.columns
    return list(dict.fromkeys(path for name in names for path in paths_within(name, columns, selection.names) or [name]))


def _chosen(selection: Selection, paths: list[str] | None) -> dict[str, str]:
    return {path: column for path, column in selection.snapshot.columns.items() if paths is None or path in paths}


def _value(selection: Selection, target: str) -> str:
    columns = selection.snapshot.columns
    found = [columns[path] for path in matching_paths(target, columns, selection.names)]
    return f"coalesce({', '.join(found)})" if found else "NULL::VARCHAR"


def _values(selection: Selection, target: str) -> tuple[str, Sequence[Any]]:
    rows, parameters = selection.rows(f"{_value(selection, target)} AS v")
    return f"SELECT v FROM ({rows}) WHERE v IS NOT NULL", parameters
