"""Several landed CSV files as one: the header is the union of theirs, the records follow in the files' order, cells unchanged."""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Iterator, Sequence
from typing import BinaryIO

from keen_pipeline.errors import TransferError, VerificationError
from keen_pipeline.ports import LandedFiles, ResultsStream

_PIECE = 1 << 18
# One raw cell and the comma or the end behind it; quotes stay as they are.
_CELL = re.compile(rb'("(?:[^"]|"")*"|[^,]*)(,|$)', re.DOTALL)
_LONGEST_RECORD = 64 << 20


class JoinedResults:
    """A ResultsSource over slices that lie at `place`, in the order of `uris`. Memory: some records."""

    def __init__(self, place: LandedFiles, uris: Sequence[str]) -> None:
        self._place = place
        self._uris = uris

    def open(self, *, offset: int = 0, validator: str | None = None) -> ResultsStream:
        """The joined file, always from its beginning. Raises TransferError where a slice is gone."""
        try:
            firsts = [self._first_record(uri) for uri in self._uris]
        except FileNotFoundError as error:
            raise TransferError(f"a slice of it is gone: {error}") from None
        return _Stream(self._bytes(firsts))

    def _first_record(self, uri: str) -> bytes:
        with self._place.open(uri) as file:
            return next(records(_buffered(file)), b"")

    def _bytes(self, firsts: Sequence[bytes]) -> Iterator[bytes]:
        headers = [cells(first) if first else [] for first in firsts]
        union = join_headers(headers)
        ending = b"\r\n" if any(first.endswith(b"\r\n") for first in firsts) else b"\n"
        if union:
            yield b",".join(union) + ending
        for uri, header in zip(self._uris, headers, strict=True):
            with self._place.open(uri) as file:
                reader = _buffered(file)
                next(records(reader), None)
                yield from _as_they_are(reader, ending) if header == union else _rearranged(reader, header, union, ending)


def _buffered(file: BinaryIO) -> io.BufferedReader:
    return file if isinstance(file, io.BufferedReader) else io.BufferedReader(file, _PIECE)  # type: ignore[arg-type]


def _as_they_are(reader: io.BufferedReader, ending: bytes) -> Iterator[bytes]:
    last = ending
    while piece := reader.read(_PIECE):
        yield piece
        last = piece
    if not last.endswith(b"\n"):
        yield ending


def _rearranged(reader: io.BufferedReader, header: list[bytes], union: list[bytes], ending: bytes) -> Iterator[bytes]:
    """The records in the columns of the union, several at a time."""
    place = {name: position for position, name in enumerate(header)}
    order = [place.get(name) for name in union]
    batch: list[bytes] = []
    size = 0
    for record in records(reader):
        values = cells(record)
        if len(values) != len(header):
            raise VerificationError(f"a record of a slice has {len(values)} fields, its header {len(header)}")
        batch.append(b",".join(b"" if position is None else values[position] for position in order) + ending)
        size += len(record)
        if size >= _PIECE:
            yield b"".join(batch)
            batch, size = [], 0
    yield b"".join(batch)


def join_headers(headers: Sequence[list[bytes]]) -> list[bytes]:
    """The union of some headers: the first column first, and the others sorted where every header has them sorted, else in
    the order in which they come up."""
    names: dict[bytes, None] = {}
    for header in headers:
        names.update(dict.fromkeys(header))
    union = list(names)
    if all(header[1:] == sorted(header[1:], key=_text) for header in headers):
        return union[:1] + sorted(union[1:], key=_text)
    return union


def _text(cell: bytes) -> str:
    """A raw cell as the text it stands for, so that quoting does not change the order."""
    return next(csv.reader([cell.decode("utf-8", "surrogateescape")], strict=False), [""])[0] if cell else ""


def records(reader: io.BufferedReader) -> Iterator[bytes]:
    """The raw records of a CSV file with their line ends; a record ends where a line ends outside of quotes."""
    pending: list[bytes] = []
    quotes = size = 0
    for line in reader:
        quotes += line.count(b'"')
        if not quotes % 2 and not pending:
            yield line
            quotes = 0
            continue
        pending.append(line)
        size += len(line)
        if size > _LONGEST_RECORD:
            raise TransferError(f"a record of a slice is longer than {_LONGEST_RECORD >> 20} MiB")
        if not quotes % 2:
            yield b"".join(pending)
            pending, quotes, size = [], 0, 0
    if pending:
        yield b"".join(pending)


def cells(record: bytes) -> list[bytes]:
    """The raw cells of a record, as they are quoted there."""
    text = record[:-2] if record.endswith(b"\r\n") else record[:-1] if record.endswith(b"\n") else record
    if b'"' not in text:
        return text.split(b",")
    found = []
    for match in _CELL.finditer(text):
        found.append(match[1])
        if not match[2]:
            break
    return found


class _Stream:
    """A ResultsStream over pieces of bytes."""

    start = 0
    total: int | None = None
    validator: str | None = None
    encoding = "identity"
    delimited = True

    def __init__(self, pieces: Iterator[bytes]) -> None:
        self._pieces = pieces
        self._left = memoryview(b"")

    def readinto(self, buffer: memoryview) -> int:
        """Fill as much of `buffer` as there is; 0 at the end."""
        filled = 0
        while filled < len(buffer):
            if not self._left:
                piece = next(self._pieces, None)
                if piece is None:
                    break
                self._left = memoryview(piece)
                continue
            part = self._left[: len(buffer) - filled]
            buffer[filled : filled + len(part)] = part
            self._left = self._left[len(part) :]
            filled += len(part)
        return filled

    def __enter__(self) -> ResultsStream:
        return self

    def __exit__(self, *exc_info: object) -> None:
        close = getattr(self._pieces, "close", None)
        if close is not None:
            close()
