"""`keen-pipeline demo`, as a newcomer runs it."""

from __future__ import annotations

import csv
import hashlib
import json
import signal
import time
from pathlib import Path

import dagster as dg
import pytest

from keen_pipeline.service.endpoint import exclusive
from keen_pipeline_tests.acceptance.processes import Shell, await_text


@pytest.mark.timeout(360)
def test_the_demo_lands_what_it_says_and_leaves_nothing_running(tmp_path: Path) -> None:
    shell = Shell(tmp_path)
    done = shell.run("demo", "--json", "--dir", "demo", timeout=330)
    assert done.returncode == 0, done.stderr[-3000:]
    document = json.loads(done.stdout)
    assert {row["collection"] for row in document["landings"]} == {"purchases", "logins", "pageviews"}
    assert len(document["landings"]) == 21
    for row in document["landings"]:
        data = Path(row["uri"]).read_bytes()
        assert (row["bytes"], row["sha256"]) == (len(data), hashlib.sha256(data).hexdigest())
        with Path(row["uri"]).open(newline="", encoding="utf-8") as file:
            records = list(csv.reader(file))
        assert len(records) - 1 == row["events"]
        assert {len(record) for record in records} == {len(records[0])}
    assert any(row["events"] == 0 for row in document["landings"])
    purchases = sorted(row["partition"] for row in document["landings"] if row["collection"] == "purchases")
    assert document["downstream"]["partitions"] == purchases
    with dg.DagsterInstance.from_config(str(tmp_path / "demo" / "dagster")) as instance:
        assert sorted(instance.get_materialized_partitions(dg.AssetKey("daily_revenue"))) == purchases
        for name in ("purchases", "logins", "pageviews"):
            records = instance.fetch_materializations(dg.AssetKey(["keen", name]), limit=100).records
            assert sorted(r.partition_key or "" for r in records) == purchases
    assert shell.await_nothing_left() == []
    assert secrets_outside_the_service(tmp_path / "demo", done.stdout + done.stderr) == []


def secrets_outside_the_service(demo: Path, printed: str) -> list[str]:
    """Where a key or the signature of a results URL stands: in logs, Dagster's history, the ledger, files or the output."""
    credentials = json.loads((demo / "keen" / "credentials.json").read_text())
    secrets = [value.encode() for name, value in credentials.items() if name.endswith("_key")]
    assert len(secrets) == 4
    secrets.append(b"signature=")
    found = [f"printed: {secret!r}" for secret in secrets if secret in printed.encode()]
    for file in demo.rglob("*"):
        if file.is_file() and demo / "keen" not in file.parents:
            data = file.read_bytes()
            found += [f"{file}: {secret[:6]!r}..." for secret in secrets if secret in data]
    return found


@pytest.mark.timeout(180)
@pytest.mark.slow
@pytest.mark.parametrize("sent", [signal.SIGINT, signal.SIGTERM])
def test_a_stopped_demo_stops_everything_it_started(tmp_path: Path, sent: signal.Signals) -> None:
    shell, log = Shell(tmp_path), tmp_path / "log"
    demo = shell.start("demo", "--dir", "demo", log=log)
    await_text(log, "nightly job keen_submit_extractions is launched", demo, 120)
    assert len(shell.left_running()) >= 3
    time.sleep(1)
    demo.send_signal(sent)
    assert demo.wait(60) != 0
    assert shell.await_nothing_left() == []


def test_a_demo_that_runs_is_left_alone(tmp_path: Path) -> None:
    with exclusive(tmp_path / "demo" / "keen"):
        (tmp_path / "demo" / ".keen-pipeline-demo").touch()
        done = Shell(tmp_path).run("demo", "--dir", "demo")
    assert (done.returncode, "another demo runs in" in done.stderr) == (1, True)


def test_a_folder_of_somebody_else_is_refused_and_left_alone(tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("years of work")
    done = Shell(tmp_path).run("demo", "--dir", "mine")
    assert done.returncode == 1
    assert "--dir" in done.stderr
    assert [p.name for p in (tmp_path / "mine").iterdir()] == ["thesis.txt"]
