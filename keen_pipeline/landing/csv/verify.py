"""Is it a whole CSV? Records, header and columns of a CSV that streams by, in constant memory, whatever its chunks.

The rules are those of `grammar`. Refused besides: a record with another number of columns than the header, a document in a markup
language, a header longer than LONGEST_HEADER_BYTES. Zero bytes, or a header alone, are zero records.

Two ways give the same answer: the grammar's `Scanner` goes from field to field and knows everything; `StructureReader` looks at
a whole stretch at once, which is ten times quicker and can only say "all right" or "let the scanner look".
"""

from __future__ import annotations

from keen_pipeline.errors import VerificationError
from keen_pipeline.landing.csv.grammar import (
    CLOSED,
    FIELD_START,
    IN_PLAIN,
    IN_QUOTES,
    RECORD_START,
    BrokenQuotesError,
    RecordReader,
    Scanner,
    column_names,
)
from keen_pipeline.landing.csv.structure import StructureReader

_STRETCH_BYTES = 512 * 1024
"""The most one look takes in: larger ones leave the processor's cache, smaller ones cost more calls."""
_SCANNED_BYTES = 4096
"""A stretch in doubt is halved down to this length, so that a misplaced quote costs a scan of its surroundings only."""
_COMMA, _LF = b",\n"


class CsvVerifier:
    """Feed it the CSV in chunks, then `finish()`. Both raise VerificationError naming the record and the byte where it begins.

    `columns`: those of a header that was read before; what is fed begins with a record then.
    """

    def __init__(self, columns: tuple[str, ...] = ()) -> None:
        self.columns = columns
        self.records = 0
        self._head: RecordReader | None = None if columns else RecordReader()
        self._scanner = Scanner()
        self._structure = StructureReader(_STRETCH_BYTES, len(columns)) if columns else None
        self._base = 0  # where `data[0]` of this feed lies in the whole
        self._fed = 0
        self._whole = self._whole_before = 0  # where the last record, and the one before it, ended

    @property
    def whole(self) -> int:
        """Bytes that are whole records, of those fed; a CR at the end may still get its LF."""
        return self._whole_before if self._scanner.after_cr else self._whole

    def feed(self, data: bytes | bytearray, start: int = 0, end: int | None = None) -> None:
        """Take the next bytes, any number of them: `data[start:end]`."""
        end = len(data) if end is None else end
        self._fed += end - start
        if self._head is not None:
            self._head.add(memoryview(data)[start:end])
            data = self._after_header(self._head)
            start, end = 0, len(data)
        self._base = self._fed - end
        for at in range(start, end, _STRETCH_BYTES):
            self._feed_stretch(data, at, min(end, at + _STRETCH_BYTES))

    def finish(self) -> None:
        """The file is over: `columns` and `records` now stand."""
        if self._head is not None:
            self._head.end()
            data = self._after_header(self._head)
            self._base = self._fed - len(data)
            for at in range(0, len(data), _STRETCH_BYTES):
                self._feed_stretch(data, at, min(len(data), at + _STRETCH_BYTES))
        try:
            fields = self._scanner.finish()
        except BrokenQuotesError as error:
            raise self._about(str(error)) from None
        if fields is not None:
            self._end_record(fields)

    def _after_header(self, head: RecordReader) -> bytes:
        """What follows the header; nothing as long as that is not whole."""
        header = head.next()
        if header is None:
            return b""
        self.columns = column_names(header[0])
        self._whole = self._whole_before = head.offset
        self._head = None
        self._structure = StructureReader(_STRETCH_BYTES, len(self.columns))
        return head.rest()

    def _feed_stretch(self, data: bytes | bytearray, start: int, end: int) -> None:
        while start < end and (self._scanner.state == CLOSED or self._scanner.after_cr):
            self._scan(data, start, start + 1)
            start += 1
        # A quote or CR at the very end means nothing before the next byte is known.
        last = end
        while last > start and data[last - 1] in b'"\r':
            last -= 1
        if last > start and not self._look(data, start, last):
            if last - start > _SCANNED_BYTES:
                middle = (start + last) // 2
                self._feed_stretch(data, start, middle)
                self._feed_stretch(data, middle, last)
            else:
                self._scan(data, start, last)
        self._scan(data, last, end)

    def _look(self, data: bytes | bytearray, start: int, end: int) -> bool:
        """Take `data[start:end]` at once. False, and nothing changed, where that can't tell."""
        assert self._structure is not None
        scanner = self._scanner
        quoted, in_field = scanner.state == IN_QUOTES, scanner.state == IN_PLAIN
        found = self._structure.read(data, start, end, commas=scanner.commas, quoted=quoted, in_field=in_field)
        if found is None:
            return False
        self.records += found.records
        if found.whole:
            self._whole = self._base + start + found.whole
        scanner.commas = found.commas
        scanner.state = IN_QUOTES if found.quoted else {_LF: RECORD_START, _COMMA: FIELD_START}.get(data[end - 1], IN_PLAIN)
        return True

    def _scan(self, data: bytes | bytearray, start: int, end: int) -> None:
        """Step through `data[start:end]` exactly."""
        if self._scanner.after_cr and start < end and data[start] == _LF:
            self._whole = self._base + start + 1
        try:
            for fields, after in self._scanner.record_ends(data, start, end):
                self._end_record(fields)
                self._whole_before, self._whole = self._whole, self._base + after
        except BrokenQuotesError as error:
            raise self._about(str(error)) from None

    def _end_record(self, fields: int) -> None:
        if fields != len(self.columns):
            raise self._about(f"has {fields} columns, the header has {len(self.columns)}")
        self.records += 1

    def _about(self, problem: str) -> VerificationError:
        return VerificationError(f"record {self.records + 1} {problem} (at byte {self._whole})")
