"""kill -9 at random moments, during ingest and during extraction: nothing acknowledged is lost, nothing half is shown."""

from __future__ import annotations

import itertools
import os
import random
import signal
import time
from pathlib import Path

import pytest

from keen_pipeline.service import embedded
from keen_pipeline_tests.service.cluster import Shared, TurningHttp
from keen_pipeline_tests.service.crash_load import Outcome, check, crash_some, load, until_deleted
from keen_pipeline_tests.service.environment import clean_environment
from keen_pipeline_tests.service.http_client import Http


def crash(data: Path, rounds: int, seed: int) -> None:
    """Kill one service after another on the same folder, then look at what is left."""
    moments, numbers, outcome = random.Random(seed), itertools.count(), Outcome()
    for _ in range(rounds):
        with embedded.start(data, env=clean_environment()) as service, load([service.endpoint], numbers, outcome) as ingests:
            until_deleted(ingests, outcome)
            time.sleep(moments.uniform(0.02, 1.2))
            os.kill(service.pid, signal.SIGKILL)
    with embedded.start(data, env=clean_environment()) as service:
        check(Http(service.endpoint), outcome)
        assert leftovers(data / "results") == []


def leftovers(results: Path) -> list[str]:
    return [path.name for path in results.iterdir() if path.suffix != ".csv"]


def test_nothing_is_lost_by_kill_9(data: Path) -> None:
    crash(data, rounds=4, seed=1)


@pytest.mark.slow
def test_nothing_is_lost_by_kill_9_of_two_services_on_one_storage(shared: Shared) -> None:
    with shared.running([0, 0]) as cluster:
        outcome = crash_some(cluster, lambda: cluster.endpoints, rounds=2, seed=1)
        check(TurningHttp(cluster.endpoints), outcome)
    for number in cluster.services:
        assert leftovers(shared.folder / f"process-{number}" / "shared" / "results") == []


@pytest.mark.slow
@pytest.mark.timeout(1200)
@pytest.mark.parametrize("seed", [2, 3])
def test_nothing_is_lost_by_kill_9_at_ten_random_moments(data: Path, seed: int) -> None:
    crash(data, rounds=10, seed=seed)


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_nothing_is_lost_by_kill_9_of_five_services_on_one_storage(shared: Shared) -> None:
    with shared.running([0] * 5) as cluster:
        outcome = crash_some(cluster, lambda: cluster.endpoints, rounds=6, seed=7)
        check(TurningHttp(cluster.endpoints), outcome)


def test_a_torn_log_is_cut_at_its_last_acknowledged_batch(data: Path) -> None:
    with embedded.start(data, env=clean_environment()) as service:
        Http(service.endpoint).add("torn", {"n": 1}, {"n": 2})
        os.kill(service.pid, signal.SIGKILL)
    (log,) = (data / "log" / "torn").glob("*.ndjson")
    with log.open("ab") as file:
        file.write(b'{"t":0,"p0":"\\"3\\"","p1":"x"}\n{"t":0,"p0":"4"')
    with embedded.start(data, env=clean_environment()) as service:
        assert Http(service.endpoint).query("select_unique", "torn", target_property="n") == [1, 2]


def test_a_signal_ends_the_service_in_order_and_its_work_is_taken_up(data: Path) -> None:
    with embedded.start(data, env=clean_environment(), options=["--extraction-delay", "1"]) as service:
        http = Http(service.endpoint)
        http.add("kept", {"n": 1})
        made = http.json("POST", f"{http.v2}/kept/_extract", body={"filters": []})
        os.kill(service.pid, signal.SIGTERM)
        service.stop()
    assert not (data / "endpoint.json").exists()
    with embedded.start(data, env=clean_environment()) as service:
        http = Http(service.endpoint)
        assert b"header:timestamp,body:n\n" in http.request("GET", http.wait("kept", made["_id"]), key=None).data
