"""Any day, split into any slices, joined, masked and landed in every encoding, reads like the day that was not split."""

from __future__ import annotations

import csv
import hmac
import io
import tempfile
from pathlib import Path

from hypothesis import given, settings
from hypothesis import strategies as st
from pyarrow import parquet

from keen_pipeline.collection import Encoding, MaskMethod
from keen_pipeline.landing import FileDestination
from keen_pipeline.landing.csv.grammar import column_names, is_null
from keen_pipeline.landing.csv.joined import JoinedResults, numbered
from keen_pipeline.landing.csv.stored import decompressed
from keen_pipeline_tests.landing.csv.test_joined import split_days

KEY = b"a key of the tests, 32 bytes long"
DROP = MaskMethod.DROP
# Of names that a day may have, and one that it never has.
MASKS = st.dictionaries(st.sampled_from(["a", "b", 'c,"d"', "é\ne", "none"]), st.sampled_from(MaskMethod), max_size=3)


def plain(raw: bytes) -> bytes | None:
    """What Python's csv reads of a cell; None where it stands for no value."""
    if is_null(raw):
        return None
    [row] = csv.reader(io.StringIO(raw.decode("latin-1"), newline=""))
    return row[0].encode("latin-1")


def masked(raw: bytes, method: MaskMethod | None) -> bytes | None:
    value = plain(raw)
    if value is None or method is None:
        return value
    return b"***" if method is MaskMethod.MASK else hmac.new(KEY, value, "sha256").hexdigest()[:32].encode()


def stored(place: FileDestination, target: str, encoding: Encoding) -> list[list[bytes | None]]:
    """The records of a landed file, without its header."""
    with place.open(target) as file, decompressed(file, target) as source:
        data = source.read()
    if encoding is Encoding.PARQUET:
        table = parquet.read_table(io.BytesIO(data))
        columns = [[v.encode() if isinstance(v, str) else v for v in column.to_pylist()] for column in table.columns]
        return [list(row) for row in zip(*columns, strict=True)]
    text = data.decode("latin-1")
    rows = list(csv.reader(io.StringIO(text, newline=""), strict=True))[1:]
    return [[told(cell.encode("latin-1"), encoding) for cell in row] for row in rows]


@settings(max_examples=30)
@given(day=split_days(), mask=MASKS)
def test_a_split_day_lands_like_the_day(
    day: tuple[list[bytes], list[bytes], list[list[bytes]]], mask: dict[str, MaskMethod]
) -> None:
    slices, columns, records = day
    with tempfile.TemporaryDirectory() as folder:
        parts = FileDestination(f"{folder}/slices")
        uris = [parts.target_uri("purchases", f"2026-01-0{number + 1}") for number in range(len(slices))]
        for uri, data in zip(uris, slices, strict=True):
            Path(uri).parent.mkdir(parents=True, exist_ok=True)
            Path(uri).write_bytes(data)
        places = held_columns(slices, columns)
        names = {n: column_names([columns[n]])[0] for n in places}
        kept = [n for n in places if mask.get(names[n]) is not DROP]
        expected = [[masked(record[n], mask.get(names[n])) for n in kept] for record in records]
        place = FileDestination(f"{folder}/landed")
        for encoding in Encoding:
            target = place.target_uri("purchases", "2026-01-01", encoding)
            landing = place.land(JoinedResults(parts.open, uris), target, extraction_id="e", mask=mask, mask_key=KEY)
            assert landing.columns == tuple(names[n] for n in kept)
            assert landing.records == len(records)
            assert stored(place, target, encoding) == [[told(cell, encoding) for cell in row] for row in expected], encoding


def told(value: bytes | None, encoding: Encoding) -> bytes | None:
    """Parquet tells no value from an empty text and the text `null`; Python's csv does not."""
    return value if encoding is Encoding.PARQUET else b"" if value in (None, b"null") else value


def held_columns(slices: list[bytes], columns: list[bytes]) -> list[int]:
    """Which of the day's columns some slice has."""
    seen = set()
    for data in slices:
        text = data.removeprefix(b"\xef\xbb\xbf").decode("latin-1")
        header = next(csv.reader(io.StringIO(text, newline="")))
        seen |= set(numbered([b'"' + name.replace('"', '""').encode("latin-1") + b'"' for name in header]))
    return [n for n, column in enumerate(numbered(columns)) if column in seen]
