"""A CSV as batches of typed columns: split beside the thread that writes, each cell looked at before its column gets its type."""

from __future__ import annotations

import collections
import itertools
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from typing import Any

import pyarrow as pa

from keen_pipeline.landing.parquet.blocks import Block, BlockReader
from keen_pipeline.landing.parquet.cells import BYTES, converted, fallback
from keen_pipeline.landing.parquet.feed import Feed
from keen_pipeline.landing.parquet.split import split

WORKERS = 1
"""Threads of one conversion that split and convert, beside the one that writes. With two cores a second one gains nothing."""
BLOCKS_AHEAD = 4
"""Given to the workers before their batches are asked for: what they do while a row group is written."""


class MisfitError(Exception):
    """Columns with a cell that does not fit, and the kinds that take all their cells. Never leaves a conversion."""

    def __init__(self, kinds: Mapping[int, str]) -> None:
        super().__init__(kinds)
        self.kinds = kinds


def typed_batches(
    feed: Feed, start: int, columns: tuple[str, ...], kinds: Sequence[str], schema: Any
) -> Generator[Any, None, None]:
    """The records from the offset `start` on in the columns of the schema; close it to end early.

    Raises MisfitError at the end, so that one more try is enough, and what BlockReader and `split` raise.
    """
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

    reader = BlockReader(feed, start, columns)
    blocks = reader.blocks()
    opening = list(itertools.islice(blocks, 2))
    # Most files are one block, and a thread costs more than what it would do.
    pool: Executor = ThreadPoolExecutor(WORKERS, thread_name_prefix="landing-parquet") if len(opening) > 1 else _Here()
    try:
        for block in itertools.chain(opening, blocks):
            running.append(pool.submit(_typed, reader, block, [misfits.get(number, kind) for number, kind in enumerate(kinds)]))
            yield from taken(BLOCKS_AHEAD)
        yield from taken(0)
    finally:
        pool.shutdown(cancel_futures=True)
    if misfits:
        raise MisfitError(misfits)


class _Here(Executor):
    """Does what it is given in the thread that gives it."""

    def submit(self, work: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
        future: Future[Any] = Future()
        future.set_result(work(*args, **kwargs))
        return future


def _typed(reader: BlockReader, block: Block, kinds: Sequence[str]) -> tuple[list[Any], dict[int, str]]:
    """The columns, and the kinds for those with a cell that does not fit."""
    columns, misfits = [], {}
    texts = split(block, len(kinds))
    reader.give(block.buffer)
    for number, (column, kind) in enumerate(zip(texts, kinds, strict=True)):
        found = converted(column, kind)
        if found is None:
            misfits[number] = fallback(column)
        columns.append(found)
    return columns, misfits
