"""What the landing's tests share: a CSV worth landing, and a landing of it from the fault server."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from keen_pipeline.client import KeenClient, RenewingResults
from keen_pipeline.collection import Encoding
from keen_pipeline.extraction import Landing, SecretUrl
from keen_pipeline.landing import FileDestination
from keen_pipeline.landing.transfer import download
from keen_pipeline.ports import ResultsStream
from keen_pipeline_tests.pipeline.scripted import Body as _Body
from keen_pipeline_tests.servers.faults import Behaviour, FaultServer, document

KEY = "read-key-5f1d"


@pytest.fixture(autouse=True)
def short_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    """The first back-off is 10 ms instead of 200."""
    monkeypatch.setattr(download, "FIRST_WAIT_SECONDS", 0.01)


@dataclass
class Lander:
    """Lands `server.body` in a local folder."""

    root: Path
    server: FaultServer
    read_timeout: float = 5.0
    transfer_timeout: float = 60.0
    allow_private: bool | None = None
    landings: list[Landing] = field(default_factory=list)

    def destination(self) -> FileDestination:
        return FileDestination(str(self.root))

    def source(self) -> RenewingResults:
        client = KeenClient(
            self.server.url,
            "P",
            read_key=KEY,
            read_timeout=self.read_timeout,
            transfer_timeout=self.transfer_timeout,
            allow_private_results=self.allow_private,
        )
        return RenewingResults(client, "purchases", "e1", SecretUrl(self.server.results_url))

    def land(self, results: Sequence[Behaviour], encoding: Encoding = Encoding.CSV) -> Landing:
        self.server.results = results
        self.server.api = [document({"_id": "e1", "status": "complete", "results_url": self.server.results_url})]
        destination = self.destination()
        return destination.land(
            self.source(),
            destination.target_uri("purchases", "2026-01-01", encoding),
            extraction_id="e1",
            label="purchases[2026-01-01]",
        )


@pytest.fixture
def lander(tmp_path: Path) -> Iterator[Lander]:
    with FaultServer(body=example()) as server:
        yield Lander(tmp_path / "root", server)


def example(records: int = 8000) -> bytes:
    """A CSV of `records` records with commas, quotes and line ends in fields, and a few bytes that are no ASCII."""
    lines = (f'{n},"Straße {n}, ""Köln""",{n * 7 % 100}.50,"two\r\nlines"\r\n' for n in range(records))
    return ("keen.id,user.address,amount,note\r\n" + "".join(lines)).encode()


class BytesSource:
    """A ResultsSource of bytes, for what has no transfer to test."""

    def __init__(self, data: bytes) -> None:
        self._data = data

    def open(self, *, offset: int = 0, validator: str | None = None) -> ResultsStream:
        return _Body(self._data)
