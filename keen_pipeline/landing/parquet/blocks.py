"""The CSV of a Parquet landing in blocks of whole records, cut at the same places however the bytes came."""

from __future__ import annotations

import queue
from collections.abc import Generator
from typing import NamedTuple

import numpy as np

from keen_pipeline.landing.csv.records import raw_record
from keen_pipeline.landing.csv.structure import Marks, StructureReader, end_of_last
from keen_pipeline.landing.csv.verify import BOM, LONGEST_HEADER_BYTES, CsvVerifier, parse_header
from keen_pipeline.landing.parquet.feed import Feed
from keen_pipeline.landing.transfer.direct import PAGE_BYTES, AlignedBuffer

BLOCK_BYTES = 1536 * 1024
"""Looked at, split and converted at once, longer only where a record is. With shorter ones threads wait more for each other."""
LONGEST_BLOCK_BYTES = 128 * 1024 * 1024
_HEADER_BYTES = 64 * 1024
_QUOTE, _LF, _CR = b'"\n\r'


class LongRecordError(Exception):
    """A record does not fit into a block, or it is no CSV. Never leaves a conversion."""


class Block(NamedTuple):
    """`buffer.memory[start:end]` is records, each with its line end.

    `marks`: of a block with quotes or CRs; None: each comma and each LF separates. `odd`: it is well-formed in a way that marks
    don't show, such as a quote within an unquoted cell.
    """

    buffer: AlignedBuffer
    start: int
    end: int
    marks: Marks | None = None
    odd: bool = False


class BlockReader:
    """Reads the records of `feed` from the offset `at` on. For one thread; `give` is for any."""

    def __init__(self, feed: Feed, at: int, columns: tuple[str, ...]) -> None:
        self._feed = feed
        self._columns = columns
        self._at = at
        self._structure = StructureReader(BLOCK_BYTES)
        self._free: queue.SimpleQueue[AlignedBuffer] = queue.SimpleQueue()

    def blocks(self) -> Generator[Block, None, None]:
        """All records; each block's memory is to be given back.

        Raises StoppedError, LongRecordError, and VerificationError for what the verifier refuses too.
        """
        wanted = BLOCK_BYTES
        while True:
            length = self._feed.wait(self._at, wanted)
            if not length:
                return
            buffer = self._buffer(length)
            start = self._feed.read(buffer, self._at, length)
            end = start + length
            block = self._block(buffer, start, end, last=length < wanted)
            if block is not None:
                self._at += min(block.end, end) - start
                wanted = BLOCK_BYTES
                yield block
                continue
            wanted *= 2
            if wanted > LONGEST_BLOCK_BYTES:
                raise LongRecordError(f"a record is longer than {wanted // 2} bytes")

    def give(self, buffer: AlignedBuffer) -> None:
        """It can be filled anew."""
        if BLOCK_BYTES < len(buffer.view) <= BLOCK_BYTES + 2 * PAGE_BYTES:
            self._free.put(buffer)

    def _buffer(self, length: int) -> AlignedBuffer:
        if length == BLOCK_BYTES and not self._free.empty():
            return self._free.get()
        return AlignedBuffer(length + PAGE_BYTES)

    def _block(self, buffer: AlignedBuffer, start: int, end: int, *, last: bool) -> Block | None:
        """The whole records at the beginning of the bytes, all of them where these are the `last`; None where there is none."""
        memory = buffer.memory
        if last and memory[end - 1] not in b"\r\n":
            memory[end] = _LF
            end += 1
        if memory.find(_QUOTE, start, end) < 0 and memory.find(_CR, start, end) < 0:
            after = memory.rfind(_LF, start, end) + 1
            return Block(buffer, start, after) if after else None
        # Of a quote or CR at the very end the next byte decides what it means.
        looked_at = end
        while looked_at > start and memory[looked_at - 1] in b'"\r':
            looked_at -= 1
        marks = self._structure.marks(memory, start, looked_at, quoted=False, in_field=False) if looked_at > start else None
        if marks is None or (last and looked_at < end):
            whole = end - start if last else self._whole(memory, start, end)
            return Block(buffer, start, start + whole, odd=True) if whole else None
        whole = end_of_last(marks.line_ends, np.flatnonzero(marks.line_ends))
        return Block(buffer, start, start + whole, marks) if whole else None

    def _whole(self, memory: bytearray, start: int, end: int) -> int:
        verifier = CsvVerifier(self._columns)
        verifier.feed(memory, start, end)
        return verifier.whole


def read_header(feed: Feed) -> tuple[tuple[str, ...], int]:
    """The columns, and where the records begin. Raises StoppedError, and VerificationError for what the verifier refuses too."""
    size = _HEADER_BYTES
    while True:
        length = feed.wait(0, size)
        buffer = AlignedBuffer(length)
        start = feed.read(buffer, 0, length)
        data = bytes(buffer.memory[start : start + length])
        last = length < size
        at = len(BOM) if data.startswith(BOM) else 0
        found = raw_record(data, at, last=last) if len(data) > at else None
        if found is not None:
            return parse_header(b",".join(found[0])), found[2]
        if last or size > LONGEST_HEADER_BYTES:
            return tuple(feed.proven().columns), len(data)
        size *= 2
