"""What fails shows on its asset's page from every path, once a cause; and the ops compose in a graph of the user's own."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import dagster as dg
import pytest

from keen_pipeline import (
    Collection,
    CsvDestination,
    ExtractionLedger,
    KeenResource,
    KeenTranslator,
    KeenTranslatorData,
    build_keen_definitions,
    materialize_csvs,
    submit_extractions,
)
from keen_pipeline.collection import CountPolicy
from keen_pipeline.collections_file import collection_to_wire
from keen_pipeline.defs.reports.checks import Targets
from keen_pipeline.errors import VerificationError
from keen_pipeline.extraction import Status
from keen_pipeline.landing import FileDestination
from keen_pipeline.ledger import SqlLedger
from keen_pipeline.notifications import digest
from keen_pipeline_tests.defs.conftest import DAYS, MakePlace, Place, night
from keen_pipeline_tests.defs.nights.test_nightly import LAND, SUBMIT, land_all, nightly_config, tick_until_runs

BAD = "2026-01-02"
FAILING = ["--fail-extraction", f"purchases@{BAD}=3"]


def complete_of(place: Place, partition: str, key: Sequence[str] = ("keen", "purchases")) -> list[tuple[bool, str]]:
    """Every result of `complete` for a partition, newest first, with what it says."""
    check = dg.AssetCheckKey(dg.AssetKey(key), "complete")
    history = place.instance.event_log_storage.get_asset_check_execution_history(check, limit=50)
    found = []
    for record in history:
        event = record.event.dagster_event if record.event is not None else None
        evaluation = event.asset_check_evaluation_data if event is not None else None
        if evaluation is not None and evaluation.partition == partition:
            found.append((evaluation.passed, evaluation.description or ""))
    return found


def assert_given_up(place: Place, key: Sequence[str] = ("keen", "purchases")) -> None:
    [(passed, said)] = complete_of(place, BAD, key)
    assert not passed
    assert "the service reports the extraction as failed" in said
    assert f"keen-pipeline retry purchases {BAD}" in said
    assert [passed for passed, _ in complete_of(place, DAYS[0], key)] == [True]
    # The page of the partition shows no check; what it leads to are the events.
    told = place.instance.fetch_observations(dg.AssetKey(key), limit=10).records
    entries = [record.event_log_entry.dagster_event for record in told]
    events = [entry.asset_observation_data.asset_observation for entry in entries if entry is not None]
    assert [(event.partition, event.description) for event in events] == [(BAD, said)]


def test_the_command_that_fixes_it_speaks_of_the_definitions_that_it_failed_in(make_place: MakePlace) -> None:
    place = make_place(options=FAILING, name="shop")
    run = place.backfill(["shop/purchases"], DAYS[0], DAYS[1])
    mend = f"    KEEN_PIPELINE_NAME=shop keen-pipeline retry purchases {BAD}"
    assert place.failure(run).splitlines()[-1] == mend[2:]
    [(_, said)] = complete_of(place, BAD, ("shop", "purchases"))
    assert said.splitlines()[-1] == mend
    ledger = SqlLedger(place.ledger.engine, replace(place.ledger.scope, name="shop"))
    missing = digest.gather(ledger, [Collection("purchases", DAYS[0], lookback_days=4)], "2026-01-05", night()).missing
    assert mend.strip() in [group.command for group in missing]


def test_a_run_of_the_asset_tells_what_it_gave_up(make_place: MakePlace) -> None:
    place = make_place(options=FAILING)
    assert not place.backfill(["keen/purchases"], DAYS[0], DAYS[2]).success
    assert_given_up(place)
    assert place.ledger.outbox() == []


def test_so_does_the_night_when_the_sensor_finds_it(make_place: MakePlace) -> None:
    place = make_place(options=FAILING)
    place.run(SUBMIT, nightly_config(place))
    red = 0
    while place.ledger.open_entries() or place.ledger.outbox():
        red += not place.run(LAND, dict(tick_until_runs(place).run_config)).success
    assert red == 1
    assert_given_up(place)


def test_so_does_a_landing_run_whose_file_is_no_csv(make_place: MakePlace, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KEEN_PIPELINE_MAX_ATTEMPTS", "1")
    place = make_place()
    land = FileDestination.land

    def refuses(self: FileDestination, source: Any, target: str, **kwargs: Any) -> Any:
        if f"purchases/{BAD}" in target:
            raise VerificationError("line 3 has 4 fields, the header 5")
        return land(self, source, target, **kwargs)

    monkeypatch.setattr(FileDestination, "land", refuses)
    place.run(SUBMIT, nightly_config(place))
    results = []
    while place.ledger.open_entries() or place.ledger.outbox():
        results.append(place.run(LAND, dict(tick_until_runs(place).run_config)).success)
    assert results.count(False) == 1
    [(passed, said)] = complete_of(place, BAD)
    assert not passed
    assert "line 3 has 4 fields" in said


def test_a_check_that_counts_nothing_is_green_again_once_the_partition_has_landed(
    make_place: MakePlace, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("KEEN_PIPELINE_MAX_ATTEMPTS", "1")
    uncounted = [Collection("purchases", DAYS[0], count_check=CountPolicy.OFF)]
    place = make_place(options=["--fail-extraction", f"purchases@{BAD}=1"], collections=uncounted)
    asked = {"collections": [collection_to_wire(uncounted[0])], "partition_keys": [BAD]}
    for passed in (False, True):  # as it was given up, and as a person asks for it again
        place.run(SUBMIT, {"ops": {"submit_extraction": {"config": asked}}})
        while place.ledger.open_entries() or place.ledger.outbox():
            place.run(LAND, dict(tick_until_runs(place).run_config))
        assert complete_of(place, BAD)[0][0] is passed
    assert complete_of(place, BAD)[0][1] == "not compared: count_check is off"


def test_a_destination_that_refuses_is_one_red_run(make_place: MakePlace) -> None:
    place = make_place()
    place.root.mkdir(parents=True)
    (place.root / "purchases").write_text("a file where the collection's folder has to be")
    place.run(SUBMIT, nightly_config(place))
    results, tries = [], 0
    while len(results) < 3:
        result = place.run(LAND, dict(tick_until_runs(place).run_config))
        results.append(result.success)
        tries += 1
    assert results == [False, True, True]
    assert place.materialized("keen/logins") == list(DAYS)
    (place.root / "purchases").unlink()
    land_all(place)
    assert place.materialized("keen/purchases") == list(DAYS)


def test_the_ops_follow_each_other_in_a_graph_of_the_users_own(make_place: MakePlace) -> None:
    place = make_place()
    after: list[str] = []

    @dg.op(ins={"landed": dg.In(dg.Nothing)})
    def tell() -> None:
        after.append("told")

    @dg.graph
    def night() -> None:
        tell(materialize_csvs(submit_extractions()))

    resources = {name: (place.defs.resources or {})[name] for name in ("keen", "keen_ledger", "keen_destination")}
    job = night.to_job(resource_defs=resources)  # type: ignore[arg-type]
    result = job.execute_in_process(run_config=nightly_config(place), instance=place.instance)
    assert result.success
    order = [e.step_key for e in result.all_events if e.event_type_value == "STEP_SUCCESS"]
    assert order == ["submit_extraction", "materialize_csv", "tell"]
    assert after == ["told"]
    assert len(place.ledger.entries(range(1, 100))) == 8


class Moved(KeenTranslator):
    def get_asset_spec(self, data: KeenTranslatorData) -> dg.AssetSpec:
        return super().get_asset_spec(data).replace_attributes(key=dg.AssetKey(["warehouse", data.collection.name]))


@pytest.fixture
def moved(make_place: MakePlace, monkeypatch: pytest.MonkeyPatch) -> Place:
    """As `make_place` makes it, under keys of a translator."""
    place = make_place(options=FAILING)
    resources = place.defs.resources or {}
    keen, ledger, destination = (resources[name] for name in ("keen", "keen_ledger", "keen_destination"))
    assert isinstance(keen, KeenResource)
    assert isinstance(ledger, ExtractionLedger)
    assert isinstance(destination, CsvDestination)
    place.defs = build_keen_definitions(
        [Collection(name, "2026-01-01", lookback_days=4) for name in ("purchases", "logins")],
        keen=keen,
        ledger=ledger,
        destination=destination,
        translator=Moved(),
    )
    return place


def test_a_key_of_the_translators_holds_on_the_asset_run(moved: Place) -> None:
    assert not moved.backfill(["warehouse/purchases"], DAYS[0], DAYS[2]).success
    assert moved.materialized("warehouse/purchases") == [DAYS[0], DAYS[2]]
    assert_given_up(moved, ("warehouse", "purchases"))


def test_a_landing_run_that_a_person_launches_tells_the_assets_and_their_checks(moved: Place) -> None:
    assert moved.run(SUBMIT, nightly_config(moved)).success
    while any(entry.status is Status.SUBMITTED for entry in moved.ledger.open_entries()):
        moved.tick()
    moved.run(LAND)  # as the launchpad begins, without a config
    assert moved.materialized("warehouse/logins") == list(DAYS)
    assert moved.materialized("keen/logins") == []
    check = dg.AssetCheckKey(dg.AssetKey(["warehouse", "logins"]), "schema_drift")
    assert len(moved.instance.event_log_storage.get_asset_check_execution_history(check, limit=50)) == len(DAYS)


def test_a_key_of_the_translators_holds_on_the_nightly_path_and_in_the_outbox(
    moved: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    moved.run(SUBMIT, nightly_config(moved))
    request = tick_until_runs(moved)

    def dies(self: Targets, entry: object) -> None:
        raise RuntimeError("killed")

    with monkeypatch.context() as patch:  # dies after its first event and before the ledger knows of it
        patch.setattr(Targets, "landed", dies)
        assert not moved.run(LAND, dict(request.run_config)).success
    skipped: list[str | None] = []
    while moved.ledger.open_entries() or moved.ledger.outbox():
        data = moved.tick()
        for one in data.run_requests or []:
            moved.run(LAND, dict(one.run_config))
        skipped.append(data.skip_message)
        assert len(skipped) < 300, skipped[-3:]
    good = [day for day in DAYS if day != BAD]
    assert moved.materialized("warehouse/purchases") == good
    assert moved.materialized("warehouse/logins") == list(DAYS)
    assert moved.materialized("keen/purchases") == moved.materialized("keen/logins") == []
    assert_given_up(moved, ("warehouse", "purchases"))
