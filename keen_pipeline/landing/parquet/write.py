"""A CSV as one Parquet file: read by Arrow block by block beside the thread that writes, each cell looked at before its column gets
its type; the row groups, which columns have a dictionary, and what the file says of the CSV it was made of."""

from __future__ import annotations

import collections
import json
from collections.abc import Generator, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack, closing
from typing import Any, BinaryIO, NamedTuple

import numpy as np
import pyarrow as pa
from pyarrow import compute, csv, parquet

from keen_pipeline.errors import VerificationError
from keen_pipeline.landing.parquet.cells import POOL, arrow_type, converted, fallback
from keen_pipeline.landing.parquet.source import BlockReader, CsvBody, UnreadableError
from keen_pipeline.landing.parquet.types import BYTES
from keen_pipeline.landing.transfer.intake import Intake
from keen_pipeline.landing.transfer.workers import BufferedFileWriter

ROW_GROUP_RECORDS = 1024 * 1024
ROW_GROUP_BYTES = 7 * 1024 * 1024
"""In memory, before encoding; what comes first ends a row group. Some 67,000 events: readers skip and share work by it."""
DICTIONARY_SHARE = 4
"""A column has a dictionary if the first row group has so many times as many cells as distinct ones. Elsewhere it would cost
half of all the time of writing, for a tenth less size. (Numbers split into streams of bytes would be smaller and quicker, but
Spark, for one, doesn't read them at its usual speed, or at all.)"""
ZSTD_LEVEL = 1
BLOCKS_AHEAD = 3
"""Given to the worker before their batches are asked for: what it does while a row group is written."""


class MisfitError(Exception):
    """Columns with a cell that does not fit, and the kinds that take all their cells. Never leaves a conversion."""

    def __init__(self, kinds: Mapping[int, str]) -> None:
        super().__init__(kinds)
        self.kinds = kinds


class Columns(NamedTuple):
    """`names`: the header's; `kinds`: of each; `text`: those kept as text against Keen's word; `others`: kinds of the collection's
    other columns, which a file without events has too, all null, so that its readers see what the collection holds."""

    names: tuple[str, ...]
    kinds: Sequence[str]
    text: Sequence[str]
    others: Mapping[str, str]

    def schema(self) -> Any:
        return pa.schema(list(zip(_distinct(self.names), map(arrow_type, self.kinds), strict=True)))

    def empty_schema(self) -> Any:
        """Of a file without events."""
        return self._replace(names=(*self.names, *self.others), kinds=[*self.kinds, *self.others.values()]).schema()


def write_file(body: CsvBody, start: int, target: BinaryIO, columns: Columns) -> BufferedFileWriter:
    """Write all records of `body` from the offset `start` on into the empty `target`, and then what is known of them. Returns what
    it was written by, which knows its size and sha256.

    Raises VerificationError if they are not those that the verifier counted, MisfitError at the end, so that one more try is
    enough, UnreadableError, StoppedError, and OSError of either file.
    """
    schema = columns.schema()
    file = BufferedFileWriter(target)
    written = 0
    with ExitStack() as stack:
        stack.callback(file.stop)
        batches = stack.enter_context(closing(_typed_batches(body, start, columns, schema)))
        writer: Any = None
        for group in _groups(batches, schema):
            if writer is None:
                writer = stack.enter_context(_writer(file, schema, _worth_a_dictionary(group)))
            writer.write_table(group, row_group_size=group.num_rows)
            written += group.num_rows
            del group  # or it would still be there while the next one is put together
        proven = body.proven()
        if written != proven.records or columns.names != proven.columns:
            raise VerificationError(f"as Parquet it would have {written} records, the CSV has {proven.records}")
        if writer is None:
            writer = stack.enter_context(_writer(file, columns.empty_schema(), []))
        writer.add_key_value_metadata(_metadata(proven, columns.text))
        writer.close()
        file.finish()
    return file


def _typed_batches(body: CsvBody, start: int, columns: Columns, schema: Any) -> Generator[Any, None, None]:
    """The records from the offset `start` on in the columns of the schema; close it to end early. Raises as `write_file`."""
    misfits: dict[int, str] = {}
    running: collections.deque[Future[tuple[list[Any], dict[int, str]]]] = collections.deque()

    def taken(most_left: int) -> Iterator[Any]:
        while len(running) > most_left:
            arrays, found = running.popleft().result()
            for number, kind in found.items():
                if misfits.get(number) != BYTES:
                    misfits[number] = kind
            if not misfits:
                yield pa.record_batch(arrays, schema=schema)

    pool = ThreadPoolExecutor(1, thread_name_prefix="landing-parquet")  # a second worker gains nothing on two processors
    try:
        for block in BlockReader(body, start, columns.names).blocks():
            kinds = [misfits.get(number, kind) for number, kind in enumerate(columns.kinds)]
            running.append(pool.submit(_typed, block, kinds))
            yield from taken(BLOCKS_AHEAD)
        yield from taken(0)
    finally:
        pool.shutdown(cancel_futures=True)
    if misfits:
        raise MisfitError(misfits)


def _typed(block: memoryview, kinds: Sequence[str]) -> tuple[list[Any], dict[int, str]]:
    """The columns, and the kinds for those with a cell that does not fit."""
    columns, misfits = [], {}
    for number, (column, kind) in enumerate(zip(_texts(block, len(kinds)), kinds, strict=True)):
        found = converted(column, kind)
        if found is None:
            misfits[number] = fallback(column)
        columns.append(found)
    return columns, misfits


def _texts(block: memoryview, width: int) -> list[Any]:
    """A string array for each column, binary if the block isn't UTF-8; nothing of the block's memory is kept.

    An empty cell and a `null` are null, in quotes they are not, as the grammar has it. Raises UnreadableError.
    """
    names = [str(number) for number in range(width)]
    data = pa.py_buffer(block)
    try:
        table = csv.read_csv(
            data,
            csv.ReadOptions(column_names=names, use_threads=False, block_size=data.size + 1),
            csv.ParseOptions(newlines_in_values=True, ignore_empty_lines=False),
            csv.ConvertOptions(
                column_types=dict.fromkeys(names, pa.binary()),
                null_values=["", "null"],
                strings_can_be_null=True,
                quoted_strings_can_be_null=False,
                check_utf8=False,
            ),
            memory_pool=POOL,
        )
    except pa.ArrowInvalid:  # its words would show an event
        raise UnreadableError("Arrow finds different columns in a record than in the header") from None
    columns = [column.chunk(0) if column.num_chunks == 1 else column.combine_chunks() for column in table.columns]
    return [column.view(pa.string()) for column in columns] if _is_utf8(data) else columns


def _is_utf8(data: Any) -> bool:
    """Whether a block is, and with it each of its cells, which begin and end at ASCII."""
    offsets = pa.py_buffer(np.array([0, data.size], np.int32))  # `pyarrow.array` would import pandas
    try:
        pa.StringArray.from_buffers(1, offsets, data).validate(full=True)
    except pa.ArrowInvalid:
        return False
    return True


def _writer(file: BufferedFileWriter, schema: Any, dictionaries: list[str]) -> Any:
    # Without Arrow's own copy of the schema, since readers would see its metadata instead of those added at the end; every type
    # here is one of Parquet's own.
    return parquet.ParquetWriter(
        file, schema, compression="zstd", compression_level=ZSTD_LEVEL, use_dictionary=dictionaries, store_schema=False
    )


def _metadata(proven: Intake, text: Sequence[str]) -> dict[str, str]:
    return {
        "keen_pipeline.sha256": proven.sha256,
        "keen_pipeline.records": str(proven.records),
        "keen_pipeline.bytes": str(proven.bytes),
        "keen_pipeline.columns": json.dumps(list(proven.columns)),
        "keen_pipeline.text_columns": json.dumps(list(text)),
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
    times = collections.Counter[str]()
    for column in columns:
        name = column
        while name in names:
            times[column] += 1
            name = f"{column}#{times[column] + 1}"
        names[name] = None
    return list(names)
