"""Check results are about the newest materialization of their partition, however many there are and however they are read."""

from datetime import datetime, timedelta, timezone
from pathlib import Path

import dagster as dg
import pytest

from keen_pipeline.defs.reports import checks
from keen_pipeline.extraction import ExtractionRequest, Status
from keen_pipeline.lifecycle import Entry
from keen_pipeline.timeframe import Timeframe

KEYS = {name: dg.AssetKey(["keen", name]) for name in ("logins", "purchases")}
START = datetime(2026, 1, 1, tzinfo=timezone.utc)
DAYS = [START + timedelta(days=n) for n in range(7)]


def entry(collection: str, day: datetime) -> Entry:
    window = Timeframe(day, day + timedelta(days=1))
    request = ExtractionRequest(collection, window, f"{day:%Y-%m-%d}", f"{collection}/{day:%Y-%m-%d}.csv")
    return Entry(1, "token", request, "fingerprint", 1, Status.LANDED, START, START)


def told(instance: dg.DagsterInstance, of: Entry) -> int:
    """Tell a materialization; answers its storage id."""
    key, partition = dg.AssetKey(["keen", of.request.collection]), of.request.partition_key
    instance.report_runless_asset_event(dg.AssetMaterialization(key, partition=partition))
    wanted = dg.AssetRecordsFilter(asset_key=key, asset_partitions=[partition])
    return instance.fetch_materializations(wanted, limit=1).records[0].storage_id


def found(targets: checks.Targets, of: Entry) -> int | None:
    target = targets.of(of)
    return target.storage_id if target is not None else None


@pytest.fixture
def instance(tmp_path: Path) -> dg.DagsterInstance:
    return dg.DagsterInstance.local_temp(str(tmp_path))


def test_each_partition_has_its_newest_also_past_one_page(instance: dg.DagsterInstance, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(checks, "_READ_TOGETHER", 3)  # pages of three events, and queries for three partitions
    entries = [entry(collection, day) for collection in ("logins", "purchases") for day in DAYS]
    newest = {}
    for round_ in range(4):
        for one in entries[round_:]:  # the first partitions have the fewest, and are the oldest
            newest[one.request.path] = told(instance, one)
    targets = checks.Targets(instance, KEYS)
    for one in entries:
        targets.landed(one)
    assert [found(targets, one) for one in entries] == [newest[one.request.path] for one in entries]


def test_a_partition_that_lands_again_is_read_again_and_an_unknown_one_has_none(instance: dg.DagsterInstance) -> None:
    first, second = (entry("purchases", day) for day in DAYS[:2])
    before = told(instance, first)
    targets = checks.Targets(instance, KEYS)
    targets.landed(first)
    assert found(targets, first) == before
    assert found(targets, second) is None
    after = told(instance, first)
    assert found(targets, first) == before  # not told of it yet
    targets.landed(first)
    assert found(targets, first) == after
