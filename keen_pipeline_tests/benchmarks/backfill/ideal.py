"""The bare ideal: asyncio and nothing else. Submits within the limit, one list call an interval, downloads, writes.

    python -m keen_pipeline_tests.benchmarks.backfill.ideal FIRST DAYS     (the rest by the environment, as ours)

No ledger, no verification, no history: what is lost when it stops is lost.
"""

from __future__ import annotations

import asyncio
import json
import os
import sys
import time
from collections import deque
from datetime import date, timedelta
from pathlib import Path
from urllib.parse import urlsplit

_BASE = urlsplit(os.environ["KEEN_BASE_URL"])
_ROOT = f"/2.0/projects/{os.environ['KEEN_PROJECT_ID']}/purchases/_extract"
_LIMIT = int(os.environ["KEEN_PIPELINE_REQUESTS_PER_MINUTE"])
_POLL_SECONDS = float(os.environ["KEEN_PIPELINE_POLL_SECONDS"])
_TARGET = Path(os.environ["KEEN_PIPELINE_DESTINATION"]) / "purchases"


class Budget:
    """At most so many requests in any 61 seconds, as ours."""

    def __init__(self) -> None:
        self._sent: deque[float] = deque()
        self._turn = asyncio.Lock()

    async def acquire(self) -> None:
        async with self._turn:
            if len(self._sent) == _LIMIT:
                await asyncio.sleep(max(0.0, self._sent.popleft() + 61 - time.monotonic()))
            self._sent.append(time.monotonic())


async def exchange(method: str, target: str, body: bytes = b"") -> bytes:
    """One request, one connection; the answer's body."""
    reader, writer = await asyncio.open_connection(_BASE.hostname, _BASE.port, limit=1 << 20)
    head = f"{method} {target} HTTP/1.0\r\nHost: {_BASE.netloc}\r\nAuthorization: {os.environ['KEEN_READ_KEY']}\r\n"
    writer.write(f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body)
    answer = await reader.read()
    writer.close()
    header, _, content = answer.partition(b"\r\n\r\n")
    assert b" 200 " in header.split(b"\r\n", 1)[0], header
    return content


async def backfill(first: date, days: int) -> None:
    """All of it."""
    budget, gate, waiting = Budget(), asyncio.Semaphore(16), dict[str, str]()
    submitted = asyncio.Event()

    async def submit(day: date) -> None:
        async with gate:
            await budget.acquire()
            window = {"start": f"{day}T00:00:00Z", "end": f"{day + timedelta(days=1)}T00:00:00Z"}
            made = json.loads(await exchange("POST", _ROOT, json.dumps({"filters": [], "timeframe": window}).encode()))
            waiting[made["_id"]] = day.isoformat()

    async def fetch(url: str, day: str) -> None:
        parts = urlsplit(url)
        async with gate:
            (_TARGET / f"{day}.csv").write_bytes(await exchange("GET", f"{parts.path}?{parts.query}"))

    async def submit_all() -> None:
        await asyncio.gather(*(submit(first + timedelta(days=n)) for n in range(days)))
        submitted.set()

    async with asyncio.TaskGroup() as group:
        group.create_task(submit_all())
        while waiting or not submitted.is_set():
            await asyncio.sleep(_POLL_SECONDS)
            await budget.acquire()
            for item in json.loads(await exchange("GET", _ROOT))["results"]:
                if item["status"] == "complete" and item["_id"] in waiting:
                    group.create_task(fetch(item["results_url"], waiting.pop(item["_id"])))


if __name__ == "__main__":
    _TARGET.mkdir(parents=True)
    asyncio.run(backfill(date.fromisoformat(sys.argv[1]), int(sys.argv[2])))
