"""Writes one extraction as a CSV file.

The header is the union of the properties of the extracted events: the timestamp first, the others sorted by path, by code point.
v2.0 files have `header:timestamp` and the `body:` properties; v3.0 files also have `keen.created_at` and `keen.id`. Records
end with LF and stand in order of arrival; the fields are described in `cells`. Without events the file has the header
`header:timestamp` (`keen.timestamp`) alone.
"""

# ruff: noqa: S608 - only our own file names, column names and bound parameters are put together here
from __future__ import annotations

import re
from collections.abc import Sequence, Set
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import duckdb

from keen_pipeline.filters import Condition
from keen_pipeline.service.events.cells import quote
from keen_pipeline.service.events.incoming import micros_of
from keen_pipeline.service.events.properties import CREATED_AT, SERVICE_PATHS, TIMESTAMP, v2_name
from keen_pipeline.service.events.query import Where, where
from keen_pipeline.service.storage.engine import one_row, sql_text
from keen_pipeline.service.storage.parts import Part
from keen_pipeline.service.storage.store import Snapshot
from keen_pipeline.timeframe import Timeframe


@dataclass(frozen=True)
class Selection:
    """The events of a snapshot that an extraction asks for. `names`: `v2` or `v3`, how properties are called."""

    snapshot: Snapshot
    filters: Sequence[Condition]
    timeframe: Timeframe | None
    names: str

    @property
    def segments(self) -> tuple[Part, ...]:
        """The segments that may hold such events."""
        if self.timeframe is None:
            return self.snapshot.segments
        first, end = micros_of(self.timeframe.start), micros_of(self.timeframe.end)
        return tuple(one for one in self.snapshot.segments if one.last >= first and one.first < end)

    @cached_property
    def where(self) -> Where:
        """The condition. Raises InvalidInputError naming the filter."""
        return where(self.snapshot.columns, self.filters, self.timeframe, self.names)

    def rows(self, what: str, *, latest: int | None = None, segments: Sequence[Part] | None = None) -> tuple[str, tuple[Any, ...]]:
        """The SQL and the parameters of one row for each event, in order of arrival, or for the `latest`, the newest first.

        Of events of one instant the one that arrived last is the newest: every reading has to choose the same ones. `segments`: in
        these alone; they are here then.
        """
        source = self.snapshot.source(self.segments if segments is None else segments)
        asked = f"{source} WHERE {self.where.sql}"
        if latest is not None:
            # The columns in one value: DuckDB has a buffer for each one of what it limits, and no memory for a thousand of them.
            columns = list(dict.fromkeys(re.findall(r"\bp[0-9]+\b", what)))
            packed = f"SELECT t, row_number() OVER () AS arrived, [{', '.join(columns)}]::VARCHAR[] AS packed FROM {asked}"
            unpacked = ", ".join(["t", *(f"packed[{place}] AS {column}" for place, column in enumerate(columns, 1))])
            asked = f"(SELECT {unpacked} FROM ({packed} ORDER BY t DESC, arrived DESC LIMIT {int(latest)}))"
        return f"SELECT {what} FROM {asked}", self.where.parameters

    def split(self) -> tuple[list[Part], list[Part]]:
        """The segments of which every event is asked for, as far as its first and last one can tell, and the others."""
        covered, doubtful = list[Part](), list[Part]()
        window = self.timeframe
        for one in self.segments:
            inside = window is None or (micros_of(window.start) <= one.first and one.last < micros_of(window.end))
            (covered if inside and not self.filters else doubtful).append(one)
        return covered, doubtful


def measure(cursor: duckdb.DuckDBPyConnection, selection: Selection, latest: int | None = None) -> tuple[int, set[str]]:
    """The number of events of a selection, or of its `latest`, and the columns that they have.

    Reads only what is not known of whole segments.
    """
    covered, doubtful = selection.split() if latest is None else ([], list(selection.segments))
    present = set(selection.snapshot.facts(covered).kinds)
    columns = sorted(selection.snapshot.facts(doubtful).kinds)
    events, *counts = _count(cursor, selection, doubtful, columns, latest)
    present |= {column for column, number in zip(columns, counts, strict=True) if number}
    return events + sum(segment.events for segment in covered), present


def count(cursor: duckdb.DuckDBPyConnection, selection: Selection) -> int:
    """The number of events of a selection. Raises InvalidInputError naming the filter."""
    covered, doubtful = selection.split()
    (events,) = _count(cursor, selection, doubtful, [])
    return events + sum(segment.events for segment in covered)


def _count(
    cursor: duckdb.DuckDBPyConnection,
    selection: Selection,
    segments: Sequence[Part],
    columns: Sequence[str],
    latest: int | None = None,
) -> tuple[int, ...]:
    """The number of events of a selection in some segments, or of its `latest`, and of values in each of the columns."""
    if not segments:
        return (0,) * (1 + len(columns))
    counts = ", ".join(["count(*)", *(f"count({column})" for column in columns)])
    rows, parameters = selection.rows(", ".join(["t", *columns]), latest=latest, segments=segments)
    return one_row(cursor, f"SELECT {counts} FROM ({rows})", parameters)


def header_paths(selection: Selection, present: set[str]) -> list[str]:
    hidden = set(SERVICE_PATHS) if selection.names == "v2" else {TIMESTAMP}
    rest = sorted(path for path, column in selection.snapshot.columns.items() if column in present and path not in hidden)
    return [TIMESTAMP, *rest]


def column_name(path: str, names: str) -> str:
    return v2_name(path) if names == "v2" else path


def write_csv(
    cursor: duckdb.DuckDBPyConnection,
    selection: Selection,
    target: Path,
    paths: Sequence[str] | None = None,
    *,
    latest: int | None = None,
) -> int:
    """Write the file and return its number of events. `paths`: these properties alone; `latest`: only the newest so many."""
    events, present = measure(cursor, selection, latest)
    header = header_paths(selection, present) if paths is None else list(paths)
    fields = [quote(column_name(path, selection.names)) for path in header]
    if not events:
        target.write_text(",".join(fields) + "\n", encoding="utf-8")
        return 0
    escaped = selection.snapshot.facts(selection.segments).escaped
    columns = [_field(path, selection.snapshot.columns.get(path, "NULL"), escaped) for path in header]
    # The names are bound like every other text of a user; the fields are CSV already, so nothing is quoted again.
    names = ", ".join(f"?::VARCHAR AS c{i}" for i in range(len(header)))
    rows, parameters = selection.rows(", ".join(columns), latest=latest)
    missing = "" if len(header) > 1 else '""'  # an empty line is no record
    options = f"FORMAT csv, HEADER false, QUOTE '', ESCAPE '', NULLSTR '{missing}'"
    cursor.execute(f"COPY (SELECT {names} UNION ALL ({rows})) TO {sql_text(str(target))} ({options})", [*fields, *parameters])
    return events


def _field(path: str, column: str, escaped: Set[str]) -> str:
    """The CSV field of a column. Of most columns the text of every value is its field as it stands."""
    if path in (TIMESTAMP, CREATED_AT):
        return f"substring({column}, 2, strlen({column}) - 2)"
    return f"csv_field({column})" if column in escaped else column
