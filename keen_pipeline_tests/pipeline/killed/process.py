"""A backfill in a process of its own, so that it can be killed.

python -m keen_pipeline_tests.pipeline.killed.process FOLDER URL PROJECT KEY DAYS

Prints a line when it has journalled its intents, and one for each landing. SIGTERM ends it as the command line ends.
"""

from __future__ import annotations

import signal
import sys
from datetime import datetime, timedelta, timezone
from pathlib import Path

from keen_pipeline.client import KeenClient
from keen_pipeline.collection import Collection
from keen_pipeline.landing import FileDestination
from keen_pipeline.ledger import SqlLedger, open_engine
from keen_pipeline.lifecycle import Limits
from keen_pipeline.partitions import partitions_between
from keen_pipeline.pipeline import Landed, Pipeline, extract, partition_request
from keen_pipeline.scope import Scope

FIRST = datetime(2026, 1, 1, tzinfo=timezone.utc)


def main(folder: Path, url: str, project: str, key: str, days: int) -> None:
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    collection = Collection("purchases", "2026-01-01")
    destination = FileDestination(str(folder / "landing"))
    with KeenClient(url, project, read_key=key) as client:
        ledger = SqlLedger(open_engine(f"sqlite:///{folder / 'ledger.db'}"), Scope(f"projects/{project}", destination.uri))
        # A lease so long that only the death of the process can free what it has claimed.
        pipeline = Pipeline(client, ledger, destination, Limits(lease_seconds=600), poll_seconds=0.5)
        partitions = partitions_between(collection, FIRST, FIRST + timedelta(days=days))
        requests = [partition_request(collection, partition) for partition in partitions]
        for number, event in enumerate(extract(pipeline, requests, doing="a backfill", resumable=True)):
            if number == 0:
                print("begun", flush=True)
            if isinstance(event, Landed):
                print("kept" if event.adopted else "landed", event.entry.request.partition_key, flush=True)
                ledger.reported([event.entry.entry_id])


if __name__ == "__main__":
    main(Path(sys.argv[1]), *sys.argv[2:5], int(sys.argv[5]))
