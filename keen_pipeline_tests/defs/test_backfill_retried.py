"""A run that is retried adopts what its first try landed, and doesn't tell Dagster a second time."""

from __future__ import annotations

import dagster as dg

from keen_pipeline_tests.defs.conftest import DAYS, MakePlace, Place


def run_of_backfill(place: Place, backfill: str, **tags: str) -> dg.ExecuteInProcessResult:
    span = {"dagster/asset_partition_range_start": DAYS[0], "dagster/asset_partition_range_end": DAYS[3]}
    return place.defs.resolve_implicit_global_asset_job_def().execute_in_process(
        instance=place.instance,
        asset_selection=[dg.AssetKey(["keen", "purchases"])],
        tags={**span, "dagster/backfill": backfill, **tags},
        raise_on_error=False,
    )


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
