"""Landings as Parquet: types, masks and the CSV that a file was made of."""

from __future__ import annotations

import csv
import hashlib
import io
import json
from pathlib import Path

import pytest
from pyarrow import parquet

from keen_pipeline import build_keen_definitions
from keen_pipeline.collection import Collection, Encoding, MaskMethod
from keen_pipeline.errors import ConfigurationError, VerificationError
from keen_pipeline.landing import FileDestination
from keen_pipeline_tests.landing.conftest import BytesSource, Lander
from keen_pipeline_tests.servers import faults


def test_landed_file_names_the_csv_it_was_made_of(lander: Lander) -> None:
    body = lander.server.body
    landing = lander.land([faults.cut(100_001), faults.whole()], Encoding.PARQUET)
    file = parquet.ParquetFile(landing.uri)
    metadata = {key.decode(): value.decode() for key, value in file.metadata.metadata.items()}
    assert metadata["keen_pipeline.sha256"] == landing.sha256 == hashlib.sha256(body).hexdigest()
    assert (metadata["keen_pipeline.records"], landing.records, file.metadata.num_rows) == ("8000", 8000, 8000)
    assert json.loads(metadata["keen_pipeline.columns"]) == list(landing.columns)
    assert landing.stored_bytes == Path(landing.uri).stat().st_size
    expected = list(csv.reader(io.StringIO(body.decode(), newline="")))[1:]
    assert [list(row.values()) for row in file.read().to_pylist()] == expected


def test_types_reach_the_landed_file(lander: Lander) -> None:
    lander.server.results = [faults.whole()]
    destination = lander.destination()
    target = destination.target_uri("purchases", "2026-01-01", Encoding.PARQUET)
    types = {"keen.id": "num", "amount": "num", "note": "num"}
    landing = destination.land(lander.source(), target, extraction_id="e1", types=types)
    assert landing.column_types == ("double", "string", "double", "string")
    assert [str(field.type) for field in parquet.read_schema(landing.uri)] == list(landing.column_types)


def test_earlier_types_and_masks_reach_the_landed_file(lander: Lander) -> None:
    lander.server.results = [faults.whole()]
    destination = lander.destination()
    landing = destination.land(
        lander.source(),
        destination.target_uri("purchases", "2026-01-01", Encoding.PARQUET),
        extraction_id="e1",
        types={"keen.id": "num", "amount": "num"},
        earlier_types={"amount": "string", "note": "binary"},
        mask={"keen.id": MaskMethod.MASK},
    )
    assert landing.column_types == ("string", "string", "string", "binary")
    assert json.loads(parquet.read_metadata(landing.uri).metadata[b"keen_pipeline.text_columns"]) == ["amount", "note"]


def test_dropped_column_is_not_in_a_file_without_events(lander: Lander) -> None:
    lander.server.body = b"keen.id,amount\r\n"
    lander.server.results = [faults.whole()]
    destination = lander.destination()
    target = destination.target_uri("purchases", "2026-01-01", Encoding.PARQUET)
    types, mask = {"amount": "num", "email": "string", "n": "num"}, {"amount": MaskMethod.DROP, "email": MaskMethod.DROP}
    landing = destination.land(
        lander.source(), target, extraction_id="e1", types=types, mask=mask, earlier_types={"email": "string"}
    )
    assert (landing.columns, landing.column_types) == (("keen.id",), ("string",))
    assert parquet.read_schema(target).names == ["keen.id", "n"]


def test_refused_file_is_kept_aside_as_the_csv_that_came(lander: Lander) -> None:
    lander.server.body = b"a,b\n1,2\n1,2,3\n"
    with pytest.raises(VerificationError, match="record 2 has 3 columns") as raised:
        lander.land([faults.whole()], Encoding.PARQUET)
    kept = lander.root / "_quarantine" / "purchases" / "2026-01-01.e1.csv"
    assert raised.value.quarantined == str(kept)
    assert kept.read_bytes() == lander.server.body


def test_missing_extra_is_said_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "pyarrow", None)
    with pytest.raises(ConfigurationError, match=r"keen_pipeline\[parquet\]"):
        FileDestination(str(tmp_path)).land(BytesSource(b""), f"{tmp_path}/purchases/2026-01-01.parquet", extraction_id="e1")
    with pytest.raises(ConfigurationError, match=r"keen_pipeline\[parquet\]"):
        build_keen_definitions([Collection("purchases", "2026-01-01", encoding=Encoding.PARQUET)])
