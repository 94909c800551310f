"""A step for each collection: own failure, waits that overlap, start dates that differ; and a step for several where asked for."""

from __future__ import annotations

import time
from datetime import datetime, timezone
from types import SimpleNamespace
from typing import Any

import dagster as dg
import pandas as pd
import pytest
from dagster._core.definitions.job_base import InMemoryJob
from dagster._core.execution.api import create_execution_plan, execute_run_iterator

from keen_pipeline import Collection, KeenResource, KeenTranslator, KeenTranslatorData, build_keen_definitions, keen_assets
from keen_pipeline.defs.assets import run
from keen_pipeline.defs.assets.run import CsvAssetConfig, _others_of_the_run
from keen_pipeline.defs.names import DEFINITIONS_TAG
from keen_pipeline.errors import InvalidInputError
from keen_pipeline.partitions import partition_for_key
from keen_pipeline.pipeline import Pipeline, partition_request
from keen_pipeline_tests.defs.conftest import DAYS, MakePlace, Place

NOW = datetime(2026, 2, 1, tzinfo=timezone.utc)
DAILY = dg.DailyPartitionsDefinition("2026-01-01")
LATER = [Collection("purchases", "2026-01-01", lookback_days=4), Collection("logins", "2026-01-03", lookback_days=4)]
RANGE = {"dagster/asset_partition_range_start": DAYS[0], "dagster/asset_partition_range_end": DAYS[3]}


def with_assets(place: Place, *assets: dg.AssetsDefinition) -> dg.Definitions:
    return dg.Definitions.merge(place.defs, dg.Definitions(assets=assets))


def over_all_days(defs: dg.Definitions, instance: dg.DagsterInstance, *keys: str) -> dg.ExecuteInProcessResult:
    return defs.resolve_implicit_global_asset_job_def().execute_in_process(
        instance=instance, asset_selection=[dg.AssetKey(k.split("/")) for k in keys], tags=RANGE, raise_on_error=False
    )


def outcomes(result: dg.ExecuteInProcessResult) -> dict[str, str]:
    """How each step that ran ended."""
    ends = {"STEP_SUCCESS", "STEP_FAILURE"}
    return {str(e.step_key): e.event_type_value for e in result.all_events if e.event_type_value in ends}


def test_collections_of_different_start_dates_go_together(make_place: MakePlace) -> None:
    place = make_place(collections=LATER)
    seen: list[pd.DataFrame] = []

    def reader(name: str, days: tuple[str, ...]) -> dg.AssetsDefinition:
        def read(logins):  # type: ignore[no-untyped-def]
            seen.append(logins)

        read.__annotations__.update({"logins": pd.DataFrame, "return": None})
        ins = {"logins": dg.AssetIn(dg.AssetKey(["keen", "logins"]))}
        return dg.asset(name=name, ins=ins, partitions_def=DAILY, backfill_policy=dg.BackfillPolicy.single_run())(read)

    defs = with_assets(place, reader("all_days", DAYS))
    result = over_all_days(defs, place.instance, "keen/purchases", "keen/logins", "all_days")
    assert outcomes(result) == {"keen__purchases": "STEP_SUCCESS", "keen__logins": "STEP_SUCCESS", "all_days": "STEP_SUCCESS"}
    assert place.materialized("keen/logins") == list(DAYS)
    assert "lies before the start date 2026-01-03" in place.metadata("keen/logins", DAYS[1])["keen/before_start_date"]
    assert "keen/before_start_date" not in place.metadata("keen/logins", DAYS[2])
    assert sorted(p.name for p in (place.root / "logins").glob("*.csv")) == [f"{day}.csv" for day in DAYS[2:]]
    asked = {e.request.partition_key for e in place.ledger.entries(range(1, 100)) if e.request.collection == "logins"}
    assert asked == set(DAYS[2:])
    assert len(seen) == 1
    alone = defs.resolve_implicit_global_asset_job_def().execute_in_process(
        instance=place.instance, asset_selection=[dg.AssetKey("all_days")], partition_key=DAYS[0]
    )
    assert alone.success
    assert isinstance(seen[1], pd.DataFrame)
    assert len(seen[1]) == 0


def test_the_healthy_ones_downstream_runs_beside_a_failure_and_the_waits_overlap(make_place: MakePlace) -> None:
    options = ["--fail-extraction", "purchases@2026-01-02=3", "--extraction-delay", "1"]
    place = make_place(options=options)
    ran: list[str] = []

    def after(name: str) -> dg.AssetsDefinition:
        @dg.asset(
            name=f"after_{name}",
            deps=[dg.AssetKey(["keen", name])],
            partitions_def=DAILY,
            backfill_policy=dg.BackfillPolicy.single_run(),
        )
        def downstream() -> None:
            ran.append(name)

        return downstream

    defs = with_assets(place, after("purchases"), after("logins"))
    result = over_all_days(defs, place.instance, "keen/purchases", "keen/logins", "after_purchases", "after_logins")
    assert outcomes(result) == {
        "keen__purchases": "STEP_FAILURE",
        "keen__logins": "STEP_SUCCESS",
        "after_logins": "STEP_SUCCESS",
    }
    assert ran == ["logins"]
    first = [e for e in place.ledger.entries(range(1, 100)) if e.attempt == 1]
    assert len(first) == 8
    submitted = [e.submitted_at for e in first if e.submitted_at is not None]
    completed = [e.completed_at for e in first if e.completed_at is not None]
    assert len(submitted) == 8
    assert max(submitted) < min(completed)


def test_the_waits_of_a_job_of_the_users_own_overlap(make_place: MakePlace) -> None:
    place = make_place(options=["--extraction-delay", "1"])
    mine = dg.define_asset_job("mine", selection=["keen/purchases", "keen/logins"])
    job = dg.Definitions.merge(place.defs, dg.Definitions(jobs=[mine])).resolve_job_def("mine")
    assert job.execute_in_process(instance=place.instance, partition_key=DAYS[1]).success
    landed = place.ledger.entries(range(1, 100))
    assert sorted(entry.request.collection for entry in landed) == ["logins", "purchases"]
    assert max(e.submitted_at for e in landed if e.submitted_at) < min(e.completed_at for e in landed if e.completed_at)


def test_a_neighbour_that_cant_be_asked_for_holds_nobody_up(make_place: MakePlace) -> None:
    """Its mask needs a key that is not there: its own step says so, the others land."""
    place = make_place(
        collections=[Collection("logins", "2026-01-01"), Collection("purchases", "2026-01-01", mask={"body:text": "hash"})]
    )
    result = over_all_days(place.defs, place.instance, "keen/purchases", "keen/logins")
    assert outcomes(result) == {"keen__logins": "STEP_SUCCESS", "keen__purchases": "STEP_FAILURE"}
    assert place.materialized("keen/logins") == list(DAYS)


def test_the_sensor_leaves_to_the_next_step_what_finishes_meanwhile(make_place: MakePlace) -> None:
    """With steps one after the other: a tick between them asks for no run of its own, which would tell each partition twice."""
    place = make_place(options=["--extraction-delay", "0.5"])
    both = [Collection("purchases", "2026-01-01"), Collection("logins", "2026-01-01")]
    ticks: list[dg.SensorExecutionData] = []

    @dg.success_hook
    def tick(_: dg.HookContext) -> None:
        ticks.append(place.tick())

    def step(collection: Collection) -> dg.AssetsDefinition:
        @keen_assets(collections=[collection], hooks={tick})
        def assets(context: dg.AssetExecutionContext, keen: KeenResource):  # type: ignore[no-untyped-def]
            yield from keen.run(context)

        return assets

    defs = dg.Definitions(assets=[step(c) for c in both], resources=place.defs.resources)
    result = over_all_days(defs, place.instance, "keen/purchases", "keen/logins")
    assert set(outcomes(result).values()) == {"STEP_SUCCESS"}
    assert [tick.run_requests or [] for tick in ticks] == [[], []]
    assert place.materialized("keen/purchases") == place.materialized("keen/logins") == list(DAYS)
    # What nobody goes on with is the sensor's.
    [asked] = place.ledger.request([partition_request(both[0], partition_for_key(both[0], "2026-01-05", NOW))])
    assert asked.created
    assert not place.tick().run_requests
    time.sleep(1)
    assert len(place.tick().run_requests or []) == 1


def test_a_re_execution_of_one_step_asks_for_nothing_of_the_others(make_place: MakePlace) -> None:
    place, both = make_place(), frozenset({dg.AssetKey(["keen", "purchases"]), dg.AssetKey(["keen", "logins"])})
    defs = dg.Definitions.merge(place.defs, dg.Definitions(executor=dg.in_process_executor))
    job = defs.resolve_implicit_global_asset_job_def().get_subset(asset_selection=both)
    tags = {"dagster/asset_partition_range_start": DAYS[0], "dagster/asset_partition_range_end": DAYS[1]}
    plan = create_execution_plan(job, step_keys_to_execute=["keen__logins"], tags=tags)
    run = place.instance.create_run_for_job(job_def=job, execution_plan=plan, tags=tags, asset_selection=both)
    assert "STEP_SUCCESS" in [event.event_type_value for event in execute_run_iterator(InMemoryJob(job), run, place.instance)]
    assert (place.counts(), place.materialized("keen/logins")) == ({"landed": 2}, list(DAYS[:2]))


class Moved(KeenTranslator):
    def get_asset_spec(self, data: KeenTranslatorData) -> dg.AssetSpec:
        key = dg.AssetKey(["warehouse", "raw", data.collection.name])
        return super().get_asset_spec(data).replace_attributes(key=key, tags={"area": "shop"})


def test_several_collections_in_one_step_of_the_users_own(make_place: MakePlace) -> None:
    place = make_place()
    hooked: list[str] = []

    @dg.success_hook
    def tell(context: dg.HookContext) -> None:
        hooked.append(context.op.name)

    collections = [Collection("purchases", "2026-01-01"), Collection("logins", "2026-01-01")]

    @keen_assets(
        collections=collections,
        translator=Moved(),
        pool="keen",
        retry_policy=dg.RetryPolicy(max_retries=2),
        op_tags={"team": "growth"},
        hooks={tell},
    )
    def both(context: dg.AssetExecutionContext, keen: KeenResource):  # type: ignore[no-untyped-def]
        yield from keen.run(context)

    op, name = both.op, "keen__purchases__keen__logins"
    assert (op.name, op.pool, op.tags["team"]) == (name, "keen", "growth")
    assert op.retry_policy == dg.RetryPolicy(max_retries=2)
    defs = dg.Definitions(assets=[both], resources=place.defs.resources)
    result = over_all_days(defs, place.instance, "warehouse/raw/purchases", "warehouse/raw/logins")
    assert outcomes(result) == {name: "STEP_SUCCESS"}
    assert hooked == [name]
    assert place.materialized("warehouse/raw/purchases") == place.materialized("warehouse/raw/logins") == list(DAYS)
    # A subset of the step lands alone.
    assert over_all_days(defs, place.instance, "warehouse/raw/logins").success
    assert place.counts() == {"landed": 8, "superseded": 4}


def test_a_step_of_the_users_own_may_have_a_config(make_place: MakePlace) -> None:
    place = make_place()
    seen: list[bool] = []

    @keen_assets(collections=[Collection("purchases", "2026-01-01")])
    def purchases(context: dg.AssetExecutionContext, config: CsvAssetConfig, keen: KeenResource):  # type: ignore[no-untyped-def]
        seen.append(config.skip_landed)
        yield from keen.run(context)

    defs = dg.Definitions(assets=[purchases], resources=place.defs.resources)
    job = defs.resolve_implicit_global_asset_job_def()
    for skip in (True, False):
        config = {"ops": {"keen__purchases": {"config": {"skip_landed": skip}}}}
        assert job.execute_in_process(run_config=config, instance=place.instance, partition_key=DAYS[0]).success
    assert seen == [True, False]
    assert place.counts() == {"landed": 1, "superseded": 1}


def test_one_step_takes_one_granularity_and_zone_and_at_least_one_collection() -> None:
    with pytest.raises(InvalidInputError, match="same granularity and time zone"):
        keen_assets(collections=[LATER[0], Collection("other", "2026-01-01", timezone="Europe/Berlin")])
    with pytest.raises(InvalidInputError, match="at least one collection"):
        keen_assets(collections=[])


@pytest.mark.parametrize(("ended_at", "others"), [(None, (["logins"], False)), (1.0, ([], True))])
def test_a_step_that_is_over_is_none_that_others_of_its_run_work_for(
    ended_at: float | None, others: tuple[list[str], bool]
) -> None:
    job = build_keen_definitions(collections=LATER).resolve_implicit_global_asset_job_def()
    stats = [SimpleNamespace(step_key="keen__logins", end_time=ended_at)]
    instance = SimpleNamespace(get_run_step_stats=lambda run_id: stats)
    context: Any = SimpleNamespace(
        job_def=job, instance=instance, run=SimpleNamespace(asset_selection=None, step_keys_to_execute=None, run_id="one")
    )
    own = dg.AssetKey(["keen", "purchases"])
    found, is_one_over = _others_of_the_run(context, job.asset_layer.get(own).metadata[DEFINITIONS_TAG], {"purchases": own})
    assert ([collection.name for collection in found], is_one_over) == others


def test_a_run_that_breaks_off_leaves_nothing_that_it_never_submitted(
    make_place: MakePlace, monkeypatch: pytest.MonkeyPatch
) -> None:
    place, seen = make_place(collections=LATER), []

    def broken(pipeline: Pipeline, requests: Any, **options: Any) -> Any:
        seen.append([entry.request.collection for entry in place.ledger.open_entries()])
        raise RuntimeError("killed")

    monkeypatch.setattr(run, "post_due", lambda *_, **options: None)
    monkeypatch.setattr(run, "extract", broken)
    over_all_days(place.defs, place.instance, "keen/purchases", "keen/logins")
    assert seen[0] == ["logins"] * 2 or seen[0] == ["purchases"] * 4
    assert place.ledger.open_entries() == []
