"""Nothing is lost and nothing doubled by kills at random moments; `crash` tells what is done and what is asked afterwards."""

from __future__ import annotations

from pathlib import Path

import pytest

from keen_pipeline_tests.acceptance.crash import crash


@pytest.mark.timeout(600)
@pytest.mark.parametrize("rounds", [3, pytest.param(25, marks=pytest.mark.slow)])
def test_everything_lands_once_though_runs_daemon_and_service_are_killed(tmp_path: Path, rounds: int) -> None:
    figures, wrong = crash(tmp_path / "rig", rounds, seed=rounds)
    assert wrong == [], figures
    assert sum(figures["killed"].values()) == rounds
    assert figures["partitions landed"] == figures["partitions asked"] == figures["files equal to a direct extraction"]
