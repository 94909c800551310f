"""Loads landed partitions into one table. Two bookkeeping tables beside it know the columns of properties, and what is loaded.

`keen_table_columns` keeps the column of each property, so that a name once given never means another property.
`keen_table_partitions` has a row for each loaded partition; whoever replaces one holds its row until the commit, on every database.
"""

from __future__ import annotations

import io
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import datetime, timezone
from typing import Any

import sqlalchemy as sa

from keen_pipeline.errors import ConfigurationError
from keen_pipeline.readers import LandedReader
from keen_pipeline.readers.files import LandedFile
from keen_pipeline.tables import schema as shape
from keen_pipeline.tables.names import PARTITION_COLUMN, new_column_names

_INSERTED_AT_ONCE = 5000
_BUSY_SECONDS = 60
_TRIES = 5
_WHOLE_TABLE = "*"  # the row that is held while the table's shape changes


@dataclass(frozen=True)
class LoadedPartition:
    """What one load did: `rows` written, `replaced` rows removed, columns `added`, columns `widened`; `seconds` it took."""

    rows: int
    replaced: int
    added: tuple[str, ...]
    widened: tuple[str, ...]
    seconds: float


class TableLoader:
    """One table of the database at a SQLAlchemy `url`, filled by the landed partitions of one collection.

    `schema`: the database's schema, None for its default. Types are Keen's: `num` a double, `bool`, `datetime` (UTC;
    SQLite keeps no zone), text for all else, lists as their JSON. Use it in one process or in many at once.
    """

    def __init__(self, url: str, reader: LandedReader, collection: str, table: str, *, schema: str | None = None) -> None:
        self._engine = _open(url)
        self._reader = reader
        self._collection = collection
        self._table = table
        self._schema = schema
        meta = sa.MetaData()
        self._columns = sa.Table(
            "keen_table_columns",
            meta,
            sa.Column("table_name", sa.String(128), primary_key=True),
            sa.Column("property", sa.String(512), primary_key=True),
            sa.Column("column_name", sa.String(128), nullable=False),
            schema=schema,
        )
        self._partitions = sa.Table(
            "keen_table_partitions",
            meta,
            sa.Column("table_name", sa.String(128), primary_key=True),
            sa.Column("partition_key", sa.String(128), primary_key=True),
            sa.Column("row_count", sa.BigInteger),
            sa.Column("loaded_at", sa.DateTime(timezone=True)),
            schema=schema,
        )
        self._meta = meta

    def close(self) -> None:
        """End the connections."""
        self._engine.dispose()

    def load(self, partition_key: str) -> LoadedPartition:
        """Replace the rows of one partition by those of its landed file, in one transaction.

        Raises ConfigurationError where the partition is not landed, a cell is not of its column's type, or the database refuses;
        the rows that were there are there then.
        """
        begun = time.monotonic()
        file = self._reader.files(self._collection, [partition_key])[partition_key]
        with self._explained(partition_key):
            self._make_bookkeeping()
            with self._transaction(_WHOLE_TABLE) as connection:
                words, names, added, widened = self._prepare(connection, file)
            # A column that is wider than Keen's type is filled with the cells as they stand.
            types = {name: words[column] for name, column in names.items()}
            scan = self._reader.scan(self._collection, [file], columns=list(names), types=types)
            try:
                with self._transaction(partition_key) as connection:
                    table = sa.table(self._table, sa.column(PARTITION_COLUMN), schema=self._schema)
                    mine = table.c[PARTITION_COLUMN] == partition_key
                    replaced = connection.execute(sa.delete(table).where(mine)).rowcount
                    rows = self._write(connection, scan.batches(), partition_key, list(names.values()))
                    done = self._row(partition_key)
                    values = {"row_count": rows, "loaded_at": datetime.now(timezone.utc)}
                    connection.execute(sa.update(self._partitions).where(done).values(values))
            finally:
                scan.close()
        return LoadedPartition(rows, replaced, tuple(added), tuple(widened), time.monotonic() - begun)

    @contextmanager
    def _explained(self, partition_key: str) -> Iterator[None]:
        try:
            yield
        except sa.exc.SQLAlchemyError as error:
            # Never the statement with its values: those are events.
            cause = getattr(error, "orig", None) or type(error).__name__
            reason = (str(cause).splitlines() or [""])[0][:300]
            raise ConfigurationError(
                f"{self._collection}[{partition_key}]: table {self._table} can't be loaded: {reason}; its rows are as they were"
            ) from None

    @contextmanager
    def _transaction(self, held: str) -> Iterator[sa.Connection]:
        """A transaction that holds the row of a partition, which everybody else waits for."""
        with suppress(sa.exc.IntegrityError), self._engine.begin() as connection:  # it may be there
            connection.execute(sa.insert(self._partitions).values(table_name=self._table, partition_key=held))
        with self._engine.begin() as connection:
            connection.execute(sa.update(self._partitions).where(self._row(held)).values(table_name=self._table))
            yield connection

    def _make_bookkeeping(self) -> None:
        for _ in range(_TRIES):
            try:
                self._meta.create_all(self._engine)
            except (sa.exc.IntegrityError, sa.exc.ProgrammingError, sa.exc.OperationalError):
                time.sleep(0.1)  # another process makes them at this moment
            else:
                return
        self._meta.create_all(self._engine)

    def _row(self, partition_key: str) -> sa.ColumnElement[bool]:
        return sa.and_(self._partitions.c.table_name == self._table, self._partitions.c.partition_key == partition_key)

    def _prepare(self, connection: sa.Connection, file: LandedFile) -> tuple[dict[str, str], dict[str, str], list[str], list[str]]:
        """Bring the table into shape: (word by column, column by property, columns added, columns widened)."""
        properties = file.columns
        known = sa.select(self._columns.c.property, self._columns.c.column_name).where(self._columns.c.table_name == self._table)
        taken = {row.property: row.column_name for row in connection.execute(known)}
        made = new_column_names(properties, taken)
        if made:
            rows = [{"table_name": self._table, "property": name, "column_name": column} for name, column in made.items()]
            connection.execute(sa.insert(self._columns), rows)
        names = {name: {**taken, **made}[name] for name in properties}
        wanted = {names[name]: word for name, word in self._reader.types(self._collection, properties, [file]).items()}
        existing = shape.words_of_table(connection, self._table, self._schema)
        if existing is None:
            shape.create(connection, self._table, self._schema, wanted)
            return wanted, names, list(wanted), []
        if PARTITION_COLUMN not in existing:
            raise ConfigurationError(
                f"table {self._table} exists and has no column {PARTITION_COLUMN}: it was not made here; nothing was changed. "
                "Choose another name"
            )
        added = {column: word for column, word in wanted.items() if column not in existing}
        words = {column: shape.widest(existing[column], word) for column, word in wanted.items() if column in existing}
        widened = {column: word for column, word in words.items() if word != existing[column]}
        if added:
            shape.add(connection, self._table, self._schema, added)
        if widened:
            shape.widen(connection, self._table, self._schema, widened)
        return {**words, **added}, names, list(added), list(widened)

    def _write(self, connection: sa.Connection, batches: Iterable[Any], partition_key: str, columns: Sequence[str]) -> int:
        """Insert record batches, whose columns are `columns` in their order; returns the number of rows."""
        if connection.dialect.name == "postgresql" and connection.dialect.driver == "psycopg":
            return self._copy(connection, batches, partition_key, columns)
        # With the types it has, so that values are bound as the driver wants them.
        insert = sa.insert(sa.Table(self._table, sa.MetaData(), schema=self._schema, autoload_with=connection))
        rows = 0
        for batch in batches:
            for start in range(0, batch.num_rows, _INSERTED_AT_ONCE):
                part = batch.slice(start, _INSERTED_AT_ONCE)
                cells = zip(*(column.to_pylist() for column in part.columns), strict=True)
                made = [{PARTITION_COLUMN: partition_key, **dict(zip(columns, row, strict=True))} for row in cells]
                if made:
                    connection.execute(insert, made)
                rows += len(made)
        return rows

    def _copy(self, connection: sa.Connection, batches: Iterable[Any], partition_key: str, columns: Sequence[str]) -> int:
        """PostgreSQL's own bulk load. Arrow's CSV quotes each text and leaves a null empty, which is how COPY tells them apart."""
        import pyarrow as pa
        from pyarrow import csv

        preparer = connection.dialect.identifier_preparer
        target = ".".join(preparer.quote(part) for part in (self._schema, self._table) if part is not None)
        listed = ", ".join(preparer.quote(name) for name in (PARTITION_COLUMN, *columns))
        options = csv.WriteOptions(include_header=False)
        rows = 0
        driver: Any = connection.connection.driver_connection
        try:
            with driver.cursor() as cursor, cursor.copy(f"COPY {target} ({listed}) FROM STDIN (FORMAT csv)") as copy:
                for batch in batches:
                    keys = pa.array([partition_key] * batch.num_rows, pa.string())
                    names = [PARTITION_COLUMN, *columns]
                    buffer = io.BytesIO()
                    csv.write_csv(pa.RecordBatch.from_arrays([keys, *batch.columns], names=names), buffer, options)
                    copy.write(buffer.getbuffer())
                    rows += batch.num_rows
        except driver.Error as error:
            raise sa.exc.DBAPIError("COPY", None, error) from None
        return rows


def _open(url: str) -> sa.Engine:
    """Raises ConfigurationError without the URL's password."""
    try:
        parsed = sa.make_url(url)
        if parsed.drivername == "postgresql":
            parsed = parsed.set(drivername="postgresql+psycopg")
        patience = {"timeout": _BUSY_SECONDS} if parsed.get_backend_name() == "sqlite" else {}
        engine = sa.create_engine(parsed, connect_args=patience)
    except (sa.exc.NoSuchModuleError, ModuleNotFoundError) as error:
        raise ConfigurationError(f"no driver for {parsed.render_as_string(hide_password=True)}: {error}") from None
    except sa.exc.ArgumentError:
        raise ConfigurationError("the URL of a table's database is no SQLAlchemy URL, for example sqlite:///warehouse.db") from None
    if parsed.get_backend_name() == "sqlite":
        # The driver's own transactions end before a change of the schema and begin too late for the row that is held.
        sa.event.listen(engine, "connect", lambda connection, _: setattr(connection, "isolation_level", None))
        sa.event.listen(engine, "begin", lambda connection: connection.exec_driver_sql("BEGIN IMMEDIATE"))
    return engine
