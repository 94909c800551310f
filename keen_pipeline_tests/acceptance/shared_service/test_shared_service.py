"""Four services behind nginx: what `acceptance.shared_service` shows, in short."""

from __future__ import annotations

from pathlib import Path

import pytest

from keen_pipeline_tests.acceptance.shared_service.__main__ import run


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_four_services_behind_nginx(tmp_path: Path) -> None:
    report = run(tmp_path, rounds=3, seconds=2)
    assert report.official_client_checks == 6
    assert report.killed >= 3
    assert report.acknowledged > 0
    assert report.extractions > 0
    assert [(one.name, one.processes) for one in report.throughput] == [
        ("one data folder", 1),
        ("shared storage", 1),
        ("shared storage", 4),
    ]
    assert all(one.events > 0 for one in report.throughput)
