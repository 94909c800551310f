"""Parquet files of events: the column `t` (microseconds since 1970) and one column of texts (see `values`) per property they have.

What a file holds of each property stands in its footer, so that nothing has to read it twice.
"""

# ruff: noqa: S608 - only our own file names, column names and bound parameters are put together here
from __future__ import annotations

import json
import uuid
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from weakref import WeakKeyDictionary

import duckdb

from keen_pipeline.service.config import MIB
from keen_pipeline.service.events.query import Where
from keen_pipeline.service.storage.engine import Engine, is_disk_full, one_row, own_errors, sql_text
from keen_pipeline.service.storage.folder.presence import sync
from keen_pipeline.service.storage.parts import DataFile, Kinds, LogPart, Part, column_order
from keen_pipeline.service.storage.places import StorageError

MERGE_COUNT = 8
MAX_EVENTS = 1_000_000
MAX_BYTES = 256 * MIB
"""Of a file that merging makes."""

# DuckDB reads JSON into buffers of twice this, one or more a thread; a line must fit into it.
_MIN_LINE_BYTES = MIB
# A row group is held in memory until it is whole. DuckDB's own size is the largest, and a cell takes sixteen bytes at least.
_ROW_GROUP_BYTES = 16 * MIB
_ROW_GROUP_EVENTS = 122_880
_CELL_BYTES = 16
# What DuckDB needs to read JSON, measured: buffers, and vectors for each column.
_LOG_MIB, _LOG_COLUMN_MIB = 40, 0.27
_FOOTER = "keen_pipeline"
_REMEMBERED = 1000


@dataclass(frozen=True)
class Facts:
    """What some events have. `bytes`: of the texts. `escaped`: columns with a text that is not its own CSV field."""

    bytes: int
    kinds: Kinds
    escaped: frozenset[str]

    def text(self) -> str:
        """As it stands in a file's footer."""
        return json.dumps({"bytes": self.bytes, "kinds": self.kinds, "escaped": sorted(self.escaped)}, separators=(",", ":"))


def together(facts: Iterable[Facts]) -> Facts:
    size, kinds, escaped = 0, dict[str, Counter[str]](), set[str]()
    for one in facts:
        size += one.bytes
        escaped |= one.escaped
        for column, counts in one.kinds.items():
            kinds.setdefault(column, Counter()).update(counts)
    return Facts(size, {column: dict(counts) for column, counts in kinds.items()}, frozenset(escaped))


def mergeable(files: Sequence[DataFile]) -> list[DataFile]:
    """The newest files worth merging: at least eight in a row of about one size class, in order of arrival.

    Each event is rewritten once per size class (powers of eight), so rarely more than six times in its life.
    """
    run: list[DataFile] = []
    events = size = 0
    for file in reversed(files):
        events, size = events + file.events, size + file.bytes
        if events > MAX_EVENTS or size > MAX_BYTES or (len(run) >= MERGE_COUNT and _size_class(file) > _size_class(run[0])):
            break
        run.insert(0, file)
    if len(run) < MERGE_COUNT:
        return []
    # A big one at the front is left alone until its followers together weigh as much.
    while len(run) > MERGE_COUNT and run[0].events > sum(file.events for file in run[1:]):
        run = run[1:]
    smallest = _size_class(min(run, key=lambda file: file.events))
    return run if sum(_size_class(file) == smallest for file in run) >= MERGE_COUNT or len(run) >= 4 * MERGE_COUNT else []


def _size_class(file: DataFile) -> int:
    return len(f"{file.events:o}")


class EventFiles:
    """Writes files of events into the folder `work`, and reads what parts hold. Raises MemoryShortageError, DiskFullError."""

    def __init__(self, engine: Engine, work: Path) -> None:
        self.engine, self._work = engine, work
        self._file_facts = lru_cache(_REMEMBERED)(self._read_file_facts)
        self._log_facts: WeakKeyDictionary[LogPart, Facts] = WeakKeyDictionary()  # whose files go with the last who reads them

    def fold(self, logs: Sequence[LogPart]) -> DataFile:
        columns = column_order({column for log in logs for column in log.columns})
        source = event_source([], logs, columns, {})
        with self.engine.memory.reserved(reading_mib(logs)), self.engine.cursor() as cursor:
            return self._write(cursor, source, columns, logs[0].number, sum(log.events for log in logs))

    def merge(self, files: Mapping[DataFile, Path]) -> DataFile:
        """One file of several neighbours. `files`: in order of arrival, with their paths."""
        facts = together(self.facts(files).values())
        columns = column_order(facts.kinds)
        source = event_source(list(files.values()), [], columns, facts.kinds)
        with self.engine.cursor() as cursor:
            events = sum(file.events for file in files)
            return self._write(cursor, source, columns, next(iter(files)).number, events, facts=facts)

    def without(
        self, cursor: duckdb.DuckDBPyConnection, file: DataFile, path: Path, columns: Sequence[str], where: Where
    ) -> DataFile | None:
        """A file without the events that pass: itself if none does, None if nothing is left. `columns`: those of `where`."""
        (facts,) = self.facts({file: path}).values()
        source = event_source([path], [], column_order({*columns, *facts.kinds}), facts.kinds)
        with own_errors("deleting events"):
            (passing,) = one_row(cursor, f"SELECT count(*) FROM {source} WHERE {where.sql}", where.parameters)
        if passing == 0:
            return file
        left = file.events - passing
        rest = f"(SELECT * FROM {source} WHERE NOT ({where.sql}))"
        return self._write(cursor, rest, column_order(facts.kinds), file.number, left, where.parameters) if left else None

    def _write(
        self,
        cursor: duckdb.DuckDBPyConnection,
        source: str,
        columns: Sequence[str],
        number: int,
        events: int,
        parameters: Sequence[object] = (),
        facts: Facts | None = None,
    ) -> DataFile:
        path = self._work / f"{number:012d}-{uuid.uuid4().hex[:12]}.parquet"
        try:
            with own_errors("writing events"):
                self._work.mkdir(mode=0o700, exist_ok=True)  # worth nothing, so somebody may have removed it
                facts = facts or _look(cursor, source, columns, parameters)
                present = column_order(facts.kinds)
                event_bytes = max(facts.bytes // events, (len(present) + 1) * _CELL_BYTES)
                group = min(max(_ROW_GROUP_BYTES // event_bytes, 1), _ROW_GROUP_EVENTS)
                options = (
                    f"FORMAT parquet, COMPRESSION zstd, COMPRESSION_LEVEL 1, ROW_GROUP_SIZE {group},"
                    f" KV_METADATA {{{_FOOTER}: {sql_text(facts.text())}}}"
                )
                rows = f"SELECT {', '.join(['t', *present])} FROM {source}"
                cursor.execute(f"COPY ({rows}) TO {sql_text(str(path))} ({options})", parameters)
                path.chmod(0o600)
                sync(path)
                written, first, last = one_row(cursor, f"SELECT count(*), min(t), max(t) FROM read_parquet({sql_text(str(path))})")
            _check_number(path, written, events)
        except BaseException:
            path.unlink(missing_ok=True)
            raise
        return DataFile(path.name, events, first, last, path.stat().st_size)

    @contextmanager
    def reading(self, paths: Mapping[DataFile, Path], damaged: Callable[[DataFile], StorageError]) -> Iterator[None]:
        """When what the block reads can't be read, see which of the files that is. `paths`: may grow meanwhile.

        Raises StorageError, as `damaged` makes it.
        """
        try:
            yield
        except duckdb.Error as error:
            if not isinstance(error, (duckdb.OutOfMemoryException, duckdb.InterruptException)) and not is_disk_full(error):
                for file, path in paths.items():
                    if not self._is_readable(path):
                        raise damaged(file) from error
            raise

    def _is_readable(self, path: Path) -> bool:
        with self.engine.query() as cursor:
            try:
                cursor.execute(f"SELECT bit_xor(hash(event)) FROM read_parquet({sql_text(str(path))}) AS event")
            except (duckdb.OutOfMemoryException, duckdb.InterruptException):
                raise
            except duckdb.IOException as error:  # else it is the machine's, as too many open files, which is no damage
                return "Could not read enough bytes" not in str(error)
            except duckdb.Error:
                return False
        return True

    def facts(self, parts: Mapping[Part, Path] | Mapping[DataFile, Path]) -> dict[Part, Facts]:
        """What parts hold, in their order. `parts`: with the paths where they are."""
        with own_errors("reading events"):
            return {
                part: self._file_facts(path) if isinstance(part, DataFile) else self._facts_of_log(part)
                for part, path in parts.items()
            }

    def _facts_of_log(self, part: LogPart) -> Facts:
        if (found := self._log_facts.get(part)) is None:
            with self.engine.cursor() as cursor:
                found = self._log_facts[part] = _look(cursor, event_source([], [part], part.columns, {}), part.columns, ())
        return found

    def _read_file_facts(self, path: Path) -> Facts:
        with self.engine.cursor() as cursor:
            return _footer(cursor, path) or _look_file(cursor, path)


def _check_number(path: Path, written: int, expected: int) -> None:
    """Never take for folded what DuckDB passed over."""
    if written != expected:
        raise RuntimeError(f"{path.name}: {written} events were written, {expected} were expected")


def _footer(cursor: duckdb.DuckDBPyConnection, path: Path) -> Facts | None:
    row = cursor.execute("SELECT value FROM parquet_kv_metadata(?) WHERE key = ?", [str(path), _FOOTER.encode()]).fetchone()
    if row is None:
        return None
    with suppress(ValueError, KeyError, TypeError):  # damaged; the events themselves may not be
        found = json.loads(row[0])
        return Facts(found["bytes"], found["kinds"], frozenset(found["escaped"]))
    return None


def _look_file(cursor: duckdb.DuckDBPyConnection, path: Path) -> Facts:
    """Of a file that another program wrote."""
    source = f"read_parquet({sql_text(str(path))}, hive_partitioning = false)"
    described = cursor.execute(f"SELECT * FROM {source} LIMIT 0").description or []
    return _look(cursor, source, [d[0] for d in described if d[0] != "t"], ())


def _look(cursor: duckdb.DuckDBPyConnection, source: str, columns: Sequence[str], parameters: Sequence[object]) -> Facts:
    if not columns:
        return Facts(0, {}, frozenset())
    # As rows of one column: an expression for each of a thousand columns takes DuckDB minutes and gigabytes to plan.
    values = f"UNPIVOT (SELECT {', '.join(columns)} FROM {source}) ON COLUMNS(*) INTO NAME name VALUE value"
    sql = (
        f"SELECT name, value_kind(value), count(*), sum(strlen(value)), bool_and(is_csv_field(value)) FROM ({values}) GROUP BY ALL"
    )
    kinds: Kinds = {}
    escaped: set[str] = set()
    size = 0
    for name, kind, number, length, plain in cursor.execute(sql, parameters).fetchall():
        kinds.setdefault(name, {})[kind] = number
        size += int(length)
        if not plain:
            escaped.add(name)
    return Facts(size, kinds, frozenset(escaped))


def reading_mib(logs: Sequence[LogPart]) -> float:
    lines = 4 * max(log.longest for log in logs) / MIB
    return _LOG_MIB + lines + _LOG_COLUMN_MIB * max(len(log.columns) for log in logs)


def event_source(files: Sequence[Path], logs: Sequence[LogPart], columns: Iterable[str], present: Iterable[str]) -> str:
    """The SQL source of the events of files, then of logs, in order: `t` and `columns`, NULL if a file lacks one.

    `present`: the columns that some of the files have.
    """
    wanted, here = list(columns), set(present)
    sources = []
    if files:
        names = ", ".join(["t", *(column if column in here else f"NULL::VARCHAR AS {column}" for column in wanted)])
        paths = ", ".join(sql_text(str(path)) for path in files)
        sources.append(f"SELECT {names} FROM read_parquet([{paths}], union_by_name = true, hive_partitioning = false)")
    if logs:
        types = "".join(f", {column}: 'VARCHAR'" for column in wanted)
        paths = ", ".join(sql_text(str(log.path)) for log in logs)
        line = max(_MIN_LINE_BYTES, *(log.longest for log in logs))
        read = (
            f"read_json([{paths}], format = 'newline_delimited', maximum_object_size = {line}, hive_partitioning = false,"
            f" columns = {{t: 'BIGINT'{types}}})"
        )
        sources.append(f"SELECT {', '.join(['t', *wanted])} FROM {read} WHERE t IS NOT NULL")
    if not sources:
        nothing = "".join(f", NULL::VARCHAR AS {column}" for column in wanted)
        return f"(SELECT t{nothing} FROM (SELECT NULL::BIGINT AS t) WHERE false)"
    return f"({' UNION ALL '.join(sources)})"
