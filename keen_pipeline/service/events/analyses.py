"""Analyses over a selection: counts, unique values, and figures of numbers.

Numbers are read as doubles. Values of other types, and null, take no part in sums, averages and percentiles; without any number
the sum is 0 and the others are null. Percentiles interpolate linearly between neighbours, so the 50th is the median.
A unique value is any value but a missing one, null included; 1 and 1.0 are one value.
"""

# ruff: noqa: S608 - only our own file names, column names and bound parameters are put together here
from __future__ import annotations

import json
from typing import Any

import duckdb

from keen_pipeline.errors import InvalidInputError
from keen_pipeline.service.events.cells import decode_cell
from keen_pipeline.service.events.properties import CREATED_AT, EVENT_ID, TIMESTAMP, matching_paths, unflatten
from keen_pipeline.service.extractions.csv_export import Selection, column_name
from keen_pipeline.service.storage.catalog import Kinds
from keen_pipeline.service.storage.store import Snapshot

MAX_UNIQUE_VALUES = 1_000_000
_FETCH = 10_000

FIGURES: dict[str, str] = {
    "sum": "coalesce(fsum(v), 0)",
    "minimum": "min(v)",
    "maximum": "max(v)",
    "average": "favg(v)",
    "median": "quantile_cont(v, 0.5)",
    "percentile": "quantile_cont(v, {share})",
}


def figure(
    cursor: duckdb.DuckDBPyConnection, selection: Selection, name: str, target: str, percentile: float = 50
) -> float | int | None:
    """One figure of the numbers of property `target`. `percentile`: 0 to 100."""
    column = _value(selection, target)
    condition = selection.where
    aggregate = FIGURES[name].format(share=float(percentile) / 100)
    numbers = f"SELECT cell_number({column}) AS v FROM {selection.source(selection.segments)} WHERE {condition.sql}"
    row = cursor.execute(f"SELECT {aggregate} FROM ({numbers}) WHERE v IS NOT NULL", condition.parameters).fetchone()
    assert row is not None
    value: float | None = row[0]
    # Whole results are shown as whole numbers, as far as a double counts them exactly.
    return int(value) if value is not None and float(value).is_integer() and abs(value) < 2**53 else value


def unique_values(cursor: duckdb.DuckDBPyConnection, selection: Selection, target: str) -> list[Any]:
    """The unique values of property `target`, in the order of their cells. Raises InvalidInputError past a million."""
    column = _value(selection, target)
    condition = selection.where
    source = selection.source(selection.segments)
    rows = f"SELECT DISTINCT {column} AS v FROM {source} WHERE ({condition.sql}) AND {column} IS NOT NULL"
    sql = f"{rows} ORDER BY v LIMIT {MAX_UNIQUE_VALUES + 1}"
    cells = cursor.execute(sql, condition.parameters).fetchall()
    if len(cells) > MAX_UNIQUE_VALUES:
        raise InvalidInputError(
            f"{target}: more than {MAX_UNIQUE_VALUES} unique values; narrow the timeframe or the filters", field="timeframe"
        )
    values: dict[tuple[bool, Any], Any] = {}
    for (cell,) in cells:
        value = decode_cell(cell)
        key = json.dumps(value, sort_keys=True) if isinstance(value, (list, dict)) else value
        values.setdefault((isinstance(value, (list, dict)), (isinstance(value, bool), key)), value)
    return list(values.values())


def events(
    cursor: duckdb.DuckDBPyConnection, selection: Selection, *, latest: int | None, paths: list[str] | None
) -> list[dict[str, Any]]:
    """The events themselves, as nested objects, in order of arrival; or the `latest` newest ones, the newest first.

    `paths`: only these properties.
    """
    chosen = {p: c for p, c in selection.snapshot.columns.items() if paths is None or p in paths}
    condition = selection.where
    order = f" ORDER BY t DESC LIMIT {int(latest)}" if latest is not None else ""
    source = selection.source(selection.segments)
    sql = f"SELECT {', '.join(chosen.values()) or 'NULL'} FROM {source} WHERE {condition.sql}{order}"
    cursor.execute(sql, condition.parameters)
    result: list[dict[str, Any]] = []
    while rows := cursor.fetchmany(_FETCH):
        for row in rows:
            leaves = ((path, decode_cell(cell)) for path, cell in zip(chosen, row, strict=False) if cell is not None)
            result.append(unflatten(leaves))
    return result


def schema(snapshot: Snapshot, names: str) -> dict[str, dict[str, int]]:
    """Per property name how often it appears as which type: string, num, bool, null, array, object, datetime."""
    total: Kinds = {}
    for segment in snapshot.segments:
        for column, counts in segment.kinds.items():
            into = total.setdefault(column, {})
            for kind, number in counts.items():
                into[kind] = into.get(kind, 0) + number
    shown = {}
    for path in sorted(snapshot.columns):
        if names == "v2" and path in (CREATED_AT, EVENT_ID):
            continue
        counts = total[snapshot.columns[path]]
        if path in (TIMESTAMP, CREATED_AT):
            counts = {"datetime": sum(counts.values())}
        shown[column_name(path, names)] = counts
    return shown


def inferred_type(counts: dict[str, int]) -> str:
    """The most frequent type of a property; null only where it is nothing else."""
    known = sorted((-number, kind) for kind, number in counts.items() if kind != "null")
    return known[0][1] if known else "null"


def paths_of(selection: Selection, names: list[str]) -> list[str]:
    """The paths that property names mean; a name that no event has stands for itself."""
    return [path for name in names for path in (matching_paths(name, selection.snapshot.columns) or [name])]


def _value(selection: Selection, target: str) -> str:
    found = [selection.snapshot.columns[path] for path in matching_paths(target, selection.snapshot.columns)]
    return f"coalesce({', '.join(found)})" if found else "NULL::VARCHAR"
