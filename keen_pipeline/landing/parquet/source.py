"""The CSV of a Parquet landing, on its way: written at its end by the download, read from its beginning by the conversion, in
blocks of whole records that are cut at the same places however the bytes came."""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable, Generator
from typing import Any

from keen_pipeline.landing.csv.grammar import LONGEST_HEADER_BYTES, RecordReader, column_names
from keen_pipeline.landing.csv.verify import CsvVerifier
from keen_pipeline.landing.transfer.direct import PAGE_BYTES, AlignedBuffer, DirectReader, TemporaryFile
from keen_pipeline.landing.transfer.intake import Intake
from keen_pipeline.landing.transfer.workers import Chunk

BLOCK_BYTES = 1024 * 1024
"""Looked at, split and converted at once, longer only if a record is. With shorter ones threads wait more for each other."""
BLOCK_COLUMNS = 1024
"""Wider files have longer blocks: an array costs a tenth of a millisecond and 10 KiB however short it is."""
LONGEST_BLOCK_BYTES = 128 * 1024 * 1024
_HEADER_BYTES = 64 * 1024
_LF = ord("\n")


class StoppedError(Exception):
    """The CSV that was being read is given up. Never leaves a conversion."""


class UnreadableError(Exception):
    """A record does not fit into a block, or Arrow reads others than the verifier. Never leaves a conversion."""


class CsvBody(TemporaryFile):
    """The staged CSV: written at its end by the download, and read meanwhile by a conversion, which waits for what has yet to come.

    `grown` is called when it has become longer, `begun_anew` before it is emptied: what was made of it is dropped then. Once it is
    whole it can be read as any file.
    """

    def __init__(self, grown: Callable[[], None], begun_anew: Callable[[], None]) -> None:
        super().__init__(direct=True)
        self._reader = DirectReader(self.fileno())
        self._grown, self._begun_anew = grown, begun_anew
        self._changed = threading.Condition()
        self.size = 0
        self._proven: Intake | None = None
        self._stopped = False

    def write(self, data: Any) -> int:
        written = super().write(data)
        with self._changed:
            self.size = self.tell()
            self._changed.notify_all()
        self._grown()
        return written

    def truncate(self, size: int | None = None) -> int:
        self._begun_anew()
        self.size, self._proven, self._stopped = 0, None, False
        return super().truncate(size)

    def close(self) -> None:
        if not self.closed:
            self._reader.close()
        super().close()

    def end(self, proven: Intake) -> None:
        """All bytes have come, and are proven."""
        with self._changed:
            self._proven = proven
            self._changed.notify_all()

    def stop(self) -> None:
        """No more bytes come, and what was read is worth nothing."""
        with self._changed:
            self._stopped = True
            self._changed.notify_all()

    def proven(self) -> Intake:
        """Wait until the CSV is whole. Raises StoppedError."""
        with self._changed:
            self._changed.wait_for(lambda: self._stopped or self._proven is not None)
            if self._stopped or self._proven is None:
                raise StoppedError
            return self._proven

    def wait(self, offset: int, length: int) -> int:
        """Wait until `length` bytes from `offset` on have come; returns how many: fewer only at the end. Raises StoppedError."""
        with self._changed:
            self._changed.wait_for(lambda: self.size >= offset + length or self._stopped or self._proven is not None)
            if self._stopped:
                raise StoppedError
            return min(length, self.size - offset)

    def read_into(self, buffer: AlignedBuffer, offset: int, length: int) -> int:
        """Read bytes that have come; returns where in `buffer.memory` they begin."""
        start, end = self._reader.read(buffer, offset, length)
        assert end - start == length
        return start


def read_header(body: CsvBody) -> tuple[tuple[str, ...], int]:
    """The columns, and where the records begin. Raises StoppedError, and VerificationError for what the verifier refuses too."""
    size = _HEADER_BYTES
    while True:
        length = body.wait(0, size)
        buffer = AlignedBuffer(length)
        start = body.read_into(buffer, 0, length)
        reader = RecordReader()
        reader.add(buffer.memory[start : start + length])
        if length < size:
            reader.end()
        header = reader.next()
        if header is not None:
            return column_names(header[0]), reader.offset
        if length < size or size > LONGEST_HEADER_BYTES:
            return tuple(body.proven().columns), length
        size *= 2


class BlockReader:
    """Reads the records of `body` from the offset `at` on. For one thread; `give` is for any."""

    def __init__(self, body: CsvBody, at: int, columns: tuple[str, ...]) -> None:
        self._body = body
        self._columns = columns
        self._at = at
        self._least = BLOCK_BYTES * max(1, len(columns) // BLOCK_COLUMNS)
        self._free: queue.SimpleQueue[AlignedBuffer] = queue.SimpleQueue()

    def blocks(self) -> Generator[Chunk, None, None]:
        """All records, each with its line end; each block is to be given back.

        Raises StoppedError, UnreadableError, and VerificationError for what the verifier refuses too.
        """
        wanted = self._least
        while True:
            length = self._body.wait(self._at, wanted)
            if not length:
                return
            buffer = self._buffer(length)
            start = self._body.read_into(buffer, self._at, length)
            end = self._end_of_records(buffer.memory, start, start + length, last=length < wanted)
            if end > start:
                self._at += min(end - start, length)
                wanted = self._least
                yield Chunk(buffer.memory, start, end, buffer)
                continue
            wanted *= 2
            if wanted > LONGEST_BLOCK_BYTES:
                raise UnreadableError(f"a record is longer than {wanted // 2} bytes")

    def give(self, block: Chunk) -> None:
        """Its buffer can be filled again."""
        buffer = block.buffer
        if buffer is not None and self._least < len(buffer.view) <= self._least + 2 * PAGE_BYTES:
            self._free.put(buffer)

    def _buffer(self, length: int) -> AlignedBuffer:
        if length == self._least and not self._free.empty():
            return self._free.get()
        return AlignedBuffer(length + PAGE_BYTES)

    def _end_of_records(self, memory: bytearray, start: int, end: int, *, last: bool) -> int:
        """Where the whole records at the beginning of the bytes end, all of them if these are the `last`.

        Arrow finds record ends too, but loses the LF of a quoted CR LF that two of its own blocks share.
        """
        if last:
            if memory[end - 1] not in b"\r\n":
                memory[end] = _LF
                end += 1
            return end
        if memory.find(b'"', start, end) < 0 and memory.find(b"\r", start, end) < 0:
            return memory.rfind(b"\n", start, end) + 1
        verifier = CsvVerifier(self._columns)
        verifier.feed(memory, start, end)
        return start + verifier.whole
