"""Loads landed partitions into one table, by dlt: each replaces its own rows in one transaction."""

# ruff: noqa: S608 - only our own names and literals are put together here
from __future__ import annotations

import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from keen_pipeline.errors import ConfigurationError, KeenPipelineError
from keen_pipeline.readers import LandedReader
from keen_pipeline.readers.scan import Scan
from keen_pipeline.tables.names import PARTITION_COLUMN, SOURCE_COLUMN, column_names
from keen_pipeline.tables.place import TablePlace, import_dlt
from keen_pipeline.tables.shape import Column, Shape, hint

_PIPELINE = "keen_tables"
_LONGEST_REASON = 300


@dataclass(frozen=True)
class LoadedPartition:
    """What one load did: `rows` written, `replaced` rows removed, columns `added`, columns `widened`; `seconds` it took."""

    rows: int
    replaced: int
    added: tuple[str, ...]
    widened: tuple[str, ...]
    seconds: float


@dataclass(frozen=True)
class TableLoader:
    """One table at `place`, filled by the landed partitions of one collection.

    `source`: whose rows these are; those of other sources in the same table are left alone. `types`: of properties, as readers take
    them, without `decimal`; else the ledger's: whole numbers are bigint, others double if that holds them exactly, else text; lists
    and objects are their JSON. A column becomes wider when a partition needs it. Use it in one process or in many at once.
    """

    place: TablePlace
    reader: LandedReader
    collection: str
    table: str
    source: str
    types: Mapping[str, str] = field(default_factory=dict)

    def load(self, partition_key: str) -> LoadedPartition:
        """Replace the rows of one partition by those of its landed file, in one transaction.

        Raises ConfigurationError if the partition is not landed, a cell is not of its column's type, or the database refuses; the
        rows that were there are there then.
        """
        begun = time.monotonic()
        file = self.reader.files(self.collection, [partition_key]).get(partition_key)
        if file is None:  # nothing is wanted of it, as before the start date
            return LoadedPartition(0, 0, (), (), 0.0)
        names = column_names(self.collection, file.landing.columns)
        with tempfile.TemporaryDirectory(prefix="keen-table-") as folder, _own_notes(), self._explained(partition_key):
            pipeline = _pipeline(self.place, folder)
            with self.place.locked(pipeline), pipeline.destination_client() as client:
                scan = self.reader.scan(self.collection, [file], types=self.types)
                try:
                    words, replaced, added, widened = self._prepare(client, scan, partition_key, names)
                    # A column that is wider than this partition is filled with the cells as they stand.
                    scan.retype({name: words[names[name]] for name in scan.words})
                    rows = self._replace(pipeline, scan, partition_key, names, words)
                finally:
                    scan.close()
                    _drop_staging(client)
        return LoadedPartition(rows, replaced, tuple(added), tuple(widened), time.monotonic() - begun)

    def _prepare(
        self, client: Any, scan: Scan, partition_key: str, names: Mapping[str, str]
    ) -> tuple[dict[str, str], int, list[str], list[str]]:
        """Bring the table into shape: the word by column, the rows that will be replaced, columns added, columns widened."""
        shape = Shape(client, self.table)
        if shape.columns and not {SOURCE_COLUMN, PARTITION_COLUMN} <= set(shape.columns):
            raise ConfigurationError(
                f"table {self.table} exists and has no columns {SOURCE_COLUMN} and {PARTITION_COLUMN}: it was not made here; "
                "nothing was changed. Choose another name"
            )
        words: dict[str, str] = {}
        widened: list[str] = []
        for name, word in scan.words.items():
            words[names[name]], before = shape.wanted(names[name], Column(word, scan.numbers.get(name)))
            if before is not None:
                shape.widen(names[name], before, words[names[name]])
                widened.append(names[name])
        replaced = shape.count(self._scope(partition_key)) if shape.columns else 0
        added = [column for column in words if column not in shape.columns]
        if added:
            _forget_schemas(client)
        return words, replaced, added, widened

    def _replace(self, pipeline: Any, scan: Scan, partition_key: str, names: Mapping[str, str], words: Mapping[str, str]) -> int:
        """Let dlt do it; returns the number of rows."""
        rows = 0
        columns = [names[name] for name in scan.schema.names]

        def tables() -> Iterator[Any]:
            nonlocal rows
            yield _with_marks(scan.schema.empty_table(), columns, self.source, partition_key)  # also for no event
            for batch in scan.of().batches():
                rows += batch.num_rows
                if self.place.file_format is not None:
                    _check_texts(batch, f"{self.collection}[{partition_key}]: table {self.table} can't be loaded")
                yield _with_marks(batch, columns, self.source, partition_key)

        hints = [hint(name, word) for name, word in words.items()]
        hints += [hint(name, "string") for name in (SOURCE_COLUMN, PARTITION_COLUMN)]
        resource = import_dlt().resource(
            tables,
            name=self.table,
            columns={one["name"]: one for one in hints},
            write_disposition={
                "disposition": "merge",
                "strategy": "delete-insert",
                # Of the rows that are there, those of the partition go, also if none comes for it.
                "destination_scope": _braced(self._scope(partition_key)),
            },
        )
        # dlt hands no empty Parquet to PostgreSQL.
        form = self.place.file_format if scan.has_rows or self.place.file_format is None else "insert_values"
        pipeline.run(resource(), loader_file_format=form)
        return rows

    def _scope(self, partition_key: str) -> str:
        return f"{SOURCE_COLUMN} = {_literal(self.source)} AND {PARTITION_COLUMN} = {_literal(partition_key)}"

    @contextmanager
    def _explained(self, partition_key: str) -> Iterator[None]:
        try:
            yield
        except KeenPipelineError:
            raise
        except Exception as error:  # noqa: BLE001 - whatever dlt and the drivers raise
            ours = next((one for one in _causes(error) if isinstance(one, KeenPipelineError)), None)
            if ours is not None:
                raise ours from None
            what = f"{self.collection}[{partition_key}]: table {self.table} can't be loaded"
            raise ConfigurationError(f"{what}: {_reason(error)}; its rows are as they were") from None


def _pipeline(place: TablePlace, folder: str) -> Any:
    """dlt's, with all its state in a folder of its own; what it needs to know is in the table."""
    pipeline = import_dlt().pipeline(
        pipeline_name=_PIPELINE, destination=place.destination, dataset_name=place.dataset, pipelines_dir=folder
    )
    pipeline.config.restore_from_destination = False
    pipeline.config.enable_runtime_trace = False
    return pipeline


def _own_notes() -> Any:
    """dlt notes each value that it looks up in its configuration, passwords among them, for as long as the process lives."""
    from dlt.common.configuration.container import Container
    from dlt.common.configuration.utils import TraceLogContext

    return Container().injectable_context(TraceLogContext())


def _forget_schemas(client: Any) -> None:
    """dlt believes that a schema which it made once is still there, also if a column or the table was dropped."""
    versions = client.schema.version_table_name
    [(_, known)] = client.get_storage_tables([versions])
    if known:
        sql = client.sql_client
        table, column = sql.make_qualified_table_name(versions), sql.escape_column_name("schema_name")
        sql.execute_sql(f"DELETE FROM {table} WHERE {column} = {_literal(_PIPELINE)}")


def _drop_staging(client: Any) -> None:
    """The staging tables have the types of this load; the next one makes its own."""
    with client.with_staging_dataset():
        if client.is_storage_initialized():
            client.sql_client.drop_dataset()


def _with_marks(rows: Any, columns: Sequence[str], source: str, partition_key: str) -> Any:
    import pyarrow as pa

    marks = [pa.array([mark] * rows.num_rows, pa.string()) for mark in (source, partition_key)]
    return pa.Table.from_arrays([*rows.columns, *marks], names=[*columns, SOURCE_COLUMN, PARTITION_COLUMN])


def _check_texts(rows: Any, what: str) -> None:
    """Raises ConfigurationError for a NUL, which PostgreSQL's texts can't hold; its own words name no column."""
    import pyarrow as pa
    from pyarrow import compute

    for name, column in zip(rows.schema.names, rows.columns, strict=True):
        if pa.types.is_string(column.type) and compute.any(compute.match_substring(column, "\0")).as_py():
            mend = f"mask the property, or load it into a new table with types={{{name!r}: 'bytes'}}"
            raise ConfigurationError(
                f"{what}: PostgreSQL has no text with a NUL, as {name} has; its rows are as they were. To load it, {mend}"
            )


def _literal(text: str) -> str:
    return "'" + text.replace("'", "''") + "'"


def _braced(condition: str) -> str:
    return condition.replace("{", "{{").replace("}", "}}")


def _causes(error: BaseException) -> Iterator[BaseException]:
    """An error and what it came of, the innermost last."""
    current: BaseException | None = error
    while current is not None:
        yield current
        current = current.__cause__ or (None if current.__suppress_context__ else current.__context__)


def _reason(error: Exception) -> str:
    """The first line of the innermost cause. Never a statement with its values: those are events."""
    *_, cause = _causes(error)
    cause = getattr(cause, "orig", None) or getattr(cause, "dbapi_exception", None) or cause
    return (str(cause).strip().splitlines() or [type(cause).__name__])[0][:_LONGEST_REASON]
