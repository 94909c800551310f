"""What went wrong reaches a person in the words it was told in, whatever signs they hold, and as one line of a log."""

from __future__ import annotations

from datetime import datetime, timezone
from pathlib import Path

import pytest

from keen_pipeline.cli.common import follow
from keen_pipeline.collection import Collection
from keen_pipeline.errors import RequestRejectedError
from keen_pipeline.extraction import Status
from keen_pipeline.ledger import SqlLedger, open_engine
from keen_pipeline.lifecycle import Limits
from keen_pipeline.partitions import partition_range
from keen_pipeline.pipeline import extract, partition_request
from keen_pipeline_tests.acceptance.processes import Shell
from keen_pipeline_tests.unit.test_pipeline import World
from keen_pipeline_tests.unit.test_pipeline import world as world

# To a terminal's markup the first is the end of something never begun, the second nothing to show.
WORDS = "HTTP 400: no [/filters] in [operator], and more of it than fits on a line of a terminal " + "or two " * 20


def test_an_extractions_error_is_shown_word_for_word(tmp_path: Path) -> None:
    shell = Shell(tmp_path)
    engine = open_engine(f"sqlite:///{tmp_path / 'data' / 'ledger.db'}")
    ledger = SqlLedger(engine)
    collection = Collection("purchases", "2026-01-01")
    days = partition_range(collection, "2026-01-01", "2026-01-01", datetime(2026, 2, 1, tzinfo=timezone.utc))
    [asked] = ledger.request([partition_request(collection, day, "/landing") for day in days])
    ledger.fail(asked.entry.entry_id, WORDS, limits=Limits(), final=True)
    engine.dispose()
    shown = shell.run("status")
    assert shown.returncode == 0, shown.stderr
    assert Status.ABANDONED.value in shown.stdout
    assert "no [/filters] in [operator]" in " ".join(shown.stdout.split())


def test_a_wait_says_in_one_line_why_it_gives_up(world: World, capsys: pytest.CaptureFixture[str]) -> None:
    world.api.on_submit = lambda number, request: (
        RequestRejectedError(WORDS, status=400) if request.partition_key == "2026-01-02" else None
    )
    landed, failed = follow(extract(world.pipeline, world.requests()), 3, "purchases")
    assert (len(landed), [entry.request.partition_key for entry, _ in failed]) == (2, ["2026-01-02"])
    told = capsys.readouterr().err.splitlines()
    assert sum("purchases[2026-01-02]" in line and WORDS.strip() in line for line in told) == 1, told
