"""A CSV as batches of typed columns: parsed by Arrow, each cell looked at before its column gets its type."""

from __future__ import annotations

import queue
import threading
from collections.abc import Generator, Iterator, Mapping, Sequence
from contextlib import closing, suppress
from typing import Any

import pyarrow as pa
from pyarrow import csv

from keen_pipeline.landing.parquet_cells import BYTES, converted, fallback
from keen_pipeline.landing.parquet_feed import BlockReader, Feed, StoppedError

RELEASE_BLOCKS = 8
"""What Arrow's allocator keeps for this thread goes back to the system so often; a landing would hold 30 MiB more without."""


class MisfitError(Exception):
    """Columns with a cell that does not fit, and the kinds that take all their cells. Never leaves a conversion."""

    def __init__(self, kinds: Mapping[int, str]) -> None:
        super().__init__(kinds)
        self.kinds = kinds


class LongRecordError(Exception):
    """A record does not fit into a block, or it is no CSV. Never leaves a conversion."""


def typed_batches(feed: Feed, kinds: Sequence[str], schema: Any, block: int) -> Generator[Any, None, None]:
    """The records in the columns of the schema. Raises MisfitError at the end, so that one more try is enough, LongRecordError,
    and StoppedError where the feed was stopped."""
    misfits: dict[int, str] = {}
    for number_of_blocks, raw in enumerate(_raw_batches(feed, len(kinds), block), 1):
        columns = []
        for number, kind in enumerate(kinds):
            column = raw.column(number)
            found = converted(column, misfits.get(number, kind))
            if found is None:
                misfits[number] = BYTES if misfits.get(number) else fallback(column)
            columns.append(found)
        records = raw.num_rows
        del raw, column
        if number_of_blocks % RELEASE_BLOCKS == 0:
            pa.default_memory_pool().release_unused()
        if not misfits and records:
            yield pa.record_batch(columns, schema=schema)
    if misfits:
        raise MisfitError(misfits)


def _raw_batches(feed: Feed, width: int, block: int) -> Iterator[Any]:
    """The records as columns of bytes; an empty cell and a `null` are null, in quotes they are not."""
    names = [str(number) for number in range(width)]
    reading = csv.ReadOptions(block_size=block, column_names=names, skip_rows_after_names=1, use_threads=False)
    parsing = csv.ParseOptions(newlines_in_values=True, ignore_empty_lines=False)
    converting = csv.ConvertOptions(
        column_types=dict.fromkeys(names, pa.binary()),
        null_values=["", "null"],
        strings_can_be_null=True,
        quoted_strings_can_be_null=False,
        check_utf8=False,
    )
    try:
        # Of a CSV that the verifier has taken, only a record longer than a block is left to refuse.
        with closing(BlockReader(feed, block)) as body:
            if feed.ended and not feed.proven().records:
                return
            with csv.open_csv(pa.PythonFile(body, "r"), reading, parsing, converting) as reader:
                try:
                    for batch in reader:
                        yield batch
                        body.allow()
                finally:
                    body.close()  # before the reader, whose thread may wait for more
    except pa.ArrowInvalid as error:
        raise LongRecordError(str(error)) from None
    if feed.stopped:
        raise StoppedError


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
