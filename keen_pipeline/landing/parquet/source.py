"""The CSV of a Parquet landing, on its way: written at its end by the download, read from its beginning by the conversion, in
blocks of whole records that are cut at the same places however the bytes came."""

from __future__ import annotations

import io
import os
import threading
from collections.abc import Callable, Generator
from typing import Any, cast

from keen_pipeline.landing.csv.grammar import LONGEST_HEADER_BYTES, RecordReader, column_names
from keen_pipeline.landing.csv.verify import CsvVerifier
from keen_pipeline.landing.transfer.direct import TemporaryFile
from keen_pipeline.landing.transfer.intake import Intake

BLOCK_BYTES = 1536 * 1024
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
        try:  # reads with a position and flags of their own
            self._reader = open(f"/proc/self/fd/{self.fileno()}", "rb", buffering=0)  # noqa: PTH123, SIM115
        except OSError:
            self._possible = False
            self._reader = cast("io.FileIO", self)
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

    def close(self) -> None:
        if not self.closed and self._reader is not self:
            self._reader.close()
        super().close()

    def truncate(self, size: int | None = None) -> int:
        self._begun_anew()
        self.size, self._proven, self._stopped = 0, None, False
        return super().truncate(size)

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

    def read_into(self, memory: bytearray, offset: int, length: int) -> None:
        """Read bytes that have come into the beginning of `memory`."""
        view, filled = memoryview(memory)[:length], 0
        while filled < length:
            got = os.preadv(self._reader.fileno(), [view[filled:]], offset + filled)
            assert got
            filled += got


def read_header(body: CsvBody) -> tuple[tuple[str, ...], int]:
    """The columns, and where the records begin. Raises StoppedError, and VerificationError for what the verifier refuses too."""
    size = _HEADER_BYTES
    while True:
        length = body.wait(0, size)
        memory = bytearray(length)
        body.read_into(memory, 0, length)
        reader = RecordReader()
        reader.add(memory)
        if length < size:
            reader.end()
        header = reader.next()
        if header is not None:
            return column_names(header[0]), reader.offset
        if length < size or size > LONGEST_HEADER_BYTES:
            return tuple(body.proven().columns), length
        size *= 2


class BlockReader:
    """Reads the records of `body` from the offset `at` on. For one thread."""

    def __init__(self, body: CsvBody, at: int, columns: tuple[str, ...]) -> None:
        self._body = body
        self._columns = columns
        self._at = at
        self._least = BLOCK_BYTES * max(1, len(columns) // BLOCK_COLUMNS)

    def blocks(self) -> Generator[memoryview, None, None]:
        """All records, each with its line end.

        Raises StoppedError, UnreadableError, and VerificationError for what the verifier refuses too.
        """
        wanted = self._least
        while True:
            length = self._body.wait(self._at, wanted)
            if not length:
                return
            memory = bytearray(length + 1)  # with room for the line end of a last record that has none
            self._body.read_into(memory, self._at, length)
            end = self._end_of_records(memory, length, last=length < wanted)
            if end:
                self._at += min(end, length)
                wanted = self._least
                yield memoryview(memory)[:end]
                continue
            wanted *= 2
            if wanted > LONGEST_BLOCK_BYTES:
                raise UnreadableError(f"a record is longer than {wanted // 2} bytes")

    def _end_of_records(self, memory: bytearray, end: int, *, last: bool) -> int:
        """Where the whole records at the beginning of the `end` bytes end, all of them if these are the `last`.

        Arrow finds record ends too, but loses the LF of a quoted CR LF that two of its own blocks share.
        """
        if last:
            if memory[end - 1] not in b"\r\n":
                memory[end] = _LF
                end += 1
            return end
        if memory.find(b'"', 0, end) < 0 and memory.find(b"\r", 0, end) < 0:
            return memory.rfind(b"\n", 0, end) + 1
        verifier = CsvVerifier(self._columns)
        verifier.feed(memory, 0, end)
        return verifier.whole
