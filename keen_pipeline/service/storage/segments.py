"""Segments: immutable Parquet files with the column `t` (microseconds since 1970) and one column of cells per property.

Written under a temporary name, synced, renamed; only then may the catalog name them.
"""

# ruff: noqa: S608 - only our own file names, column names and bound parameters are put together here
from __future__ import annotations

import uuid
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path

import duckdb

from keen_pipeline.service.events.query import Where
from keen_pipeline.service.storage.catalog import Kinds, Segment
from keen_pipeline.service.storage.engine import Engine, sql_text
from keen_pipeline.service.storage.event_log import longest_line, sync_file, sync_folder

MERGE_COUNT = 8
MERGE_EVENTS = 1_000_000
# DuckDB reads JSON into buffers of twice this, one or more a thread; a line must fit into it.
_MIN_LINE_BYTES = 1024 * 1024
# A row group is held in memory until it is whole; a wide collection gets smaller ones. DuckDB's own size is the largest.
_ROW_GROUP_CELLS = 4 * 1024 * 1024
_ROW_GROUP_EVENTS = (2048, 122_880)


def mergeable(segments: Sequence[Segment]) -> list[Segment]:
    """The newest segments worth merging: at least eight in a row of about one size class, in order of arrival.

    Each event is rewritten once per size class (powers of eight), so rarely more than six times in its life.
    """
    run: list[Segment] = []
    for segment in reversed(segments):
        if segment.events >= MERGE_EVENTS or (len(run) >= MERGE_COUNT and _size_class(segment) > _size_class(run[0])):
            break
        run.insert(0, segment)
    if len(run) < MERGE_COUNT:
        return []
    # A big one at the front is left alone until its followers together weigh as much.
    while len(run) > MERGE_COUNT and run[0].events > sum(s.events for s in run[1:]):
        run.pop(0)
    smallest = _size_class(min(run, key=lambda s: s.events))
    return run if sum(_size_class(s) == smallest for s in run) >= MERGE_COUNT or len(run) >= 4 * MERGE_COUNT else []


def _size_class(segment: Segment) -> int:
    return len(f"{segment.events:o}")


class SegmentFiles:
    """Writes segments with DuckDB."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    def fold(self, folder: Path, logs: Sequence[Path], columns: Sequence[str], position: int) -> Segment:
        """One segment of the events in sealed logs."""
        types = ", ".join(f"{column}: 'VARCHAR'" for column in columns)
        line_bytes = max([_MIN_LINE_BYTES, *(longest_line(path) for path in logs)])
        files = ", ".join(sql_text(str(path)) for path in logs)
        source = f"""(SELECT * FROM read_json([{files}], format = 'newline_delimited', maximum_object_size = {line_bytes},
            columns = {{t: 'BIGINT', {types}}}) WHERE t IS NOT NULL)"""
        with self._engine.cursor() as cursor:
            return self._write(cursor, folder, source, [], position, None)

    def merge(self, folder: Path, segments: Sequence[Segment]) -> Segment:
        """One segment of several neighbours."""
        kinds: dict[str, Counter[str]] = {}
        for segment in segments:
            for column, counts in segment.kinds.items():
                kinds.setdefault(column, Counter()).update(counts)
        source = event_source(folder, segments, kinds)
        with self._engine.cursor() as cursor:
            return self._write(cursor, folder, source, [], segments[0].position, {c: dict(k) for c, k in kinds.items()})

    def without(self, folder: Path, segment: Segment, where: Where) -> Segment | None:
        """The segment without the events that pass: itself where none does, None where nothing is left."""
        source = event_source(folder, [segment], segment.kinds)
        with self._engine.cursor() as cursor:
            passing = cursor.execute(f"SELECT count(*) FROM {source} WHERE {where.sql}", where.parameters).fetchone()
            assert passing is not None
            if passing[0] == 0:
                return segment
            if passing[0] == segment.events:
                return None
            rest = f"(SELECT * FROM {source} WHERE NOT coalesce({where.sql}, false))"
            return self._write(cursor, folder, rest, where.parameters, segment.position, None)

    def _write(
        self,
        cursor: duckdb.DuckDBPyConnection,
        folder: Path,
        source: str,
        parameters: Sequence[object],
        position: int,
        kinds: Kinds | None,
    ) -> Segment:
        final = folder / f"{uuid.uuid4().hex}.parquet"
        temporary = final.with_suffix(".tmp")
        width = len(cursor.execute(f"SELECT * FROM {source} LIMIT 0", parameters).description or [])
        least, most = _ROW_GROUP_EVENTS
        group = min(max(_ROW_GROUP_CELLS // width, least), most)
        options = f"FORMAT parquet, COMPRESSION zstd, COMPRESSION_LEVEL 1, ROW_GROUP_SIZE {group}"
        try:
            cursor.execute(f"COPY {source} TO {sql_text(str(temporary))} ({options})", parameters)
            sync_file(temporary)
            written = f"read_parquet({sql_text(str(temporary))})"
            row = cursor.execute(f"SELECT count(*), min(t), max(t) FROM {written}").fetchone()
            assert row is not None
            if kinds is None:
                kinds = self._kinds(cursor, written)
            temporary.rename(final)
        except BaseException:
            temporary.unlink(missing_ok=True)
            raise
        sync_folder(folder)
        return Segment(final.name, position, row[0], row[1], row[2], kinds)

    @staticmethod
    def _kinds(cursor: duckdb.DuckDBPyConnection, source: str) -> Kinds:
        described = cursor.execute(f"SELECT * FROM {source} LIMIT 0").description or []
        columns = [d[0] for d in described if d[0] != "t"]
        if not columns:
            return {}
        # As rows of one column: an expression for each of a thousand columns takes DuckDB minutes and gigabytes to plan.
        values = f"UNPIVOT (SELECT {', '.join(columns)} FROM {source}) ON COLUMNS(*) INTO NAME name VALUE value"
        rows = cursor.execute(f"SELECT name, cell_kind(value), count(*) FROM ({values}) GROUP BY ALL").fetchall()
        kinds: Kinds = {}
        for name, kind, number in rows:
            kinds.setdefault(name, {})[kind] = number
        return kinds


def event_source(folder: Path, segments: Sequence[Segment], columns: Iterable[str]) -> str:
    """The SQL source of the events of segments, in order: `t` and `columns`, NULL where a segment lacks one."""
    present = {column for segment in segments for column in segment.kinds}
    wanted = ", ".join(["t", *(column if column in present else f"NULL::VARCHAR AS {column}" for column in columns)])
    if not segments:
        return f"(SELECT {wanted} FROM (SELECT NULL::BIGINT AS t) WHERE false)"
    files = ", ".join(sql_text(str(folder / segment.file)) for segment in segments)
    return f"(SELECT {wanted} FROM read_parquet([{files}], union_by_name = true))"
