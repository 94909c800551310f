"""Backfills on deployment profiles as `scale` runs them, smaller, with the profiles' patience shortened."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from keen_pipeline_tests.acceptance.scale.__main__ import scale
from keen_pipeline_tests.acceptance.scale.rig import ground

QUICK: dict[str, Any] = {
    "run_launcher": {"config": {"lost_after_seconds": 2.0}},
    "run_monitoring": {"poll_interval_seconds": 2},
    "run_coordinator": {"config": {"dequeue_interval_seconds": 1}},
}


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_a_backfill_of_which_a_celery_worker_dies_lands_everything_once(tmp_path: Path) -> None:
    size = {"names": ("purchases", "logins"), "days": 10, "partitions_per_run": 2, "delay": 3.0}
    with ground(tmp_path) as base:
        document, wrong = scale(base, {"killed": (2, True)}, **size, over=QUICK, lease_seconds=8.0)
    figures = document["killed"]
    assert wrong == [], figures
    assert figures["partitions landed"] == figures["partitions asked"] == figures["files equal to a direct extraction"] == 20
    assert figures["landed before the kill"] < 20
    assert figures["runs"]["FAILURE"] == 1
    # Four runs of the backfill; what the lost one left is landed by the one that follows it, or by the sensor's if that is sooner.
    assert figures["runs"]["SUCCESS"] >= 5
    assert set(figures["runs by worker"]) == {"worker1", "worker2"}


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_a_backfill_on_postgresql_s3_and_two_code_servers_lands_everything_once(tmp_path: Path) -> None:
    over = {"run_monitoring": QUICK["run_monitoring"], "run_coordinator": QUICK["run_coordinator"]}
    size = {"names": ("purchases", "logins"), "days": 4, "partitions_per_run": 2, "delay": 1.0}
    with ground(tmp_path) as base:
        document, wrong = scale(base, {"plain": (0, False)}, **size, over=over, profile="postgres_s3", runs=2)
    figures = document["plain"]
    assert wrong == [], figures
    assert figures["partitions landed"] == figures["files equal to a direct extraction"] == 8
    # Others land what the first step of a run has submitted for the next one, if a tick of the sensor comes in between.
    assert (figures["runs of the backfill"], set(figures["runs"])) == (2, {"SUCCESS"}), figures
    assert figures["code locations"] == ["downstream", "keen"]
