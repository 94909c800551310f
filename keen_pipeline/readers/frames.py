"""From a scan to what an annotation asks for. A library is looked at only if the caller has imported it already."""

from __future__ import annotations

import sys
import weakref
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from operator import methodcaller
from typing import Any

from keen_pipeline.readers.scan import Part
from keen_pipeline.readers.types import pyarrow


def converter_of(kind: object) -> Callable[[Part], Any] | None:
    """What makes a value of the class `kind` of some landed files, None if `kind` is no such class."""
    for (module, name), convert in _CONVERTERS.items():
        loaded = sys.modules.get(module)
        if loaded is not None and getattr(loaded, name, None) is kind:
            return convert
    return None


# Whose copies must stay until the process ends: what is made of a dataset holds none of its Python objects.
_kept: list[Part] = []
_table = methodcaller("table")


def _dataset(part: Part) -> Any:
    _kept.append(part)
    return part.dataset


def _pandas(part: Part) -> Any:
    import pandas as pd

    pa = pyarrow()
    # By the column's type, not by its cells: a day without nulls has the same types as a day with some.
    nullable = {pa.bool_(): pd.BooleanDtype(), pa.int64(): pd.Int64Dtype(), pa.string(): pd.StringDtype()}
    return part.table().to_pandas(types_mapper=nullable.get)


def _polars(part: Part) -> Any:
    import polars as pl

    return pl.from_arrow(part.table())


def _polars_lazy(part: Part) -> Any:
    """Reads the columns and as many events as the query needs, batch by batch."""
    import polars as pl
    from polars.io.plugins import register_io_source

    def read(
        columns: list[str] | None, predicate: pl.Expr | None, events: int | None, batch_size: int | None
    ) -> Iterator[pl.DataFrame]:
        left = events
        for batch in part.batches(columns):
            frame = pl.DataFrame(pl.from_arrow(batch))
            if left is not None:
                frame = frame.head(left)
                left -= frame.height
            yield frame if predicate is None else frame.filter(predicate)
            if left == 0:
                return

    schema = pl.DataFrame(pl.from_arrow(part.schema.empty_table())).schema
    return register_io_source(read, schema=schema, validate_schema=True)


def _duckdb(part: Part) -> Any:
    """On DuckDB's default connection, so that `duckdb.sql` can join it with others; filters and columns are pushed down."""
    import duckdb

    names = part.schema.names
    relation = duckdb.from_arrow(part.dataset)
    # Whatever is made of the relation holds the dataset; for as long this holds the copies.
    weakref.finalize(part.dataset, id, part.scan)
    unique = duckdb_names(names)
    if unique == list(names):
        return relation
    # DuckDB has numbered them too, though so that one bare name is left, which then stands for both.
    given = ", ".join(f"{_quoted(have)} AS {_quoted(want)}" for have, want in zip(relation.columns, unique, strict=True))
    return relation.project(given)


def duckdb_names(names: Sequence[str]) -> list[str]:
    """The columns' names in DuckDB, which knows no case: those that differ in nothing else are numbered, each of them.

    >>> duckdb_names(["body:UserId", "body:userid", "body:text"])
    ['body:UserId_1', 'body:userid_2', 'body:text']
    """
    clashes = {name for name, number in Counter(name.lower() for name in names).items() if number > 1}
    used = {name.lower() for name in names}
    numbers = Counter[str]()
    made = []
    for name in names:
        unique = name
        while name.lower() in clashes and unique.lower() in used:
            numbers[name.lower()] += 1
            unique = f"{name}_{numbers[name.lower()]}"
        used.add(unique.lower())
        made.append(unique)
    return made


def _quoted(name: str) -> str:
    return '"' + name.replace('"', '""') + '"'


_CONVERTERS: dict[tuple[str, str], Callable[[Part], Any]] = {
    ("pandas", "DataFrame"): _pandas,
    ("polars", "DataFrame"): _polars,
    ("polars", "LazyFrame"): _polars_lazy,
    ("pyarrow", "Table"): _table,
    ("pyarrow.dataset", "Dataset"): _dataset,
    ("duckdb", "DuckDBPyRelation"): _duckdb,
}
KINDS = ", ".join(f"{module}.{name}" for module, name in _CONVERTERS)
