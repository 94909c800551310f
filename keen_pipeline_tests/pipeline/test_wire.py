"""Answers as they come over the wire: what can't be read says nothing about any extraction, whatever its status."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path

import pytest

from keen_pipeline.client import KeenClient
from keen_pipeline.collection import Collection
from keen_pipeline.landing import FileDestination
from keen_pipeline.lifecycle import Limits
from keen_pipeline.partitions import partition_range
from keen_pipeline.pipeline import Landed, Pipeline, extract, partition_request
from keen_pipeline.scope import Scope
from keen_pipeline.testing import FakeClock, memory_ledger
from keen_pipeline_tests.landing.conftest import example
from keen_pipeline_tests.servers.faults import Exchange, FaultServer, whole

RECORDS = 5
ANSWERS = {
    "a page": b"<!DOCTYPE html><html><body>maintenance</body></html>",
    "an empty object": b"{}",
    "null": b"null",
    "a list of nulls": b"[null, null]",
    "nothing": b"",
    "a cut list": b'{"results": [{"_id": "e1", "sta',
    "extractions without an id": b'{"results": [{"status": "complete"}]}',
    "a number": b"17",
}


def answer(to: Exchange, body: bytes, status: str = "200 OK") -> None:
    to.head(status, Content_Type="application/json", Content_Length=len(body))
    to.sock.sendall(body)


@pytest.mark.parametrize("what", ["list", "post", "count"])
@pytest.mark.parametrize("name", ANSWERS)
def test_an_answer_that_can_t_be_read_costs_no_second_extraction(tmp_path: Path, name: str, what: str) -> None:
    """Three times in a row, of the list; of the first POST, which made its extraction; of every count."""
    made: list[dict[str, object]] = []
    met: Counter[str] = Counter()

    def api(to: Exchange) -> None:
        kind = "count" if "/_count" in to.request.target else "post" if to.request.method == "POST" else "list"
        if to.request.method == "GET" and "_extraction" not in to.request.target and kind == "list":
            kind = "schema"
        met[kind] += 1
        if kind == "post":
            asked = json.loads(to.request.body)
            window = asked["timeframe"]
            about = {"timeframe": window, "filters": asked.get("filters", []), "created_at": "2026-01-10T01:00:00.000Z"}
            made.append({"_id": f"e{len(made) + 1}", **about})
        if kind == what and met[kind] <= {"list": 3, "post": 1, "count": 10**9}[what]:
            return answer(to, ANSWERS[name])
        if kind == "count":
            return answer(to, json.dumps({"result": RECORDS}).encode())
        if kind == "post":
            return answer(to, json.dumps({**made[-1], "status": "not started"}).encode())
        listed = [{**one, "status": "complete", "results_url": to.server.results_url} for one in made]
        return answer(to, json.dumps({"results": listed}).encode())

    clock = FakeClock()
    with FaultServer(body=example(RECORDS)) as server, KeenClient(server.url, "P", read_key="key") as client:
        server.results, server.api = [whole()], [api]
        destination = FileDestination(str(tmp_path))
        ledger = memory_ledger(clock=clock, scope=Scope("projects/P", destination.uri))
        pipeline = Pipeline(client, ledger, destination, Limits(max_attempts=3))
        collection = Collection("purchases", "2026-01-01")
        requests = [partition_request(collection, p) for p in partition_range(collection, "2026-01-01", "2026-01-01", clock.now())]
        landed = [event.entry for event in extract(pipeline, requests, doing="a test") if isinstance(event, Landed)]
    assert [entry.attempt for entry in landed] == [1]
    assert len(made) == 1
    assert all((tmp_path / request.path).read_bytes() == example(RECORDS) for request in requests)
    assert ledger.orphans() == 0
