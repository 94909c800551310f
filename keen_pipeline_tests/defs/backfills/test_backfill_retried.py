"""A run that is retried adopts what its first try landed, and doesn't tell Dagster a second time."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import dagster as dg
import pytest

from keen_pipeline.defs.assets import run
from keen_pipeline.pipeline import extract
from keen_pipeline_tests.defs.conftest import DAYS, MakePlace, Place

PURCHASES = dg.AssetKey(["keen", "purchases"])


def run_of_backfill(place: Place, backfill: str, **tags: str) -> dg.ExecuteInProcessResult:
    span = {"dagster/asset_partition_range_start": DAYS[0], "dagster/asset_partition_range_end": DAYS[3]}
    return place.defs.resolve_implicit_global_asset_job_def().execute_in_process(
        instance=place.instance,
        asset_selection=[dg.AssetKey(["keen", "purchases"])],
        tags={**span, "dagster/backfill": backfill, **tags},
        raise_on_error=False,
    )


def assert_checked(place: Place) -> None:
    """The newest result of each check is about the newest materialization: else whoever waits for it sleeps."""
    for name in ("complete", "schema_drift", "unexpected_size"):
        key = dg.AssetCheckKey(PURCHASES, name)
        found: dict[str | None, int] = {}
        for record in place.instance.event_log_storage.get_asset_check_execution_history(key, limit=100):  # newest first
            event = record.event.dagster_event if record.event is not None else None
            assert event is not None
            if event.event_type_value == "ASSET_CHECK_EVALUATION":
                target = event.asset_check_evaluation_data.target_materialization_data
                assert target is not None
                found.setdefault(event.asset_check_evaluation_data.partition, target.storage_id)
        newest = place.instance.get_latest_storage_id_by_partition(PURCHASES, dg.DagsterEventType.ASSET_MATERIALIZATION)
        assert (name, found) == (name, newest)


def test_the_next_run_of_the_same_backfill_tells_only_what_is_new(make_place: MakePlace) -> None:
    place = make_place(options=["--fail-extraction", "purchases@2026-01-02=3"])
    assert not run_of_backfill(place, "b1").success
    assert place.materialized("keen/purchases") == [DAYS[0], DAYS[2], DAYS[3]]
    assert run_of_backfill(place, "b1").success
    assert place.materialized("keen/purchases") == list(DAYS)


def test_another_backfill_tells_what_it_found_landed_as_dagster_counts_only_its_own_events(make_place: MakePlace) -> None:
    place = make_place()
    assert run_of_backfill(place, "b1").success
    assert run_of_backfill(place, "b2").success
    assert place.materialized("keen/purchases") == sorted([*DAYS, *DAYS])
    assert_checked(place)


def test_what_a_run_planned_later_landed_and_an_earlier_one_tells_again_has_the_last_word(
    make_place: MakePlace, monkeypatch: pytest.MonkeyPatch
) -> None:
    place, begun = make_place(), list[str]()

    def slow(*args: Any, **options: Any) -> Iterator[Any]:
        if not begun:
            begun.append("b2")
            assert run_of_backfill(place, "b2").success
        return extract(*args, **options)

    monkeypatch.setattr(run, "extract", slow)
    assert run_of_backfill(place, "b1").success
    while requests := place.tick().run_requests:  # by a landing run, whose results are newer than those of both
        assert place.run("keen_materialize_csvs", dict(requests[0].run_config)).success
    assert place.materialized("keen/purchases") == sorted([*DAYS, *DAYS])
    assert_checked(place)


def test_a_run_that_was_planned_later_and_never_begins_has_not_the_last_word(
    make_place: MakePlace, monkeypatch: pytest.MonkeyPatch
) -> None:
    place = make_place()

    def slow(*args: Any, **options: Any) -> Iterator[Any]:
        span = {"dagster/asset_partition_range_start": DAYS[0], "dagster/asset_partition_range_end": DAYS[3]}
        job = place.defs.resolve_implicit_global_asset_job_def().get_subset(asset_selection={PURCHASES})
        queued = place.instance.create_run_for_job(job, tags=span, asset_selection=frozenset({PURCHASES}))
        place.instance.report_run_canceled(queued)
        return extract(*args, **options)

    monkeypatch.setattr(run, "extract", slow)
    assert run_of_backfill(place, "b1").success
    while requests := place.tick().run_requests:
        assert place.run("keen_materialize_csvs", dict(requests[0].run_config)).success
    assert place.materialized("keen/purchases") == list(DAYS)
    check = dg.AssetCheckKey(PURCHASES, "complete")
    infos = place.instance.event_log_storage.get_asset_check_partition_info([check])
    assert [(one.partition_key, one.latest_execution_status.name, one.is_current) for one in infos] == [
        (day, "SUCCEEDED", True) for day in DAYS
    ]


def test_what_was_wiped_and_is_told_again_is_checked_again(make_place: MakePlace) -> None:
    place = make_place()
    assert run_of_backfill(place, "b1").success
    place.instance.wipe_assets([PURCHASES])
    config = {"ops": {"keen__purchases": {"config": {"skip_landed": True}}}}
    assert place.backfill(["keen/purchases"], DAYS[0], DAYS[3], config).success
    assert place.materialized("keen/purchases") == list(DAYS)
    assert_checked(place)
