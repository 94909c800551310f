"""Files of a local folder: several landings at once in bounded memory, and a full disk."""

from __future__ import annotations

import hashlib
import os
import threading
import tracemalloc
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from keen_pipeline.collection import Encoding
from keen_pipeline.errors import ConfigurationError
from keen_pipeline.extraction import Landing
from keen_pipeline.landing.storages.local import StagedFile
from keen_pipeline.landing.transfer.workers import BUFFERS, CHUNK_BYTES
from keen_pipeline_tests.landing.conftest import Lander
from keen_pipeline_tests.servers import faults

THREADS = 4


def test_landings_at_once_hold_no_more_than_their_buffers(lander: Lander) -> None:
    lander.server.body = b"a,b\n" + b"1,2\n" * (6 * CHUNK_BYTES)
    lander.server.results = [faults.whole()]
    destination = lander.destination()

    def land(number: int) -> Landing:
        target = destination.target_uri("purchases", f"2026-01-{number + 1:02d}")
        return destination.land(lander.source(), target, extraction_id="e1")

    land(0)  # what is imported and kept once
    tracemalloc.start()
    try:
        with ThreadPoolExecutor(THREADS) as pool:
            landings = list(pool.map(land, range(2 * THREADS)))
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    digest = hashlib.sha256(lander.server.body).hexdigest()
    assert {(landing.bytes, landing.sha256) for landing in landings} == {(len(lander.server.body), digest)}
    assert all(Path(landing.uri).read_bytes() == lander.server.body for landing in landings)
    assert peak < THREADS * (BUFFERS + 4) * CHUNK_BYTES, peak


@pytest.mark.parametrize("encoding", list(Encoding))
def test_full_disk_ends_the_landing_and_its_threads(lander: Lander, encoding: Encoding, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(self: StagedFile, data: object) -> int:
        raise OSError(28, "No space left on device")

    lander.server.body = b"a,b\n" + os.urandom(4 * CHUNK_BYTES).hex("\n", 1).encode().replace(b"\n", b",1\n") + b",1\n"
    monkeypatch.setattr(StagedFile, "write", full)
    with pytest.raises(ConfigurationError, match="No space left on device"):
        lander.land([faults.whole()], encoding)
    assert not [thread.name for thread in threading.enumerate() if thread.name.startswith("landing-")]
    assert [path for path in lander.root.rglob("*") if path.is_file()] == []
