"""Landing fan-out: what has finished, and what a backfill asks for, is cut into bounded runs; on a live service."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any

import dagster as dg
import pytest
import yaml
from dagster._core.definitions.definitions_load_context import DefinitionsLoadContext
from dagster._core.execution.backfill import BulkActionStatus, PartitionBackfill
from dagster._core.remote_origin import RegisteredCodeLocationOrigin, RemoteJobOrigin, RemoteRepositoryOrigin
from dagster._core.test_utils import create_test_daemon_workspace_context, freeze_time, instance_for_test
from dagster._core.workspace.context import WorkspaceProcessContext
from dagster._core.workspace.load_target import ModuleTarget
from dagster._daemon import get_default_daemon_logger
from dagster._daemon.backfill import execute_backfill_iteration
from dagster._daemon.sensor import execute_sensor_iteration
from dagster._time import get_current_datetime

from keen_pipeline.defs.sensors import status
from keen_pipeline.extraction import Status
from keen_pipeline.ledger.notices import SqlNotices
from keen_pipeline_tests.defs.conftest import DAYS, MakePlace, Place
from keen_pipeline_tests.defs.nights.test_nightly import LAND, SUBMIT, nightly_config


def all_finished(place: Place, number: int, seconds: float = 30) -> None:
    """Poll without landing until so many extractions wait for a landing."""
    deadline = time.monotonic() + seconds
    while len(place.ledger.open_entries(status=Status.COMPLETE)) < number:
        assert time.monotonic() < deadline
        place.tick()
        time.sleep(0.2)
        place.ledger.due_now(e.entry_id for e in place.ledger.open_entries(status=Status.COMPLETE))


def configs(tick: dg.SensorExecutionData) -> list[dict[str, Any]]:
    return [dict(r.run_config["ops"]["materialize_csv"]["config"]) for r in tick.run_requests or []]


def queue_a_landing_run(place: Place, location: str = "here") -> None:
    """As the queued run coordinator holds it until a worker is free."""
    repository = RemoteRepositoryOrigin(RegisteredCodeLocationOrigin(location), "__repository__")
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
    assert place.counts() == {"landed": 8}
    assert place.ledger.outbox() == []


def test_no_more_landing_runs_are_asked_for_than_may_wait(make_place: MakePlace, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KEEN_PIPELINE_PARTITIONS_PER_RUN", "1")
    monkeypatch.setattr(status, "MAX_WAITING_RUNS", 4)
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
    # What was not asked for waits for a later tick.
    now = place.ledger.clock.now()
    assert sum(e.due_at <= now for e in place.ledger.open_entries(status=Status.COMPLETE)) == 7


def test_the_queue_of_another_code_location_keeps_none_of_ours(make_place: MakePlace, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(status, "MAX_WAITING_RUNS", 1)
    here = property(lambda _: RegisteredCodeLocationOrigin("here"))
    monkeypatch.setattr(dg.SensorEvaluationContext, "code_location_origin", here)
    monkeypatch.setattr(dg.SensorEvaluationContext, "repository_name", "__repository__")
    place = make_place()
    assert place.run(SUBMIT, nightly_config(place)).success
    all_finished(place, 8)
    queue_a_landing_run(place, "elsewhere")
    assert len(configs(place.tick())) == 1
    queue_a_landing_run(place)
    place.ledger.due_now([entry.entry_id for entry in place.ledger.open_entries(status=Status.COMPLETE)])
    assert "1 landing runs wait for a worker already" in (place.tick().skip_message or "")


def test_a_failure_is_named_by_the_run_it_happened_in(make_place: MakePlace, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KEEN_PIPELINE_PARTITIONS_PER_RUN", "2")
    place = make_place(options=["--fail-extraction", "purchases@2026-01-02=3"])
    assert place.run(SUBMIT, nightly_config(place)).success
    failures, deadline = [], time.monotonic() + 60
    while place.ledger.open_entries() or place.ledger.outbox():
        assert time.monotonic() < deadline
        for request in place.tick().run_requests or []:
            result = place.run(LAND, dict(request.run_config))
            failures += [] if result.success else [place.failure(result)]
        time.sleep(0.1)
    [message] = failures
    assert "purchases 2026-01-02: the service reports the extraction as failed" in message
    assert place.materialized("keen/purchases") == [d for d in DAYS if d != "2026-01-02"]
    assert place.materialized("keen/logins") == list(DAYS)


@contextmanager
def daemons_view(place: Place, tmp_path: Path) -> Iterator[WorkspaceProcessContext]:
    """The code location of `workspace.yaml` as the daemon sees it; runs end before the daemon goes on."""
    launcher = {"module": "dagster._core.launcher.sync_in_memory_run_launcher", "class": "SyncInMemoryRunLauncher"}
    coordinator = {"module": "dagster._core.run_coordinator", "class": "DefaultRunCoordinator"}
    (tmp_path / "home").mkdir()
    with (
        instance_for_test(
            temp_dir=str(tmp_path / "home"), overrides={"run_launcher": launcher, "run_coordinator": coordinator}
        ) as instance,
        create_test_daemon_workspace_context(ModuleTarget("keen_pipeline.definitions", "defs", None, "keen"), instance) as context,
    ):
        place.instance = instance
        yield context


def test_a_backfill_of_a_long_range_is_several_bounded_runs(
    make_place: MakePlace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    place = make_place(options=["--fail-extraction", "purchases@2026-01-03=3"])
    wanted = [{"name": name, "start_date": DAYS[0]} for name in ("purchases", "logins")]
    (tmp_path / "collections.yaml").write_text(yaml.safe_dump({"collections": wanted}))
    for name, value in {
        "KEEN_BASE_URL": place.endpoint.base_url,
        "KEEN_PROJECT_ID": place.endpoint.project_id,
        "KEEN_READ_KEY": place.endpoint.read_key,
        "KEEN_PIPELINE_COLLECTIONS": str(tmp_path / "collections.yaml"),
        "KEEN_PIPELINE_LEDGER_URL": str(place.ledger.engine.url),
        "KEEN_PIPELINE_DESTINATION": str(place.root),
        "KEEN_PIPELINE_POLL_SECONDS": "0.1",
        "KEEN_PIPELINE_PARTITIONS_PER_RUN": "2",
        "KEEN_PIPELINE_RUNNING": "true",
        "KEEN_PIPELINE_DIGEST_TO": "data@example.com",
    }.items():
        monkeypatch.setenv(name, value)
    # A run that is launched in this process leaves it as one that has loaded its definitions for good; others' have no say here.
    monkeypatch.setattr(DefinitionsLoadContext, "_instance", None)
    monkeypatch.delitem(sys.modules, "keen_pipeline.definitions", raising=False)
    with daemons_view(place, tmp_path) as context:
        evaluate_sensors(context)
        graph = context.create_request_context().asset_graph
        selection = [dg.AssetKey(["keen", name]) for name in ("purchases", "logins")]
        place.instance.add_backfill(
            PartitionBackfill.from_asset_partitions(
                "fan-out", graph, DAYS, selection, time.time(), {}, place.instance, False, None, None, None
            )
        )
        for _ in range(3):
            assert [error for error in execute_backfill_iteration(context, get_default_daemon_logger("backfill")) if error] == []
        runs = place.instance.get_runs(dg.RunsFilter(tags={"dagster/backfill": "fan-out"}))
        ranges = {
            (r.tags["dagster/asset_partition_range_start"], r.tags["dagster/asset_partition_range_end"]): r.status for r in runs
        }
        # A failure is its own run's alone.
        assert ranges == {(DAYS[0], DAYS[1]): dg.DagsterRunStatus.SUCCESS, (DAYS[2], DAYS[3]): dg.DagsterRunStatus.FAILURE}
        backfill = place.instance.get_backfill("fan-out")
        assert backfill is not None
        assert backfill.status is BulkActionStatus.COMPLETED_FAILED
        assert place.materialized("keen/purchases") == [d for d in DAYS if d != "2026-01-03"]
        assert place.materialized("keen/logins") == list(DAYS)
        assert place.counts()["landed"] == 7
        with freeze_time(get_current_datetime() + timedelta(minutes=1)):
            evaluate_sensors(context)
    assert sum("/failure/" in name for name, *_ in SqlNotices(place.ledger.engine).waiting()) == 1


def evaluate_sensors(context: WorkspaceProcessContext) -> None:
    """Each that is due, as the daemon does it; what is to be sent has no mail server to go to, which is an error of one of them."""
    list(execute_sensor_iteration(context, get_default_daemon_logger("sensor"), None, None))
