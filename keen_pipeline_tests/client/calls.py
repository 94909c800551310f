"""What the client's tests share: the calls, and a client of a fault server whose clock nobody waits for."""

from __future__ import annotations

import socket
from collections.abc import Callable, Mapping
from datetime import datetime, timezone

import pytest

from keen_pipeline.client import KeenClient
from keen_pipeline.extraction import ExtractionRequest, SecretUrl
from keen_pipeline.filters import Filter
from keen_pipeline.timeframe import Timeframe
from keen_pipeline_tests.servers.faults import FaultServer

UTC = timezone.utc
READ, WRITE = "read-key-77aa", "write-key-88bb"
DAY = Timeframe(datetime(2026, 1, 1, tzinfo=UTC), datetime(2026, 1, 2, tzinfo=UTC))
AMOUNT = Filter("body:amount", "gt", 3.5)
REQUEST = ExtractionRequest("purchases", DAY, "2026-01-01", "purchases/2026-01-01.csv", filters=(AMOUNT,), email="alert@keen.io")
PENDING = {"_id": "e1", "status": "not started"}
COMPLETE = {"_id": "e2", "status": "complete", "results_url": "https://results.example/f.csv?signature=s3cr3t"}


class QuickClock:
    """Real time, but nobody sleeps: `slept` holds the seconds asked for."""

    def __init__(self) -> None:
        self.slept: list[float] = []

    def now(self) -> datetime:
        return datetime.now(UTC)

    def sleep(self, seconds: float) -> None:
        self.slept.append(seconds)


class Budget:
    """A limiter that notes what the client asks and tells it."""

    def __init__(self) -> None:
        self.acquired = 0
        self.refused: list[float] = []

    def acquire(self, *, timeout: float) -> None:
        assert timeout > 0
        self.acquired += 1

    def refuse_until(self, seconds: float) -> None:
        self.refused.append(seconds)


CALLS: dict[str, Callable[[KeenClient], object]] = {
    "submit": lambda c: c.submit(REQUEST),
    "list": lambda c: c.list_extractions("purchases"),
    "get": lambda c: c.get_extraction("purchases", "e1"),
    "count": lambda c: c.count("purchases", DAY),
    "select_unique": lambda c: c.select_unique("purchases", "body:user", DAY),
    "collections": lambda c: c.collections(),
    "property_types": lambda c: c.property_types("purchases"),
    "add_events": lambda c: c.add_events({"purchases": [{"a": 1}]}),
}
GETS = {name: call for name, call in CALLS.items() if name not in ("submit", "add_events")}


def client_of(server: FaultServer, **options: bool) -> KeenClient:
    return KeenClient(server.url, "P1", read_key="read-key-77aa", **options)  # type: ignore[arg-type]


def read(made: KeenClient, url: str, offset: int = 0, validator: str | None = None) -> bytes:
    buffer = bytearray(1000)
    got = b""
    with made.open_results(SecretUrl(url), offset=offset, validator=validator) as stream, memoryview(buffer) as view:
        while number := stream.readinto(view):
            got += bytes(view[:number])
    return got


def answers_of(names: Mapping[str, str], monkeypatch: pytest.MonkeyPatch) -> None:
    """What the resolver says; the rest as ever."""
    real = socket.getaddrinfo
    monkeypatch.setattr(socket, "getaddrinfo", lambda host, *rest, **more: real(names.get(host, host), *rest, **more))
