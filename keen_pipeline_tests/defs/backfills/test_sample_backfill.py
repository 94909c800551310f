"""The first thing a newcomer does: a backfill of all the sample's days. Nothing fails but the check that is meant to."""

from __future__ import annotations

from pathlib import Path

import dagster as dg
import pytest

from keen_pipeline import CsvDestination, ExtractionLedger, KeenResource, build_keen_definitions
from keen_pipeline.client import KeenClient
from keen_pipeline.pipeline.sample import load_sample_events, sample_collections
from keen_pipeline.ports import SystemClock
from keen_pipeline.service.sample_events import SAMPLE_COLLECTIONS, sample_days
from keen_pipeline.testing import live_service


@pytest.mark.slow
def test_the_first_backfill_of_the_sample_fails_no_check_but_the_intended_one(tmp_path: Path) -> None:
    today = SystemClock().now().date()
    days = [day.isoformat() for day in sample_days(today)]
    with live_service() as endpoint, dg.DagsterInstance.ephemeral() as instance:
        keys = {"read_key": endpoint.read_key, "write_key": endpoint.write_key}
        with KeenClient(endpoint.base_url, endpoint.project_id, **keys) as client:
            assert load_sample_events(client, tmp_path, today) > 0
        defs = build_keen_definitions(
            sample_collections(),
            keen=KeenResource(
                base_url=endpoint.base_url, project_id=endpoint.project_id, read_key=endpoint.read_key, poll_seconds=0.2
            ),
            ledger=ExtractionLedger(url=f"sqlite:///{tmp_path / 'ledger.db'}"),
            destination=CsvDestination(uri=str(tmp_path / "landing")),
        )
        result = defs.resolve_implicit_global_asset_job_def().execute_in_process(
            instance=instance,
            asset_selection=[dg.AssetKey(["keen", name]) for name in SAMPLE_COLLECTIONS],
            tags={"dagster/asset_partition_range_start": days[0], "dagster/asset_partition_range_end": days[-1]},
            raise_on_error=False,
        )
        assert result.success
        for name in SAMPLE_COLLECTIONS:
            records = instance.fetch_materializations(dg.AssetKey(["keen", name]), limit=1000).records
            assert sorted(str(record.partition_key) for record in records) == days
    evaluations = [e.asset_check_evaluation_data for e in result.all_events if e.event_type_value == "ASSET_CHECK_EVALUATION"]
    assert len(evaluations) >= 3 * len(days) * len(SAMPLE_COLLECTIONS)
    failed = [(one.asset_key.path[-1], one.check_name, one.partition) for one in evaluations if not one.passed]
    # A property appears on one of the last days, and is there ever after.
    [(collection, check, day)] = failed
    assert (collection, check) == ("purchases", "schema_drift")
    assert str(day) in days[-4:]
