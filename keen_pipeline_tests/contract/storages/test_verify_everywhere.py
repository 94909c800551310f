"""`verify` over every kind of storage: each fault of a file is named, and nothing is said of whole ones."""

from __future__ import annotations

from datetime import datetime, timezone
from pathlib import Path
from typing import cast

from keen_pipeline.pipeline import Pipeline
from keen_pipeline.pipeline.files import manifests
from keen_pipeline.pipeline.files.verify import strangers, verify
from keen_pipeline.ports import ExtractionApi
from keen_pipeline.testing import KeenLanding
from keen_pipeline_tests.contract.storages.places import Place

NOW = datetime(2026, 2, 1, tzinfo=timezone.utc)
WHOLE, SHORT, CHANGED, MISSING = DAYS = ("2026-01-01", "2026-01-02", "2026-01-03", "2026-01-04")


def test_each_fault_of_a_file_is_named(place: Place, tmp_path: Path) -> None:
    destination = place.destination()
    landing = KeenLanding(tmp_path / "keen", destination)
    landed = landing.land("events", {day: [{"n": n, "day": day} for n in range(50)] for day in DAYS})
    entries = landing.ledger.landed_entries("events")
    for entry in entries:
        manifests.write(destination, manifests.Manifest.of(entry, landing.ledger.scope, NOW))
    pipeline = Pipeline(cast("ExtractionApi", None), landing.ledger, destination)
    assert [one.problem for one in verify(pipeline, entries)] == [None] * 4
    assert list(strangers(pipeline, ["events"])) == []

    paths = {entry.request.partition_key: entry.request.path for entry in entries}
    files = place.files()
    destination.write(paths[SHORT], files[paths[SHORT]][:-30])
    destination.write(paths[CHANGED], files[paths[CHANGED]].replace(b"2026-01-03", b"2026-01-08", 1))
    destination.remove(landed[MISSING].uri)
    destination.write("events/2026-01-09.csv", b"header:timestamp\n")
    found = {one.partition: one.problem for one in verify(pipeline, entries)}
    assert found[WHOLE] is None
    size = landed[SHORT].stored_bytes
    assert found[SHORT] == f"it has {size - 30} bytes, {size} landed"
    assert (found[CHANGED] or "").startswith("its content has changed: sha256 ")
    assert found[MISSING] == "the file is missing"
    [stranger] = strangers(pipeline, ["events"])
    assert (stranger.uri, stranger.problem) == (
        destination.uri_of("events/2026-01-09.csv"),
        "a file too many: no landing has put it there",
    )
