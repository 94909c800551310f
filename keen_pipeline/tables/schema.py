"""The table's shape: made, given new columns, and widened; never narrowed, never without a column that some event had."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import sqlalchemy as sa
from alembic.migration import MigrationContext
from alembic.operations import Operations

from keen_pipeline.tables.names import PARTITION_COLUMN

# By Keen's word for the type; everything else is text.
_TYPES: Mapping[str, Any] = {
    "num": sa.Double(),
    "int": sa.BigInteger(),
    "bool": sa.Boolean(),
    "datetime": sa.DateTime(timezone=True),
}
_TEXT = "string"
_LONGEST_PARTITION_KEY = 128


def column_type(word: str) -> Any:
    """SQLAlchemy's type for one of Keen's words."""
    return _TYPES.get(word, sa.Text())


def _word_of(kind: Any) -> str:
    """Which of Keen's words fits into a column of a table."""
    families: tuple[tuple[str, tuple[Any, ...]], ...] = (
        ("bool", (sa.Boolean,)),
        ("datetime", (sa.DateTime,)),
        ("int", (sa.Integer,)),
        ("num", (sa.Float, sa.Numeric)),
    )
    return next((word for word, classes in families if isinstance(kind, classes)), _TEXT)


def widest(existing: str, wanted: str) -> str:
    """The word whose column holds the values of both.

    >>> widest("int", "num"), widest("num", "int"), widest("bool", "num"), widest("string", "datetime")
    ('num', 'num', 'string', 'string')
    """
    if existing == wanted:
        return existing
    return "num" if {existing, wanted} == {"int", "num"} else _TEXT


def words_of_table(connection: sa.Connection, name: str, schema: str | None) -> dict[str, str] | None:
    """Keen's word by column of a table, None where there is no such table."""
    inspector = sa.inspect(connection)
    if not inspector.has_table(name, schema=schema):
        return None
    return {column["name"]: _word_of(column["type"]) for column in inspector.get_columns(name, schema=schema)}


def create(connection: sa.Connection, name: str, schema: str | None, words: Mapping[str, str]) -> None:
    """Make the table: the partition, and a column for each word."""
    columns = [sa.Column(column, column_type(word)) for column, word in words.items()]
    table = sa.Table(
        name,
        sa.MetaData(),
        sa.Column(PARTITION_COLUMN, sa.String(_LONGEST_PARTITION_KEY), nullable=False, index=True),
        *columns,
        schema=schema,
    )
    table.create(connection)


def add(connection: sa.Connection, name: str, schema: str | None, words: Mapping[str, str]) -> None:
    """Add columns, which are NULL in the rows that are there."""
    operations = Operations(MigrationContext.configure(connection))
    for column, word in words.items():
        operations.add_column(name, sa.Column(column, column_type(word)), schema=schema)


def widen(connection: sa.Connection, name: str, schema: str | None, words: Mapping[str, str]) -> None:
    """Give columns a wider type; their values stay."""
    operations = Operations(MigrationContext.configure(connection))
    quoted = connection.dialect.identifier_preparer.quote
    # SQLite changes no column: the table is copied there.
    with operations.batch_alter_table(name, schema=schema) as batch:
        for column, word in words.items():
            kind = column_type(word)
            using = f"{quoted(column)}::{kind.compile(connection.dialect)}"
            batch.alter_column(column, type_=kind, postgresql_using=using)
