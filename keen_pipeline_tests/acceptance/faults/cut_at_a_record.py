"""A body without a length that ends half way, at a record's end: every client takes it for whole, only the count can tell.

The whole way over real HTTP: a Keen v2.0 of the fault server's kind that counts right and delivers short, the product's client,
ledger, landing and use cases.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

from keen_pipeline.client import KeenClient
from keen_pipeline.collection import Collection
from keen_pipeline.landing import FileDestination
from keen_pipeline.lifecycle import Limits
from keen_pipeline.partitions import partition_range
from keen_pipeline.pipeline import Counted, Pipeline, extract, partition_request
from keen_pipeline.scope import Scope
from keen_pipeline.testing import FakeClock, memory_ledger
from keen_pipeline_tests.landing.conftest import example
from keen_pipeline_tests.servers.faults import Behaviour, Exchange, FaultServer, document, undelimited

RECORDS = 8000
HALF = 4000
COLLECTION = Collection(name="purchases", start_date="2026-01-01")


def short() -> Behaviour:
    """The first HALF of the records, and the end of the connection."""
    return undelimited(len(example(HALF)))


def extract_counted(root: Path, server: FaultServer, results: Sequence[Behaviour]) -> list[Counted]:
    """Extract and land the first partition until nothing is left to do; what the counts said, in order."""
    extractions: list[str] = []

    def api(to: Exchange) -> None:
        if "/_count" in to.request.target:
            answer: object = {"result": RECORDS}
        elif to.request.method == "POST":
            extractions.append(f"e{len(extractions) + 1}")
            answer = {"_id": extractions[-1], "status": "not started"}
        else:
            answer = {"results": [{"_id": e, "status": "complete", "results_url": to.server.results_url} for e in extractions]}
        document(answer)(to)

    server.results, server.api = results, [api]
    clock = FakeClock()
    with KeenClient(server.url, "P", read_key="key") as client:
        destination = FileDestination(str(root))
        ledger = memory_ledger(clock=clock, scope=Scope("projects/P", destination.uri))
        pipeline = Pipeline(client, ledger, destination, Limits(max_attempts=3))
        partitions = partition_range(COLLECTION, "2026-01-01", "2026-01-01", clock.now())
        requests = [partition_request(COLLECTION, partition) for partition in partitions]
        return [event for event in extract(pipeline, requests, doing="a test") if isinstance(event, Counted)]


def posted(server: FaultServer) -> list[dict[str, object]]:
    """The extractions that were asked for."""
    return [json.loads(request.body) for request in server.requests if request.method == "POST"]
