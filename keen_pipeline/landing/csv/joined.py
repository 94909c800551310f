"""Several landed CSV files as one, equal to the one that was not split: the columns of all, the records in the files' order, cells
unchanged. A column is its name and its place among those of that name; a header's byte order mark and quotes aren't part of it."""

from __future__ import annotations

import io
import itertools
from collections import Counter
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from typing import Any, BinaryIO, NamedTuple, cast

from keen_pipeline.errors import TransferError, VerificationError
from keen_pipeline.landing.csv.grammar import Record, RecordReader, value_of
from keen_pipeline.ports import ResultsStream

_PIECE = 1 << 18
Column = tuple[bytes, int]


class Header(NamedTuple):
    """`columns`: name and number among equal names; `cells`: as they are written; `ending`: the line end."""

    columns: list[Column]
    cells: list[bytes]
    ending: bytes


@dataclass(eq=False, repr=False)
class JoinedResults:
    """A ResultsSource over the slices that `open_file` opens, in the order of `uris`. Memory: some records."""

    open_file: Callable[[str], AbstractContextManager[BinaryIO]]
    uris: Sequence[str]

    def open(self, *, offset: int = 0, validator: str | None = None) -> ResultsStream:
        """The joined file, always from its beginning.

        Raises TransferError naming the slice that is gone or can't be read, VerificationError naming the one that isn't CSV; its
        stream does so too.
        """
        headers = []
        for uri in self.uris:
            with self._slice(uri) as file:
                headers.append(_header(RecordReader().read(_pieces(file))))
        return cast("ResultsStream", _Stream(self._bytes(headers)))

    @contextmanager
    def _slice(self, uri: str) -> Iterator[BinaryIO]:
        """The slice, for reading: what goes wrong with it is not said to be the destination's fault."""
        try:
            with self.open_file(uri) as file:
                yield file
        except FileNotFoundError:
            raise TransferError(f"the slice {uri} is gone") from None
        except OSError as error:
            raise TransferError(f"the slice {uri} can't be read ({error.strerror or type(error).__name__})") from error
        except VerificationError as error:
            raise VerificationError(f"the slice {uri}: {error}") from None

    def _bytes(self, headers: Sequence[Header]) -> Generator[bytes, None, None]:
        union = join_headers([header.columns for header in headers])
        written = {column: cell for header in reversed(headers) for column, cell in zip(header.columns, header.cells, strict=True)}
        ending = next((header.ending for header in headers if header.ending), b"\n")
        if union:
            yield b",".join(written[column] for column in union) + ending
        for uri, header in zip(self.uris, headers, strict=True):
            with self._slice(uri) as file:
                reader = RecordReader()
                records = reader.read(_pieces(file))
                _header(records)
                if header.columns == union:
                    yield from _as_they_are(itertools.chain([reader.rest()], _pieces(file)), ending)
                else:
                    reader.width = len(header.cells)
                    yield from _rearranged(records, header, union, ending)


def _pieces(file: BinaryIO) -> Iterator[bytes]:
    return iter(lambda: file.read(_PIECE), b"")


def _header(records: Iterator[Record]) -> Header:
    cells, line_end = next(records, ([], b""))
    return Header(numbered(cells), cells, line_end)


def _as_they_are(pieces: Iterable[bytes], ending: bytes) -> Iterator[bytes]:
    last = ending
    for piece in pieces:
        yield piece
        last = piece or last
    if not last.endswith((b"\n", b"\r")):
        yield ending


def _rearranged(records: Iterator[Record], header: Header, union: Sequence[Column], ending: bytes) -> Iterator[bytes]:
    place = {column: position for position, column in enumerate(header.columns)}
    order = [place.get(column) for column in union]
    batch = bytearray()
    for cells, line_end in records:
        batch += b",".join([b"" if at is None else cells[at] for at in order]) + (line_end or ending)
        if len(batch) >= _PIECE:
            yield bytes(batch)
            batch.clear()
    yield bytes(batch)


def numbered(cells: Sequence[bytes]) -> list[Column]:
    """The columns that the cells of a header name: the second of one name is another column than the first."""
    seen: Counter[bytes] = Counter()
    columns = []
    for cell in cells:
        name = value_of(cell)
        seen[name] += 1
        columns.append((name, seen[name]))
    return columns


def join_headers(headers: Sequence[Sequence[Column]]) -> list[Column]:
    """The union of some headers: the first column first, and the others sorted if every header has them sorted, else each
    where it stands in its own header: behind the column that it follows there."""
    union: list[Column] = []
    known: set[Column] = set()
    for header in headers:
        at = 0
        for column in header:
            if column not in known:
                known.add(column)
                union.insert(at, column)
            elif union[at : at + 1] != [column]:
                at = union.index(column)
            at += 1
    if all(list(header[1:]) == sorted(header[1:]) for header in headers):
        return union[:1] + sorted(union[1:])
    return union


class _Stream(io.RawIOBase):
    """A ResultsStream over pieces of bytes."""

    start = 0
    total: int | None = None
    validator: str | None = None
    encoding = "identity"

    def __init__(self, pieces: Generator[bytes, None, None]) -> None:
        self._pieces = pieces
        self._left = memoryview(b"")

    def readinto(self, buffer: Any) -> int:
        while not self._left and (piece := next(self._pieces, None)) is not None:
            self._left = memoryview(piece)
        part, self._left = self._left[: len(buffer)], self._left[len(buffer) :]
        buffer[: len(part)] = part
        return len(part)

    def close(self) -> None:
        self._pieces.close()
        super().close()
