"""A collection's run tags reach the runs of its nights, and its own step of a backfill, on a live service."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from keen_pipeline import Collection, build_keen_definitions
from keen_pipeline.collections_file import collection_to_wire, parse_collections, read_collections_file
from keen_pipeline.errors import InvalidInputError
from keen_pipeline_tests.defs.conftest import DAYS, MakePlace
from keen_pipeline_tests.defs.nights.test_fan_out import all_finished, configs
from keen_pipeline_tests.defs.nights.test_nightly import LAND, SUBMIT, nightly_config

LARGE = {"dagster-k8s/config": {"container_config": {"resources": {"limits": {"memory": "2Gi"}}}}, "dagster-celery/queue": "large"}
COLLECTIONS = [
    Collection("purchases", "2026-01-01", lookback_days=4, run_tags=LARGE),
    Collection("logins", "2026-01-01", lookback_days=4),
]


def test_collections_with_other_tags_are_steps_of_their_own_with_these_tags() -> None:
    job = build_keen_definitions(COLLECTIONS).resolve_implicit_global_asset_job_def()
    found = {node.name: node.tags for node in job.graph.nodes}
    assert len(found) == 2
    [(large, tags)] = [(name, tags) for name, tags in found.items() if "dagster-celery/queue" in tags]
    assert tags["dagster-celery/queue"] == "large"
    assert json.loads(tags["dagster-k8s/config"]) == LARGE["dagster-k8s/config"]
    assert large == "keen__purchases"


def test_what_a_night_has_extracted_is_landed_by_runs_with_the_collections_tags(make_place: MakePlace) -> None:
    place = make_place(collections=COLLECTIONS)
    assert place.run(SUBMIT, nightly_config(place)).success
    all_finished(place, 8)
    tick = place.tick()
    by_collection = {
        config["collections"][0]["name"]: request for config, request in zip(configs(tick), tick.run_requests or [], strict=True)
    }
    assert set(by_collection) == {"purchases", "logins"}
    assert by_collection["purchases"].tags["dagster-celery/queue"] == "large"
    assert json.loads(by_collection["purchases"].tags["dagster-k8s/config"]) == LARGE["dagster-k8s/config"]
    assert not any(name.startswith(("dagster-k8s", "dagster-celery")) for name in by_collection["logins"].tags)
    for request in by_collection.values():
        assert place.run(LAND, dict(request.run_config)).success
    assert place.materialized("keen/purchases") == place.materialized("keen/logins") == list(DAYS)


def test_a_backfill_over_both_lands_both(make_place: MakePlace) -> None:
    place = make_place(collections=COLLECTIONS)
    assert place.backfill(["keen/purchases", "keen/logins"], DAYS[0], DAYS[1]).success
    assert place.materialized("keen/purchases") == place.materialized("keen/logins") == list(DAYS[:2])


def test_the_file_has_them_as_mappings_and_the_wire_as_their_json(tmp_path: Path) -> None:
    file = tmp_path / "collections.yaml"
    file.write_text(json.dumps({"collections": [{"name": "purchases", "start_date": "2026-01-01", "run_tags": LARGE}]}))
    [read] = read_collections_file(file)
    assert json.loads(read.run_tags["dagster-k8s/config"]) == LARGE["dagster-k8s/config"]
    assert parse_collections([collection_to_wire(read)]) == [read]
    assert "run_tags" not in collection_to_wire(COLLECTIONS[1])


@pytest.mark.parametrize("wrong", ["large", {"": "a"}, {"a": 3}, {3: "a"}, {"a": {"b": {1, 2}}}])
def test_what_can_be_no_tag_is_refused(wrong: Any) -> None:
    with pytest.raises(InvalidInputError, match="collection a: run_tags"):
        Collection("a", "2026-01-01", run_tags=wrong)
