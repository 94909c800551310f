"""From a scan to what an annotation asks for. A library is looked at only where the caller has imported it already."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from typing import Any

from keen_pipeline.readers.scan import Scan
from keen_pipeline.readers.types import pyarrow


def converter_of(kind: object) -> Callable[[Scan], Any] | None:
    """What makes a value of the class `kind` of a scan, None where `kind` is no such class."""
    for (module, name), convert in _CONVERTERS.items():
        loaded = sys.modules.get(module)
        if loaded is not None and getattr(loaded, name, None) is kind:
            return convert
    return None


def _table(scan: Scan) -> Any:
    try:
        return scan.table()
    finally:
        scan.close()


def _dataset(scan: Scan) -> Any:
    return _kept(scan.dataset, scan)


def _pandas(scan: Scan) -> Any:
    import pandas as pd

    pa = pyarrow()
    # By the column's type, not by its cells: a day without nulls has the same types as a day with some.
    nullable = {pa.bool_(): pd.BooleanDtype(), pa.int64(): pd.Int64Dtype(), pa.string(): pd.StringDtype()}
    return _table(scan).to_pandas(types_mapper=nullable.get)


def _polars(scan: Scan) -> Any:
    import polars as pl

    return pl.from_arrow(_table(scan))


def _polars_lazy(scan: Scan) -> Any:
    """Reads the columns and as many events as the query needs, batch by batch."""
    import polars as pl
    from polars.io.plugins import register_io_source

    def read(
        columns: list[str] | None, predicate: pl.Expr | None, events: int | None, batch_size: int | None
    ) -> Iterator[pl.DataFrame]:
        left = events
        for batch in scan.batches(columns):
            frame = pl.DataFrame(pl.from_arrow(batch))
            if left is not None:
                frame = frame.head(left)
                left -= frame.height
            yield frame if predicate is None else frame.filter(predicate)
            if left == 0:
                return

    schema = pl.DataFrame(pl.from_arrow(scan.schema.empty_table())).schema
    return register_io_source(read, schema=schema, validate_schema=True)


def _duckdb(scan: Scan) -> Any:
    """On DuckDB's default connection, so that `duckdb.sql` can join it with others; filters and columns are pushed down."""
    import duckdb

    return duckdb.from_arrow(_kept(scan.dataset, scan))


_scans: list[Scan] = []


def _kept(value: Any, scan: Scan) -> Any:
    """`value`, whose files are read later: their copies stay until the process ends."""
    _scans.append(scan)
    return value


_CONVERTERS: dict[tuple[str, str], Callable[[Scan], Any]] = {
    ("pandas", "DataFrame"): _pandas,
    ("polars", "DataFrame"): _polars,
    ("polars", "LazyFrame"): _polars_lazy,
    ("pyarrow", "Table"): _table,
    ("pyarrow.dataset", "Dataset"): _dataset,
    ("duckdb", "DuckDBPyRelation"): _duckdb,
}
KINDS = ", ".join(f"{module}.{name}" for module, name in _CONVERTERS)
