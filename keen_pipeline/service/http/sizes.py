"""How large an answer would be, measured by the database before anything of it is read: answers are put together in memory."""

# ruff: noqa: S608 - only our own file names, column names and bound parameters are put together here
from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import duckdb

from keen_pipeline.errors import ExtractionTooLargeError
from keen_pipeline.service.events import analyses
from keen_pipeline.service.extractions.csv_export import Selection

_OVERHEAD = 6
"""Quotes, colon, comma and bracket around a name and its value."""


def check_events(
    cursor: duckdb.DuckDBPyConnection, selection: Selection, latest: int | None, paths: list[str] | None, most: int
) -> None:
    """Raises ExtractionTooLargeError when the events of a selection have more than `most` bytes, names included."""
    chosen = {p: c for p, c in _columns(selection).items() if paths is None or p in paths}
    sizes = " + ".join(f"coalesce(strlen({column}) + {len(path) + _OVERHEAD}, 0)" for path, column in chosen.items()) or "0"
    newest = f" ORDER BY t DESC LIMIT {int(latest)}" if latest is not None else ""
    size = _sum(cursor, selection, f"SELECT {sizes} AS size FROM {{source}} WHERE {{condition}}{newest}")
    if size > most:
        raise ExtractionTooLargeError(
            f"the extraction is too large: {size} bytes, at most {most} at once; shorten the timeframe or give an email"
        )


def unique_values(cursor: duckdb.DuckDBPyConnection, selection: Selection, target: str, most: int) -> list[Any]:
    """The unique values of a property. Raises ExtractionTooLargeError when they have more than `most` bytes."""
    known = _columns(selection)
    columns = [known[path] for path in analyses.paths_of(selection, [target]) if path in known]
    values = f"SELECT coalesce({', '.join([*columns, repr('')])}) AS v FROM {{source}} WHERE {{condition}}"
    # All values are measured first, which is cheap; the unique ones only when all are too large together.
    if _sum(cursor, selection, f"SELECT strlen(v) AS size FROM ({values})") > most:
        found = _sum(cursor, selection, f"SELECT strlen(v) AS size FROM (SELECT DISTINCT v FROM ({values}))")
        if found > most:
            raise ExtractionTooLargeError(
                f"the unique values are too large: {found} bytes, at most {most} at once; shorten the timeframe or give filters"
            )
    return analyses.unique_values(cursor, selection, target)


def _columns(selection: Selection) -> Mapping[str, str]:
    return selection.snapshot.columns


def _sum(cursor: duckdb.DuckDBPyConnection, selection: Selection, rows: str) -> int:
    condition = selection.where
    source = selection.source(selection.segments)
    sql = rows.replace("{source}", source).replace("{condition}", condition.sql)
    found = cursor.execute(f"SELECT coalesce(sum(size), 0) FROM ({sql})", condition.parameters).fetchone()
    assert found is not None
    return int(found[0])
