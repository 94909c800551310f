"""The grammar is that of Python's csv, whatever the chunks: verifier and records say what it says of the whole, or all refuse."""

from __future__ import annotations

import csv
import io
import tracemalloc
from collections.abc import Callable
from contextlib import nullcontext
from itertools import pairwise

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from keen_pipeline.collection import MaskMethod
from keen_pipeline.errors import VerificationError
from keen_pipeline.landing.csv import grammar, verify
from keen_pipeline.landing.csv.grammar import RecordReader, column_names, value_of
from keen_pipeline.landing.csv.masking import Masker
from keen_pipeline.landing.csv.verify import CsvVerifier

Answer = tuple[tuple[str, ...], int]
BOM = b"\xef\xbb\xbf"

FIELDS = st.sampled_from(
    [
        b"",
        b"a",
        b"1.5",
        b'""',
        b'"a,b"',
        b'"x""y"',
        b'"\r\n"',
        b'"\n"',
        b'""""',
        b'a"b',
        b'"a"b',
        b"\xff\xfe",
        b"\x00",
        b'"\x00"',
        b" ",
        b'" "',
    ]
)
TIDY = st.sampled_from([b"a", b"1.5", b'""', b'"a,b"', b'"x""y"', b'"\r\n"', "é".encode(), b'"' + b"y" * 300 + b'"'])
LINE_ENDS = st.sampled_from([b"\n", b"\r\n", b"\r"])


@st.composite
def documents(draw: st.DrawFn) -> bytes:
    """Mostly well-formed CSV with a fault now and then."""
    width = draw(st.integers(1, 4))
    fields = draw(st.sampled_from([FIELDS, TIDY, TIDY]))
    end = draw(LINE_ENDS)
    rows = [draw(st.lists(fields, min_size=width, max_size=width)) for _ in range(draw(st.integers(0, 8)))]
    if rows and draw(st.integers(0, 5)) == 0:
        rows[draw(st.integers(0, len(rows) - 1))].append(b"more")
    body = end.join(b",".join(row) for row in rows) + draw(st.sampled_from([b"", end, end + end]))
    return draw(st.sampled_from([b"", b"", BOM])) + body


def pythons(data: bytes) -> list[list[str]] | None:
    """The rows of Python's csv, one character a byte; None where it refuses."""
    text = data.removeprefix(BOM).decode("latin-1")
    before = csv.field_size_limit(2**31 - 1)
    try:
        return list(csv.reader(io.StringIO(text, newline=""), strict=True))
    except csv.Error:
        return None
    finally:
        csv.field_size_limit(before)


def reference(data: bytes) -> Answer | None:
    """Python's csv, strict, over the whole; None where it or the rule of equal columns refuses."""
    rows = pythons(data)
    if rows is None:
        return None
    if not rows:
        return (), 0
    if not rows[0] or any(len(row) != len(rows[0]) for row in rows):
        return None
    return tuple(rows[0]), len(rows) - 1


def streamed(data: bytes, cuts: list[int], *, mutable: bool = False) -> Answer | None:
    """The verifier's answer over `data` fed in the pieces that `cuts` make."""
    verifier = CsvVerifier()
    try:
        for piece in in_pieces(data, cuts):
            verifier.feed(bytearray(piece) if mutable else piece)
        verifier.finish()
    except VerificationError:
        return None
    return verifier.columns, verifier.records


def readable(columns: tuple[str, ...]) -> tuple[str, ...]:
    """The reference's header in the verifier's spelling."""
    originals = (column.encode("latin-1") for column in columns)
    return tuple(column.decode("utf-8", "backslashreplace").replace("\x00", "\\x00") for column in originals)


def in_pieces(data: bytes, cuts: list[int]) -> list[bytes]:
    """`data` in the pieces that `cuts` make."""
    bounds = [0, *sorted(cut % (len(data) + 1) for cut in cuts), len(data)]
    return [data[start:end] for start, end in pairwise(bounds)]


def records_of(data: bytes, cuts: list[int]) -> list[list[str]] | None:
    """The values of all records, one character a byte; None where the grammar refuses. Cells and line ends are the bytes."""
    reader, rows, written = RecordReader(), [], b""
    try:
        for piece in [*in_pieces(data, cuts), None]:
            reader.end() if piece is None else reader.add(piece)
            for cells, ending in reader:
                rows.append([value_of(cell).decode("latin-1") for cell in cells])
                written += b",".join(cells) + ending
                assert reader.offset == len(reader.bom + written)
    except VerificationError:
        return None
    assert reader.bom + written == data
    return rows


def assert_equal(data: bytes, cuts: list[int], *, mutable: bool = False) -> None:
    rows = pythons(data)
    found = records_of(data, cuts)
    # An empty first line is refused by the grammar, which knows a header.
    assert found == (None if rows and not rows[0] else rows)
    expected = reference(data)
    answer = streamed(data, cuts, mutable=mutable)
    assert answer == (None if expected is None else (readable(expected[0]), expected[1]))


@pytest.fixture(params=[3, 1024], ids=["header at once", "header held for 1 KiB"], autouse=True)
def sniffed(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """With 3 bytes to sniff (a byte order mark), small documents reach the fast way too, not only large ones."""
    monkeypatch.setattr(grammar, "SNIFFED_BYTES", request.param)


@settings(max_examples=600, deadline=None)
@given(data=documents(), cuts=st.lists(st.integers(0, 400), max_size=6), mutable=st.booleans())
@example(data=b'\xff\n\xffa\r,"\r,\n"\n', cuts=[0, 0, 6], mutable=False)
@example(data=b"a\r\r\nb\r\n", cuts=[2], mutable=False)
@example(data=b"a\n" + b"1\r2\n" * 9, cuts=[], mutable=False)
@example(data=b"a,b\n" + b"1\r2,3\n" * 9, cuts=[], mutable=False)
def test_documents_are_judged_as_pythons_csv_does(data: bytes, cuts: list[int], mutable: bool) -> None:
    assert_equal(data, cuts, mutable=mutable)


@settings(max_examples=600, deadline=None)
@given(data=st.text(alphabet='a,",\r\n"\n\x00', max_size=30).map(str.encode), cuts=st.lists(st.integers(0, 40), max_size=4))
@example(data=b"a\n1\n\n2\n", cuts=[])
def test_any_mixture_of_special_bytes_is_judged_as_pythons_csv_does(data: bytes, cuts: list[int]) -> None:
    assert_equal(data, cuts)


@settings(max_examples=300, deadline=None)
@given(data=st.binary(max_size=200), cuts=st.lists(st.integers(0, 200), max_size=4))
def test_any_bytes_are_judged_as_pythons_csv_does(data: bytes, cuts: list[int]) -> None:
    if data.lstrip().startswith((b"<", BOM)):
        return  # markup is refused by a rule of its own; csv knows none
    assert_equal(data.replace(BOM, b""), cuts)


@settings(max_examples=600, deadline=None)
@given(data=documents(), cuts=st.lists(st.integers(0, 400), max_size=6))
@example(data=b"a\r\nb\r", cuts=[])
@example(data=b"a,b\n,\r\n,c\r", cuts=[4, 6])
def test_whole_records_end_where_one_after_the_other_is_seen_to(data: bytes, cuts: list[int]) -> None:
    data = data.removeprefix(BOM)
    reader, whole, width = RecordReader(), 0, 0
    reader.add(data)
    try:
        while (record := reader.next()) is not None:
            width = width or len(record[0])
            whole = reader.offset
    except VerificationError:
        pass
    verifier = CsvVerifier(("column",) * max(width, 1))
    try:
        for piece in in_pieces(data, cuts):
            verifier.feed(piece)
    except VerificationError:
        return
    assert verifier.whole == (whole if len(data) >= grammar.SNIFFED_BYTES else verifier.whole)


@pytest.mark.slow
@pytest.mark.timeout(1200)
@settings(max_examples=10_000, deadline=None)
@given(data=documents(), cuts=st.lists(st.integers(0, 400), max_size=6), mutable=st.booleans())
def test_documents_are_judged_as_pythons_csv_does_at_length(data: bytes, cuts: list[int], mutable: bool) -> None:
    assert_equal(data, cuts, mutable=mutable)


@pytest.mark.parametrize("step", [1, 2, 3, 1000, 65_536, 262_144, 1_000_000])
@pytest.mark.parametrize("end", ["\n", "\r\n"])
def test_large_documents_in_any_step(step: int, end: str) -> None:
    rows = "".join(f'{n},"a ""{n}""{end},",x{end}' for n in range(20_000 if step > 100 else 200))
    data = f"id,text,c{end}{rows}".encode()
    assert_equal(data, list(range(0, len(data), step)))


@pytest.mark.timeout(60)
@pytest.mark.parametrize("length", [1000, 3000, 20_000, 400_000])
@pytest.mark.parametrize("cuts", [[], [5000, 70_000, 500_000]])
def test_long_records_with_quotes_in_odd_places(length: int, cuts: list[int]) -> None:
    odd = [b"x" * length + b'5" pipe' + b"y" * place + b",z\n" for place in (0, length // 2, length, 3 * length)]
    assert_equal(b"a,b\n1,2\n" + b"".join([*odd, b"1,2\n" * 2000, *reversed(odd)]) + b"3,4", cuts)


@pytest.mark.parametrize("step", [700, 5000])
def test_long_record_in_small_pieces_is_held_for_its_own_length(step: int) -> None:
    data = b"a,b\n" + b'1,"' + b"x" * 70_000 + b'"\n' + b"1,2\n" * 200_000
    verifier, longest = CsvVerifier(), 0
    for start in range(0, len(data), step):
        verifier.feed(data[start : start + step])
        longest = max(longest, len(verifier._held))
    verifier.finish()
    assert verifier.records == 200_001
    assert longest < 2 * 70_100


def test_field_longer_than_csvs_limit_in_constant_memory() -> None:
    verifier = CsvVerifier()
    verifier.feed(b'a,b\n1,"')
    for _ in range(100):
        verifier.feed(b"x,\n" * 50_000)
    verifier.feed(b'"\n')
    verifier.finish()
    assert (verifier.columns, verifier.records) == (("a", "b"), 1)


@pytest.mark.parametrize("step", [3, 99_999, 1_500_000])
def test_record_has_a_bound(step: int, monkeypatch: pytest.MonkeyPatch) -> None:
    for module in (grammar, verify):
        monkeypatch.setattr(module, "LONGEST_RECORD_BYTES", 20_000 if step == 3 else 2_000_000)
    longest, verifier = verify.LONGEST_RECORD_BYTES, CsvVerifier()

    def feed(size: int) -> int:
        verifier.feed(b'3,"')
        for _ in range(size // step):
            verifier.feed(b"x,\n" * (step // 3))
        verifier.feed(b'"\n')
        return len(b'3,""\n') + size // step * step

    verifier.feed(b"a,b\n1,2\n")
    whole = 8 + feed(longest // 2) + feed(longest * 3 // 4)
    with pytest.raises(VerificationError, match=rf"record 4 is longer than {longest} bytes \(at byte {whole}\)"):
        feed(longest * 3 // 2)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"a,b\n1,2\n1\n", r"record 2 has 1 columns, the header has 2 \(at byte 8\)"),
        (b"a,b\n1,2\n\n1,2\n", "record 2 has 0 columns, the header has 2"),
        (b'a,b\n1,"2\n', "record 1 begins a quoted field that never ends"),
        (b'a,"b\n', "the header begins a quoted field that never ends"),
        (b'a,b\n1,"2"3\n', r"record 1 has text after a closing quote \(at byte 4\)"),
        (BOM + b'a,b\r\n"\n",""\r\n1,"2\r\n', r"record 2 begins a quoted field that never ends.* \(at byte 16\)"),
        (b"\n1\n", "the first line is empty"),
        (b"  <!DOCTYPE HTML><p>", "a web page"),
        (b"<html>", "a web page"),
        (b'<?xml version="1.0"?><Error><Code>AccessDenied</Code></Error>', "a web page"),
        (b"x" * (grammar.LONGEST_HEADER_BYTES + 1), "the header is longer than"),
    ],
)
def test_what_is_wrong_is_said_with_its_place(data: bytes, message: str) -> None:
    def judge() -> None:
        verifier = CsvVerifier()
        verifier.feed(data)
        verifier.finish()

    with pytest.raises(VerificationError, match=message):
        judge()


@given(
    st.lists(
        st.text(alphabet=st.characters(blacklist_categories=["Cs"], blacklist_characters="\x00"), max_size=8),
        min_size=1,
        max_size=6,
    )
)
@example(['a "b"', ""])
def test_header_is_read_as_written(columns: list[str]) -> None:
    line = io.StringIO()
    csv.writer(line, quoting=csv.QUOTE_ALL).writerow(columns)
    reader = RecordReader()
    reader.add(line.getvalue().encode())
    reader.end()
    record = reader.next()
    assert record is not None
    assert column_names(record[0]) == tuple(columns)


@pytest.mark.parametrize("cell", [b",", b"ab,", b'"a",'])
@pytest.mark.parametrize("taker", [CsvVerifier, lambda: Masker({"b": MaskMethod.MASK})])
def test_record_of_a_million_columns_too_many_is_not_held_as_such(cell: bytes, taker: Callable[[], CsvVerifier | Masker]) -> None:
    size = 256 * 1024
    record, found = cell * (size // len(cell)) + b"\n", taker()
    found.feed(b"a,b\n" + b"1,2\n" * 1000)
    tracemalloc.start()
    try:
        with pytest.raises(VerificationError, match="record 1001 has") if isinstance(found, CsvVerifier) else nullcontext():
            for at in range(0, len(record), 1 << 16):
                found.feed(record[at : at + (1 << 16)])
            found.finish()
        assert tracemalloc.get_traced_memory()[1] < 6 * size
    finally:
        tracemalloc.stop()
    assert isinstance(found, CsvVerifier) or found.stopped
