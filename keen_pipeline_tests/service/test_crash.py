"""kill -9 at random moments, during ingest and during extraction: nothing acknowledged is lost, nothing half is shown."""

from __future__ import annotations

import csv
import io
import json
import os
import random
import signal
import threading
import time
from pathlib import Path

import pytest
import urllib3

from keen_pipeline.service import embedded
from keen_pipeline_tests.service.conftest import clean_environment
from keen_pipeline_tests.service.http_client import Http

BATCH = 500


class Ingest(threading.Thread):
    """Posts batches until the service is gone; knows which were acknowledged and which one may have been."""

    def __init__(self, endpoint: embedded.Endpoint, first: int) -> None:
        super().__init__()
        self._http = Http(endpoint)
        self.next = first
        self.acknowledged: list[int] = []
        self.unknown: int | None = None

    def run(self) -> None:
        while True:
            number = self.next
            self.next += 1
            batch = [{"batch": number, "index": i, "text": "x" * 40, f"late{number % 7}": i} for i in range(BATCH)]
            try:
                answer = self._http.request("POST", f"{self._http.v3}/events", body={"crash": batch}, key="write_key")
            except urllib3.exceptions.HTTPError:
                self.unknown = number
                return
            assert answer.status == 200, answer.data
            assert all(one["success"] for one in json.loads(answer.data)["crash"])
            self.acknowledged.append(number)


def submit_until_gone(endpoint: embedded.Endpoint, made: list[str]) -> None:
    http = Http(endpoint)
    try:
        while True:
            answer = http.request("POST", f"{http.v2}/crash/_extract", body={"filters": []})
            if answer.status == 200:
                made.append(json.loads(answer.data)["_id"])
            time.sleep(0.03)
    except urllib3.exceptions.HTTPError:
        return


def check(http: Http, acknowledged: list[int], unknown: list[int], made: list[str]) -> None:
    """Everything acknowledged is there once, every extraction ends complete, every file is whole."""
    content = http.csv("crash")
    rows = list(csv.DictReader(io.StringIO(content.decode())))
    counts: dict[int, int] = {}
    for row in rows:
        counts[int(row["body:batch"])] = counts.get(int(row["body:batch"]), 0) + 1
    assert {n: counts.get(n, 0) for n in acknowledged} == dict.fromkeys(acknowledged, BATCH)
    # A batch whose answer got lost is there whole or not at all.
    assert {counts.get(n, 0) for n in unknown} <= {0, BATCH}
    assert set(counts) <= {*acknowledged, *unknown}
    for extraction_id in made:
        answer = http.request("GET", http.wait("crash", extraction_id), key=None)
        assert answer.status == 200
        assert len(list(csv.reader(io.StringIO(answer.data.decode())))) % BATCH == 1  # the header, and whole batches


def crash(data: Path, rounds: int, seed: int) -> None:
    """Kill one service after another on the same folder, then look at what is left."""
    moments = random.Random(seed)
    acknowledged: list[int] = []
    unknown: list[int] = []
    made: list[str] = []
    first = 0
    for _ in range(rounds):
        with embedded.start(data, env=clean_environment()) as service:
            ingest = Ingest(service.endpoint, first)
            submitting = threading.Thread(target=submit_until_gone, args=(service.endpoint, made))
            ingest.start()
            submitting.start()
            time.sleep(moments.uniform(0.02, 1.2))
            os.kill(service.pid, signal.SIGKILL)
            ingest.join()
            submitting.join()
            acknowledged += ingest.acknowledged
            unknown += [ingest.unknown] if ingest.unknown is not None else []
            first = ingest.next
    with embedded.start(data, env=clean_environment()) as service:
        check(Http(service.endpoint), acknowledged, unknown, made)
        parts = [path.name for path in (data / "results").iterdir() if path.suffix != ".csv"]
        assert parts == []
        assert acknowledged


def test_nothing_is_lost_by_kill_9(data: Path) -> None:
    crash(data, rounds=4, seed=1)


@pytest.mark.slow
@pytest.mark.timeout(1200)
@pytest.mark.parametrize("seed", [2, 3, 4, 5, 6])
def test_nothing_is_lost_by_kill_9_at_ten_random_moments(data: Path, seed: int) -> None:
    crash(data, rounds=10, seed=seed)


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
