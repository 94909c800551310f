"""What wakes downstream: every partition that landed, once, not only the latest."""

import dagster as dg

from keen_pipeline.defs.names import Names
from keen_pipeline.defs.sample import daily_revenue
from keen_pipeline_tests.defs.conftest import DAYS, MakePlace, Place

WAKES = dg.AutomationCondition.eager().without(dg.AutomationCondition.in_latest_time_window())


@dg.asset(
    deps=[dg.AssetKey(["keen", "purchases"])],
    partitions_def=dg.DailyPartitionsDefinition("2026-01-01"),
    backfill_policy=dg.BackfillPolicy.single_run(),
    automation_condition=WAKES,
)
def daily(context: dg.AssetExecutionContext) -> None:
    """Takes a range at once."""
    context.log.info(", ".join(context.partition_keys))


def evaluated(place: Place, before: dg.EvaluateAutomationConditionsResult | None) -> dg.EvaluateAutomationConditionsResult:
    """One evaluation of the conditions, as the sensor `keen_downstream` makes it."""
    cursor = before.cursor if before is not None else None
    return dg.evaluate_automation_conditions(defs=place.defs, instance=place.instance, cursor=cursor)


def test_the_sample_wakes_also_for_what_landed_before_anybody_looked(make_place: MakePlace) -> None:
    place = make_place()
    condition = next(iter(daily_revenue(Names()).specs)).automation_condition
    [woken] = dg.map_asset_specs(lambda spec: spec.replace_attributes(automation_condition=condition), [daily])
    assert isinstance(woken, dg.AssetsDefinition)
    place.defs = dg.Definitions.merge(place.defs, dg.Definitions(assets=[woken]))
    assert place.backfill(["keen/purchases"], DAYS[0], DAYS[1]).success
    first = evaluated(place, None)
    assert first.get_requested_partitions(woken.key) == set(DAYS[:2])
    second = evaluated(place, first)
    assert second.total_requested == 0
    assert place.backfill(["keen/purchases"], DAYS[2], DAYS[2]).success
    assert evaluated(place, second).get_requested_partitions(woken.key) == {DAYS[2]}


def test_every_landed_partition_wakes_it_once_and_late_ones_wake_it_again(make_place: MakePlace) -> None:
    place = make_place()
    place.defs = dg.Definitions.merge(place.defs, dg.Definitions(assets=[daily]))
    first = evaluated(place, None)
    assert first.total_requested == 0
    assert place.backfill(["keen/purchases"], DAYS[0], DAYS[2]).success
    second = evaluated(place, first)
    assert second.get_requested_partitions(dg.AssetKey("daily")) == set(DAYS[:3])
    third = evaluated(place, second)
    assert third.total_requested == 0
    assert place.backfill(["daily"], DAYS[0], DAYS[2]).success
    assert place.backfill(["keen/purchases"], DAYS[3], DAYS[3]).success
    fourth = evaluated(place, third)
    assert fourth.get_requested_partitions(dg.AssetKey("daily")) == {DAYS[3]}
    force = {"ops": {"keen_daily_20260101_UTC": {"config": {"force": True}}}}
    assert place.backfill(["keen/purchases"], DAYS[1], DAYS[1], force).success
    fifth = evaluated(place, fourth)
    assert fifth.get_requested_partitions(dg.AssetKey("daily")) == {DAYS[1]}
