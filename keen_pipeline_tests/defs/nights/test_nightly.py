"""The nightly path: schedule, submit run, sensor ticks, landing run, outbox; on a live service."""

from __future__ import annotations

import csv
import io
import time
from dataclasses import replace
from typing import Any

import dagster as dg
import pytest

from keen_pipeline import Collection, build_keen_definitions
from keen_pipeline.defs.reports import reporter
from keen_pipeline.defs.reports.checks import Targets
from keen_pipeline.defs.sensors import status
from keen_pipeline.extraction import Status
from keen_pipeline_tests.defs.conftest import DAYS, MakePlace, Place, night

SUBMIT = "keen_submit_extractions"
LAND = "keen_materialize_csvs"


def nightly_config(place: Place) -> dict[str, Any]:
    """What the schedule's tick of the night asks for."""
    schedule = place.defs.resolve_schedule_def("keen_nightly")
    with dg.build_schedule_context(instance=place.instance, scheduled_execution_time=night()) as context:
        [request] = schedule.evaluate_tick(context).run_requests or []
    return dict(request.run_config)


def tick_until_runs(place: Place, seconds: float = 30) -> dg.RunRequest:
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        requests = place.tick().run_requests
        if requests:
            [request] = requests
            return request
        time.sleep(0.2)
    raise AssertionError("no landing run was asked for")


def land_all(place: Place) -> None:
    while place.ledger.open_entries():
        request = tick_until_runs(place)
        assert place.run(LAND, dict(request.run_config)).success


def test_a_night_lands_every_partition_of_every_collection(make_place: MakePlace) -> None:
    place = make_place()
    submitted = place.run(SUBMIT, nightly_config(place))
    assert submitted.success
    assert len(place.ledger.open_entries()) == 8
    land_all(place)
    assert place.materialized("keen/purchases") == list(DAYS)
    assert place.materialized("keen/logins") == list(DAYS)
    for number, day in enumerate(DAYS):
        text = (place.root / "purchases" / f"{day}.csv").read_bytes().decode()
        rows = list(csv.DictReader(io.StringIO(text, newline="")))
        assert [float(row["body:amount"]) for row in rows] == list(range(3 + number))
        assert {row["body:text"] for row in rows} == {f'purchases, "{day}"\nline'}
    assert place.ledger.outbox() == []
    assert "no extraction is open" in (place.tick().skip_message or "")


def test_metadata_of_a_partition_is_its_proof(make_place: MakePlace) -> None:
    place = make_place()
    place.run(SUBMIT, nightly_config(place))
    land_all(place)
    [record] = place.instance.fetch_materializations(
        dg.AssetRecordsFilter(asset_key=dg.AssetKey(["keen", "purchases"]), asset_partitions=[DAYS[0]]), limit=5
    ).records
    assert record.asset_materialization is not None
    metadata = {name: value.value for name, value in record.asset_materialization.metadata.items()}
    data = (place.root / "purchases" / f"{DAYS[0]}.csv").read_bytes()
    assert (metadata["dagster/partition_row_count"], metadata["keen/bytes"], metadata["keen/attempts"]) == (3, len(data), 1)
    assert metadata["dagster/column_schema"].columns[0].name == "header:timestamp"


def test_while_extractions_are_open_no_run_is_in_progress(make_place: MakePlace) -> None:
    place = make_place(options=["--extraction-delay", "3"])
    assert place.run(SUBMIT, nightly_config(place)).success
    assert place.tick().run_requests == []
    assert [e.status for e in place.ledger.open_entries()] == [Status.SUBMITTED] * 8
    assert place.instance.get_runs(dg.RunsFilter(statuses=[dg.DagsterRunStatus.STARTED])) == []
    land_all(place)
    assert place.materialized("keen/logins") == list(DAYS)


def test_a_second_night_asks_only_for_what_is_missing(make_place: MakePlace) -> None:
    place = make_place()
    place.run(SUBMIT, nightly_config(place))
    land_all(place)
    assert place.run(SUBMIT, nightly_config(place)).success
    assert place.ledger.open_entries() == []
    assert place.counts() == {"landed": 8}


def test_a_tick_does_not_ask_twice_for_the_same_landing(make_place: MakePlace) -> None:
    place = make_place()
    place.run(SUBMIT, nightly_config(place))
    request = tick_until_runs(place)
    asked = set(request.run_config["ops"]["materialize_csv"]["config"]["entry_ids"])
    later = place.tick().run_requests or []
    for other in later:
        assert not asked & set(other.run_config["ops"]["materialize_csv"]["config"]["entry_ids"])


def test_what_another_code_location_of_the_same_name_asked_for_is_left_to_it_for_a_while(
    make_place: MakePlace, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    place = make_place()
    place.run(SUBMIT, nightly_config(place))
    ours: dict[str, Any] = place.defs.resources or {}
    parts = {part: ours[f"keen_{part}"] for part in ("ledger", "destination")}
    other = replace(place, defs=build_keen_definitions([Collection("logins", DAYS[0])], keen=ours["keen"], **parts))

    def asked_for() -> set[str]:
        config = tick_until_runs(other).run_config["ops"]["materialize_csv"]["config"]
        return {entry.request.collection for entry in place.ledger.entries(config["entry_ids"])}

    assert asked_for() == {"logins"}
    assert "purchases isn't among these definitions" in capfd.readouterr().err
    monkeypatch.setattr(status, "DISPATCH_SECONDS", 0.01)  # of a collection that was removed it lands in the end
    assert asked_for() == {"purchases"}


def test_a_landing_that_nobody_reported_is_reported_once_by_the_next_run(
    make_place: MakePlace, monkeypatch: pytest.MonkeyPatch
) -> None:
    place = make_place()
    place.run(SUBMIT, nightly_config(place))
    request = tick_until_runs(place)
    # The run dies after the event of its first landing went out and before the ledger knew it.
    calls: list[object] = []

    def dies(self: Targets, entry: object) -> None:
        calls.append(entry)
        raise RuntimeError("killed")

    with monkeypatch.context() as patch:
        patch.setattr(Targets, "landed", dies)
        assert not place.run(LAND, dict(request.run_config)).success
    assert len(calls) == 1
    assert place.ledger.outbox() != []
    land_all(place)
    if place.ledger.outbox():
        assert place.run(LAND, dict(tick_until_runs(place).run_config)).success
    assert place.ledger.outbox() == []
    assert place.materialized("keen/purchases") == list(DAYS)
    assert place.materialized("keen/logins") == list(DAYS)


def test_a_run_that_dies_before_its_checks_leaves_them_to_the_next(make_place: MakePlace, monkeypatch: pytest.MonkeyPatch) -> None:
    place = make_place()
    place.run(SUBMIT, nightly_config(place))

    def dies(*_: object) -> None:
        raise RuntimeError("killed")

    with monkeypatch.context() as patch:
        patch.setattr(reporter, "landing_checks", dies)
        while place.ledger.open_entries():
            assert not place.run(LAND, dict(tick_until_runs(place).run_config)).success
    while request := place.tick().run_requests:
        assert place.run(LAND, dict(request[0].run_config)).success
    assert place.materialized("keen/purchases") == list(DAYS)
    for name in ("schema_drift", "unexpected_size"):
        check = dg.AssetCheckKey(dg.AssetKey(["keen", "purchases"]), name)
        events = place.instance.event_log_storage.get_asset_check_execution_history(check, limit=50)
        assert len(events) == len(DAYS)


def test_an_abandoned_partition_fails_the_landing_run_with_its_story(make_place: MakePlace) -> None:
    place = make_place(options=["--fail-extraction", "purchases@2026-01-02=3"])
    place.run(SUBMIT, nightly_config(place))
    failures: list[str] = []
    while place.ledger.open_entries() or place.ledger.outbox():
        result = place.run(LAND, dict(tick_until_runs(place).run_config))
        if not result.success:
            failures.append(place.failure(result))
    [message] = failures
    assert message.splitlines()[0] == "1 of 1 partitions failed"
    assert "purchases 2026-01-02: the service reports the extraction as failed" in message
    assert "keen-pipeline retry purchases 2026-01-02" in message
    assert place.materialized("keen/purchases") == [d for d in DAYS if d != "2026-01-02"]
    assert place.materialized("keen/logins") == list(DAYS)


def test_a_wrong_key_fails_the_submit_run_in_words_and_the_intents_wait(make_place: MakePlace) -> None:
    place = make_place(read_key="wrong")
    result = place.run(SUBMIT, nightly_config(place))
    assert not result.success
    assert "KEEN_READ_KEY" in place.failure(result)
    assert place.counts() == {"requested": 8}
    # Whoever looks at the sensor's ticks sees why nothing goes on, and of which collections.
    skipped = place.tick().skip_message or ""
    assert skipped.startswith("none finished, 0 extractions at the service; logins, purchases: ")
    assert "the service refused KEEN_READ_KEY" in skipped


def test_an_unknown_partition_is_refused_before_anything_is_asked(make_place: MakePlace) -> None:
    place = make_place()
    config = nightly_config(place)
    config["ops"]["submit_extraction"]["config"]["partition_keys"] = ["2031-01-01"]
    assert not place.run(SUBMIT, config).success
    assert place.counts() == {}


def test_a_night_of_a_clock_that_is_ahead_asks_for_nothing_of_the_future(make_place: MakePlace) -> None:
    place = make_place()
    config = nightly_config(place)
    config["ops"]["submit_extraction"]["config"]["as_of"] = "2999-01-01T01:00:00Z"
    assert place.run(SUBMIT, config).success
    ends = [entry.request.timeframe.end for entry in place.ledger.open_entries()]
    assert ends
    assert max(ends) <= place.ledger.clock.now()
