"""Is it a whole CSV? Records, header and columns of a CSV that streams by, in constant memory, whatever its chunks.

The rules are those of Python's `csv.reader(..., strict=True)` over the text with its line ends kept (`newline=""`):

- A record ends at LF, CR LF or a lone CR outside quotes. The last one may lack its line end.
- A quote opens a quoted field only as the field's first character, elsewhere in an unquoted field it is text. In a quoted
  field `""` is a quote. Text after a closing quote is refused.
- NUL and invalid UTF-8 are ordinary bytes of a field (Python's csv refuses NUL up to 3.10 and takes it from 3.11 on). A UTF-8
  byte order mark at the beginning is not part of the first column.
- Refused: an open quote at the end, a record with another number of columns than the header (an empty line is a record of
  none), a document in a markup language, a header longer than LONGEST_HEADER_BYTES.
- Zero bytes, or a header alone, are zero records. A field may have any length.

Two ways give the same answer: `_scan` steps from one special byte to the next and knows everything; `StructureReader` looks at
a whole stretch at once, which is ten times quicker and can only say "all right" or "let `_scan` look".
"""

from __future__ import annotations

import re

from keen_pipeline.errors import VerificationError
from keen_pipeline.landing.csv.structure import StructureReader

LONGEST_HEADER_BYTES = 1024 * 1024
_SNIFFED_BYTES = 1024
_STRETCH_BYTES = 512 * 1024
"""The most one look takes in: larger ones leave the processor's cache, smaller ones cost more calls."""
_SCANNED_BYTES = 4096
"""A stretch in doubt is halved down to this length, so that a misplaced quote costs a scan of its surroundings only."""

BOM = b"\xef\xbb\xbf"
MARKUP = re.compile(rb"\s*<(?:!doctype|!--|html|head|body|\?xml|error)", re.IGNORECASE)
_SPECIAL = re.compile(rb'[",\r\n]')
_QUOTE, _COMMA, _LF, _CR = b'",\n\r'

_HEADER_FIELD = re.compile(rb'(?:"([^"]*(?:""[^"]*)*)"|([^",\r\n][^,\r\n]*|))(,|\r\n|\n|\r|\Z)')

# States between two bytes, as in Python's _csv.c.
_RECORD_START, _FIELD_START, _IN_FIELD, _QUOTED, _AFTER_QUOTE = range(5)


class CsvVerifier:
    """Feed it the CSV in chunks, then `finish()`. Both raise VerificationError with the place of what is wrong.

    `columns`: those of a header that was read before; what is fed begins with a record then.
    """

    def __init__(self, columns: tuple[str, ...] = ()) -> None:
        self.columns = columns
        self.records = 0
        self._head: bytearray | None = None if columns else bytearray()
        self._sniffed = False
        self._state = _RECORD_START
        self._commas = 0  # of the record being read
        self._after_cr = False  # a LF that follows belongs to the line end already counted
        self._structure = StructureReader(_STRETCH_BYTES, len(columns)) if columns else None
        self._base = 0  # where `data[0]` of this feed lies in the whole
        self._fed = 0
        self._whole = self._whole_before = 0  # where the last record, and the one before it, ended

    @property
    def whole(self) -> int:
        """Bytes that are whole records, of those fed, where `columns` were given; a CR at the end may still get its LF."""
        return self._whole_before if self._after_cr else self._whole

    def feed(self, data: bytes | bytearray, start: int = 0, end: int | None = None) -> None:
        """Take the next bytes, any number of them: `data[start:end]`."""
        end = len(data) if end is None else end
        self._fed += end - start
        if self._head is not None:
            data = self._feed_head(bytes(memoryview(data)[start:end]))
            start, end = 0, len(data)
        self._base = self._fed - end
        for at in range(start, end, _STRETCH_BYTES):
            self._feed_stretch(data, at, min(end, at + _STRETCH_BYTES))

    def finish(self) -> None:
        """The file is over: `columns` and `records` now stand."""
        if self._head is not None:
            rest = self._feed_head(b"", last=True)
            if rest:
                self.feed(rest)
        if self._state == _QUOTED:
            raise VerificationError(f"{self._place()} begins a quoted field that never ends: a cut file or broken quotes")
        if self._state != _RECORD_START:
            self._end_record()
        if self._head is not None and self._head:
            self._begin_records()

    def _feed_head(self, data: bytes, *, last: bool = False) -> bytes:
        """Collect bytes until the header is whole; returns what follows it."""
        assert self._head is not None
        if self._sniffed:
            unread = data
            self._head += data
        else:
            self._head += data
            if len(self._head) < _SNIFFED_BYTES and not last:
                return b""
            self._sniff(self._head)
            unread = bytes(self._head)
        used = self._scan(unread, stop_after_record=True)
        if self._state == _RECORD_START and used:
            del self._head[len(self._head) - (len(unread) - used) :]
            self._begin_records()
            return unread[used:]
        if len(self._head) > LONGEST_HEADER_BYTES:
            raise VerificationError(f"the header is longer than {LONGEST_HEADER_BYTES} bytes")
        return b""

    def _sniff(self, head: bytearray) -> None:
        self._sniffed = True
        if head.startswith(BOM):
            del head[: len(BOM)]
        if MARKUP.match(head):
            raise VerificationError("a web page or an XML document came instead of a CSV")

    def _begin_records(self) -> None:
        assert self._head is not None
        self.columns = parse_header(bytes(self._head))
        self._head = None
        self._structure = StructureReader(_STRETCH_BYTES, len(self.columns))

    def _feed_stretch(self, data: bytes | bytearray, start: int, end: int) -> None:
        while start < end and (self._state == _AFTER_QUOTE or self._after_cr):
            start = self._scan(data, start, start + 1)
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
        quoted, in_field = self._state == _QUOTED, self._state == _IN_FIELD
        found = self._structure.read(data, start, end, commas=self._commas, quoted=quoted, in_field=in_field)
        if found is None:
            return False
        self.records += found.records
        if found.whole:
            self._whole = self._base + start + found.whole
        self._commas = found.commas
        self._state = _QUOTED if found.quoted else {_LF: _RECORD_START, _COMMA: _FIELD_START}.get(data[end - 1], _IN_FIELD)
        return True

    def _scan(self, data: bytes | bytearray, start: int = 0, end: int | None = None, *, stop_after_record: bool = False) -> int:
        """Step through `data[start:end]` exactly; returns how far it went."""
        end = len(data) if end is None else end
        while start < end:
            if self._state == _QUOTED:
                quote = data.find(b'"', start, end)
                if quote < 0:
                    return end
                self._state = _AFTER_QUOTE
                start = quote + 1
                continue
            found = _SPECIAL.search(data, start, end)
            at = end if found is None else found.start()
            if at > start:
                self._text()
            if found is None:
                return end
            start = at + 1
            if self._after_cr and data[at] == _LF:
                self._whole = self._base + start
            if self._special(data[at]):
                self._whole_before, self._whole = self._whole, self._base + start
                if stop_after_record:
                    return start
        return end

    def _text(self) -> None:
        if self._state == _AFTER_QUOTE:
            raise VerificationError(f"{self._place()} has text after a closing quote")
        self._state = _IN_FIELD
        self._after_cr = False

    def _special(self, byte: int) -> bool:
        """Take a separator or quote outside a quoted field; True where it ended a record."""
        if byte == _QUOTE:
            # In an unquoted field a quote is text; after a closing quote it is the second half of `""`.
            self._state = _IN_FIELD if self._state == _IN_FIELD else _QUOTED
        elif byte == _COMMA:
            self._commas += 1
            self._state = _FIELD_START
        elif byte == _LF and self._after_cr:
            self._after_cr = False
            return False
        else:
            self._end_record()
            self._after_cr = byte == _CR
            return True
        self._after_cr = False
        return False

    def _end_record(self) -> None:
        number = 0 if self._state == _RECORD_START else self._commas + 1
        if self._head is not None:
            if number == 0:
                raise VerificationError("the first line is empty: there is no header")
        elif number != len(self.columns):
            raise VerificationError(f"{self._place()} has {number} columns, the header has {len(self.columns)}")
        else:
            self.records += 1
        self._state = _RECORD_START
        self._commas = 0

    def _place(self) -> str:
        return "the header" if self._head is not None else f"record {self.records + 1}"


def parse_header(line: bytes) -> tuple[str, ...]:
    """The columns of a well-formed header record. Bytes that are no UTF-8, and NUL, show as `\\xNN`.

    >>> parse_header(b'keen.id,"last, first"')
    ('keen.id', 'last, first')
    """
    columns = []
    at = 0
    while True:
        match = _HEADER_FIELD.match(line, at)
        if match is None:
            raise VerificationError("the header is not well-formed")
        field = match[1].replace(b'""', b'"') if match[1] is not None else match[2]
        columns.append(field.decode("utf-8", "backslashreplace").replace("\x00", "\\x00"))
        at = match.end()
        if match[3] != b",":
            return tuple(columns)
