"""What a landed file begins with, read by the grammar it was verified by, in every encoding."""

from __future__ import annotations

from pathlib import Path

import pytest

from keen_pipeline.collection import Encoding
from keen_pipeline.defs.reports.preview import HEAD_BYTES, ROWS, preview
from keen_pipeline.landing import FileDestination
from keen_pipeline_tests.landing.conftest import BytesSource


def previewed(folder: Path, data: bytes, encoding: Encoding = Encoding.CSV) -> list[str]:
    place = FileDestination(str(folder))
    landing = place.land(BytesSource(data), place.target_uri("purchases", "2026-01-01", encoding), extraction_id="e1")
    return (preview(place, landing) or "").splitlines()


@pytest.mark.parametrize("encoding", list(Encoding))
def test_preview_shows_values_and_not_their_quotes(tmp_path: Path, encoding: Encoding) -> None:
    data = b'\xef\xbb\xbf"id",a,a\r\n1,"x, ""y""\r\nz",null\r\n2,5" pipe,"null"\r3,,""'
    assert previewed(tmp_path, data, encoding) == [
        "| id | a | a |",
        "| --- | --- | --- |",
        '| 1 | x\\, \\"y\\" z |   |',
        '| 2 | 5\\" pipe | null |',
        "| 3 |   |   |",
    ]


def test_preview_is_bounded_and_shows_whole_events_only(tmp_path: Path) -> None:
    long = b"x" * (HEAD_BYTES // 3)
    data = b"id,text\n" + b"".join(b"%d,%b\n" % (n, long) for n in range(9))
    lines = previewed(tmp_path, data)
    assert [line[:5] for line in lines] == ["| id ", "| ---", "| 0 |", "| 1 |", "", "7 mor"]
    assert max(map(len, lines)) < 60
    assert len(previewed(tmp_path, b"id\n" + b"1\n" * 99)) == ROWS + 4
    assert previewed(tmp_path, b"id\n") == []


@pytest.mark.parametrize("encoding", list(Encoding))
def test_a_file_that_was_damaged_since_has_no_preview(tmp_path: Path, encoding: Encoding) -> None:
    place = FileDestination(str(tmp_path))
    landing = place.land(BytesSource(b"id\n1\n"), place.target_uri("purchases", "2026-01-01", encoding), extraction_id="e1")
    Path(landing.uri).write_bytes(b'"\x00\xff' + bytes(range(256)) * 8)
    preview(place, landing)
    Path(landing.uri).write_bytes(Path(landing.uri).read_bytes()[:3])
    preview(place, landing)
