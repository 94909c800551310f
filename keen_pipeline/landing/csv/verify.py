"""Is it a whole CSV? Records, header and columns of a CSV that streams by, in constant memory, whatever its chunks.

The rules are those of `grammar`. Refused besides: a record with another number of columns than the header, a document in a markup
language, a header longer than LONGEST_HEADER_BYTES, a record longer than LONGEST_RECORD_BYTES. Zero bytes, or a header alone, are
zero records.

Two ways give the same answer: the grammar's `RecordReader` goes from field to field and knows everything; `StructureReader` looks
at a whole stretch at once, which is ten times quicker and can only say "all right" or "let the other one look". Each look begins
with a record; what has begun and not ended is held until it has.
"""

from __future__ import annotations

from keen_pipeline.errors import VerificationError
from keen_pipeline.landing.csv.grammar import LONGEST_RECORD_BYTES, RecordReader, column_names
from keen_pipeline.landing.csv.structure import STRETCH_BYTES, StructureReader

_SCANNED_BYTES = 4096
"""A stretch in doubt is halved down to this length, so that a misplaced quote costs a scan of its surroundings only. If doubts
follow each other, twice as much is scanned each time."""
_JOINED_BYTES = 8 * 1024
"""Copied behind a record that is held, to find its end."""


class CsvVerifier:
    """Feed it the CSV in chunks, then `finish()`. Both raise VerificationError naming the record and the byte where it begins.

    `columns`: those of a header that was read before; what is fed begins with a record then. `whole`: bytes that are whole records,
    of those fed; a CR at the end may still get its LF.
    """

    def __init__(self, columns: tuple[str, ...] = ()) -> None:
        self.columns = columns
        self.records = 0
        self.whole = 0
        self._head: RecordReader | None = None if columns else RecordReader()
        self._structure = StructureReader(len(columns))
        self._scanned = _SCANNED_BYTES
        self._held = b""

    def feed(self, data: bytes | bytearray, start: int = 0, end: int | None = None) -> None:
        """Take the next bytes, any number of them: `data[start:end]`."""
        end = len(data) if end is None else end
        if self._head is not None:
            self._head.add(memoryview(data)[start:end])
            data = self._after_header(self._head)
            start, end = 0, len(data)
        while self._held and start < end:
            start = self._end_held(data, start, end)
        if start < end:
            self._held = bytes(data[self._records(data, start, end) : end])

    def finish(self) -> None:
        """The file is over: `columns` and `records` now stand."""
        if self._head is not None:
            self._head.end()
            self._held = self._after_header(self._head)
        self._scan(self._held, is_last=True)

    def _after_header(self, head: RecordReader) -> bytes:
        """What follows the header; nothing as long as that is not whole."""
        header = head.next()
        if header is None:
            return b""
        self.columns = column_names(header[0])
        self.whole = head.offset
        self._head = None
        self._structure = StructureReader(len(self.columns))
        return head.rest()

    def _end_held(self, data: bytes | bytearray, start: int, end: int) -> int:
        """Go on with the record that is held; returns up to where `data` is taken."""
        held = len(self._held)
        # The whole of it is gone through each time: twice as much.
        joined = self._held + data[start : min(end, start + max(_JOINED_BYTES, held))]
        if after := self._records(joined, 0, len(joined)):
            self._held = self._held[after:]
            return start + max(0, after - held)
        if len(joined) > LONGEST_RECORD_BYTES:
            raise VerificationError(f"record {self.records + 1} is longer than {LONGEST_RECORD_BYTES} bytes (at byte {self.whole})")
        self._held = joined
        return start + len(joined) - held

    def _records(self, data: bytes | bytearray, start: int, end: int) -> int:
        """Count the whole records of `data[start:end]`, which begins with one; returns where the last of them ends."""
        at, length, doubtful = start, STRETCH_BYTES, 0
        while at < end:
            stop = min(end, at + length)
            after = self._look(data, at, stop)
            if after is None and stop - at > _SCANNED_BYTES:
                doubtful, length = stop - at, (stop - at) // 2
                continue
            if after is None or (after == at and doubtful):
                stop = min(end, at + max(doubtful, self._scanned))
                after = at + self._scan(data[at:stop])
                self._scanned *= 2
            elif after > at:
                self._scanned = _SCANNED_BYTES
            if after > at:
                at, length, doubtful = after, min(2 * length, STRETCH_BYTES), 0
            elif stop < end:
                length, doubtful = 2 * (stop - at), 0
            else:
                break
        return at

    def _look(self, data: bytes | bytearray, start: int, end: int) -> int | None:
        """Count the records of `data[start:end]` at once; returns where the last ends. None, and nothing counted, in doubt."""
        # A quote or CR at the very end means nothing before the next byte is known.
        last = end
        while last > start and data[last - 1] in b'"\r':
            last -= 1
        found = self._structure.read(data, start, last) if last > start else None
        if found is None or (not found[0] and last < end):
            return None
        self.records += found[0]
        self.whole += found[1]
        return start + found[1]

    def _scan(self, data: bytes | bytearray, *, is_last: bool = False) -> int:
        """Go through the records one by one; returns how many bytes they have."""
        before = self.whole
        reader = RecordReader(self.records + 1, before, len(self.columns))
        reader.add(data)
        if is_last:
            reader.end()
        for _ in reader:
            self.records += 1
            self.whole = reader.offset
        return self.whole - before
