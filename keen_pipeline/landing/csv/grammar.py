"""The one grammar of CSV here: what verifies, masks, joins, previews, loads and converts a file reads it by these rules.

They are RFC 4180's as Keen writes it, and those of Python's `csv.reader(..., strict=True)` over the text with its line ends kept:

- A record ends at LF, CR LF or a lone CR outside of quotes. The last one may lack its line end. An empty line is a record of no
  fields, which no header allows.
- A quote opens a quoted field only as the field's first byte. Elsewhere in an unquoted field it is text: `5" pipe` is a value of
  seven bytes. In a quoted field `""` is a quote; text behind the closing quote is an error, and so is a quote that never closes.
- NUL and bytes that aren't UTF-8 are ordinary bytes of a field.
- A UTF-8 byte order mark at the very beginning belongs to no field.
- A column is its name without quotes, and its place among those of that name: `"a"` and `a` are one column, the second `a` another.
- An empty cell has no value, and neither has JSON's unquoted `null`; in quotes both are text.

`RecordReader` gives whole records, of bounded length, by the expressions below; what is faster (`structure`, by NumPy, and Arrow's
own reader) is tested to give the same answers.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Iterable, Iterator, Sequence
from typing import NoReturn

from keen_pipeline.errors import VerificationError

BOM = b"\xef\xbb\xbf"
LONGEST_HEADER_BYTES = 1024 * 1024
LONGEST_RECORD_BYTES = 16 * 1024 * 1024
"""Held at once by what needs whole records. Keen takes events of 900 kB at most."""
SNIFFED_BYTES = 1024
"""So many bytes of a file have come before anything is made of it, or it has ended."""
MARKUP = re.compile(rb"\s*<(?:!doctype|!--|html|head|body|\?xml|error)", re.IGNORECASE)

_INSIDE = rb'[^"]*+(?:""[^"]*+)*+'  # of quotes
_PLAIN = rb"[^,\r\n]*+"
_FIELD = re.compile(rb'("' + _INSIDE + rb'"|[^",\r\n]' + _PLAIN + rb"|)" + rb"(,|\r\n?|\n)")
# A field that has begun where the bytes end: within quotes, unless there is a second group, which a quote may follow.
_OPEN_FIELD = re.compile(rb'(")' + _INSIDE + rb'("?)\Z|[^",\r\n]' + _PLAIN + rb"\Z|\Z")


Record = tuple[list[bytes], bytes]
"""The cells of a record as they are written, quotes included, and its line end (empty: the file ended)."""


class RecordReader:
    """Whole records of a CSV that is added in pieces. Memory: a piece, and one record of at most LONGEST_RECORD_BYTES.

    `read` all pieces; or `add` bytes and ask for `next` until that is None, then add more, and at last `end`. `number` counts what
    was given out, the header too, `offset` is where the next one begins, `bom` what stood before the first. Number and offset may
    begin behind what others have read. `width`: how many cells each further record must have, once that is known.
    """

    def __init__(self, number: int = 0, offset: int = 0, width: int | None = None) -> None:
        self.number = number
        self.width = width
        self.bom = b""
        self._before = offset
        self._data = b""
        self._at = 0
        self._last = False
        self._sniffed = number > 0

    @property
    def offset(self) -> int:
        """Bytes before the next record, of all that were added."""
        return self._before + self._at

    def add(self, data: bytes | bytearray | memoryview) -> None:
        self._before += self._at
        self._data = self._data[self._at :] + data
        self._at = 0

    def end(self) -> None:
        self._last = True

    def read(self, pieces: Iterable[bytes]) -> Iterator[Record]:
        """The records of `pieces`, which are all that is left of the file. Raises as iterating does."""
        for piece in pieces:
            self.add(piece)
            yield from self
        self.end()
        yield from self

    def rest(self) -> bytes:
        """What was added and not given out."""
        return self._data[self._at :]

    def next(self) -> Record | None:
        """The next record; None if it is not whole yet, or there is none. Raises as iterating does."""
        return next(iter(self), None)

    def __iter__(self) -> Iterator[Record]:
        """The records that are whole by now.

        Raises VerificationError for a web page or XML document, broken quotes, an empty first line, a record or header that is too
        long, a record of another width.
        """
        if not self._sniffed and not self._sniff():
            return
        while True:
            data, start = self._data, self._at
            end = data.find(b"\n", start)
            line = data[start:end] if end >= 0 else b'"'
            ending = b"\n"
            if line.endswith(b"\r"):
                line, ending = line[:-1], b"\r\n"
            record: Record | None
            if line and b'"' not in line and b"\r" not in line:
                if len(line) >= LONGEST_HEADER_BYTES:
                    self._check_length(end + 1)
                cells = line.split(b",", -1 if self.width is None else self.width)
                if len(cells) != self.width and self.width is not None:
                    self._refuse_width(line.count(b",") + 1)
                self.number += 1
                self._at = end + 1
                record = (cells, ending)
            else:
                record = self._exactly(data, start)
            if record is None:
                return
            yield record

    def place(self) -> str:
        return f"record {self.number}" if self.number else "the header"

    def _exactly(self, data: bytes, start: int) -> Record | None:
        """The record that begins at `start`, field by field."""
        cells: list[bytes] = []
        at, more, most = start, 0, sys.maxsize if self.width is None else self.width
        while (found := _FIELD.match(data, at)) is not None:
            if len(cells) < most:
                cells.append(found[1])
            else:
                more += 1  # held would take twenty times the bytes of the record
            at = found.end()
            if found[2] == b",":
                continue
            if at == len(data) and found[2] == b"\r" and not self._last:
                self._check_length(at)
                return None  # a LF may follow
            return self._given([] if cells == [b""] and not more else cells, more, found[2], at)
        return self._open(cells, more, at)

    def _given(self, cells: list[bytes], more: int, ending: bytes, following: int) -> Record:
        if not self.number and not cells:
            raise VerificationError("the first line is empty: there is no header (at byte 0)")
        self._check_length(following)
        if self.width is not None and len(cells) + more != self.width:
            self._refuse_width(len(cells) + more)
        self.number += 1
        self._at = following
        return cells, ending

    def _check_length(self, end: int) -> None:
        """The record reaches up to `end`, and maybe further."""
        longest = LONGEST_RECORD_BYTES if self.number else LONGEST_HEADER_BYTES
        if end - self._at > longest:
            raise VerificationError(f"{self.place()} is longer than {longest} bytes (at byte {self.offset})")

    def _refuse_width(self, found: int) -> NoReturn:
        raise VerificationError(f"{self.place()} has {found} columns, the header has {self.width} (at byte {self.offset})")

    def _open(self, cells: list[bytes], more: int, at: int) -> Record | None:
        """What is left from the cell at `at` on has no end yet."""
        data = self._data
        found = _OPEN_FIELD.match(data, at)
        if found is None:
            raise VerificationError(f"{self.place()} has text after a closing quote (at byte {self.offset})")
        if not self._last or (at == len(data) and not cells):
            self._check_length(len(data))
            return None
        if found[1] and not found[2]:
            raise VerificationError(
                f"{self.place()} begins a quoted field that never ends: a cut file or broken quotes (at byte {self.offset})"
            )
        return self._given([*cells, data[at:]], more, b"", len(data))

    def _sniff(self) -> bool:
        if len(self._data) < SNIFFED_BYTES and not self._last:
            return False
        self._sniffed = True
        if self._data.startswith(BOM):
            self.bom, self._at = BOM, len(BOM)
        if MARKUP.match(self._data, self._at):
            raise VerificationError("a web page or an XML document came instead of a CSV")
        return True


def value_of(cell: bytes) -> bytes:
    """The bytes that a cell stands for, without its quotes."""
    return cell[1:-1].replace(b'""', b'"') if cell.startswith(b'"') else cell


def is_null(cell: bytes) -> bool:
    """Whether a cell stands for no value."""
    return cell in (b"", b"null")


def column_names(cells: Sequence[bytes]) -> tuple[str, ...]:
    r"""The names in the cells of a header. Bytes that aren't UTF-8, and NUL, show as `\xNN`.

    >>> column_names([b"keen.id", b'"last, first"'])
    ('keen.id', 'last, first')
    """
    return tuple(value_of(cell).decode("utf-8", "backslashreplace").replace("\x00", "\\x00") for cell in cells)
