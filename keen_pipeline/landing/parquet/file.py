"""One Parquet file: its row groups, which of its columns have a dictionary, and what it says of the CSV it was made of."""

from __future__ import annotations

import io
import json
from collections.abc import Generator, Iterator, Sequence
from contextlib import ExitStack, closing
from typing import Any, BinaryIO

import pyarrow as pa
from pyarrow import compute, parquet

from keen_pipeline.errors import VerificationError
from keen_pipeline.landing.parquet.cells import arrow_type
from keen_pipeline.landing.parquet.feed import Facts, Feed
from keen_pipeline.landing.parquet.rows import typed_batches
from keen_pipeline.landing.transfer.packed import PackedWriter

ROW_GROUP_RECORDS = 1024 * 1024
ROW_GROUP_BYTES = 10 * 1024 * 1024
"""In memory, before encoding; what comes first ends a row group. Some 95,000 events: readers skip and share work by it."""
DICTIONARY_SHARE = 4
"""A column has a dictionary where the first row group has so many times as many cells as different ones. Elsewhere it would cost
half of all the time of writing, for a tenth less size. (Numbers split into streams of bytes would be smaller and quicker, but
Spark, for one, doesn't read them at its usual speed, or at all.)"""
ZSTD_LEVEL = 1


def write_file(feed: Feed, start: int, target: BinaryIO, columns: tuple[str, ...], kinds: Sequence[str], text: list[str]) -> None:
    """Write all records of `feed` from the offset `start` on into the empty `target`, and then what is known of them.

    `text`: columns kept as text.

    Raises VerificationError where they are not those that the verifier counted, and what `typed_batches` raises.
    """
    fields = [pa.field(name, arrow_type(kind)) for name, kind in zip(_distinct(columns), kinds, strict=True)]
    schema = pa.schema(fields)
    packed = PackedWriter(target)
    sink = _Sink(packed)
    written = 0
    with ExitStack() as stack:
        stack.callback(packed.stop)
        batches = stack.enter_context(closing(typed_batches(feed, start, columns, kinds, schema)))
        writer: Any = None
        for group in _groups(batches, schema):
            if writer is None:
                writer = stack.enter_context(_writer(sink, schema, _worth_a_dictionary(group)))
            writer.write_table(group, row_group_size=group.num_rows)
            written += group.num_rows
            del group  # or it would still be there while the next one is put together
        facts = feed.proven()
        if written != facts.records or columns != tuple(facts.columns):
            raise VerificationError(f"as Parquet it would have {written} records, the CSV has {facts.records}")
        if writer is None:
            writer = stack.enter_context(_writer(sink, schema, []))
        writer.add_key_value_metadata(_metadata(facts, text))
        writer.close()
        packed.finish()


def _writer(sink: _Sink, schema: Any, dictionaries: list[str]) -> Any:
    # Without Arrow's own copy of the schema, since readers would see its metadata instead of those added at the end; every type
    # here is one of Parquet's own.
    return parquet.ParquetWriter(
        sink, schema, compression="zstd", compression_level=ZSTD_LEVEL, use_dictionary=dictionaries, store_schema=False
    )


def _metadata(facts: Facts, text: list[str]) -> dict[str, str]:
    return {
        "keen_pipeline.sha256": facts.sha256,
        "keen_pipeline.records": str(facts.records),
        "keen_pipeline.bytes": str(facts.bytes),
        "keen_pipeline.columns": json.dumps(list(facts.columns)),
        "keen_pipeline.text_columns": json.dumps(text),
    }


def _worth_a_dictionary(group: Any) -> list[str]:
    """The columns whose cells repeat."""
    return [
        name
        for name, column in zip(group.column_names, group.columns, strict=True)
        if compute.count_distinct(column, mode="all").as_py() * DICTIONARY_SHARE <= group.num_rows
    ]


def _groups(batches: Generator[Any, None, None], schema: Any) -> Iterator[Any]:
    """Tables of about a row group each."""
    held: list[Any] = []
    records = size = 0
    for batch in batches:
        held.append(batch)
        records, size = records + batch.num_rows, size + batch.nbytes
        if records >= ROW_GROUP_RECORDS or size >= ROW_GROUP_BYTES:
            yield pa.Table.from_batches(held, schema)
            held, records, size = [], 0, 0
    if held:
        yield pa.Table.from_batches(held, schema)


def _distinct(columns: Sequence[str]) -> list[str]:
    """Names that no reader confuses: a second `a` is `a#2`; the header as it was is in the metadata."""
    names: dict[str, None] = {}
    for column in columns:
        name, times = column, 1
        while name in names:
            times += 1
            name = f"{column}#{times}"
        names[name] = None
    return list(names)


class _Sink(io.RawIOBase):
    """Arrow's way to a PackedWriter."""

    def __init__(self, writer: PackedWriter) -> None:
        self._writer = writer

    def writable(self) -> bool:
        return True

    def write(self, data: Any) -> int:
        view = memoryview(data).cast("B")
        self._writer.write(view)
        return len(view)

    def tell(self) -> int:
        return self._writer.size
