"""The launcher of the Celery profile, on a real broker and real workers that are killed."""

from __future__ import annotations

import os
import subprocess
import sys
import time
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import dagster as dg
import pytest
from dagster._core.launcher import WorkerStatus

from keen_pipeline.cli.docs import PROFILES
from keen_pipeline.defs.celery_launcher import WatchedCeleryRunLauncher
from keen_pipeline_tests.acceptance.crash.rig import die_with_parent, end_all, marked
from keen_pipeline_tests.servers.valkey import running_valkey

LOST_AFTER_SECONDS = 1.0
READY_SECONDS = 60.0


class Workers:
    """Celery workers as the profile starts them, by their names."""

    def __init__(self, folder: Path, broker: str) -> None:
        self.folder = folder
        self._mark = f"keen-celery-{uuid.uuid4().hex}"
        self._starts = 0
        self._env = {
            **os.environ,
            "PYTHONPATH": os.pathsep.join(filter(None, [str(PROFILES / "celery"), os.environ.get("PYTHONPATH")])),
            "DAGSTER_CELERY_BROKER_URL": f"{broker}/0",
            "DAGSTER_CELERY_BACKEND_URL": f"{broker}/1",
        }

    def start(self, name: str) -> None:
        """One process for tasks beside the main one; waits until it takes tasks."""
        self._starts += 1
        log = self.folder / f"{name}-{self._starts}.log"
        tasks = "keen_pipeline_tests.deployment.celery_tasks"
        options = ["-Q", "dagster", "-c", "1", "-n", f"{name}@here", "-I", tasks, "-l", "INFO"]
        with log.open("wb") as out:
            process = subprocess.Popen(
                [sys.executable, "-m", "celery", "-A", "dagster_celery.app", "worker", *options],
                env={**self._env, "ACCEPTANCE_MARK": self._mark_of(name)},
                cwd=self.folder,
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=subprocess.STDOUT,
                preexec_fn=die_with_parent,
            )
        deadline = time.monotonic() + READY_SECONDS
        while " ready." not in log.read_text():
            assert process.poll() is None, log.read_text()[-3000:]
            assert time.monotonic() < deadline, log.read_text()[-3000:]
            time.sleep(0.1)

    def kill(self, name: str) -> None:
        """All its processes at once."""
        end_all(self._mark_of(name))

    def pool_processes(self, name: str) -> int:
        return len(marked(self._mark_of(name))) - 1

    def _mark_of(self, name: str) -> str:
        return f"{self._mark}-{name}."


@pytest.fixture(scope="module")
def broker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with running_valkey(tmp_path_factory.mktemp("broker")) as url:
        yield url


@pytest.fixture
def workers(tmp_path: Path, broker: str) -> Iterator[Workers]:
    found = Workers(tmp_path, broker)
    yield found
    found.kill("one")


@pytest.fixture
def instance() -> Iterator[dg.DagsterInstance]:
    with dg.DagsterInstance.ephemeral() as found:
        yield found


@pytest.fixture
def launcher(broker: str, instance: dg.DagsterInstance) -> WatchedCeleryRunLauncher:
    config: dict[str, Any] = {"broker": f"{broker}/0", "backend": f"{broker}/1", "default_queue": "dagster"}
    found = WatchedCeleryRunLauncher(**config, lost_after_seconds=LOST_AFTER_SECONDS)
    found.register_instance(instance)
    return found


def run_of(launcher: WatchedCeleryRunLauncher, instance: dg.DagsterInstance, seconds: float) -> dg.DagsterRun:
    """A run in progress whose task is `work`."""
    task = launcher.celery.send_task("work", [seconds], queue="dagster")
    run = dg.DagsterRun("a_job", status=dg.DagsterRunStatus.STARTED, tags={"dagster-celery/task_id": task.id})
    instance.add_run(run)
    deadline = time.monotonic() + 20
    while task.state not in ("STARTED", "SUCCESS"):  # a short one may have ended between two looks
        assert time.monotonic() < deadline, task.state
        time.sleep(0.05)
    return run


def judged(launcher: WatchedCeleryRunLauncher, run: dg.DagsterRun, status: WorkerStatus, seconds: float = 15) -> str:
    """Ask as the run monitor does until it is `status`; what it says then. The time before it is RUNNING."""
    deadline = time.monotonic() + seconds
    while True:
        health = launcher.check_run_worker_health(run)
        if health.status is status:
            return health.msg or ""
        assert health.status is WorkerStatus.RUNNING
        assert time.monotonic() < deadline, health
        time.sleep(0.2)


def until(condition: Callable[[], bool], seconds: float = 15) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.1)


@pytest.mark.slow
def test_a_run_whose_worker_is_killed_is_failed_and_not_before(
    workers: Workers, launcher: WatchedCeleryRunLauncher, instance: dg.DagsterInstance
) -> None:
    workers.start("one")
    run = run_of(launcher, instance, 600)
    # Also while its only process is busy the worker answers.
    begun = time.monotonic()
    while time.monotonic() < begun + 2 * LOST_AFTER_SECONDS:
        assert launcher.check_run_worker_health(run).status is WorkerStatus.RUNNING
    workers.kill("one")
    assert launcher.check_run_worker_health(run).status is WorkerStatus.RUNNING  # it may only be slow
    assert judged(launcher, run, WorkerStatus.FAILED) == "Celery worker one@here does not answer, for 1 s or longer."
    # One with the same name comes back, and does not have that run.
    workers.start("one")
    assert "does not have task" in judged(launcher, run, WorkerStatus.FAILED)


@pytest.mark.slow
def test_a_task_that_ended_without_the_run_is_a_failure(
    workers: Workers, launcher: WatchedCeleryRunLauncher, instance: dg.DagsterInstance
) -> None:
    workers.start("one")
    run = run_of(launcher, instance, 0.5)
    assert "as SUCCESS, and the run has not ended" in judged(launcher, run, WorkerStatus.FAILED)


@pytest.mark.slow
def test_a_terminated_run_is_canceled_and_its_process_ends(
    workers: Workers, launcher: WatchedCeleryRunLauncher, instance: dg.DagsterInstance
) -> None:
    workers.start("one")
    run = run_of(launcher, instance, 600)
    assert launcher.terminate(run.run_id)
    found = instance.get_run_by_id(run.run_id)
    # A failed one would be retried.
    assert found is not None
    assert found.status is dg.DagsterRunStatus.CANCELED
    until(lambda: launcher.celery.AsyncResult(run.tags["dagster-celery/task_id"]).state == "REVOKED")
    # The worker has a process for the next run.
    assert judged(launcher, run_of(launcher, instance, 30), WorkerStatus.RUNNING) == ""
    assert not launcher.terminate(run.run_id)


def test_where_the_broker_can_not_be_asked_nothing_is_judged(instance: dg.DagsterInstance) -> None:
    lost = WatchedCeleryRunLauncher(
        broker="redis://127.0.0.1:1/0",
        backend="redis://127.0.0.1:1/1",
        default_queue="dagster",
        lost_after_seconds=0.0,
        config_source={"result_backend_max_retries": 0, "redis_retry_on_timeout": False},
    )
    lost.register_instance(instance)
    run = dg.DagsterRun("a_job", status=dg.DagsterRunStatus.STARTED, tags={"dagster-celery/task_id": uuid.uuid4().hex})
    with pytest.raises(Exception, match=r"(?i)connect|refused|retry"):
        lost.check_run_worker_health(run)
