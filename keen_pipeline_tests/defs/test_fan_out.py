"""Landing fan-out: what has finished, and what a backfill asks for, is cut into bounded runs; on a live service."""

from __future__ import annotations

import time
from typing import Any

import dagster as dg
import pytest
from dagster._core.remote_origin import RegisteredCodeLocationOrigin, RemoteJobOrigin, RemoteRepositoryOrigin

from keen_pipeline.defs import sensors
from keen_pipeline.extraction import Status
from keen_pipeline_tests.defs.conftest import DAYS, MakePlace, Place
from keen_pipeline_tests.defs.test_nightly import LAND, SUBMIT, nightly_config


def all_finished(place: Place, number: int, seconds: float = 30) -> None:
    """Poll without landing until so many extractions wait for a landing."""
    deadline = time.monotonic() + seconds
    while len(place.ledger.open_entries(status=Status.COMPLETE)) < number:
        assert time.monotonic() < deadline
        place.tick()
        time.sleep(0.2)
        for entry in place.ledger.open_entries(status=Status.COMPLETE):
            if entry.lease_owner is not None:
                place.ledger.release([entry.entry_id], entry.lease_owner)


def configs(tick: dg.SensorExecutionData) -> list[dict[str, Any]]:
    return [dict(r.run_config["ops"]["materialize_csv"]["config"]) for r in tick.run_requests or []]


def queue_a_landing_run(place: Place) -> None:
    """As the queued run coordinator holds it until a worker is free."""
    repository = RemoteRepositoryOrigin(RegisteredCodeLocationOrigin("here"), "__repository__")
    place.instance.add_run(
        dg.DagsterRun(job_name=LAND, status=dg.DagsterRunStatus.QUEUED, remote_job_origin=RemoteJobOrigin(repository, LAND))
    )


def test_a_tick_cuts_what_has_finished_into_bounded_runs_of_neighbours(
    make_place: MakePlace, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("KEEN_PIPELINE_PARTITIONS_PER_RUN", "3")
    place = make_place()
    assert place.run(SUBMIT, nightly_config(place)).success
    all_finished(place, 8)
    tick = place.tick()
    asked = configs(tick)
    assert [len(config["entry_ids"]) for config in asked] == [3, 3, 2]
    assert len({entry_id for config in asked for entry_id in config["entry_ids"]}) == 8
    # Runs of one collection where they can be: each run lists its collections once.
    assert [[c["name"] for c in config["collections"]] for config in asked] == [["logins"], ["logins", "purchases"], ["purchases"]]
    assert configs(place.tick()) == []  # all of it is claimed
    for request in tick.run_requests or []:
        assert place.run(LAND, dict(request.run_config)).success
    assert place.materialized("keen/purchases") == list(DAYS)
    assert place.materialized("keen/logins") == list(DAYS)
    assert place.ledger.summary().counts == {Status.LANDED: 8}
    assert place.ledger.unreported() == []


def test_no_more_landing_runs_are_asked_for_than_may_wait(make_place: MakePlace, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KEEN_PIPELINE_PARTITIONS_PER_RUN", "1")
    monkeypatch.setattr(sensors, "MAX_WAITING_RUNS", 4)
    place = make_place()
    assert place.run(SUBMIT, nightly_config(place)).success
    all_finished(place, 8)
    for _ in range(3):
        queue_a_landing_run(place)
    assert [len(config["entry_ids"]) for config in configs(place.tick())] == [1]
    queue_a_landing_run(place)
    full = place.tick()
    assert configs(full) == []
    assert full.skip_message == "7 finished, and 4 landing runs wait for a worker already"
    # What was not asked for is nobody's claim, and waits for a later tick.
    assert sum(e.lease_owner is None for e in place.ledger.open_entries(status=Status.COMPLETE)) == 7


def test_a_failure_is_named_by_the_run_it_happened_in(make_place: MakePlace, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KEEN_PIPELINE_PARTITIONS_PER_RUN", "2")
    place = make_place(options=["--fail-extraction", "purchases@2026-01-02=3"])
    assert place.run(SUBMIT, nightly_config(place)).success
    failures, deadline = [], time.monotonic() + 60
    while place.ledger.open_entries() or place.ledger.unreported():
        assert time.monotonic() < deadline
        for request in place.tick().run_requests or []:
            result = place.run(LAND, dict(request.run_config))
            failures += [] if result.success else [place.failure(result)]
        time.sleep(0.1)
    [message] = failures
    assert "purchases[2026-01-02] abandoned after 3 attempts" in message
    assert place.materialized("keen/purchases") == [d for d in DAYS if d != "2026-01-02"]
    assert place.materialized("keen/logins") == list(DAYS)
