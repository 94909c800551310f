"""Long reads and writes past the system's cache see and leave the same bytes as any others."""

from __future__ import annotations

import os
import random
from pathlib import Path

import pytest

from keen_pipeline.landing.transfer import direct
from keen_pipeline.landing.transfer.direct import PAGE_BYTES, AlignedBuffer, DirectReader, StagedFile
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


@pytest.mark.parametrize("possible", [True, False], ids=["from the disk", "no O_DIRECT"])
def test_reads_of_any_place_and_length_while_the_file_grows(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, possible: bool
) -> None:
    if not possible:
        monkeypatch.setattr(direct, "_O_DIRECT", 0)
    chance = random.Random(7)
    noise = os.urandom(3 * CHUNK_BYTES + 12_345)
    aligned = AlignedBuffer(CHUNK_BYTES)
    with StagedFile(tmp_path / "file", "x+") as file:
        reader = DirectReader(file.fileno())
        (tmp_path / "file").unlink()
        for start in range(0, len(noise), CHUNK_BYTES):
            piece = noise[start : start + CHUNK_BYTES]
            aligned.view[: len(piece)] = piece
            assert file.write(aligned.view[: len(piece)]) == len(piece)
            written = start + len(piece)
            for _ in range(30):
                offset = chance.choice([0, PAGE_BYTES, chance.randrange(written)])
                length = chance.choice([1, written - offset, chance.randrange(1, written - offset + 1)])
                buffer = AlignedBuffer(length + PAGE_BYTES)
                begin, end = reader.read(buffer, offset, length)
                assert buffer.memory[begin:end] == noise[offset : offset + length]
        begin, end = reader.read(AlignedBuffer(2 * CHUNK_BYTES), len(noise) - 10, CHUNK_BYTES + 10)
        assert end - begin == 10
        reader.close()
