"""On a live service: the check `complete`, late events, and days that are too large for one extraction."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Any

import dagster as dg
import pytest

from keen_pipeline import Collection
from keen_pipeline.client import KeenClient
from keen_pipeline_tests.defs.conftest import DAYS, NIGHT, MakePlace, Place


def night(place: Place, collections: list[dict[str, Any]] | None = None) -> None:
    """Submit, then tick and land until nothing is left."""
    asked = collections or [{"name": name, "start_date": DAYS[0], "lookback_days": 4} for name in ("purchases", "logins")]
    config = {"ops": {"submit_extraction": {"config": {"as_of": NIGHT, "collections": asked}}}}
    assert place.run("keen_submit_extractions", config).success
    for _ in range(100):
        for request in place.tick().run_requests or []:
            place.run("keen_materialize_csvs", dict(request.run_config))
        if not place.ledger.open_entries() and not place.ledger.uncounted():
            return
    raise AssertionError([(str(e), e.status.value) for e in place.ledger.open_entries()])


def evaluations(place: Place, name: str) -> dict[str | None, list[tuple[bool, Any, Any]]]:
    """(passed, landed, counted) of the check's results by partition, oldest first."""
    key = dg.AssetCheckKey(dg.AssetKey(["keen", name]), "complete")
    found: dict[str | None, list[tuple[bool, Any, Any]]] = {}
    for record in reversed(place.instance.event_log_storage.get_asset_check_execution_history(key, limit=100)):
        assert record.event is not None
        assert record.event.dagster_event is not None
        result = record.event.dagster_event.asset_check_evaluation_data
        values = {name: value.value for name, value in result.metadata.items()}
        numbers = (values.get("keen/landed_events"), values.get("keen/counted_events"))
        found.setdefault(result.partition, []).append((result.passed, *numbers))
    return found


def client(place: Place) -> KeenClient:
    end = place.endpoint
    return KeenClient(end.base_url, end.project_id, read_key=end.read_key, write_key=end.write_key)


def amounts(path: Path) -> list[str]:
    with path.open(newline="", encoding="utf-8") as file:
        return [row["body:amount"] for row in csv.DictReader(file)]


def test_each_landed_partition_is_held_against_the_service_s_count(make_place: MakePlace) -> None:
    place = make_place()
    night(place)
    assert evaluations(place, "purchases") == {day: [(True, 3 + n, 3 + n)] for n, day in enumerate(DAYS)}
    assert place.backfill(["keen/logins"], DAYS[0], DAYS[1]).success
    assert evaluations(place, "logins")[DAYS[0]] == [(True, 2, 2), (True, 2, 2)]


def test_the_next_night_takes_up_late_events_and_only_them(make_place: MakePlace) -> None:
    place = make_place()
    night(place)
    with client(place) as keen:
        keen.add_events({"purchases": [{"keen": {"timestamp": f"{DAYS[1]}T23:59:59Z"}, "amount": 77}]})
    night(place)
    assert "77" in amounts(place.root / "purchases" / f"{DAYS[1]}.csv")
    assert place.materialized("keen/purchases") == sorted([*DAYS, DAYS[1]])
    assert place.counts()["superseded"] == 1
    night(place)
    assert place.materialized("keen/purchases") == sorted([*DAYS, DAYS[1]])


def test_the_check_alone_counts_all_that_has_landed(make_place: MakePlace) -> None:
    place = make_place()
    night(place)
    with client(place) as keen:
        keen.add_events({"purchases": [{"keen": {"timestamp": f"{DAYS[2]}T23:59:59Z"}, "amount": 1}]})
    checks = dg.AssetSelection.checks(dg.AssetCheckKey(dg.AssetKey(["keen", "purchases"]), "complete"))
    defs = dg.Definitions.merge(place.defs, dg.Definitions(jobs=[dg.define_asset_job("audit", selection=checks)]))
    tags = {"dagster/asset_partition_range_start": DAYS[0], "dagster/asset_partition_range_end": DAYS[-1]}
    assert defs.resolve_job_def("audit").execute_in_process(instance=place.instance, tags=tags).success
    newest = {day: results[-1] for day, results in evaluations(place, "purchases").items()}
    assert newest == {day: (day != DAYS[2], 3 + n, 3 + n + (day == DAYS[2])) for n, day in enumerate(DAYS)}
    assert place.materialized("keen/purchases") == sorted(DAYS)


@pytest.mark.parametrize("known", [True, False], ids=["planned by counts", "refused by the service"])
@pytest.mark.parametrize("how", ["night", "backfill"])
def test_a_day_too_large_lands_as_one_file_from_slices(
    make_place: MakePlace, monkeypatch: pytest.MonkeyPatch, known: bool, how: str
) -> None:
    if known:
        monkeypatch.setenv("KEEN_PIPELINE_MAX_EXTRACTION_EVENTS", "2")
    place = make_place(options=["--max-extraction-events", "2"], collections=[Collection("purchases", DAYS[0], lookback_days=4)])
    if how == "night":
        night(place, [{"name": "purchases", "start_date": DAYS[0], "lookback_days": 4}])
    else:
        result = place.backfill(["keen/purchases"], DAYS[0], DAYS[-1])
        assert result.success
    assert place.materialized("keen/purchases") == sorted(DAYS)
    assert evaluations(place, "purchases") == {day: [(True, 3 + n, 3 + n)] for n, day in enumerate(DAYS)}
    for n, day in enumerate(DAYS):
        assert amounts(place.root / "purchases" / f"{day}.csv") == [str(i) for i in range(3 + n)]
    slices = [path for path in (place.root / "_slices").rglob("*") if path.is_file()]
    assert slices == []
    metadata = place.metadata("keen/purchases", DAYS[-1])
    assert int(metadata["keen/slices"]) >= 3
    assert int(metadata["keen/split_depth"]) >= 2
