"""Unique values of a property as assets, and as inputs of assets downstream."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

import dagster as dg
import pytest

from keen_pipeline import Collection, Filter, build_keen_definitions, unique_values_asset
from keen_pipeline.client import KeenClient
from keen_pipeline.defs.partitions import partitions_definition
from keen_pipeline.errors import InvalidInputError, RequestRejectedError
from keen_pipeline_tests.defs.conftest import DAYS, MakePlace, Place

PURCHASES = Collection("purchases", "2026-01-01", filters=[Filter("body:amount", "gt", 0)])
DAILY = dg.DailyPartitionsDefinition(DAYS[0])
BY_DAY = dg.AssetKey(["keen", "purchases", "unique", "body:amount"])


def consumer(seen: list[Any], partitions_def: dg.PartitionsDefinition | None) -> dg.AssetsDefinition:
    @dg.asset(ins={"amounts": dg.AssetIn(BY_DAY)}, partitions_def=partitions_def, backfill_policy=dg.BackfillPolicy.single_run())
    def reader(amounts) -> None:  # type: ignore[no-untyped-def]
        seen.append(amounts)

    return reader


def run(place: Place, assets: Sequence[dg.AssetsDefinition], keys: Sequence[str], **options: Any) -> dg.ExecuteInProcessResult:
    defs = dg.Definitions.merge(place.defs, dg.Definitions(assets=assets))
    selection = [key for asset in assets for key in asset.keys if key.to_user_string() in keys]
    return defs.resolve_implicit_global_asset_job_def().execute_in_process(
        instance=place.instance, asset_selection=selection, raise_on_error=False, **options
    )


def test_a_list_for_each_partition(make_place: MakePlace) -> None:
    place, seen = make_place(), []  # type: ignore[var-annotated]
    assets = [unique_values_asset(PURCHASES, "body:amount"), consumer(seen, DAILY)]
    tags = {"dagster/asset_partition_range_start": DAYS[0], "dagster/asset_partition_range_end": DAYS[1]}
    assert not run(place, assets, ["reader"], tags=tags).success  # nothing is listed yet
    assert run(place, assets, [BY_DAY.to_user_string()], tags=tags).success
    assert place.materialized(BY_DAY.to_user_string()) == [DAYS[0], DAYS[1]]
    assert place.metadata(BY_DAY.to_user_string(), DAYS[1])["keen/values"] == 3
    kept = place.root / "_unique" / "purchases" / f"{DAYS[0]}.body%3Aamount.json"
    assert sorted(json.loads(kept.read_text())) == [1, 2]  # 0 does not pass the filter
    assert run(place, assets, ["reader"], tags=tags).success
    assert run(place, assets, ["reader"], partition_key=DAYS[0]).success
    assert [{key: sorted(values) for key, values in seen[0].items()}, sorted(seen[1])] == [
        {DAYS[0]: [1, 2], DAYS[1]: [1, 2, 3]},
        [1, 2],
    ]


def test_a_partition_that_cant_be_listed_keeps_no_other(make_place: MakePlace, monkeypatch: pytest.MonkeyPatch) -> None:
    place, ask = make_place(), KeenClient.select_unique

    def refused(self: KeenClient, collection: str, name: str, window: Any = None, filters: Any = ()) -> list[Any]:
        if window.start.day == 2:
            raise RequestRejectedError("too many values", status=400)
        return ask(self, collection, name, window, filters)

    monkeypatch.setattr(KeenClient, "select_unique", refused)
    tags = {"dagster/asset_partition_range_start": DAYS[0], "dagster/asset_partition_range_end": DAYS[2]}
    result = run(place, [unique_values_asset(PURCHASES, "body:amount")], [BY_DAY.to_user_string()], tags=tags)
    assert place.failure(result) == "1 of 3 partitions not listed: too many values"
    assert place.materialized(BY_DAY.to_user_string()) == [DAYS[0], DAYS[2]]


def test_one_list_of_all_events_is_replaced_by_each_run(make_place: MakePlace) -> None:
    place, seen = make_place(), []  # type: ignore[var-annotated]
    assets = [unique_values_asset(PURCHASES, "body:amount", partitioned=False), consumer(seen, None)]
    for _ in range(2):
        assert run(place, assets, [BY_DAY.to_user_string(), "reader"]).success
    assert [sorted(values) for values in seen] == [[1, 2, 3, 4, 5]] * 2
    assert [path.name for path in (place.root / "_unique" / "purchases").iterdir()] == ["latest.body%3Aamount.json"]


@pytest.mark.parametrize("partitioned", [True, False])
def test_a_list_wakes_when_a_file_lands_also_if_older_ones_never_do(partitioned: bool) -> None:
    asset = unique_values_asset(PURCHASES, "body:amount", partitioned=partitioned)
    defs = dg.Definitions.merge(build_keen_definitions([PURCHASES]), dg.Definitions(assets=[asset]))
    with dg.DagsterInstance.ephemeral() as instance:
        looked = dg.evaluate_automation_conditions(defs, instance)
        instance.report_runless_asset_event(dg.AssetMaterialization(["keen", "purchases"], partition=DAYS[3]))
        woken = dg.evaluate_automation_conditions(defs, instance, cursor=looked.cursor)
    assert (looked.total_requested, woken.get_num_requested(asset.key)) == (0, 1)


def test_long_values_are_whole_in_the_list_and_short_in_its_metadata(make_place: MakePlace) -> None:
    place, seen = make_place(), []  # type: ignore[var-annotated]
    end, pages = place.endpoint, [f"{number}{'x' * 100_000}" for number in range(3)]
    with KeenClient(end.base_url, end.project_id, read_key=end.read_key, write_key=end.write_key) as client:
        client.add_events({"purchases": [{"keen": {"timestamp": f"{DAYS[0]}T12:00:00Z"}, "amount": page} for page in pages]})
    assets = [unique_values_asset(Collection("purchases", DAYS[0]), "body:amount"), consumer(seen, DAILY)]
    assert run(place, assets, [BY_DAY.to_user_string(), "reader"], partition_key=DAYS[0]).success
    assert {*pages, 0, 1, 2} == set(seen[0])
    shown = place.metadata(BY_DAY.to_user_string(), DAYS[0])["keen/preview"]
    assert len(shown) == 6
    assert len(json.dumps(shown)) < 1000


def test_a_list_from_before_the_start_date_is_empty(make_place: MakePlace) -> None:
    place, seen = make_place(), []  # type: ignore[var-annotated]
    late = Collection("purchases", DAYS[1])
    shared = partitions_definition(late, together_with=[Collection("logins", DAYS[0])])
    assets = [unique_values_asset(late, "body:amount", partitions_def=shared), consumer(seen, shared)]
    tags = {"dagster/asset_partition_range_start": DAYS[0], "dagster/asset_partition_range_end": DAYS[1]}
    assert run(place, assets, [BY_DAY.to_user_string(), "reader"], tags=tags).success
    assert {day: len(values) for day, values in seen[0].items()} == {DAYS[0]: 0, DAYS[1]: 4}


def test_a_masked_property_is_not_listed() -> None:
    with pytest.raises(InvalidInputError, match="masked"):
        unique_values_asset(Collection("purchases", "2026-01-01", mask={"body:email": "hash"}), "body:email")
