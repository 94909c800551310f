"""kill -9 at random moments, during ingest and during extraction: nothing acknowledged is lost, nothing half is shown."""

from __future__ import annotations

import contextlib
import csv
import io
import itertools
import json
import os
import random
import signal
import threading
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import pytest
import urllib3

from keen_pipeline.service import embedded
from keen_pipeline_tests.service.cluster import Shared, TurningHttp
from keen_pipeline_tests.service.environment import clean_environment
from keen_pipeline_tests.service.http_client import Http

BATCH = 500


class Ingest(threading.Thread):
    """Posts batches until the service is gone or `stop` is set; knows which were acknowledged and which may have been."""

    def __init__(self, endpoint: embedded.Endpoint, numbers: Iterator[int]) -> None:
        super().__init__()
        self._http = Http(endpoint)
        self._numbers = numbers
        self.stop = threading.Event()
        self.acknowledged: list[int] = []
        self.unknown: list[int] = []

    def run(self) -> None:
        while not self.stop.is_set():
            number = next(self._numbers)
            batch = [{"batch": number, "index": i, "text": "x" * 40, f"late{number % 7}": i} for i in range(BATCH)]
            try:
                answer = self._http.request("POST", f"{self._http.v3}/events", body={"crash": batch}, key="write_key")
            except urllib3.exceptions.HTTPError:
                self.unknown.append(number)
                return
            assert answer.status == 200, answer.data
            assert all(one["success"] for one in json.loads(answer.data)["crash"])
            self.acknowledged.append(number)


def submit_until_gone(endpoint: embedded.Endpoint, made: list[str], stop: threading.Event) -> None:
    http = Http(endpoint)
    try:
        while not stop.is_set():
            answer = http.request("POST", f"{http.v2}/crash/_extract", body={"filters": []})
            if answer.status == 200:
                made.append(json.loads(answer.data)["_id"])
            time.sleep(0.03)
    except urllib3.exceptions.HTTPError:
        return


@contextlib.contextmanager
def load(endpoints: Sequence[embedded.Endpoint], numbers: Iterator[int], outcome: Outcome) -> Iterator[None]:
    """Ingest and submit at every service while the block runs."""
    ingests = [Ingest(endpoint, numbers) for endpoint in endpoints]
    submits = [
        threading.Thread(target=submit_until_gone, args=(endpoint, outcome.made, ingest.stop))
        for endpoint, ingest in zip(endpoints, ingests, strict=True)
    ]
    for thread in (*ingests, *submits):
        thread.start()
    try:
        yield
    finally:
        for ingest in ingests:
            ingest.stop.set()
        for thread in (*ingests, *submits):
            thread.join()
    for ingest in ingests:
        outcome.acknowledged += ingest.acknowledged
        outcome.unknown += ingest.unknown


@dataclass
class Outcome:
    """What clients know after some rounds: batches acknowledged, batches whose answer got lost, ids of extractions."""

    acknowledged: list[int] = field(default_factory=list)
    unknown: list[int] = field(default_factory=list)
    made: list[str] = field(default_factory=list)


def check(http: Http, outcome: Outcome) -> None:
    """Everything acknowledged is there once, every extraction ends complete, every file is whole."""
    content = http.csv("crash")
    rows = list(csv.DictReader(io.StringIO(content.decode())))
    counts: dict[int, int] = {}
    for row in rows:
        counts[int(row["body:batch"])] = counts.get(int(row["body:batch"]), 0) + 1
    assert outcome.acknowledged
    assert {n: counts.get(n, 0) for n in outcome.acknowledged} == dict.fromkeys(outcome.acknowledged, BATCH)
    # A batch whose answer got lost is there whole or not at all.
    assert {counts.get(n, 0) for n in outcome.unknown} <= {0, BATCH}
    assert set(counts) <= {*outcome.acknowledged, *outcome.unknown}
    for extraction_id in outcome.made:
        answer = http.request("GET", http.wait("crash", extraction_id), key=None)
        assert answer.status == 200
        assert len(list(csv.reader(io.StringIO(answer.data.decode())))) % BATCH == 1  # the header, and whole batches


def crash(data: Path, rounds: int, seed: int) -> None:
    """Kill one service after another on the same folder, then look at what is left."""
    moments, numbers, outcome = random.Random(seed), itertools.count(), Outcome()
    for _ in range(rounds):
        with embedded.start(data, env=clean_environment()) as service, load([service.endpoint], numbers, outcome):
            time.sleep(moments.uniform(0.02, 1.2))
            os.kill(service.pid, signal.SIGKILL)
    with embedded.start(data, env=clean_environment()) as service:
        check(Http(service.endpoint), outcome)
        assert leftovers(data / "results") == []


def leftovers(results: Path) -> list[str]:
    return [path.name for path in results.iterdir() if path.suffix != ".csv"]


def crash_shared(shared: Shared, processes: int, rounds: int, seed: int) -> None:
    """Kill some of several services on the same storage while the others go on, start them again, then look at what is there."""
    moments, numbers, outcome = random.Random(seed), itertools.count(), Outcome()
    with shared.running(processes) as services:
        for _ in range(rounds):
            with load([service.endpoint for service in services], numbers, outcome):
                time.sleep(moments.uniform(0.02, 1.2))
                killed = moments.sample(range(processes), moments.randint(1, processes))
                for index in killed:
                    os.kill(services[index].pid, signal.SIGKILL)
                time.sleep(moments.uniform(0, 0.5))
            for index in killed:
                services[index].stop()
            for index, service in zip(killed, shared.start_all(killed), strict=True):
                services[index] = service
        try:
            check(TurningHttp([service.endpoint for service in services]), outcome)
        finally:
            for service in services:
                service.stop()
        for index in range(processes):
            assert leftovers(shared.folder / f"process-{index}" / "shared" / "results") == []


def test_nothing_is_lost_by_kill_9(data: Path) -> None:
    crash(data, rounds=4, seed=1)


def test_nothing_is_lost_by_kill_9_of_two_services_on_one_storage(shared: Shared) -> None:
    crash_shared(shared, processes=2, rounds=2, seed=1)


@pytest.mark.slow
@pytest.mark.timeout(1200)
@pytest.mark.parametrize("seed", [2, 3, 4, 5, 6])
def test_nothing_is_lost_by_kill_9_at_ten_random_moments(data: Path, seed: int) -> None:
    crash(data, rounds=10, seed=seed)


@pytest.mark.slow
@pytest.mark.timeout(1200)
@pytest.mark.parametrize("seed", [7, 8])
def test_nothing_is_lost_by_kill_9_of_four_services_on_one_storage(shared: Shared, seed: int) -> None:
    crash_shared(shared, processes=4, rounds=6, seed=seed)


def test_a_torn_log_is_cut_at_its_last_acknowledged_batch(data: Path) -> None:
    with embedded.start(data, env=clean_environment()) as service:
        Http(service.endpoint).add("torn", {"n": 1}, {"n": 2})
        os.kill(service.pid, signal.SIGKILL)
    (log,) = (data / "events" / "1").glob("*.ndjson")
    with log.open("ab") as file:
        file.write(b'{"t":0,"p0":"3","p1":"x"}\n{"t":0,"p0":"4"')
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
