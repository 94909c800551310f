"""Several landings in one process share one memory bound, whatever their encoding and their files' size."""

from __future__ import annotations

import multiprocessing
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from keen_pipeline.client import KeenClient, RenewingResults
from keen_pipeline.collection import Encoding
from keen_pipeline.extraction import SecretUrl
from keen_pipeline.landing import FileDestination
from keen_pipeline.pipeline.context import Pipeline
from keen_pipeline_tests.memory import peak_mib
from keen_pipeline_tests.servers import faults
from keen_pipeline_tests.servers.faults import FaultServer

SPAWN = multiprocessing.get_context("spawn")
THREADS = 4
PIECE, TIMES = b'1,"two, and more"\n' * 50_000, 160
FILE_BYTES = 4 + len(PIECE) * TIMES
MOST_MIB = {Encoding.CSV: 64, Encoding.CSV_GZ: 64, Encoding.CSV_ZST: 128, Encoding.PARQUET: 256}
"""Over the first landing, of 1 MB. One landing alone may take 64: the files have 550 MiB together."""


def land_at_once(root: str, encoding: str, url: str, results_url: str, answer: Any) -> None:
    """Run in a process of its own; `answer` gets its highest resident memory in MiB before and after, and the bytes landed."""
    client = KeenClient(url, "P", read_key="k")
    destination = FileDestination(root)

    def land(number: int) -> int:
        results = RenewingResults(client, "purchases", f"e{number}", SecretUrl(results_url))
        target = destination.target_uri("purchases", f"2026-01-{number + 1:02d}", Encoding(encoding))
        return destination.land(results, target, extraction_id=f"e{number}", types={"a": "num"}).bytes

    land(0)
    before = peak_mib()
    with ThreadPoolExecutor(THREADS) as threads:
        landed = list(threads.map(land, range(1, THREADS + 1)))
    answer.send((before, peak_mib(), landed))


@pytest.mark.slow
@pytest.mark.parametrize("encoding", list(Encoding))
def test_memory_of_large_landings_at_once_is_bounded(tmp_path: Path, encoding: Encoding) -> None:
    assert Pipeline.landing_threads == THREADS  # what a run has, unless it is told otherwise
    with FaultServer(body=b"", results=[faults.generated(PIECE, 1), faults.generated(PIECE, TIMES)]) as server:
        receive, send = SPAWN.Pipe(duplex=False)
        arguments = (str(tmp_path), encoding.value, server.url, server.results_url, send)
        process = SPAWN.Process(target=land_at_once, args=arguments)
        process.start()
        assert receive.poll(240), "the child sent nothing"
        before, after, landed = receive.recv()
        process.join(30)
    assert landed == [FILE_BYTES] * THREADS
    assert after - before <= MOST_MIB[encoding]
