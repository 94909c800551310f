"""The run launcher of the Celery profile: dagster-celery's, which also notices that a worker's host has died.

Celery tells when a task ends. When a whole worker dies there is nobody to tell it: the task stays "started" in the result backend,
and dagster-celery takes the run for a living one until its longest time is over. So the worker is asked whether it still has the
task, over the same broker.
"""

from __future__ import annotations

import time
from typing import Any

import dagster as dg
from dagster._core.launcher import CheckRunHealthResult, WorkerStatus
from dagster_celery.launcher import CeleryRunLauncher
from dagster_celery.tags import DAGSTER_CELERY_TASK_ID_TAG

# A worker's main process answers in milliseconds, also while its pool is busy.
ANSWER_SECONDS = 2.0
# A worker that reconnects to its broker, or whose host is overloaded, is silent for some seconds and not dead.
LOST_AFTER_SECONDS = 30.0


class WatchedCeleryRunLauncher(CeleryRunLauncher):
    """dagster-celery's launcher of whole runs on Celery workers, with its configuration and `lost_after_seconds` (default 30).

    A run whose worker has not answered for that long, or answers that it does not have the run any more, is failed, so that
    Dagster's run retries take it up. The result backend must be one that others can read (Redis, a database; not `rpc://`), and
    the workers' pool one that answers while it works (prefork or threads; not solo).
    """

    def __init__(self, *args: Any, lost_after_seconds: float = LOST_AFTER_SECONDS, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._lost_after_seconds = lost_after_seconds
        # By run: since when nothing is known of its task, as time.monotonic(). A restarted daemon begins again.
        self._silent_since: dict[str, float] = {}

    @classmethod
    def config_type(cls) -> Any:
        """As dagster-celery's."""
        return {
            **super().config_type(),  # type: ignore[dict-item]
            "lost_after_seconds": dg.Field(
                dg.Noneable(float),
                is_required=False,
                default_value=LOST_AFTER_SECONDS,
                description="How long a worker may be silent about a run before the run counts as dead. Default: 30.",
            ),
        }

    def check_run_worker_health(self, run: dg.DagsterRun) -> CheckRunHealthResult:
        """Whether the run's worker still has it.

        Raises if the broker or the result backend can't be asked: nothing is known then, and the run is left alone.
        """
        told = super().check_run_worker_health(run)
        if told.status is WorkerStatus.FAILED:
            return told
        doubt = self._doubt(run.tags[DAGSTER_CELERY_TASK_ID_TAG])
        if doubt is None:
            self._silent_since.pop(run.run_id, None)
            return CheckRunHealthResult(WorkerStatus.RUNNING)
        since = self._silent_since.setdefault(run.run_id, time.monotonic())
        if time.monotonic() - since < self._lost_after_seconds:
            return CheckRunHealthResult(WorkerStatus.RUNNING)
        self._silent_since.pop(run.run_id)
        return CheckRunHealthResult(WorkerStatus.FAILED, f"{doubt}, for {self._lost_after_seconds:g} s or longer.")

    def terminate(self, run_id: str) -> bool:
        """Ends the run's process, and the run as canceled: else the lost process would be taken for a failure and retried."""
        run = self._instance.get_run_by_id(run_id)
        if run is None or run.is_finished:
            return False
        self._instance.report_run_canceling(run)
        if not super().terminate(run_id):
            return False
        self._instance.report_run_canceled(run)
        return True

    def _doubt(self, task_id: str) -> str | None:
        """Why the run, which is not over in Dagster's eyes, may be dead; None if its worker says that it is working on it."""
        meta = self.celery.backend.get_task_meta(task_id)
        if meta["status"] != "STARTED":
            return f"Celery has task {task_id} as {meta['status']}, and the run has not ended"
        worker = (meta["result"] or {}).get("hostname")
        if worker is None:
            return f"Celery does not say which worker has task {task_id}"
        answers = self.celery.control.inspect(destination=[worker], timeout=ANSWER_SECONDS).query_task(task_id) or {}
        if worker not in answers:
            return f"Celery worker {worker} does not answer"
        if task_id not in answers[worker]:
            return f"Celery worker {worker} does not have task {task_id} any more"
        return None
