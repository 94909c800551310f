"""A verified CSV as Parquet, typed by what Keen says of its properties, with every value as it was.

What column a type makes, and which cells fit it, stands in `parquet_cells`. An empty cell is null, and JSON's null too (`null`
without quotes); in quotes both are text. One cell that does not fit, and its column stays text in this file. The file's
key-value metadata say of what it was made: `keen_pipeline.sha256`, `.records` and `.bytes` of the CSV, `.columns` its header,
`.text_columns` the columns that stayed text although Keen has another type for them.
"""

from __future__ import annotations

import importlib.util
import io
import json
import queue
import threading
from collections.abc import Generator, Iterator, Mapping, Sequence
from contextlib import closing, suppress
from dataclasses import dataclass
from typing import Any, BinaryIO

from keen_pipeline.errors import ConfigurationError, VerificationError

ROW_GROUP_RECORDS = 1024 * 1024
ROW_GROUP_BYTES = 16 * 1024 * 1024
"""In memory, before encoding; what comes first ends a row group. Some 150,000 events: readers skip and share work by it."""
BLOCK_BYTES = (1024 * 1024, 128 * 1024 * 1024)
"""Of CSV parsed at once; the larger one only where a record is longer than the first."""
BLOCKS_AHEAD = 4
"""Converted while earlier ones are written."""
READS_AHEAD = 6
"""Blocks of CSV read while earlier ones are parsed."""
ZSTD_LEVEL = 1


@dataclass(frozen=True)
class Source:
    """The CSV: an open file of it, and what the verifier found."""

    file: BinaryIO
    columns: Sequence[str]
    records: int
    bytes: int
    sha256: str


class _MisfitError(Exception):
    """Columns with a cell that does not fit, and the kinds that take all their cells. Never leaves this module."""

    def __init__(self, kinds: Mapping[int, str]) -> None:
        super().__init__(kinds)
        self.kinds = kinds


class _LongRecordError(Exception):
    """A record does not fit into a block. Never leaves this module."""


def check_installed() -> None:
    """Raises ConfigurationError where the extra is missing; imports nothing."""
    if importlib.util.find_spec("pyarrow") is None:
        raise ConfigurationError("encoding parquet needs its extra: pip install 'keen_pipeline[parquet]'")


def write_parquet(source: Source, target: BinaryIO, types: Mapping[str, str]) -> tuple[str, ...]:
    """Write `source` to the empty `target`. `types`: Keen's type by property. Returns the type of each column, in Arrow's words.

    Raises VerificationError where a reader of Parquet would not see the same records, ConfigurationError where a record is too
    long for it, OSError of either file.
    """
    from keen_pipeline.landing.parquet_cells import arrow_type

    asked = [types.get(name, "string") for name in source.columns]
    kinds = list(asked)
    blocks = iter(BLOCK_BYTES)
    block = next(blocks)
    while True:
        target.seek(0)
        target.truncate()
        # Text for want of a better type is not worth a word; text against Keen's own word is.
        text = [name for name, kind, wish in zip(source.columns, kinds, asked, strict=True) if kind != wish]
        try:
            _write(source, target, kinds, text, block)
        except _MisfitError as misfit:
            for number, kind in misfit.kinds.items():
                kinds[number] = kind
        except _LongRecordError as error:
            block = next(blocks, 0)
            if not block:
                raise ConfigurationError(f"can't be written as Parquet ({error}); use encoding csv for this collection") from None
        else:
            return tuple(str(arrow_type(kind)) for kind in kinds)


def _write(source: Source, target: BinaryIO, kinds: Sequence[str], text: list[str], block: int) -> None:
    import pyarrow as pa
    from pyarrow import parquet

    from keen_pipeline.landing.parquet_cells import arrow_type

    fields = [pa.field(name, arrow_type(kind)) for name, kind in zip(_distinct(source.columns), kinds, strict=True)]
    metadata = {
        "keen_pipeline.sha256": source.sha256,
        "keen_pipeline.records": str(source.records),
        "keen_pipeline.bytes": str(source.bytes),
        "keen_pipeline.columns": json.dumps(list(source.columns)),
        "keen_pipeline.text_columns": json.dumps(text),
    }
    schema = pa.schema(fields, metadata=metadata)
    written = 0
    with (
        parquet.ParquetWriter(_Whole(target), schema, compression="zstd", compression_level=ZSTD_LEVEL) as writer,
        closing(ahead(_batches(source, kinds, schema, block), BLOCKS_AHEAD)) as batches,
    ):
        for group in _groups(batches, schema):
            writer.write_table(group, row_group_size=group.num_rows)
            written += group.num_rows
            del group  # or it would still be there while the next one is put together
    if written != source.records:
        raise VerificationError(f"as Parquet it would have {written} records, the CSV has {source.records}")


def _groups(batches: Iterator[Any], schema: Any) -> Iterator[Any]:
    """Tables of about a row group each."""
    import pyarrow as pa

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


def _batches(source: Source, kinds: Sequence[str], schema: Any, block: int) -> Generator[Any, None, None]:
    """The records in the columns of the schema. Raises _MisfitError at the end, so that one more try is enough."""
    import pyarrow as pa

    from keen_pipeline.landing.parquet_cells import BYTES, converted, fallback

    misfits: dict[int, str] = {}
    for raw in _raw_batches(source, block):
        columns = []
        for number, kind in enumerate(kinds):
            column = raw.column(number)
            found = converted(column, misfits.get(number, kind))
            if found is None:
                misfits[number] = BYTES if misfits.get(number) else fallback(column)
            columns.append(found)
        if not misfits and raw.num_rows:
            yield pa.record_batch(columns, schema=schema)
    if misfits:
        raise _MisfitError(misfits)


def _raw_batches(source: Source, block: int) -> Iterator[Any]:
    """The records as columns of bytes; an empty cell and a `null` are null, in quotes they are not."""
    if not source.records:
        return
    import pyarrow as pa
    from pyarrow import csv

    names = [str(number) for number in range(len(source.columns))]
    reading = csv.ReadOptions(block_size=block, column_names=names, skip_rows_after_names=1)
    parsing = csv.ParseOptions(newlines_in_values=True, ignore_empty_lines=False)
    converting = csv.ConvertOptions(
        column_types=dict.fromkeys(names, pa.binary()),
        null_values=["", "null"],
        strings_can_be_null=True,
        quoted_strings_can_be_null=False,
        check_utf8=False,
    )
    try:
        # The verifier took it for a whole CSV: only a record longer than a block is left to refuse.
        with closing(_Ended(source.file)) as body, csv.open_csv(pa.PythonFile(body, "r"), reading, parsing, converting) as reader:
            try:
                for batch in reader:
                    body.allow()
                    yield batch
            finally:
                body.close()  # before the reader, whose thread may wait for more
    except pa.ArrowInvalid as error:
        raise _LongRecordError(str(error)) from None


def ahead(items: Generator[Any, None, None], depth: int) -> Generator[Any, None, None]:
    """The same items, made in a thread of their own, at most `depth` of them before they are asked for. Close it to end early."""
    made: queue.Queue[tuple[Any, BaseException | None]] = queue.Queue(depth)
    stop = threading.Event()
    end = object()

    def run() -> None:
        failure: BaseException | None = None
        try:
            with closing(items):
                for item in items:
                    made.put((item, None))
                    if stop.is_set():
                        return
        except BaseException as error:  # noqa: BLE001 - raised again where the items are taken
            failure = error
        made.put((end, failure))

    thread = threading.Thread(target=run, name="landing-parquet", daemon=True)
    thread.start()
    try:
        while True:
            item, failure = made.get()
            if failure is not None:
                raise failure
            if item is end:
                return
            yield item
    finally:
        stop.set()
        while thread.is_alive():
            # A place in the queue is all that it may wait for.
            with suppress(queue.Empty):
                made.get(timeout=0.01)
        thread.join()


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


class _Ended(io.RawIOBase):
    """Reads a CSV from its beginning, in a way that two errors of Arrow's parser don't come to pass.

    A LF at the start of a block is lost where the block before ended with a CR, within quotes too: so no read ends between them.
    An empty last cell without a line end counts as quoted where a quoted one stood before: so a line end follows it.
    Arrow reads 32 blocks ahead, in a thread that an error does not end: here it gets some, one more with each `allow`, and none
    after `close`.
    """

    def __init__(self, file: BinaryIO) -> None:
        file.seek(0)
        self._file = file
        self._lock = threading.Lock()
        self._allowed = threading.Semaphore(READS_AHEAD)
        self._held = b""
        self._last = b""

    def readable(self) -> bool:
        return True

    def close(self) -> None:
        with self._lock:
            super().close()
        self._allowed.release(READS_AHEAD)

    def allow(self) -> None:
        self._allowed.release()

    def read(self, size: int = -1) -> bytes:
        # A block without an answer (the header alone) must not stop it for ever; what it costs is memory, no more.
        self._allowed.acquire(timeout=1.0)
        with self._lock:
            return b"" if self.closed else self._read(size)

    def _read(self, size: int) -> bytes:
        data = self._file.read(size - len(self._held))
        if not data:
            data, self._held = self._held or (b"" if self._last in (b"", b"\r", b"\n") else b"\n"), b""
        else:
            data, self._held = (self._held + data if self._held else data), b""
            if data[-1] == ord("\r") and len(data) > 1:
                data, self._held = data[:-1], b"\r"
        self._last = data[-1:]
        return data


class _Whole(io.RawIOBase):
    """Writes all it is given to an unbuffered file, which stays open."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file

    def writable(self) -> bool:
        return True

    def write(self, data: Any) -> int:
        view = memoryview(data).cast("B")
        length = len(view)
        while view:
            view = view[self._file.write(view) :]
        return length

    def tell(self) -> int:
        return self._file.tell()
