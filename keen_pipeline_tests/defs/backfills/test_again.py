"""What is extracted anew and what is left alone, and how downstream assets can tell unchanged bytes."""

from __future__ import annotations

import csv
import json
import urllib.request
from typing import Any

import dagster as dg
import pytest
import sqlalchemy as sa

from keen_pipeline.client import KeenClient
from keen_pipeline_tests.defs.conftest import DAYS, MakePlace, Place

PURCHASES = dg.AssetKey(["keen", "purchases"])
RANGE = {"dagster/asset_partition_range_start": DAYS[0], "dagster/asset_partition_range_end": DAYS[1]}
# The definitions that a re-executed run reads again, as it does in another process.
_places: list[Place] = []


def assets_job() -> dg.JobDefinition:
    """Every asset of the place under test."""
    defs = dg.Definitions.merge(
        _places[-1].defs,
        dg.Definitions(jobs=[dg.define_asset_job("again", selection=[PURCHASES], executor_def=dg.in_process_executor)]),
    )
    return defs.resolve_job_def("again")


@pytest.fixture
def place(make_place: MakePlace) -> Place:
    made = make_place()
    _places.append(made)
    return made


def correct(place: Place, amount: int) -> None:
    """At the source every purchase gets another amount; there are as many as before."""
    endpoint = place.endpoint
    url = f"{endpoint.base_url}/3.0/projects/{endpoint.project_id}/events/purchases"
    request = urllib.request.Request(url, method="DELETE", headers={"Authorization": endpoint.master_key})
    with urllib.request.urlopen(request, timeout=30) as answer:
        assert answer.status == 204
    events = [
        {"keen": {"timestamp": f"{day}T{hour:02d}:00:00Z"}, "amount": amount}
        for number, day in enumerate(DAYS)
        for hour in range(3 + number)
    ]
    keys = {"read_key": endpoint.read_key, "write_key": endpoint.write_key}
    with KeenClient(endpoint.base_url, endpoint.project_id, **keys) as client:
        client.add_events({"purchases": events})


def amounts(place: Place, day: str) -> set[float]:
    with (place.root / "purchases" / f"{day}.csv").open(newline="") as text:
        return {float(row["body:amount"]) for row in csv.DictReader(text)}


def versions(place: Place, day: str) -> list[str]:
    """The data versions of a partition's materializations, newest first."""
    wanted = dg.AssetRecordsFilter(asset_key=PURCHASES, asset_partitions=[day])
    records = place.instance.fetch_materializations(wanted, limit=10).records
    return [(r.asset_materialization.tags or {})["dagster/data_version"] for r in records if r.asset_materialization]


def test_what_was_corrected_at_the_source_arrives_with_an_explicit_materialization(place: Place) -> None:
    assert place.backfill(["keen/purchases"], DAYS[0], DAYS[1]).success
    correct(place, 77)
    skip = {"ops": {"keen__purchases": {"config": {"skip_landed": True}}}}
    assert place.backfill(["keen/purchases"], DAYS[0], DAYS[1], skip).success
    assert amounts(place, DAYS[0]) == {0.0, 1.0, 2.0}  # the service counts as many as before
    assert place.backfill(["keen/purchases"], DAYS[0], DAYS[1]).success
    assert amounts(place, DAYS[0]) == amounts(place, DAYS[1]) == {77.0}
    assert place.counts() == {"landed": 2, "superseded": 2}
    newest, *before = versions(place, DAYS[0])
    assert set(before) != {newest}
    assert len(set(before)) == 1


def test_a_database_with_a_time_zone_of_its_own_keeps_no_old_file(place: Place, postgres_url: str) -> None:
    # There Dagster's record of a run says that it was created five hours ago.
    url = sa.make_url(postgres_url).set(drivername="postgresql+psycopg2")
    engine = sa.create_engine(url, isolation_level="AUTOCOMMIT")
    with engine.connect() as connection:
        connection.exec_driver_sql(f"ALTER DATABASE {url.database} SET timezone TO 'America/New_York'")
    engine.dispose()
    storage = {"postgres": {"postgres_url": url.render_as_string(hide_password=False)}}
    with dg.instance_for_test(overrides={"storage": storage}) as place.instance:
        for amount in (None, 77):
            if amount is not None:
                correct(place, amount)
            assert place.backfill(["keen/purchases"], DAYS[0], DAYS[0]).success
        assert amounts(place, DAYS[0]) == {77.0}


def test_runs_of_one_backfill_keep_what_it_landed(place: Place) -> None:
    job = place.defs.resolve_implicit_global_asset_job_def()
    for amount, backfill, expected in ((5, "b1", {0.0, 1.0, 2.0}), (6, "b1", {0.0, 1.0, 2.0})):
        tags = {**RANGE, "dagster/backfill": backfill}
        assert job.execute_in_process(instance=place.instance, asset_selection=[PURCHASES], tags=tags).success
        assert amounts(place, DAYS[0]) == expected
        correct(place, amount)
    assert place.counts() == {"landed": 2}
    tags = {**RANGE, "dagster/backfill": "b2"}
    assert job.execute_in_process(instance=place.instance, asset_selection=[PURCHASES], tags=tags).success
    assert amounts(place, DAYS[0]) == {6.0}


def test_a_re_executed_run_keeps_what_it_landed_and_tells_it_once(place: Place) -> None:
    job = dg.reconstructable(assets_job)
    with dg.execute_job(job, place.instance, tags=RANGE) as first:
        assert first.success
    correct(place, 9)
    options = dg.ReexecutionOptions(parent_run_id=first.run_id)
    with dg.execute_job(job, place.instance, tags=RANGE, reexecution_options=options) as again:
        assert again.success
    assert amounts(place, DAYS[0]) == {0.0, 1.0, 2.0}
    assert place.counts() == {"landed": 2}
    assert place.materialized("keen/purchases") == list(DAYS[:2])


def test_what_was_wiped_is_told_again_and_nothing_is_extracted_for_it(place: Place) -> None:
    assert place.backfill(["keen/purchases"], DAYS[0], DAYS[1]).success
    place.instance.wipe_assets([PURCHASES])
    assert place.materialized("keen/purchases") == []
    skip = {"ops": {"keen__purchases": {"config": {"skip_landed": True}}}}
    assert place.backfill(["keen/purchases"], DAYS[0], DAYS[1], skip).success
    assert place.materialized("keen/purchases") == list(DAYS[:2])
    assert place.counts() == {"landed": 2}


def test_unchanged_bytes_wake_nobody_who_looks_at_the_data_version(place: Place) -> None:
    @dg.asset(
        deps=[PURCHASES],
        partitions_def=dg.DailyPartitionsDefinition("2026-01-01"),
        automation_condition=dg.AutomationCondition.any_deps_match(dg.AutomationCondition.data_version_changed()),
    )
    def report() -> None: ...

    defs = dg.Definitions.merge(place.defs, dg.Definitions(assets=[report]))
    cursor: Any = None

    def asked() -> set[str]:
        nonlocal cursor
        woken = dg.evaluate_automation_conditions(
            defs, place.instance, cursor=cursor, asset_selection=dg.AssetSelection.assets(report)
        )
        cursor = woken.cursor
        return {str(key) for key in woken.get_requested_partitions(dg.AssetKey("report"))}

    assert place.backfill(["keen/purchases"], DAYS[0], DAYS[1]).success
    asked()
    assert place.backfill(["keen/purchases"], DAYS[0], DAYS[1]).success
    assert len(set(versions(place, DAYS[0]))) == 1
    assert asked() == set()
    correct(place, 4)
    assert place.backfill(["keen/purchases"], DAYS[0], DAYS[0]).success
    assert asked() == {DAYS[0]}


def test_the_data_version_is_the_sha256_that_the_metadata_tells(place: Place) -> None:
    assert place.backfill(["keen/purchases"], DAYS[0], DAYS[0]).success
    import hashlib

    data = (place.root / "purchases" / f"{DAYS[0]}.csv").read_bytes()
    assert (
        versions(place, DAYS[0]) == [hashlib.sha256(data).hexdigest()] == [place.metadata("keen/purchases", DAYS[0])["keen/sha256"]]
    )
    assert json.dumps(place.metadata("keen/purchases", DAYS[0])["keen/events"]) == "3"
