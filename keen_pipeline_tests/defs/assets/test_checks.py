"""Schema drift, unexpected sizes, freshness, and what blocking checks hold; on a live service and a real instance."""

import json
import urllib.request
from datetime import date, datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import dagster as dg
import pytest
from dagster._serdes import serialize_value

from keen_pipeline import Collection, build_keen_definitions
from keen_pipeline.client import KeenClient
from keen_pipeline.collections_file import collection_to_wire
from keen_pipeline.defs.reports.checks import Targets, audit, freshness_evaluation, landing_checks
from keen_pipeline.defs.reports.metadata import materialization
from keen_pipeline.extraction import Status
from keen_pipeline.landing import FileDestination
from keen_pipeline.partitions import Partition, partition_range
from keen_pipeline.pipeline import Pipeline, extract, partition_request, poll
from keen_pipeline.pipeline.freshness import Freshness
from keen_pipeline.testing import KeenLanding
from keen_pipeline.timeframe import Timeframe
from keen_pipeline_tests.defs.conftest import DAYS, NIGHT, MakePlace, Place

PURCHASES = dg.AssetKey(["keen", "purchases"])


def add(place: Place, day: str, *events: dict[str, Any]) -> None:
    end = place.endpoint
    with KeenClient(end.base_url, end.project_id, read_key=end.read_key, write_key=end.write_key) as client:
        client.add_events({"purchases": [{"keen": {"timestamp": f"{day}T12:00:00Z"}, **event} for event in events]})


def results(place: Place, check: str) -> dict[str | None, dg.AssetCheckEvaluation]:
    """The newest result by partition."""
    key = dg.AssetCheckKey(PURCHASES, check)
    found: dict[str | None, dg.AssetCheckEvaluation] = {}
    for record in reversed(place.instance.event_log_storage.get_asset_check_execution_history(key, limit=200)):
        if record.event is not None and record.event.dagster_event is not None:
            result = record.event.dagster_event.asset_check_evaluation_data
            found[result.partition] = result
    return found


def values(result: dg.AssetCheckEvaluation) -> dict[str, Any]:
    return {name: value.value for name, value in result.metadata.items()}


def pipeline_of(place: Place) -> Pipeline:
    client = (place.defs.resources or {})["keen"].client()
    return Pipeline(client, place.ledger, FileDestination(str(place.root)), poll_seconds=0.1)


def land_the_night(place: Place) -> bool:
    """Wait until all have finished, so that one run lands them; whether that run succeeds."""
    pipeline = pipeline_of(place)
    while waiting := place.ledger.open_entries(status=Status.SUBMITTED):
        poll(pipeline, waiting)
    [request] = place.tick().run_requests or []
    return place.run("keen_materialize_csvs", dict(request.run_config)).success


def with_downstream(place: Place) -> list[str]:
    """An asset behind purchases that wakes for each landed partition whose blocking checks have passed."""
    seen: list[str] = []
    wakes = dg.AutomationCondition.eager().without(dg.AutomationCondition.in_latest_time_window())

    @dg.asset(
        deps=[PURCHASES],
        partitions_def=dg.DailyPartitionsDefinition("2026-01-01"),
        backfill_policy=dg.BackfillPolicy.single_run(),
        automation_condition=wakes & dg.AutomationCondition.all_deps_blocking_checks_passed(),
    )
    def downstream(context: dg.AssetExecutionContext) -> None:
        seen.extend(context.partition_keys)

    place.defs = dg.Definitions.merge(place.defs, dg.Definitions(assets=[downstream]))
    return seen


@pytest.mark.parametrize("policy", ["fail", "warn"])
@pytest.mark.parametrize("how", ["backfill", "same run", "night"])
def test_a_blocking_check_that_fails_holds_its_partition_s_downstream(make_place: MakePlace, policy: str, how: str) -> None:
    collection = Collection("purchases", DAYS[0], schema_check=policy, size_check="off", lookback_days=4)
    place = make_place(collections=[collection])
    add(place, DAYS[2], {"coupon": "A"}, {"amount": "free"})
    seen = with_downstream(place)
    if how == "same run":
        place.backfill(["keen/purchases"], DAYS[0], DAYS[1])
        assert place.backfill(["keen/purchases", "downstream"], DAYS[2], DAYS[2]).success is (policy == "warn")
        assert seen == ([DAYS[2]] if policy == "warn" else [])
    else:
        before = dg.evaluate_automation_conditions(place.defs, place.instance)
        if how == "backfill":
            assert place.backfill(["keen/purchases"], DAYS[0], DAYS[3]).success is (policy == "warn")
        else:
            config = {"ops": {"submit_extraction": {"config": {"as_of": NIGHT, "collections": [collection_to_wire(collection)]}}}}
            assert place.run("keen_submit_extractions", config).success
            assert land_the_night(place) is (policy == "warn")
        after = dg.evaluate_automation_conditions(place.defs, place.instance, cursor=before.cursor)
        woken = after.get_requested_partitions(dg.AssetKey("downstream"))
        held = {DAYS[2], DAYS[3]} if policy == "fail" else set()  # the day after lacks the column that had come
        assert woken == set(DAYS) - held
    assert DAYS[2] in place.materialized("keen/purchases")
    drift = results(place, "schema_drift")[DAYS[2]]
    assert (drift.passed, drift.severity.value, drift.blocking) == (
        False,
        "ERROR" if policy == "fail" else "WARN",
        policy == "fail",
    )
    assert values(drift)["keen/added"] == ["body:coupon"]
    assert values(drift)["keen/compared_with"] == DAYS[1]


def by_a_command(place: Place, collection: Collection) -> None:
    """Extract two days without Dagster, and let the sensor's run tell of them."""
    pipeline = pipeline_of(place)
    requests = [partition_request(collection, p) for p in partition_range(collection, DAYS[0], DAYS[1], pipeline.clock.now())]
    for _ in extract(pipeline, requests, doing="a command", keep=lambda _: False):
        pass
    [run] = place.tick().run_requests or []
    [same] = place.tick().run_requests or []
    assert run.run_key == same.run_key  # Dagster takes it for one
    place.run("keen_materialize_csvs", dict(run.run_config))  # a blocking check that fails makes it red
    assert place.ledger.outbox() == []


def test_what_landed_without_a_run_is_checked_too_and_wakes_downstream(make_place: MakePlace) -> None:
    collection = Collection("purchases", DAYS[0], schema_check="fail", size_check="off")
    place = make_place(collections=[collection])
    add(place, DAYS[1], {"coupon": "A"})
    with_downstream(place)
    before = dg.evaluate_automation_conditions(place.defs, place.instance)
    by_a_command(place, collection)
    assert place.materialized("keen/purchases") == list(DAYS[:2])
    assert {day: result.passed for day, result in results(place, "complete").items()} == {DAYS[0]: True, DAYS[1]: True}
    assert {day: result.passed for day, result in results(place, "schema_drift").items()} == {DAYS[0]: True, DAYS[1]: False}
    after = dg.evaluate_automation_conditions(place.defs, place.instance, cursor=before.cursor)
    assert after.get_requested_partitions(dg.AssetKey("downstream")) == {DAYS[0]}
    # Once more: Dagster keeps one result for each check and partition that belongs to no run, and refuses a second.
    first = results(place, "complete")[DAYS[0]]
    by_a_command(place, collection)
    assert place.materialized("keen/purchases") == sorted(DAYS[:2] * 2)
    assert values(results(place, "complete")[DAYS[0]])["keen/landing"] != values(first)["keen/landing"]


def test_a_property_whose_type_changes_is_drift_where_it_is_first_known(make_place: MakePlace) -> None:
    place = make_place(collections=[Collection("purchases", DAYS[0])])
    place.backfill(["keen/purchases"], DAYS[0], DAYS[0])
    [entry] = place.ledger.landed_entries("purchases")
    assert entry.landing is not None
    types = dict(zip(entry.landing.columns, entry.landing.property_types, strict=True))
    assert types == {"header:timestamp": "datetime", "body:amount": "num", "body:text": "string", "body:user:id": "num"}
    add(place, DAYS[1], {"amount": "free"})
    assert place.backfill(["keen/purchases"], DAYS[1], DAYS[1]).success
    drift = results(place, "schema_drift")
    assert drift[DAYS[0]].passed
    assert values(drift[DAYS[1]])["keen/retyped"] == {"body:amount": ["num", "string"]}


def test_a_size_far_from_the_same_weekdays_before_is_unexpected(make_place: MakePlace) -> None:
    place = make_place(collections=[Collection("logins", "2025-11-01"), Collection("purchases", "2025-11-01", size_check="fail")])
    monday = date(2025, 12, 1)
    weeks = [(monday + timedelta(weeks=n)).isoformat() for n in range(7)]
    for number, day in enumerate(weeks[:5]):
        add(place, day, *({"amount": n} for n in range(40 + number)))
    for day in weeks[:3]:
        assert place.backfill(["keen/purchases"], day, day).success
    assert "too few" in (results(place, "unexpected_size")[weeks[2]].description or "")
    for day in weeks[3:5]:
        assert place.backfill(["keen/purchases"], day, day).success
    assert values(results(place, "unexpected_size")[weeks[4]])["keen/usual_events"] == 41.5
    assert not place.backfill(["keen/purchases"], weeks[5], weeks[5]).success  # no event at all
    nothing = results(place, "unexpected_size")[weeks[5]]
    assert (nothing.passed, nothing.severity.value) == (False, "ERROR")
    assert place.materialized("keen/purchases") == weeks[:6]


def test_fewer_events_than_in_the_file_that_was_replaced_are_told_with_both_numbers(make_place: MakePlace) -> None:
    place = make_place(collections=[Collection("purchases", DAYS[0])])
    assert place.backfill(["keen/purchases"], DAYS[0], DAYS[1]).success
    end = place.endpoint
    url = f"{end.base_url}/3.0/projects/{end.project_id}/events/purchases"
    with urllib.request.urlopen(
        urllib.request.Request(url, method="DELETE", headers={"Authorization": end.master_key}), timeout=30
    ):
        add(place, DAYS[1], {"amount": 1})
    again = place.backfill(["keen/purchases"], DAYS[0], DAYS[1])
    assert again.success
    told = results(place, "unexpected_size")
    assert {day: (result.passed, result.severity.value) for day, result in told.items()} == dict.fromkeys(DAYS[:2], (False, "WARN"))
    said = "{} events, the file that it replaced had {}: the others are gone at the service"
    assert [told[day].description for day in DAYS[:2]] == [said.format(0, 3), said.format(1, 4)]
    log = [record.user_message for record in place.instance.all_logs(again.run_id)]
    assert f"purchases[{DAYS[1]}]: unexpected_size: {said.format(1, 4)}" in log
    assert all(result.passed for result in results(place, "complete").values())
    assert place.backfill(["keen/purchases"], DAYS[0], DAYS[1]).success
    assert all(result.passed for result in results(place, "unexpected_size").values())


def test_the_checks_alone_look_at_what_has_landed(make_place: MakePlace) -> None:
    place = make_place(collections=[Collection("purchases", DAYS[0], fresh_within_hours=2)])
    place.backfill(["keen/purchases"], DAYS[0], DAYS[1])
    before = len(place.ledger.landed_entries("purchases"))
    checks = dg.AssetSelection.checks_for_assets(PURCHASES)
    defs = dg.Definitions.merge(place.defs, dg.Definitions(jobs=[dg.define_asset_job("audit", selection=checks)]))
    tags = {"dagster/asset_partition_range_start": DAYS[0], "dagster/asset_partition_range_end": DAYS[1]}
    assert defs.resolve_job_def("audit").execute_in_process(instance=place.instance, tags=tags).success
    for name in ("complete", "schema_drift", "unexpected_size"):
        assert set(results(place, name)) == set(DAYS[:2])
    assert len(place.ledger.landed_entries("purchases")) == before
    targets, purchases = Targets(place.instance, {"purchases": PURCHASES}), place.ledger.landed_entries("purchases")[0].request
    told = audit(targets, pipeline_of(place), Collection("purchases", DAYS[0]), ["schema_drift"], [purchases.partition_key])
    assert [one.partition for one in told] == [purchases.partition_key]


def test_the_freshness_sensor_tells_what_is_late_and_what_has_come(make_place: MakePlace) -> None:
    yesterday = date.today() - timedelta(days=1)
    days = [(yesterday - timedelta(days=ago)).isoformat() for ago in (3, 2)]
    place = make_place(collections=[Collection("purchases", days[0], fresh_within_hours=24, lookback_days=2)])
    sensor = place.defs.resolve_sensor_def("keen_freshness")
    resources = {name: (place.defs.resources or {})[name] for name in ("keen", "keen_ledger", "keen_destination")}

    def tick(cursor: str | None) -> Any:
        with dg.build_sensor_context(instance=place.instance, resources=resources, cursor=cursor) as context:
            return sensor.evaluate_tick(context)

    first = tick(None)
    [late] = first.asset_events
    assert isinstance(late, dg.AssetCheckEvaluation)
    assert not late.passed
    assert f"{days[1]} should have landed by" in (late.description or "")
    assert "was never asked for" in (late.description or "")
    again = tick(json.dumps({"no more": "x"} | json.loads(first.cursor)))
    assert (again.asset_events, json.loads(again.cursor)) == ([], json.loads(first.cursor))
    assert place.backfill(["keen/purchases"], days[0], yesterday.isoformat()).success
    [fine] = tick(first.cursor).asset_events
    assert isinstance(fine, dg.AssetCheckEvaluation)
    assert fine.passed


def test_a_tick_that_has_no_time_for_all_goes_on_where_it_stopped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("keen_pipeline.defs.sensors.freshness.LOOKING_SECONDS", 0)
    landing, names = KeenLanding(tmp_path), ["a", "b", "c"]
    defs = build_keen_definitions([Collection(name, DAYS[0], fresh_within_hours=24) for name in names])
    cursor: str | None = None

    def tick() -> list[str]:
        nonlocal cursor
        with dg.build_sensor_context(resources=landing.resources, cursor=cursor) as context:
            told = defs.resolve_sensor_def("keen_freshness").evaluate_tick(context)
        cursor = told.cursor
        return [str(event.asset_key.path[-1]) for event in told.asset_events]

    assert sorted(name for _ in names for name in tick()) == names
    # Dagster keeps it with each tick: nothing of what is told, which may be long.
    assert {name: len(said) for name, said in json.loads(cursor or "").items()} == dict.fromkeys(names, 16)
    landing.land(Collection("b", DAYS[0]), {DAYS[0]: []})
    assert [name for _ in names for name in tick()] == ["b"]


def test_what_a_wide_partition_tells_is_bounded(keen_landing: KeenLanding) -> None:
    visits = Collection("visits", DAYS[0])
    wide = {f"property_with_a_long_name_{number}": number for number in range(3000)}
    keen_landing.land(visits, {DAYS[0]: [{"n": 1}], DAYS[1]: [wide]})
    [_, newest] = keen_landing.ledger.landed_entries("visits")
    told = materialization(newest, dg.AssetKey("visits"))
    assert told.metadata["keen/columns"].value == 3001
    assert len(serialize_value(told)) < 400_000
    with dg.DagsterInstance.ephemeral() as instance:
        targets = Targets(instance, {"visits": dg.AssetKey("visits")})
        results = list(landing_checks(targets, keen_landing.ledger, {"visits": visits}, [newest]))
    assert [result.passed for result in results] == [False, True]
    assert [len(serialize_value(result)) < 50_000 for result in results] == [True, True]


def test_a_result_lists_a_bounded_number_of_partitions() -> None:
    hours = [Partition(str(number), Timeframe(*[datetime(2026, 1, 1, tzinfo=timezone.utc)] * 2)) for number in range(60_000)]
    found = Freshness(hours[-1], tuple((hour, "is late") for hour in hours), tuple(hour.key for hour in hours))
    result = freshness_evaluation(PURCHASES, found)
    assert [len(listed) for listed in values(result).values()] == [1000, 1000]
    assert "and 59990 more; 60000 were made with a different configuration" in (result.description or "")
    assert result.severity is dg.AssetCheckSeverity.ERROR
    outdated = freshness_evaluation(PURCHASES, Freshness(hours[-1], (), (hours[0].key,)))
    assert (outdated.passed, outdated.severity) == (False, dg.AssetCheckSeverity.WARN)
