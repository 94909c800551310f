"""A split day put together equals the one that was not split: in columns, order and cells, byte for byte."""

from __future__ import annotations

import csv
import io
import tempfile
import tracemalloc
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

import pytest
from hypothesis import given
from hypothesis import strategies as st

from keen_pipeline.collection import Encoding
from keen_pipeline.errors import TransferError, VerificationError
from keen_pipeline.landing import FileDestination
from keen_pipeline.landing.csv import grammar
from keen_pipeline.landing.csv.grammar import RecordReader, value_of
from keen_pipeline.landing.csv.joined import JoinedResults, join_headers, numbered

BOM = b"\xef\xbb\xbf"
NAMES = [b"a", b"a", b"b", b'"c,""d"""', '"é\ne"'.encode(), b"\0", b"\xff"]
# As they are written: quoted or not, with odd quotes, other line ends, NUL and bytes that are no text.
RAW = st.sampled_from([b"", b"x", b"null", b'""', b'"a,b"', b'"x""y"', b'"\r\n"', b'5" pipe', b"\0", b"\xff", b' "q" '])


def joined(folder: Path, files: list[bytes], step: int = 7) -> bytes:
    place = FileDestination(str(folder))
    uris = []
    for number, data in enumerate(files):
        path = folder / "purchases" / f"{number}.csv"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
        uris.append(str(path))
    buffer, found = memoryview(bytearray(step)), b""
    with JoinedResults(place.open, uris).open() as stream:
        while got := stream.readinto(buffer):
            found += bytes(buffer[:got])
    return found


def rows_of(data: bytes) -> list[list[bytes]]:
    reader = RecordReader()
    reader.add(data)
    reader.end()
    return [cells for cells, _ in reader]


@st.composite
def split_days(draw: st.DrawFn) -> tuple[list[bytes], list[bytes], list[list[bytes]]]:
    """Slices as a service makes them of one day; the header and the raw records of the day when it is not split."""
    columns = [b"t", *sorted(draw(st.lists(st.sampled_from(NAMES), max_size=6)), key=value_of)]
    keys = numbered(columns)
    day, slices = [], []
    for _ in range(draw(st.integers(1, 4))):
        # A slice has the columns that its events have; of equal names the first ones.
        most = {name: draw(st.integers(0, count)) for name, count in dict(keys).items()}
        held = [n for n, (name, count) in enumerate(keys) if n == 0 or count <= most[name]]
        ending = draw(st.sampled_from([b"\n", b"\r\n", b"\r"]))
        quoted = draw(st.booleans())
        header = [b'"%b"' % columns[n] if quoted and not columns[n].startswith(b'"') else columns[n] for n in held]
        lines = [draw(st.sampled_from([b"", BOM])) + b",".join(header)]
        for _ in range(draw(st.integers(0, 4))):
            cells = [draw(RAW) for _ in held]
            cells[0] = cells[0] or b'""'
            lines.append(b",".join(cells))
            day.append([cells[held.index(n)] if n in held else b"" for n in range(len(columns))])
        slices.append(ending.join(lines) + draw(st.sampled_from([b"", ending])))
    return slices, columns, day


@given(split_days(), st.sampled_from([1, 5, 1 << 18]), st.sampled_from([3, 1024]))
def test_a_split_day_joined_equals_the_day(
    day: tuple[list[bytes], list[bytes], list[list[bytes]]], piece: int, sniffed: int
) -> None:
    slices, columns, expected = day
    with tempfile.TemporaryDirectory() as folder, pytest.MonkeyPatch.context() as patch:
        patch.setattr("keen_pipeline.landing.csv.joined._PIECE", piece)
        patch.setattr(grammar, "SNIFFED_BYTES", sniffed)
        header, *rows = rows_of(joined(Path(folder), slices))
    # Only columns that some slice has are there.
    present = [n for n, column in enumerate(numbered(columns)) if column in numbered(header)]
    assert numbered(header) == [numbered(columns)[n] for n in present]
    assert rows == [[row[n] for n in present] for row in expected]
    assert all(row[n] == b"" for row in expected for n in range(len(columns)) if n not in present)


def test_python_reads_the_joined_file(tmp_path: Path) -> None:
    data = joined(tmp_path, [b'\xef\xbb\xbf"id",a,a\n1,x,y\n', b'id,a\r\n2,5" pipe\r\n3,"z\r\n"', b"id,b\r4,\r"])
    assert list(csv.reader(io.StringIO(data.decode(), newline=""))) == [
        ["id", "a", "a", "b"],
        ["1", "x", "y", ""],
        ["2", '5" pipe', "", ""],
        ["3", "z\r\n", "", ""],
        ["4", "", "", ""],
    ]


def test_line_ends_of_the_slices_are_those_of_the_whole(tmp_path: Path) -> None:
    assert joined(tmp_path, [b"a,b\r\n1,2\r\n", b"a,c\r\n3,4"]) == b"a,b,c\r\n1,2,\r\n3,,4\r\n"
    assert joined(tmp_path, [b"a\r\n1", b"a\r\n2"]) == b"a\r\n1\r\n2\r\n"


def test_slices_with_one_header_are_joined_byte_for_byte(tmp_path: Path) -> None:
    assert joined(tmp_path, [b'a,b\n1,"x\n"\n', b"a,b\n", b'"a",b\n,""']) == b'a,b\n1,"x\n"\n,""\n'


def test_a_missing_column_is_empty_and_a_quoted_empty_cell_stays_quoted(tmp_path: Path) -> None:
    assert joined(tmp_path, [b't,b\n1,""\n', b"t,a\n2,x\n"]) == b't,a,b\n1,,""\n2,x,\n'


def test_empty_slices_and_headers_alone_add_their_columns(tmp_path: Path) -> None:
    assert joined(tmp_path, [b"", b"t,b", b"", b"t,a\n2,x"]) == b"t,a,b\n2,x,\n"
    assert joined(tmp_path, [b"", b""]) == b""


@pytest.mark.parametrize(
    ("headers", "union"),
    [
        ([[b"t", b"z", b"a"], [b"t", b"b", b"z"]], [b"t", b"b", b"z", b"a"]),
        ([[b"t", b"z", b"b"], [b"t", b"z", b"a", b"b"]], [b"t", b"z", b"a", b"b"]),
        ([[b"t", b"b"], [b"t", b"a"]], [b"t", b"a", b"b"]),
    ],
)
def test_columns_stand_where_they_stand_in_their_headers(headers: list[list[bytes]], union: list[bytes]) -> None:
    assert join_headers([numbered(header) for header in headers]) == numbered(union)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"t,b\n1,2\n3\n", r"1\.csv: record 2 has 1 columns, the header has 2 \(at byte 8\)"),
        (b't,b\n1,"2"x\n', r"1\.csv: record 1 has text after a closing quote \(at byte 4\)"),
        (b't,b\n1,"2\n', r"1\.csv: record 1 begins a quoted field that never ends.*\(at byte 4\)"),
        (b"<html></html>", r"1\.csv: a web page"),
    ],
)
def test_a_slice_that_is_no_csv_is_named(tmp_path: Path, data: bytes, message: str) -> None:
    with pytest.raises(VerificationError, match=message):
        joined(tmp_path, [b"t,a\n1,2\n", data])


@pytest.mark.parametrize(("data", "message"), [(b't,"b\n', "header begins a quoted"), (b"t,b\n1,2,3\n", "record 1 has 3 columns")])
def test_a_slice_that_is_no_csv_ends_its_landing_and_nothing_is_kept_aside(tmp_path: Path, data: bytes, message: str) -> None:
    place = FileDestination(str(tmp_path))
    paths = ["_slices/purchases/0.csv", "_slices/purchases/1.csv"]
    for path, content in zip(paths, (b"t,a\n1,2\n", data), strict=True):
        place.write(path, content)
    joined_results = JoinedResults(place.open, [place.uri_of(path) for path in paths])
    with pytest.raises(VerificationError, match=rf"extraction e1: the slice \S+/1\.csv: .*{message}.*nothing was landed") as raised:
        place.land(joined_results, place.uri_of("purchases/2026-01-01.csv"), extraction_id="e1")
    assert raised.value.quarantined is None
    assert sorted(path.relative_to(tmp_path).as_posix() for path in tmp_path.rglob("*.*")) == paths


def test_a_slice_that_breaks_while_it_is_read_is_named_and_not_the_destination(tmp_path: Path) -> None:
    class Broken(FileDestination):
        @contextmanager
        def open(self, target: str) -> Iterator[BinaryIO]:
            with super().open(target) as file:
                yield file
                if self.opened.append(target) or len(self.opened) > 1:
                    raise OSError(5, "Input/output error")

        opened: list[str] = []  # noqa: RUF012 - of one test

    path = tmp_path / "slices" / "purchases" / "0.csv"
    path.parent.mkdir(parents=True)
    path.write_bytes(b"t\n1\n")
    target = FileDestination(str(tmp_path / "landed"))
    with pytest.raises(TransferError, match=r"the slice \S+0\.csv can't be read \(Input/output error\)") as raised:
        target.land(
            JoinedResults(Broken(str(tmp_path / "slices")).open, [str(path)]),
            target.target_uri("purchases", "2026-01-01", Encoding.CSV),
            extraction_id="e1",
        )
    assert "destination" not in str(raised.value)
    path.unlink()
    with pytest.raises(TransferError, match=r"the slice \S+0\.csv is gone"):
        JoinedResults(target.open, [str(path)]).open()


def test_memory_of_a_join_is_a_record_and_not_a_thousand_of_them(tmp_path: Path) -> None:
    record = b'1,"' + b"x" * 500_000 + b'"\n'
    paths = [tmp_path / "0.csv", tmp_path / "1.csv"]
    for path, header in zip(paths, (b"t,a\n", b"t,b\n"), strict=True):
        path.write_bytes(header + record * 40)
    tracemalloc.start()
    try:
        with JoinedResults(FileDestination(str(tmp_path)).open, list(map(str, paths))).open() as stream:
            buffer = memoryview(bytearray(1 << 20))
            length = sum(iter(lambda: stream.readinto(buffer), 0))
        assert length == len(b"t,a,b\n") + 80 * (len(record) + 1)
        assert tracemalloc.get_traced_memory()[1] < 8 * 1024**2
    finally:
        tracemalloc.stop()
