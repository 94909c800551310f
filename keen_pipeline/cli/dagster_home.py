"""A DAGSTER_HOME of ours, for commands that start Dagster where nobody has configured it."""

from __future__ import annotations

from pathlib import Path

DAGSTER_YAML = """\
# Written by keen-pipeline where no dagster.yaml was there; yours from now on.
run_coordinator:
  module: dagster.core.run_coordinator
  class: QueuedRunCoordinator
  config:
    dequeue_interval_seconds: 1
concurrency:
  runs:
    max_concurrent_runs: 4
sensors:
  use_threads: true
  num_workers: 4
# A run whose process died, on start or later, gives its place free again. No backfill takes two days.
run_monitoring:
  enabled: true
  start_timeout_seconds: 180
  max_runtime_seconds: 172800
  poll_interval_seconds: 60
telemetry:
  enabled: false
nux:
  enabled: false
"""


def make_dagster_home(folder: Path) -> Path:
    """The absolute folder with a dagster.yaml in it; one that is there is left as it is."""
    folder = folder.resolve()
    folder.mkdir(parents=True, exist_ok=True)
    if not (folder / "dagster.yaml").exists():
        (folder / "dagster.yaml").write_text(DAGSTER_YAML)
    return folder
