"""The service takes extractions of 1,000 events at most, and a day has 50,000: one file, equal to the day in one piece."""

from __future__ import annotations

import csv
from pathlib import Path

import dagster as dg
import pytest

from keen_pipeline import Collection, CsvDestination, ExtractionLedger, KeenResource, build_keen_definitions
from keen_pipeline.client import KeenClient
from keen_pipeline.testing import live_service

DAY, EVENTS, LIMIT = "2026-01-01", 50_000, 1_000


def events() -> list[dict[str, object]]:
    """Crowded at noon, so that slices have several depths; some share their timestamp, some have a property more."""
    made: list[dict[str, object]] = []
    for n in range(EVENTS):
        second = n if n < 20_000 else 43_200 + (n - 20_000) // 4
        event = {"keen": {"timestamp": f"{DAY}T{second // 3600:02d}:{second // 60 % 60:02d}:{second % 60:02d}Z"}, "n": n}
        made.append({**event, "note": f'"{n}",\n'} if n % 7 == 0 else event)
    return made


def land(folder: Path, limit: int | None, monkeypatch: pytest.MonkeyPatch) -> tuple[list[list[str]], dict[str, object]]:
    """The file's records and the partition's metadata."""
    options = [] if limit is None else ["--max-extraction-events", str(limit)]
    if limit is not None:
        monkeypatch.setenv("KEEN_PIPELINE_MAX_EXTRACTION_EVENTS", str(limit))
    with live_service(options=options) as service, dg.DagsterInstance.ephemeral() as instance:
        keys = {"read_key": service.read_key, "write_key": service.write_key}
        with KeenClient(service.base_url, service.project_id, **keys) as client:
            everything = events()
            for start in range(0, EVENTS, 10_000):
                client.add_events({"purchases": everything[start : start + 10_000]})
        defs = build_keen_definitions(
            [Collection("purchases", DAY)],
            keen=KeenResource(
                base_url=service.base_url,
                project_id=service.project_id,
                read_key=service.read_key,
                poll_seconds=0.2,
                requests_per_minute=10_000,
            ),
            ledger=ExtractionLedger(url=f"sqlite:///{folder / 'ledger.db'}"),
            destination=CsvDestination(uri=str(folder / "landing")),
        )
        job, key = defs.resolve_implicit_global_asset_job_def(), dg.AssetKey(["keen", "purchases"])
        assert job.execute_in_process(instance=instance, asset_selection=[key], partition_key=DAY).success
        [record] = instance.fetch_materializations(key, limit=5).records
        assert record.asset_materialization is not None
        metadata = {name: value.value for name, value in record.asset_materialization.metadata.items()}
    with (folder / "landing" / "purchases" / f"{DAY}.csv").open(newline="", encoding="utf-8") as file:
        return list(csv.reader(file)), metadata


@pytest.mark.slow
@pytest.mark.timeout(120)
def test_it_lands_as_one_file_equal_to_the_day_in_one_piece(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("whole", "split"):
        (tmp_path / name).mkdir()
    whole, plain = land(tmp_path / "whole", None, monkeypatch)
    split, metadata = land(tmp_path / "split", LIMIT, monkeypatch)
    assert split[0] == whole[0]
    stamps = [row[0] for row in split[1:]]
    assert (len(stamps), stamps == sorted(stamps)) == (EVENTS, True)
    assert sorted(split[1:]) == sorted(whole[1:])
    assert (metadata["dagster/partition_row_count"], plain["dagster/partition_row_count"]) == (EVENTS, EVENTS)
    assert int(str(metadata["keen/slices"])) >= EVENTS // LIMIT
    assert int(str(metadata["keen/split_depth"])) >= 6
    assert "keen/slices" not in plain
    assert [path.name for path in (tmp_path / "split" / "landing" / "_slices").rglob("*") if path.is_file()] == []
