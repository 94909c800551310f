"""Masked columns: what is written of them, and that all other cells stay as they are."""

from __future__ import annotations

import csv
import gzip
import hashlib
import hmac
import io
import re
from collections.abc import Sequence
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from keen_pipeline.collection import Encoding, MaskMethod
from keen_pipeline.errors import ConfigurationError, VerificationError
from keen_pipeline.landing import FileDestination
from keen_pipeline.landing.csv import grammar
from keen_pipeline.landing.csv.masking import Masker
from keen_pipeline.landing.csv.stored import zstandard
from keen_pipeline_tests.landing.conftest import BytesSource

KEY = b"a key of the tests, 32 bytes long"
HASH, DROP, MASK = MaskMethod.HASH, MaskMethod.DROP, MaskMethod.MASK
texts = st.text(alphabet=st.sampled_from('ab,"\né\r'), max_size=6)


def hashed(value: str) -> str:
    return hmac.new(KEY, value.encode(), hashlib.sha256).hexdigest()[:32]


def written(records: list[list[str]], ending: str) -> bytes:
    """A CSV whose cells are quoted where they must be, or begin with `a`."""

    def cell(text: str) -> str:
        return '"' + text.replace('"', '""') + '"' if re.search('[,"\r\n]', text) or text.startswith("a") else text

    return "".join(",".join(map(cell, record)) + ending for record in records).encode()


def run(data: bytes, methods: dict[str, MaskMethod], pieces: Sequence[int] = ()) -> tuple[bytes, Masker]:
    masker, out, at = Masker(methods, KEY), b"", 0
    for length in pieces:
        out += masker.feed(data[at : at + length])
        at += length
    out += masker.feed(data[at:])
    return out + masker.finish(), masker


@st.composite
def documents(draw: st.DrawFn) -> tuple[list[str], list[list[str]], str, bool]:
    header = draw(st.lists(st.sampled_from(["t", "a", "b", 'c,"d"', "é\ne"]), min_size=2, max_size=5, unique=True))
    rows = draw(st.lists(st.lists(texts, min_size=len(header), max_size=len(header)), max_size=5))
    return header, rows, draw(st.sampled_from(["\n", "\r\n", "\r"])), draw(st.booleans())


@given(documents(), st.dictionaries(st.sampled_from(["t", "a", 'c,"d"', "é\ne", "none"]), st.sampled_from(MaskMethod)), st.data())
def test_any_csv_in_any_pieces(
    document: tuple[list[str], list[list[str]], str, bool], methods: dict[str, MaskMethod], data: st.DataObject
) -> None:
    header, rows, ending, open_end = document
    whole = written([header, *rows], ending)
    whole = whole[: -len(ending)] if open_end else whole
    left = [name for name in header if methods.get(name) is not DROP]
    if not left:
        with pytest.raises(ConfigurationError, match="drops every column"):
            run(whole, methods)
        return
    pieces = data.draw(st.lists(st.integers(0, 9), max_size=40))
    out, masker = run(whole, methods, pieces)
    assert not masker.stopped
    assert masker.columns == tuple(left)
    assert masker.masked == {name: methods[name].value for name in header if name in methods}
    assert set(masker.absent) == set(methods) - set(header)

    def cell(name: str, value: str) -> str:
        method = methods.get(name)
        return value if method is None or not value else "***" if method is MASK else hashed(value)

    expected = [[cell(n, v) for n, v in zip(header, row, strict=True) if methods.get(n) is not DROP] for row in rows]
    assert list(csv.reader(io.StringIO(out.decode(), newline=""))) == [left, *expected]


def test_cells_that_are_not_masked_keep_their_bytes() -> None:
    data = b'\xef\xbb\xbfid,"body:email",x\r\n"1",a@b.c," q ""z"" "\r\n2,"a@b.c",\xff\x00\n3,,""\r4,"",\n'
    out, masker = run(data, {"body:email": HASH})
    one = hashed("a@b.c").encode()
    nothing = hashed("").encode()
    lines = [b'\xef\xbb\xbfid,"body:email",x\r\n', b'"1",' + one + b'," q ""z"" "\r\n', b"2," + one + b",\xff\x00\n", b'3,,""\r']
    assert out == b"".join(lines) + b"4," + nothing + b",\n"
    assert masker.masked == {"body:email": "hash"}


def test_without_a_mask_for_its_columns_a_file_is_as_it_came() -> None:
    data = b'a,b\n1,"x\ny"\r\n2,'
    out, masker = run(data, {"body:phone": DROP}, [1] * 20)
    assert (out, masker.absent, masker.masked) == (data, ("body:phone",), {})


def test_what_is_no_value_for_parquet_is_none_for_a_mask() -> None:
    data = b'a,b,c\nnull,null,null\n"null","null","null"\n,,\n"","",""\nNULL,null ,x\n'
    out, _ = run(data, {"a": MASK, "b": HASH})
    one, two, three = (hashed(text) for text in ("null", "", "null "))
    rows = ["a,b,c", "null,null,null", f'***,{one},"null"', ",,", f'***,{two},""', f"***,{three},x"]
    assert out.decode().splitlines() == rows


def test_the_last_cell_of_a_record_is_never_an_empty_line() -> None:
    assert run(b"a,b\n1,\n2,x\n", {"a": DROP})[0] == b'b\n""\nx\n'


@pytest.mark.parametrize(
    ("name", "covered"),
    [
        ("email", {"body:email", "email"}),
        ("body:email", {"body:email", "email"}),
        ("header:id", {"header:id"}),
        ("user", {"body:user:mail", "user.mail"}),
        ("body:user", {"body:user:mail", "user.mail"}),
        ("user.mail", {"body:user:mail", "user.mail"}),
        ("body:user:mail", {"body:user:mail", "user.mail"}),
    ],
)
def test_a_property_is_masked_however_it_is_spelled(name: str, covered: set[str]) -> None:
    header = ["header:id", "body:id", "body:email", "email", "body:user:mail", "user.mail", "body:username", "body:Email", "body:e"]
    out, masker = run(f"{','.join(header)}\n{','.join('abcdefghi')}\n".encode(), {name: MASK})
    assert out.decode().splitlines()[1] == ",".join("***" if h in covered else c for h, c in zip(header, "abcdefghi", strict=True))
    assert (set(masker.masked), masker.absent) == (covered, ())


def test_the_innermost_name_of_a_mask_decides() -> None:
    out, masker = run(b"body:user:id,body:user:mail,body:n\n1,2,3\n", {"body:user": DROP, "body:user:id": MASK, "body:x": DROP})
    assert (out, masker.absent) == (b"body:user:id,body:n\n***,3\n", ("body:x",))


def test_columns_that_are_dropped_take_no_other_with_them() -> None:
    out, masker = run(b"a,b,c,a\n1,2,3,4\n", {"a": DROP, "b": DROP})
    assert (out, masker.columns) == (b"c\n3\n", ("c",))


def test_equal_values_join_under_one_key_and_not_under_another() -> None:
    first, second = run(b"k\nv\n", {"k": HASH})[0], run(b'z,k\n1,"v"\n', {"k": HASH})[0]
    assert first.splitlines()[1] == second.splitlines()[1].split(b",")[1]
    other = Masker({"k": HASH}, b"another key of the tests")
    assert other.feed(b"k\nv\n") + other.finish() != first


@pytest.mark.parametrize(
    ("data", "kept"),
    [
        (b"<html><p>a@b.c</p></html>", b""),
        (b"id,email\n1,***\na@b.c\n2,x\n", b"id,email\n1,***\n"),
        (b"id,email\na@b.c,x,y\n", b"id,email\n"),
        (b'id,email\n1,"a@b.c\n2,z\n', b"id,email\n"),
        (b'id,email\n1,"a"@b.c\n', b"id,email\n"),
        (b'"id,email\n1,a@b.c\n', b""),
    ],
)
def test_what_belongs_to_no_column_is_kept_back(data: bytes, kept: bytes) -> None:
    for pieces in ([], [1] * len(data)):
        out, masker = run(data, {"email": MASK}, pieces)
        assert (out, masker.stopped) == (kept, True)


def test_a_hash_needs_a_key() -> None:
    with pytest.raises(ConfigurationError, match="KEEN_PIPELINE_MASK_KEY"):
        Masker({"a": HASH})


@pytest.mark.parametrize("encoding", list(Encoding))
def test_a_landing_is_masked_and_proven_of_what_came_in_every_encoding(tmp_path: Path, encoding: Encoding) -> None:
    data = b"".join([b"id,body:email\n", *(b"%d,person%d@example.com\n" % (n, n) for n in range(60_000))])
    place = FileDestination(str(tmp_path))
    target = place.target_uri("purchases", "2026-01-01", encoding)
    found = place.land(BytesSource(data), target, extraction_id="e1", types={"id": "num"}, mask={"body:email": HASH}, mask_key=KEY)
    assert (found.sha256, found.bytes, found.records) == (hashlib.sha256(data).hexdigest(), len(data), 60_000)
    assert (found.columns, found.masked, found.property_types) == (("id", "body:email"), {"body:email": "hash"}, ("num", ""))
    with place.open(target) as file:
        emails = _emails(file.read(), encoding)
    assert emails == [hashed(f"person{n}@example.com") for n in range(60_000)]


def test_a_record_too_long_to_be_masked_is_no_end_of_the_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(grammar, "LONGEST_RECORD_BYTES", 100)
    data = b'id,email\n%b2,"%b"\n3,a@b.c\n' % (b"1,a@b.c\n" * 200, b"x," * 100)
    place = FileDestination(str(tmp_path))
    target = place.target_uri("purchases", "2026-01-01")
    assert place.land(BytesSource(data), target, extraction_id="e1").records == 202
    with pytest.raises(VerificationError, match="it can't be masked: a record is longer than"):
        place.land(BytesSource(data), target, extraction_id="e2", mask={"email": MASK})
    assert Path(target).read_bytes() == data


def test_what_is_kept_aside_is_masked_too(tmp_path: Path) -> None:
    place = FileDestination(str(tmp_path))
    target = place.target_uri("purchases", "2026-01-01")
    with pytest.raises(VerificationError, match="record 2 has 1 columns"):
        place.land(BytesSource(b"id,email\n1,a@b.c\na@b.c\n3,a@b.c\n"), target, extraction_id="e1", mask={"email": MASK})
    [kept] = (tmp_path / "_quarantine").rglob("*.csv")
    assert kept.read_bytes() == b"id,email\n1,***\n"
    told = kept.with_name(kept.name + ".reason.txt").read_text()
    assert ("a@b.c" in told, "and are kept masked, up to where it is wrong" in told) == (False, True)
    assert not Path(target).exists()


def _emails(stored: bytes, encoding: Encoding) -> list[str]:
    if encoding is Encoding.PARQUET:
        from pyarrow import parquet

        found: list[str] = parquet.read_table(io.BytesIO(stored)).column("body:email").to_pylist()
        return found
    if encoding is Encoding.CSV_GZ:
        stored = gzip.decompress(stored)
    elif encoding is Encoding.CSV_ZST:
        stored = zstandard().decompress(stored)
    return [row["body:email"] for row in csv.DictReader(io.StringIO(stored.decode()))]
