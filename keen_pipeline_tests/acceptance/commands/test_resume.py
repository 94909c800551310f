"""A backfill on the command line that Ctrl-C stopped: the same command goes on where it was."""

from __future__ import annotations

import json
import signal
import time
from pathlib import Path
from typing import Any

import pytest

from keen_pipeline.client import KeenClient
from keen_pipeline.testing import live_service
from keen_pipeline_tests.acceptance.processes import Shell

DAYS = [f"2026-01-0{day}" for day in range(1, 6)]
WORDS = ["backfill", "purchases", "--from", DAYS[0], "--to", DAYS[-1], "--json"]


def open_extractions(shell: Shell) -> list[dict[str, Any]]:
    [row] = json.loads(shell.run("status", "--json").stdout)["collections"]
    return list(row["open"])


@pytest.mark.timeout(120)
@pytest.mark.parametrize(
    ("sent", "status"),
    [
        (signal.SIGTERM, 143),
        pytest.param(signal.SIGINT, 130, marks=pytest.mark.slow),
        pytest.param(signal.SIGHUP, 129, marks=pytest.mark.slow),
    ],
)
def test_after_a_signal_the_same_command_lands_what_was_submitted(tmp_path: Path, sent: signal.Signals, status: int) -> None:
    (tmp_path / "collections.yaml").write_text('collections: [{name: purchases, start_date: "2026-01-01"}]')
    with live_service(options=["--extraction-delay", "8"]) as service:
        with KeenClient(service.base_url, service.project_id, read_key=service.read_key, write_key=service.write_key) as client:
            client.add_events({"purchases": [{"keen": {"timestamp": f"{day}T12:00:00Z"}, "n": 1} for day in DAYS]})
        environment = {
            "KEEN_BASE_URL": service.base_url,
            "KEEN_PROJECT_ID": service.project_id,
            "KEEN_READ_KEY": service.read_key,
            "KEEN_PIPELINE_COLLECTIONS": "collections.yaml",
        }
        shell, log = Shell(tmp_path, environment), tmp_path / "log"
        command = shell.start(*WORDS, log=log)
        deadline = time.monotonic() + 60
        while [e["status"] for e in open_extractions(shell)] != ["submitted"] * 5:
            assert command.poll() is None, log.read_text()
            assert time.monotonic() < deadline, log.read_text()
        command.send_signal(sent)
        assert command.wait(30) == status, log.read_text()
        assert "the same command takes it up again" in log.read_text()
        asked = {e["partition"]: e["extraction_id"] for e in open_extractions(shell)}
        assert sorted(asked) == DAYS
        done = shell.run(*WORDS)
        assert done.returncode == 0, done.stderr
        landed = {row["partition"]: row["extraction_id"] for row in json.loads(done.stdout)["landings"]}
        assert landed == asked
        with KeenClient(service.base_url, service.project_id, read_key=service.read_key) as client:
            assert set(client.list_extractions("purchases")) == set(asked.values())
    assert shell.await_nothing_left() == []
