"""Long writes past the system's cache leave the same bytes as any others, and so do reads meanwhile."""

from __future__ import annotations

import os
import random
from pathlib import Path
from unittest.mock import Mock

import pytest

from keen_pipeline.landing.parquet.source import CsvBody
from keen_pipeline.landing.transfer.direct import PAGE_BYTES, AlignedBuffer, StagedFile
from keen_pipeline.landing.transfer.workers import CHUNK_BYTES


def test_long_writes_at_any_place_from_any_memory_leave_the_same_bytes(tmp_path: Path) -> None:
    noise = os.urandom(CHUNK_BYTES)
    aligned = AlignedBuffer(CHUNK_BYTES)
    aligned.view[:] = noise
    elsewhere = bytearray(b"x" + noise)
    pieces = [aligned.view, aligned.view, memoryview(elsewhere)[1:], aligned.view, memoryview(b"short"), aligned.view]
    with StagedFile(tmp_path / "file", "x+") as file:
        for piece in pieces:
            left = piece
            while left:
                left = left[file.write(left) :]
        file.seek(0)
        assert file.read() == b"".join(pieces)
    assert (tmp_path / "file").read_bytes() == b"".join(pieces)


@pytest.mark.parametrize("possible", [True, False], ids=["past the cache", "without /proc"])
def test_reads_of_any_place_and_length_while_the_file_grows(monkeypatch: pytest.MonkeyPatch, possible: bool) -> None:
    if not possible:
        monkeypatch.setattr("builtins.open", Mock(side_effect=FileNotFoundError))
    chance = random.Random(7)
    noise = os.urandom(3 * CHUNK_BYTES + 12_345)
    aligned = AlignedBuffer(CHUNK_BYTES)
    with CsvBody(lambda: None, lambda: None) as file:
        for start in range(0, len(noise), CHUNK_BYTES):
            piece = noise[start : start + CHUNK_BYTES]
            aligned.view[: len(piece)] = piece
            assert file.write(aligned.view[: len(piece)]) == len(piece)
            written = start + len(piece)
            for _ in range(30):
                offset = chance.choice([0, PAGE_BYTES, chance.randrange(written)])
                length = chance.choice([1, written - offset, chance.randrange(1, written - offset + 1)])
                memory = bytearray(length + 1)
                file.read_into(memory, offset, length)
                assert memory[:length] == noise[offset : offset + length]
                assert file.tell() == written
