"""Two live services of `change`, each behind a proxy that spoils requests and refuses some collections."""

from __future__ import annotations

import random
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler

from keen_pipeline.service.embedded import Endpoint
from keen_pipeline.testing import live_service
from keen_pipeline_tests.acceptance.change.process import Service
from keen_pipeline_tests.acceptance.faults.fault_proxy import PAGE, FaultProxy, _send

FAULTS = {"503": 0.02, "500": 0.01, "429": 0.01, "reset": 0.01, "answer lost": 0.03, "login page": 0.02, "cut": 0.01}
RESULT_FAULTS = {"503": 0.05, "cut": 0.1, "reset": 0.03}
REFUSALS = {
    "403": (403, b"{}"),
    "404": (404, b"{}"),
    "503": (503, b"{}"),
    "page": (200, PAGE),
    "null": (200, b"null"),
    "empty": (200, b"{}"),
}


class Neighbourhood(FaultProxy):
    """A fault proxy that also refuses some collections wholly; `refused`: by name one of REFUSALS."""

    refused: dict[str, str]

    def _answer(self, handler: BaseHTTPRequestHandler) -> None:
        for name, how in list(self.refused.items()):
            if f"/{name}/" in handler.path or f"={name}&" in handler.path or handler.path.endswith(f"={name}"):
                handler.rfile.read(int(handler.headers.get("Content-Length", 0)))
                status, body = REFUSALS[how]
                _send(handler, status, body, {"Content-Type": "application/json"})
                return
        super()._answer(handler)


@dataclass
class Site:
    """Two projects, each behind a proxy of its own."""

    endpoints: tuple[Endpoint, Endpoint]
    proxies: tuple[Neighbourhood, Neighbourhood]
    odds: dict[str, float]
    result_odds: dict[str, float]

    def service(self, project: int) -> Service:
        end = self.endpoints[project]
        return Service(self.proxies[project].url, end.project_id, end.read_key)

    def misbehave(self, really: bool) -> None:
        self.odds.clear()
        self.result_odds.clear()
        if really:
            self.odds.update(FAULTS)
            self.result_odds.update(RESULT_FAULTS)
            return
        for proxy in self.proxies:
            proxy.refused.clear()


@contextmanager
def site(seed: int) -> Iterator[Site]:
    """The live services, each slow enough that something is under way when it is killed."""
    odds: dict[str, float] = {}
    results: dict[str, float] = {}
    options = ["--extraction-delay", "0.3"]
    with live_service(options=options) as one, live_service(options=options) as two:
        first, second = (Neighbourhood(end.base_url, random.Random(seed), odds, results) for end in (one, two))
        first.refused, second.refused = {}, {}
        with first, second:
            yield Site((one, two), (first, second), odds, results)
