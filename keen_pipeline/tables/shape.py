"""The type of each column of a table: what holds the table's values and those of the partition, exactly. Nothing is narrowed.

dlt adds columns by itself; it never changes one's type, and splits a property into several columns instead (`amount`,
`amount__v_text`). The one thing done here besides dlt is to widen a column.
"""

# ruff: noqa: S608 - only our own names and literals are put together here
from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from keen_pipeline.errors import ConfigurationError
from keen_pipeline.readers.numbers import Numbers
from keen_pipeline.readers.types import KEENS_NUMBER

_DATA_TYPES = {"int": "bigint", "num": "double", "bool": "bool", "datetime": "timestamp", "string": "text", "bytes": "binary"}
_WORDS = {data_type: word for word, data_type in _DATA_TYPES.items()}
_SAFE = 2**53
# An instant's text as Keen writes it.
_INSTANTS = {
    "duckdb": "strftime({} AT TIME ZONE 'UTC', '%Y-%m-%dT%H:%M:%S.%gZ')",
    "sqlite": "strftime('%Y-%m-%dT%H\\:%M\\:%fZ', {})",  # SQLAlchemy takes :M for a parameter
    "postgres": """to_char({} AT TIME ZONE 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS.MS"Z"')""",
}


@dataclass(frozen=True)
class Column:
    """A column of a partition: Keen's word for its type, or one that was asked for; `numbers` of Keen's numbers."""

    word: str
    numbers: Numbers | None = None

    @property
    def fitting(self) -> str:
        """The word for the type of a column that holds this partition, and nothing else."""
        if self.word == KEENS_NUMBER:
            found = self.numbers or Numbers()
            if found.seen and found.whole:
                return "int"
            return "num" if found.exact else "string"
        return self.word if self.word in _DATA_TYPES else "string"


class Shape:
    """The table as it is at the destination. `client`: dlt's client of it, open."""

    def __init__(self, client: Any, table: str) -> None:
        self._client = client
        self._sql = client.sql_client
        self._table = table
        [(_, columns)] = client.get_storage_tables([table])
        self.columns: Mapping[str, Any] = columns

    @property
    def data_types(self) -> dict[str, str]:
        """dlt's type by column."""
        return {name: str(column.get("data_type")) for name, column in self.columns.items()}

    def wanted(self, name: str, column: Column) -> tuple[str, str | None]:
        """The word for a column once the partition is in it, and the table's word for it today if that is another one."""
        fitting = column.fitting
        if name not in self.columns:
            return fitting, None
        existing = _WORDS.get(self.data_types[name])
        if existing is None:
            raise ConfigurationError(
                f"column {name} of table {self._table} is of the type {self.data_types[name]}, which no property has; "
                "drop it, or choose another table"
            )
        word = self._both(name, existing, column)
        return word, existing if word != existing else None

    def _both(self, name: str, existing: str, column: Column) -> str:
        fitting, numbers = column.fitting, column.numbers or Numbers()
        if fitting == existing or existing == "string" or (column.word == KEENS_NUMBER and not numbers.seen):
            return existing
        if {existing, fitting} == {"int", "num"}:
            # Whole numbers that a double holds, or doubles that are whole numbers: then one type holds all of them.
            if existing == "num":
                return "num" if numbers.exact else "int" if self._all_whole(name) else "string"
            return "num" if self._all_safe(name) else "string"
        return "string"

    def widen(self, name: str, existing: str, word: str) -> None:
        """Give a column another type; its values stay, in one transaction if the destination has them for this."""
        sql = self._sql
        table, column = sql.make_qualified_table_name(self._table), sql.escape_column_name(name)
        kind, dialect = self._sql_type(word), self.dialect
        if dialect in ("postgres", "postgresql", "duckdb"):
            sql.execute_sql(
                f"ALTER TABLE {table} ALTER COLUMN {column} TYPE {kind} USING {_cast(dialect, column, existing, word, kind)}"
            )
            return
        with sql.begin_transaction():
            if dialect == "sqlite":
                sql.execute_sql("BEGIN IMMEDIATE")  # or its driver would commit each change of the table by itself
                sql.native_connection.connection.driver_connection.create_function("keen_text", 1, _text)
            made = sql.escape_column_name(f"{name}__keen_new")
            sql.execute_sql(f"ALTER TABLE {table} ADD COLUMN {made} {kind}")
            sql.execute_sql(
                f"UPDATE {table} SET {made} = {_cast(dialect, column, existing, word, kind)} WHERE {column} IS NOT NULL"
            )
            sql.execute_sql(f"ALTER TABLE {table} DROP COLUMN {column}")
            sql.execute_sql(f"ALTER TABLE {table} RENAME COLUMN {made} TO {column}")

    @property
    def dialect(self) -> str:
        """The name of the database's SQL."""
        return str(getattr(self._sql, "dialect_name", None) or self._client.config.destination_type)

    def count(self, where: str) -> int:
        """The number of rows of which a condition holds."""
        table = self._sql.make_qualified_table_name(self._table)
        [[number]] = self._sql.execute_sql(f"SELECT count(*) FROM {table} WHERE {where}")
        return int(number)

    def _all_safe(self, name: str) -> bool:
        column = self._sql.escape_column_name(name)
        return not self.count(f"{column} > {_SAFE} OR {column} < -{_SAFE}")

    def _all_whole(self, name: str) -> bool:
        column = self._sql.escape_column_name(name)
        return self._all_safe(name) and not self.count(f"{column} <> CAST({column} AS {self._sql_type('int')})")

    def _sql_type(self, word: str) -> str:
        hint = {"name": "x", "data_type": _DATA_TYPES[word], "nullable": True}
        mapper = getattr(self._client, "type_mapper", None) or self._client.capabilities.get_type_mapper()
        kind = mapper.to_destination_type(hint, {"name": self._table, "columns": {}})
        return kind if isinstance(kind, str) else str(kind.compile(dialect=self._sql.dialect))


def hint(name: str, word: str) -> dict[str, Any]:
    """dlt's description of a column."""
    return {"name": name, "data_type": _DATA_TYPES[word], "nullable": True}


def _cast(dialect: str, column: str, existing: str, word: str, kind: str) -> str:
    """SQL for the values of a column as another type."""
    if word == "string" and existing == "bool":
        return f"CASE WHEN {column} THEN 'true' WHEN NOT {column} THEN 'false' END"
    if word == "string" and existing == "datetime" and dialect in _INSTANTS:
        return _INSTANTS[dialect].format(column)
    if word == "string" and existing == "num" and dialect == "duckdb":  # whose own text of 1 is 1.0
        whole = f"{column} = trunc({column}) AND abs({column}) <= {_SAFE}"
        return f"CASE WHEN {whole} THEN CAST(CAST({column} AS BIGINT) AS VARCHAR) ELSE CAST({column} AS VARCHAR) END"
    if word == "string" and dialect == "sqlite":
        return f"keen_text({column})"  # its own text of a double has 15 digits
    return f"CAST({column} AS {kind})"


def _text(value: object) -> str | None:
    """A number of SQLite's as the shortest text that reads back the same."""
    if isinstance(value, float):
        return str(int(value)) if value.is_integer() and abs(value) <= _SAFE else repr(value)
    return None if value is None else str(value)
