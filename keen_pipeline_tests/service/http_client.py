"""A plain HTTP client of one service, for tests that look at statuses and bytes."""

from __future__ import annotations

import json
import time
from typing import Any
from urllib.parse import quote

import urllib3

from keen_pipeline.service.embedded import Endpoint


class Http:
    """Requests with the right key, unless told otherwise."""

    def __init__(self, endpoint: Endpoint) -> None:
        self.endpoint = endpoint
        self.pool = urllib3.PoolManager(retries=False, timeout=30)
        self.v2 = f"/2.0/projects/{endpoint.project_id}"
        self.v3 = f"/3.0/projects/{endpoint.project_id}"

    def request(
        self,
        method: str,
        path: str,
        *,
        key: str | None = "master_key",
        body: Any = None,
        params: dict[str, Any] | None = None,
        **headers: str,
    ) -> urllib3.BaseHTTPResponse:
        """`key`: the name of a key, a literal key, or None. `body`: bytes, or a value sent as JSON."""
        if key is not None:
            headers["Authorization"] = getattr(self.endpoint, key, key)
        url = path if path.startswith("http") else self.endpoint.base_url + path
        if params:
            texts = {k: v if isinstance(v, str) else json.dumps(v) for k, v in params.items()}
            url += "?" + "&".join(f"{k}={quote(v, safe='')}" for k, v in texts.items())
        data = body if body is None or isinstance(body, bytes) else json.dumps(body).encode()
        return self.pool.request(
            method, url, body=data, headers={k.replace("_", "-"): v for k, v in headers.items()}, redirect=False
        )

    def json(self, method: str, path: str, status: int = 200, **options: Any) -> Any:
        """The JSON of an answer that has to have `status`."""
        answer = self.request(method, path, **options)
        assert answer.status == status, (answer.status, answer.data[:500])
        return json.loads(answer.data)

    def add(self, collection: str, *events: dict[str, Any]) -> None:
        """Store events, all of them."""
        outcome = self.json("POST", f"{self.v3}/events", body={collection: list(events)}, key="write_key")
        assert outcome == {collection: [{"success": True}] * len(events)}

    def query(self, kind: str, collection: str, **parameters: Any) -> Any:
        """The result of a v3.0 analysis."""
        body = {"event_collection": collection, **parameters}
        return self.json("POST", f"{self.v3}/queries/{kind}", body=body, key="read_key")["result"]

    def extract(self, collection: str, **parameters: Any) -> str:
        """Create a v2.0 extraction and wait until it is complete; returns its results URL."""
        made = self.json("POST", f"{self.v2}/{quote(collection)}/_extract", body={"filters": [], **parameters}, key="read_key")
        return self.wait(collection, made["_id"])

    def wait(self, collection: str, extraction_id: str, seconds: float = 30) -> str:
        """Wait until an extraction is complete; returns its results URL."""
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            found = self.json("GET", f"{self.v2}/{quote(collection)}/_extract/{extraction_id}", key="read_key")
            assert found["status"] in ("not started", "complete"), found
            assert ("results_url" in found) == (found["status"] == "complete")
            if found["status"] == "complete":
                return str(found["results_url"])
            time.sleep(0.02)
        raise AssertionError(f"extraction {extraction_id} of {collection} did not end within {seconds} s")

    def csv(self, collection: str, **parameters: Any) -> bytes:
        """The bytes of a whole v2.0 extraction."""
        answer = self.request("GET", self.extract(collection, **parameters), key=None)
        assert answer.status == 200
        return answer.data
