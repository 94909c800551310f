"""Masked columns through the whole pipeline, on a live service: nothing of their values is written anywhere."""

import csv
import hashlib
import hmac
import json
from pathlib import Path
from typing import Any

import dagster as dg
import pytest

from keen_pipeline import Collection
from keen_pipeline.client import KeenClient
from keen_pipeline.collection import Encoding
from keen_pipeline.defs.reports.metadata import materialization
from keen_pipeline.errors import ConfigurationError
from keen_pipeline.pipeline.freshness import coverage, freshness, todays_landings
from keen_pipeline.testing import KeenLanding
from keen_pipeline_tests.defs.conftest import DAYS, MakePlace, Place, night

KEY = "the tests' key, long enough"
MASK = {"body:email": "hash", "body:text": "drop", "body:user:id": "mask", "body:phone": "drop"}


def add_people(place: Place, day: str) -> None:
    end = place.endpoint
    with KeenClient(end.base_url, end.project_id, read_key=end.read_key, write_key=end.write_key) as client:
        events = [
            {"keen": {"timestamp": f"{day}T0{n}:00:00Z"}, "email": f"person{n % 2}@example.com", "amount": n} for n in range(4)
        ]
        client.add_events({"purchases": events})


def metadata(place: Place, day: str) -> dict[str, Any]:
    [record] = place.instance.fetch_materializations(
        dg.AssetRecordsFilter(asset_key=dg.AssetKey(["keen", "purchases"]), asset_partitions=[day]), limit=5
    ).records
    assert record.asset_materialization is not None
    return {name: value.value for name, value in record.asset_materialization.metadata.items()}


def hashed(value: str) -> str:
    return hmac.new(KEY.encode(), value.encode(), hashlib.sha256).hexdigest()[:32]


def rows(place: Place, encoding: Encoding) -> list[dict[str, Any]]:
    path = place.root / "purchases" / f"{DAYS[0]}.{encoding.value}"
    if encoding is Encoding.PARQUET:
        from pyarrow import parquet

        found: list[dict[str, Any]] = parquet.read_table(path).to_pylist()
        return found
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


@pytest.mark.parametrize("how", ["csv", "slices", "parquet"])
def test_personal_data_is_in_no_file_and_no_event(
    make_place: MakePlace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, how: str
) -> None:
    monkeypatch.setenv("KEEN_PIPELINE_MASK_KEY", KEY)
    encoding = "parquet" if how == "parquet" else "csv"
    options = ["--max-extraction-events", "3"] if how == "slices" else []
    place = make_place(options=options, collections=[Collection("purchases", DAYS[0], encoding=encoding, mask=MASK)])
    add_people(place, DAYS[0])
    assert place.backfill(["keen/purchases"], DAYS[0], DAYS[0]).success
    found = rows(place, Encoding(encoding))
    assert [row["body:email"] for row in found if row["body:email"]] == [hashed(f"person{n % 2}@example.com") for n in range(4)]
    assert {row["body:user:id"] for row in found} == {"***", None if encoding == "parquet" else ""}
    assert list(found[0]) == ["header:timestamp", "body:amount", "body:email", "body:user:id"]
    said = metadata(place, DAYS[0])
    assert said["keen/masked"] == {"body:email": "hash", "body:text": "drop", "body:user:id": "mask", "body:phone": "absent"}
    assert len(found) == said["keen/events"] == 7
    [entry] = place.ledger.landed_entries("purchases")
    assert entry.landing is not None
    assert entry.landing.masked == said["keen/masked"]
    assert hashed("person0@example.com") in str(said["keen/preview"])
    written = b"".join(path.read_bytes() for path in tmp_path.rglob("*") if path.is_file())
    events = json.dumps([str(record) for record in place.instance.all_logs(entry.run_id or "")])
    for secret in ("person0@example.com", 'purchases, ""2026', KEY):
        assert secret.encode() not in written
        assert secret not in events
    assert "@example.com" not in events


def test_a_mask_that_names_properties_as_filters_do_lets_nothing_through(
    make_place: MakePlace, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("KEEN_PIPELINE_MASK_KEY", KEY)
    mask = {"email": "hash", "user": "drop", "emial": "drop"}
    place = make_place(collections=[Collection("purchases", DAYS[0], mask=mask)])
    add_people(place, DAYS[0])
    result = place.backfill(["keen/purchases"], DAYS[0], DAYS[0])
    assert result.success
    assert list(rows(place, Encoding.CSV)[0]) == ["header:timestamp", "body:amount", "body:email", "body:text"]
    assert b"@example.com" not in (place.root / "purchases" / f"{DAYS[0]}.csv").read_bytes()
    [drift] = [check for check in result.get_asset_check_evaluations() if check.check_name == "schema_drift"]
    assert not drift.passed
    assert drift.description is not None
    assert "the mask names body:emial, which no file has so far" in drift.description


def test_what_is_proven_is_keen_s_own_file(make_place: MakePlace, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KEEN_PIPELINE_MASK_KEY", KEY)
    place = make_place(collections=[Collection("purchases", DAYS[0])])
    assert place.backfill(["keen/purchases"], DAYS[0], DAYS[0]).success
    plain = (place.root / "purchases" / f"{DAYS[0]}.csv").read_bytes()
    place = make_place(collections=[Collection("purchases", DAYS[0], mask={"body:text": "hash"})])
    assert place.backfill(["keen/purchases"], DAYS[0], DAYS[0]).success  # another mask is another file
    [entry] = place.ledger.landed_entries("purchases")
    assert entry.landing is not None
    assert (entry.landing.sha256, entry.landing.bytes) == (hashlib.sha256(plain).hexdigest(), len(plain))
    masked = (place.root / "purchases" / f"{DAYS[0]}.csv").read_bytes()
    assert masked != plain
    assert entry.landing.stored_bytes == len(masked)


def test_a_hash_without_a_key_is_refused_before_anything_is_asked(make_place: MakePlace) -> None:
    place = make_place(collections=[Collection("purchases", DAYS[0], mask={"body:text": "hash"})])
    result = place.backfill(["keen/purchases"], DAYS[0], DAYS[0])
    [event] = [e for e in result.all_events if e.event_type_value == "STEP_FAILURE"]
    assert "KEEN_PIPELINE_MASK_KEY" in str(event.step_failure_data.error)
    assert place.counts() == {}


def test_where_the_key_of_hashes_is_not_known_no_file_is_called_outdated(
    keen_landing: KeenLanding, monkeypatch: pytest.MonkeyPatch
) -> None:
    hashed = Collection("purchases", DAYS[0], mask={"email": "hash"}, fresh_within_hours=6)  # type: ignore[dict-item]
    monkeypatch.setenv("KEEN_PIPELINE_MASK_KEY", KEY)
    keen_landing.land(hashed, {DAYS[0]: [{"email": "a@example.com"}]})
    ledger, now = keen_landing.ledger, night().replace(day=2, hour=12)
    for key, outdated in ((KEY.encode(), ()), (None, ()), (b"another key, long enough", (DAYS[0],))):
        assert coverage(ledger, hashed, now, mask_key=key).outdated == outdated
        assert freshness(ledger, hashed, now, mask_key=key).outdated == outdated
    with pytest.raises(ConfigurationError, match="their key isn't set here: KEEN_PIPELINE_MASK_KEY"):
        todays_landings(ledger, hashed)


def test_another_mask_is_another_data_version(keen_landing: KeenLanding) -> None:
    versions = []
    for mask in ({}, {"body:a": "drop"}, {"body:a": "mask"}):
        keen_landing.land(Collection("visits", DAYS[0], mask=mask), {DAYS[0]: [{"a": "x"}]}, force=True)
        newest = max(keen_landing.ledger.landed_entries("visits"), key=lambda entry: entry.entry_id)
        versions.append((materialization(newest, dg.AssetKey("visits")).tags or {})["dagster/data_version"])
    assert len(set(versions)) == 3
