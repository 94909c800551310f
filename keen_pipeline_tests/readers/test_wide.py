"""Files of as many columns as a header of a megabyte can name: what is done for each looks at no other."""

from __future__ import annotations

from datetime import datetime, timezone

import pyarrow as pa
import pytest
from pyarrow import parquet

from keen_pipeline.collection import MaskMethod
from keen_pipeline.errors import InvalidInputError
from keen_pipeline.extraction import ExtractionRequest, Landing
from keen_pipeline.landing.csv.masking import Masker
from keen_pipeline.landing.parquet.write import Columns
from keen_pipeline.readers import scan
from keen_pipeline.readers.files import LandedFile
from keen_pipeline.tables.names import column_names
from keen_pipeline.timeframe import Timeframe

NAMES = [f"c{number}" for number in range(130_000)]
DAY = Timeframe(datetime(2026, 1, 1, tzinfo=timezone.utc), datetime(2026, 1, 2, tzinfo=timezone.utc))
pytestmark = pytest.mark.timeout(30)


def test_a_mask_goes_through_a_header_once() -> None:
    masker = Masker({"c0": MaskMethod.DROP, "c1": MaskMethod.MASK})
    assert masker.feed(",".join(NAMES).encode() + b"\n").startswith(b"c1,c2,")
    assert masker.columns == tuple(NAMES[1:])


def test_names_of_a_parquet_file_that_repeat_are_numbered_at_once() -> None:
    names = Columns(("a",) * len(NAMES), ["string"] * len(NAMES), [], {}).schema().names
    assert (names[:3], names[-1]) == (["a", "a#2", "a#3"], f"a#{len(NAMES)}")


def test_a_name_that_is_there_twice_is_found_at_once() -> None:
    landing = Landing("x", 1, 1, "", (*NAMES, NAMES[0]), 1, 0.0)
    with pytest.raises(InvalidInputError, match="two columns are called c0;"):
        scan._check_header(LandedFile(ExtractionRequest("c", DAY, "2026-01-01", "c/2026-01-01.csv"), landing, ""))


def test_columns_of_a_table_are_told_apart_at_once() -> None:
    assert len(column_names("c", NAMES)) == len(NAMES)


def test_types_of_a_parquet_file_are_compared_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    stored, wanted = (pa.schema([(name, kind) for name in NAMES[:20_000]]) for kind in (pa.float64(), pa.int64()))
    monkeypatch.setattr(parquet, "read_schema", lambda path: stored)
    assert not scan._must_be_converted("x", wanted)
