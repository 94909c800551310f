"""Events loaded and extractions asked for while services are killed, and what has to be there afterwards."""

from __future__ import annotations

import contextlib
import csv
import io
import itertools
import json
import random
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field

import urllib3

from keen_pipeline.service import embedded
from keen_pipeline_tests.service.cluster import Cluster
from keen_pipeline_tests.service.http_client import Http

BATCH = 500
LOST = (502, 503, 504)
"""What a proxy answers where the service behind it went away: the batch may be there, or not."""


@dataclass
class Outcome:
    """What clients know after some rounds: batches acknowledged, deleted, and those of which an answer got lost; extractions."""

    acknowledged: list[int] = field(default_factory=list)
    deleted: list[int] = field(default_factory=list)
    unknown: list[int] = field(default_factory=list)
    made: list[str] = field(default_factory=list)
    killed: int = 0


class Ingest(threading.Thread):
    """Posts batches until the service is gone or `stop` is set, and deletes every eighth again; knows what was acknowledged."""

    def __init__(self, endpoint: embedded.Endpoint, numbers: Iterator[int]) -> None:
        super().__init__()
        self._http = Http(endpoint)
        self._numbers = numbers
        self.stop = threading.Event()
        self.acknowledged: list[int] = []
        self.deleted: list[int] = []
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
            if answer.status in LOST:
                self.unknown.append(number)
                time.sleep(0.02)
                continue
            assert answer.status == 200, answer.data
            assert all(one["success"] for one in json.loads(answer.data)["crash"])
            if number % 8:
                self.acknowledged.append(number)
            elif not self._delete_again(number):
                return

    def _delete_again(self, number: int) -> bool:
        """Delete a batch again; whether the service is still there."""
        filters = json.dumps([{"property_name": "batch", "operator": "eq", "property_value": number}])
        try:
            answer = self._http.request("DELETE", f"{self._http.v3}/events/crash", params={"filters": filters}, key="master_key")
        except urllib3.exceptions.HTTPError:
            self.unknown.append(number)
            return False
        assert answer.status in (204, *LOST), answer.data
        (self.deleted if answer.status == 204 else self.unknown).append(number)
        return True


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
def load(endpoints: Sequence[embedded.Endpoint], numbers: Iterator[int], outcome: Outcome) -> Iterator[list[Ingest]]:
    """Ingest and submit at every service while the block runs, which gets the threads that ingest."""
    ingests = [Ingest(endpoint, numbers) for endpoint in endpoints]
    submits = [
        threading.Thread(target=submit_until_gone, args=(endpoint, outcome.made, ingest.stop))
        for endpoint, ingest in zip(endpoints, ingests, strict=True)
    ]
    for thread in (*ingests, *submits):
        thread.start()
    try:
        yield ingests
    finally:
        for ingest in ingests:
            ingest.stop.set()
        for thread in (*ingests, *submits):
            thread.join()
    for ingest in ingests:
        outcome.acknowledged += ingest.acknowledged
        outcome.deleted += ingest.deleted
        outcome.unknown += ingest.unknown


def until_deleted(ingests: Sequence[Ingest], outcome: Outcome) -> None:
    """Wait until a first batch is deleted: on a busy machine a deletion may take longer than a round, and each be cut off."""
    deadline = time.monotonic() + 120
    while not outcome.deleted and not any(ingest.deleted for ingest in ingests):
        assert time.monotonic() < deadline, "nothing was deleted"
        time.sleep(0.02)


def check(http: Http, outcome: Outcome) -> None:
    """Everything acknowledged is there once, or deleted; every extraction ends complete, every file is whole."""
    content = http.csv("crash")
    rows = list(csv.DictReader(io.StringIO(content.decode())))
    counts: dict[int, int] = {}
    for row in rows:
        counts[int(row["body:batch"])] = counts.get(int(row["body:batch"]), 0) + 1
    assert outcome.acknowledged
    wrong = {n: found for n in outcome.acknowledged if (found := counts.get(n, 0)) != BATCH}
    assert wrong == {}, f"acknowledged batches lost or doubled, with the events found of each: {wrong}"
    torn = {n: found for n in outcome.unknown if (found := counts.get(n, 0)) not in (0, BATCH)}
    assert torn == {}, f"batches whose answer got lost, neither there whole nor missing: {torn}"
    assert outcome.deleted
    assert set(counts) <= {*outcome.acknowledged, *outcome.unknown}
    for extraction_id in outcome.made:
        answer = http.request("GET", http.wait("crash", extraction_id), key=None)
        assert answer.status == 200, answer.data[:500]
        records = len(list(csv.reader(io.StringIO(answer.data.decode()))))
        assert records % BATCH == 1, f"{extraction_id}: {records} records are no header and whole batches"


def crash_some(cluster: Cluster, endpoints: Callable[[], Sequence[embedded.Endpoint]], rounds: int, seed: int) -> Outcome:
    """Load `endpoints`, kill some of the processes while the others go on, and start them again; round by round."""
    moments, numbers, outcome = random.Random(seed), itertools.count(), Outcome()
    for _ in range(rounds):
        with load(endpoints(), numbers, outcome) as ingests:
            until_deleted(ingests, outcome)
            time.sleep(moments.uniform(0.02, 1.2))
            killed = moments.sample(sorted(cluster.services), moments.randint(1, len(cluster.services)))
            cluster.kill(killed)
            time.sleep(moments.uniform(0, 0.5))
        cluster.restart(killed)
        outcome.killed += len(killed)
    return outcome
