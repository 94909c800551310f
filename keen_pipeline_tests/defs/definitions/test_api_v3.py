"""KEEN_API_VERSION=3.0 on the live service: no extraction to poll, 100,000 events a query, the same ledger, files and checks."""

from __future__ import annotations

import csv
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import dagster as dg
import pytest
import sqlalchemy as sa

from keen_pipeline import Collection, CsvDestination, ExtractionLedger, KeenResource, build_keen_definitions
from keen_pipeline.client import KeenClient
from keen_pipeline.errors import AuthenticationError, NotFoundError
from keen_pipeline.extraction import ExtractionRequest
from keen_pipeline.service.embedded import Endpoint
from keen_pipeline.testing import live_service
from keen_pipeline.timeframe import Timeframe, parse_instant

DAY = "2026-01-01"
BATCH = 10_000


def load(service: Endpoint, events: int) -> None:
    keys = {"read_key": service.read_key, "write_key": service.write_key}
    with KeenClient(service.base_url, service.project_id, **keys) as client:
        for start in range(0, events, BATCH):
            batch: list[dict[str, object]] = []
            for n in range(start, min(start + BATCH, events)):
                second = n * 86_399 // events
                stamp = f"{DAY}T{second // 3600:02d}:{second // 60 % 60:02d}:{second % 60:02d}Z"
                batch.append({"keen": {"timestamp": stamp}, "n": n, **({"user": {"email": "a@b.c"}} if n % 9 == 0 else {})})
            assert client.add_events({"purchases": batch}) == {"purchases": [None] * len(batch)}


def definitions(service: Endpoint, folder: Path, **options: object) -> dg.Definitions:
    keen = KeenResource(
        base_url=service.base_url,
        project_id=service.project_id,
        read_key=service.read_key,
        api_version="3.0",
        poll_seconds=0.2,
    )
    return build_keen_definitions(
        [Collection("purchases", DAY, **options)],  # type: ignore[arg-type]
        keen=keen,
        ledger=ExtractionLedger(url=f"sqlite:///{folder / 'ledger.db'}"),
        destination=CsvDestination(uri=str(folder / "landing")),
    )


def materialize(defs: dg.Definitions, instance: dg.DagsterInstance) -> dict[str, object]:
    """Runs the partition; its metadata."""
    job, key = defs.resolve_implicit_global_asset_job_def(), dg.AssetKey(["keen", "purchases"])
    assert job.execute_in_process(instance=instance, asset_selection=[key], partition_key=DAY).success
    [record] = instance.fetch_materializations(key, limit=5).records
    assert record.asset_materialization is not None
    checks = instance.event_log_storage.get_latest_asset_check_execution_by_key([dg.AssetCheckKey(key, "complete")])
    assert [one.status.value for one in checks.values()] == ["SUCCEEDED"]
    return {name: value.value for name, value in record.asset_materialization.metadata.items()}


def records(folder: Path) -> list[list[str]]:
    with (folder / "landing" / "purchases" / f"{DAY}.csv").open(newline="", encoding="utf-8") as file:
        return list(csv.reader(file))


def check_file(found: Sequence[Sequence[str]], events: int) -> None:
    header = found[0]
    assert header[0] == "keen.timestamp"
    assert {"n", "user.email"} <= set(header)
    numbers = [int(record[header.index("n")]) for record in found[1:]]
    assert (len(numbers), sorted(numbers)) == (events, list(range(events)))
    stamps = [record[0] for record in found[1:]]
    assert stamps == sorted(stamps)


def test_a_day_lands_from_queries_of_at_most_the_configured_events(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KEEN_PIPELINE_MAX_EXTRACTION_EVENTS", "1000")
    with live_service() as service, dg.DagsterInstance.ephemeral() as instance:
        load(service, 3_000)
        metadata = materialize(definitions(service, tmp_path), instance)
        check_file(records(tmp_path), 3_000)
        assert int(str(metadata["keen/slices"])) >= 3
        with KeenClient(service.base_url, service.project_id, read_key=service.read_key) as client:
            assert client.list_extractions("purchases") == {}
            assert client.property_types("purchases")["body:user:email"] == "string"
        with KeenClient(service.base_url, service.project_id, read_key=service.read_key, api_version="3.0") as client:
            assert client.property_types("purchases")["user.email"] == "string"
    ledger = sa.create_engine(f"sqlite:///{tmp_path / 'ledger.db'}")
    with ledger.connect() as connection:
        kept = connection.execute(sa.text("SELECT status, extraction_id, parent_id FROM keen_entries")).all()
    ledger.dispose()
    assert {row.status for row in kept if row.parent_id is None} == {"landed"}
    assert all(row.extraction_id.startswith("v3-") for row in kept if row.parent_id is not None)


def test_a_day_of_few_events_is_one_parquet_file_with_the_types_of_the_schema(tmp_path: Path) -> None:
    import pyarrow.parquet as pq

    with live_service() as service, dg.DagsterInstance.ephemeral() as instance:
        load(service, 100)
        metadata = materialize(definitions(service, tmp_path, encoding="parquet"), instance)
    assert "keen/slices" not in metadata
    table = pq.read_table(tmp_path / "landing" / "purchases" / f"{DAY}.parquet")
    assert (table.num_rows, sorted(table["n"].to_pylist())) == (100, list(range(100)))
    assert str(table.schema.field("keen.timestamp").type).startswith("timestamp")


def test_what_a_query_is_refused_for_names_the_extraction(tmp_path: Path) -> None:
    window = Timeframe(parse_instant(DAY), parse_instant("2026-01-02"))
    request = ExtractionRequest("purchases", window, DAY, str(tmp_path / "x.csv"))
    other = replace(request, collection="nothing")
    with live_service() as service:
        load(service, 1)
        right, wrong = (
            KeenClient(service.base_url, service.project_id, read_key=key, api_version="3.0") for key in (service.read_key, "wrong")
        )
        assert sum(1 for _ in right.list_extractions("purchases")) == 0
        for client, asked, error, words in (
            (wrong, request, AuthenticationError, r"extraction of purchases.*KEEN_READ_KEY"),
            (right, other, NotFoundError, "extraction of nothing"),
        ):
            with client, pytest.raises(error, match=words):
                client.results_of(asked, client.submit(asked).extraction_id).open()


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_a_day_of_350_000_events_lands_whole_inside_the_real_limits(tmp_path: Path) -> None:
    with live_service(options=["--requests-per-minute", "200"]) as service, dg.DagsterInstance.ephemeral() as instance:
        load(service, 350_000)
        metadata = materialize(definitions(service, tmp_path), instance)
    check_file(records(tmp_path), 350_000)
    assert metadata["dagster/partition_row_count"] == 350_000
    assert int(str(metadata["keen/slices"])) >= 4
