"""Compressed files: the same CSV gives the same bytes, however it came."""

from __future__ import annotations

import gzip
import random
import sys

import pytest

from keen_pipeline.collection import Encoding
from keen_pipeline.landing.csv.stored import zstandard
from keen_pipeline.landing.transfer.encode import Encoder

CSV = b"a,b\n" + b"".join(b"%d,%d\n" % (n, n * 7919 % 10_007) for n in range(350_000))


def encoded(encoding: Encoding, lengths: list[int], data: bytes = CSV) -> bytes:
    encoder = Encoder(encoding)
    out, at = [], 0
    for length in lengths:
        out.append(bytes(encoder.encode(memoryview(data)[at : at + length])))
        at += length
    return b"".join([*out, encoder.encode(data[at:]), encoder.finish()])


@pytest.mark.parametrize("length", [len(CSV), 1 << 20, (1 << 20) - 1, 50_000])
@pytest.mark.parametrize("encoding", [Encoding.CSV_GZ, Encoding.CSV_ZST])
def test_the_bytes_do_not_depend_on_the_pieces(encoding: Encoding, length: int) -> None:
    chance, data = random.Random(6), CSV[:length]
    whole = encoded(encoding, [], data)
    assert (gzip.decompress(whole) if encoding is Encoding.CSV_GZ else zstandard().decompress(whole)) == data
    assert len(whole) < len(data) / 2
    assert encoded(encoding, [1 << 20] * 3, data) == whole
    assert encoded(encoding, [chance.randrange(1, length // 10) for _ in range(30)], data) == whole


def test_gzip_without_isal_is_python_s_own(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "isal", None)
    assert gzip.decompress(encoded(Encoding.CSV_GZ, [100, 1 << 20])) == CSV
