"""Slices put together: the union header, the records in the files' order, cells byte for byte."""

from __future__ import annotations

import csv
import io
from pathlib import Path

from hypothesis import given
from hypothesis import strategies as st

from keen_pipeline.landing import FileDestination
from keen_pipeline.landing.csv.joined import JoinedResults, cells, join_headers

NAMES = ["t", "a", "b", 'c,"d"', "é\ne"]
cell_texts = st.text(alphabet=st.sampled_from('ab,"\né'), max_size=6)


def written(header: list[str], rows: list[list[str]], ending: str) -> bytes:
    out = io.StringIO(newline="")
    writer = csv.writer(out, lineterminator=ending)
    writer.writerow(header)
    writer.writerows(rows)
    return out.getvalue().encode()


def joined(folder: Path, files: list[bytes]) -> bytes:
    place = FileDestination(str(folder))
    uris = []
    for number, data in enumerate(files):
        path = folder / "purchases" / f"{number}.csv"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
        uris.append(str(path))
    buffer, found = memoryview(bytearray(7)), b""
    with JoinedResults(place, uris).open() as stream:
        while got := stream.readinto(buffer):
            found += bytes(buffer[:got])
    return found


@st.composite
def slices(draw: st.DrawFn) -> tuple[list[tuple[list[str], list[list[str]]]], str]:
    made = []
    for _ in range(draw(st.integers(1, 4))):
        header = [NAMES[0], *sorted(draw(st.sets(st.sampled_from(NAMES[1:]))))]
        row = st.lists(cell_texts, min_size=len(header), max_size=len(header)).filter(lambda r: len(r) > 1 or r[0] != "")
        made.append((header, draw(st.lists(row, max_size=4))))
    return made, draw(st.sampled_from(["\n", "\r\n"]))


@given(slices())
def test_joined_slices_hold_the_records_of_all(case: tuple[list[tuple[list[str], list[list[str]]]], str]) -> None:
    import tempfile

    parts, ending = case
    with tempfile.TemporaryDirectory() as folder:
        data = joined(Path(folder), [written(header, rows, ending) for header, rows in parts])
    rows = list(csv.reader(io.StringIO(data.decode(), newline="")))
    union = [NAMES[0], *sorted({name for header, _ in parts for name in header[1:]})]
    assert rows[0] == union
    expected = [[dict(zip(header, row, strict=True)).get(name, "") for name in union] for header, body in parts for row in body]
    assert rows[1:] == expected


def test_slices_with_one_header_are_joined_byte_for_byte(tmp_path: Path) -> None:
    assert joined(tmp_path, [b'a,b\n1,"x\n"\n', b"a,b\n", b'a,b\n,""']) == b'a,b\n1,"x\n"\n,""\n'


def test_a_missing_column_is_empty_and_a_quoted_empty_cell_stays_quoted(tmp_path: Path) -> None:
    assert joined(tmp_path, [b't,b\n1,""\n', b"t,a\n2,x\n"]) == b't,a,b\n1,,""\n2,x,\n'


def test_headers_that_are_not_sorted_keep_their_order() -> None:
    assert join_headers([[b"t", b"z", b"a"], [b"t", b"b", b"z"]]) == [b"t", b"z", b"a", b"b"]


def test_raw_cells() -> None:
    assert cells(b'a,"b,""c""\n",,""\r\n') == [b"a", b'"b,""c""\n"', b"", b'""']
    assert cells(b'"a",\n') == [b'"a"', b""]
