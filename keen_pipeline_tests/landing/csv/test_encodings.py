"""Whatever bytes come, in whatever pieces: what is landed, or kept aside, decodes to these bytes."""

from __future__ import annotations

import csv
import gzip
import hashlib
import io
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from keen_pipeline.collection import Encoding
from keen_pipeline.errors import TransferError, VerificationError
from keen_pipeline.landing import FileDestination
from keen_pipeline.landing.csv.stored import zstandard
from keen_pipeline.landing.transfer import download
from keen_pipeline.landing.transfer.workers import CHUNK_BYTES
from keen_pipeline.ports import ResultsStream

DECODE: dict[Encoding, Callable[[bytes], bytes]] = {
    Encoding.CSV: bytes,
    Encoding.CSV_GZ: gzip.decompress,
    Encoding.CSV_ZST: zstandard().decompress,
}
ODD = [b"", b"a", b'"', b'""', b",", b"\n", b"\r", b"\r\n", b"\x00", b"\xff\xfe", "é".encode(), b'"two\r\nlines"', b'"a,""b"""']
CELL = st.sampled_from(
    [b"", b"1.5", b'""', b'"x,y"', b'"x""y"', b'"\r\n"', b"\x00", b"\xff", "ü".encode(), b'"' + b"z" * 5000 + b'"']
)
BOM = b"\xef\xbb\xbf"


@st.composite
def well_formed(draw: st.DrawFn) -> bytes:
    """A CSV; one in a few has a field longer than what is written at once."""
    end = draw(st.sampled_from([b"\n", b"\r\n", b"\r"]))
    rows = draw(st.lists(st.tuples(CELL, CELL, CELL), max_size=20))
    body = end.join(b",".join(row) for row in [(b"a", b'"b,c"', b"d"), *rows]) + draw(st.sampled_from([b"", end]))
    if draw(st.integers(0, 9)) == 0:
        body += (b"" if body.endswith(end) else end) + b'1,2,"' + b'""\n' * (CHUNK_BYTES // 3 + draw(st.integers(0, 9))) + b'"'
    return draw(st.sampled_from([b"", BOM])) + body


ANY = st.one_of(well_formed(), st.lists(st.sampled_from(ODD), max_size=60).map(b"".join), st.binary(max_size=300))


class Pieces:
    """A ResultsSource and its streams: bytes in pieces of given lengths, and a connection that breaks at given places."""

    start = 0
    validator = '"one"'
    encoding = "identity"

    def __init__(self, data: bytes, lengths: Sequence[int], breaks: Sequence[int]) -> None:
        self._data = data
        self._lengths = lengths or [CHUNK_BYTES]
        self._breaks = sorted({place % (len(data) + 1) for place in breaks}, reverse=True)
        self._at = self._number = 0
        self.total = len(data)

    def open(self, *, offset: int = 0, validator: str | None = None) -> ResultsStream:
        self.start = self._at = offset
        return self

    def readinto(self, buffer: memoryview) -> int:
        self._number += 1
        length = min(self._lengths[self._number % len(self._lengths)], len(buffer), len(self._data) - self._at)
        if self._breaks and self._breaks[-1] <= self._at + length:
            self._breaks.pop()
            raise TransferError("the connection broke")
        buffer[:length] = self._data[self._at : self._at + length]
        self._at += length
        return length

    def __enter__(self) -> ResultsStream:
        return self

    def __exit__(self, *exc_info: object) -> None:
        """Nothing is open."""


@pytest.mark.parametrize("encoding", DECODE)
@settings(max_examples=60)
@given(
    data=ANY,
    lengths=st.lists(st.one_of(st.integers(1, 40), st.integers(1000, CHUNK_BYTES)), max_size=5),
    breaks=st.lists(st.integers(0, 2 * CHUNK_BYTES), max_size=2),
)
def test_every_encoding_decodes_to_the_bytes_that_came(
    encoding: Encoding, data: bytes, lengths: list[int], breaks: list[int]
) -> None:
    with tempfile.TemporaryDirectory() as root, pytest.MonkeyPatch.context() as patch:
        patch.setattr(download, "FIRST_WAIT_SECONDS", 0.0001)
        destination = FileDestination(root)
        target = destination.target_uri("purchases", "2026-01-01", encoding)
        landing, kept = None, target
        try:
            landing = destination.land(Pieces(data, lengths, breaks), target, extraction_id="e1")
        except VerificationError as refusal:
            kept = refusal.quarantined or "nothing was kept aside"
        stored = Path(kept).read_bytes()
        assert destination.exists(target) == (None if landing is None else len(stored))
    assert DECODE[encoding](stored) == data
    if landing is not None:
        assert (landing.bytes, landing.stored_bytes, landing.sha256) == (len(data), len(stored), hashlib.sha256(data).hexdigest())
        if len(data) < CHUNK_BYTES:  # of Python's csv the longest field is shorter
            text = data.removeprefix(BOM).decode("latin-1").replace("\x00", "\u2400")  # which 3.10 refuses
            assert landing.records == max(0, len(list(csv.reader(io.StringIO(text, newline=""), strict=True))) - 1)
