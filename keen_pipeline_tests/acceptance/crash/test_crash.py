"""Nothing is lost and nothing doubled by kills at random moments; `crash` tells what is done and what is asked afterwards."""

from __future__ import annotations

from pathlib import Path

import pytest

from keen_pipeline_tests.acceptance.crash.__main__ import crash

ROUNDS = 4
"""More of them: `python -m keen_pipeline_tests.acceptance.crash --rounds 1000`."""


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_everything_lands_once_though_runs_daemon_and_service_are_killed(tmp_path: Path) -> None:
    figures, wrong = crash(tmp_path / "rig", ROUNDS, seed=ROUNDS)
    assert wrong == [], figures
    assert sum(figures["killed"].values()) == ROUNDS
    assert figures["partitions landed"] == figures["partitions asked"] == figures["files equal to a direct extraction"]
