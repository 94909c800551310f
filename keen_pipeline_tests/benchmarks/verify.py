"""`verify` over many landed files beside `sha256sum` over the same files with as many processes.

python -m keen_pipeline_tests.benchmarks.verify [--files 1000] [--megabytes 1] [--rounds 3]
"""

from __future__ import annotations

import argparse
import hashlib
import os
import subprocess
import tempfile
import time
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import cast

from keen_pipeline.collection import Collection
from keen_pipeline.extraction import Landing, Status
from keen_pipeline.landing import FileDestination
from keen_pipeline.ledger import SqlLedger, open_engine
from keen_pipeline.lifecycle import Entry
from keen_pipeline.partitions import partitions_between
from keen_pipeline.pipeline import Pipeline, partition_request
from keen_pipeline.pipeline.files.manifests import Manifest, write
from keen_pipeline.pipeline.files.verify import verify
from keen_pipeline.ports import ExtractionApi
from keen_pipeline.scope import Scope

START = datetime(2020, 1, 1, tzinfo=timezone.utc)


def build(root: Path, files: int, size: int) -> Pipeline:
    """A destination with that many landed files of `size` bytes, their manifests and a ledger."""
    destination = FileDestination(str(root / "landing"))
    ledger = SqlLedger(open_engine(f"sqlite:///{root / 'ledger.db'}"), Scope("projects/benchmark", destination.uri))
    entries = []
    for number, partition in enumerate(partitions_between(Collection("events"), START, START + timedelta(days=files))):
        request = partition_request(Collection("events"), partition)
        data = os.urandom(size)
        (root / "landing" / request.path).parent.mkdir(parents=True, exist_ok=True)
        (root / "landing" / request.path).write_bytes(data)
        digest = hashlib.sha256(data).hexdigest()
        landing = Landing(
            destination.uri_of(request.path), size, 1, digest, ("header:timestamp", "body:n"), size, 0.1, stored_sha256=digest
        )
        fingerprint = request.fingerprint(ledger.scope)
        token = f"{number:016x}"
        entry = Entry(0, token, request, fingerprint, 1, Status.LANDED, START, START, landed_at=START, landing=landing)
        write(destination, Manifest.of(entry, ledger.scope, START))
        entries.append(entry)
    ledger.restore(entries)
    return Pipeline(cast("ExtractionApi", None), ledger, destination)


def main() -> None:
    """Print the seconds of both and their ratio, the best round of each."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--files", type=int, default=1000)
    parser.add_argument("--megabytes", type=float, default=1.0)
    parser.add_argument("--rounds", type=int, default=3)
    chosen = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        pipeline = build(Path(folder), chosen.files, int(chosen.megabytes * 1e6))
        ours, theirs = [], []
        hashing = f"find {folder}/landing/events -type f -print0 | xargs -0 -n 50 -P {os.cpu_count()} sha256sum > /dev/null"
        for _ in range(chosen.rounds):
            begun = time.perf_counter()
            found = list(verify(pipeline, pipeline.ledger.landed_entries("events")))
            ours.append(time.perf_counter() - begun)
            wrong = [one.problem for one in found if one.problem is not None]
            if wrong or len(found) != chosen.files:
                raise SystemExit(f"{len(found)} files verified, wrong are {wrong[:3]}")
            begun = time.perf_counter()
            subprocess.run(hashing, shell=True, check=True)
            theirs.append(time.perf_counter() - begun)
        print(f"verify {min(ours):.2f} s, sha256sum {min(theirs):.2f} s, ratio {min(ours) / min(theirs):.2f}")


if __name__ == "__main__":
    main()
