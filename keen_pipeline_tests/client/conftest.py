"""A client of a fault server whose clock nobody waits for."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from keen_pipeline.client import KeenClient
from keen_pipeline_tests.client.calls import READ, WRITE, Budget, QuickClock
from keen_pipeline_tests.servers.faults import FaultServer


@pytest.fixture
def server() -> Iterator[FaultServer]:
    with FaultServer() as running:
        yield running


@pytest.fixture
def clock() -> QuickClock:
    return QuickClock()


@pytest.fixture
def budget() -> Budget:
    return Budget()


@pytest.fixture
def client(server: FaultServer, clock: QuickClock, budget: Budget) -> Iterator[KeenClient]:
    with KeenClient(server.url, "P1", read_key=READ, write_key=WRITE, read_timeout=1, clock=clock, limiter=budget) as made:
        yield made


@pytest.fixture(scope="module")
def api() -> Iterator[tuple[FaultServer, KeenClient]]:
    with FaultServer() as running, KeenClient(running.url, "P1", read_key=READ, write_key=WRITE, clock=QuickClock()) as made:
        yield running, made
