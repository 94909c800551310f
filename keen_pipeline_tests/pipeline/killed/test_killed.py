"""A backfill of sixty days that is killed or terminated, on a live service: the same command goes on at once."""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path

import pytest

from keen_pipeline.client import KeenClient
from keen_pipeline.extraction import Status
from keen_pipeline.ledger import SqlLedger, open_engine
from keen_pipeline.scope import Scope
from keen_pipeline.service.embedded import Endpoint
from keen_pipeline.testing import live_service

DAYS = 60


def backfill(folder: Path, end: Endpoint) -> subprocess.Popen[str]:
    arguments = [str(folder), end.base_url, end.project_id, end.read_key, str(DAYS)]
    command = [sys.executable, "-m", "keen_pipeline_tests.pipeline.killed.process", *arguments]
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True)


@pytest.mark.parametrize("how", [signal.SIGKILL, pytest.param(signal.SIGTERM, marks=pytest.mark.slow)])
def test_the_same_backfill_again_goes_on_at_once(tmp_path: Path, how: signal.Signals) -> None:
    """Its lease is ten minutes; the test's own time limit is five."""
    with live_service(options=["--extraction-delay", "1"]) as end:  # noqa: SIM117 - the client's address is the service's
        with KeenClient(end.base_url, end.project_id, read_key=end.read_key, write_key=end.write_key) as keen:
            days = [f"2026-01-01T{n % 24:02}:00:00Z" for n in range(3)]
            keen.add_events({"purchases": [{"keen": {"timestamp": moment}, "n": n} for n, moment in enumerate(days)]})
            first = backfill(tmp_path, end)
            assert first.stdout is not None
            landed = []
            for line in first.stdout:
                if line.startswith("landed"):
                    landed.append(line.split()[1])
                    break
            first.send_signal(how)
            landed += [line.split()[1] for line in first.stdout if line.startswith("landed")]
            assert first.wait(60) == (-signal.SIGKILL if how is signal.SIGKILL else 143)
            ledger = SqlLedger(
                open_engine(f"sqlite:///{tmp_path / 'ledger.db'}"), Scope(f"projects/{end.project_id}", f"{tmp_path}/landing")
            )
            workers = ledger.workers.all()
            assert len(workers) == (1 if how is signal.SIGKILL else 0)
            assert {entry.claimed_by for entry in ledger.open_entries()} == {workers[0].worker_id if workers else None}
            in_flight = [e for e in ledger.open_entries() if e.status is Status.REQUESTED and e.posted_at is not None]
            again = backfill(tmp_path, end)
            out, _ = again.communicate(timeout=240)
            assert again.returncode == 0
            told = [line.split() for line in out.splitlines() if line != "begun"]
            assert sorted(key for _, key in told) == sorted({key for _, key in told})
            assert len(told) == DAYS
            # Of one day there may be two extractions only if its POST was under way.
            extractions = keen.list_extractions("purchases")
            assert DAYS <= len(extractions) <= DAYS + len(in_flight)
            assert ledger.open_entries() == []
            assert ledger.workers.all() == []
            attempts = {entry.attempt for entry in ledger.landed_entries("purchases")}
            assert attempts == {1}
            ledger.engine.dispose()
