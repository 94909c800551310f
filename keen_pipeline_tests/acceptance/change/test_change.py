"""Whatever changes around it, what today's configuration wants lies there; `change` tells what is done and what is asked."""

from __future__ import annotations

from pathlib import Path

import pytest

from keen_pipeline_tests.acceptance.change.__main__ import change


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_histories_of_changes_end_with_the_right_files(tmp_path: Path) -> None:
    figures, wrong = change(tmp_path, 4, seed=100)
    assert wrong == [], figures
    assert figures["rounds"] == 4
    assert figures["faults"]
