"""A worker on a host of its own, whose clock may be wrong; a test tells it what to do, one JSON line an order.

python -m keen_pipeline_tests.contract.host LEDGER_URL AHEAD_SECONDS REQUESTS_PER_MINUTE
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from contextlib import ExitStack, suppress
from types import TracebackType
from typing import Any, cast

from keen_pipeline.errors import RateLimitedError
from keen_pipeline.extraction import Status
from keen_pipeline.landing import FileDestination
from keen_pipeline.ledger import LedgerRateLimiter, SqlLedger, open_engine
from keen_pipeline.lifecycle import Limits
from keen_pipeline.pipeline import Pipeline, post_due
from keen_pipeline_tests.skewed import set_this_hosts_clock
from keen_pipeline_tests.unit.scripted_api import ScriptedApi

RETRY_SECONDS = 2.0
LEASE_SECONDS = 2.0


class Host:
    """The test's end of one worker, which is killed at the end of the `with` block."""

    def __init__(self, url: str, ahead_seconds: float, requests_per_minute: int = 1000) -> None:
        arguments = [url, str(ahead_seconds), str(requests_per_minute)]
        self._child = subprocess.Popen(
            [sys.executable, "-m", __name__, *arguments], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )

    def __enter__(self) -> Host:
        return self

    def __exit__(self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None) -> None:
        self.kill()

    def ask(self, order: str, *arguments: Any) -> Any:
        """What the worker answers to one order."""
        assert self._child.stdin is not None
        assert self._child.stdout is not None
        self._child.stdin.write(json.dumps([order, *arguments]) + "\n")
        self._child.stdin.flush()
        return json.loads(self._child.stdout.readline())

    def kill(self) -> None:
        """The host vanishes: no handler runs, nothing is given back."""
        self._child.kill()
        self._child.wait()
        for pipe in (self._child.stdin, self._child.stdout):
            with suppress(BrokenPipeError):
                pipe.close()  # type: ignore[union-attr]


class Worker:
    """The orders."""

    def __init__(self, url: str, requests_per_minute: int, folder: str) -> None:
        self._ledger = SqlLedger(open_engine(url))
        self._limiter = LedgerRateLimiter(self._ledger.engine, requests_per_minute)
        limits = Limits(retry_seconds=RETRY_SECONDS, lease_seconds=LEASE_SECONDS)
        self._pipeline = Pipeline(ScriptedApi(), self._ledger, FileDestination(folder), limits)
        self._kept = ExitStack()

    def claim(self, entry_ids: list[int], status: str, owner: str, seconds: float) -> list[int]:
        """Ids of the entries that are claimed now."""
        return [e.entry_id for e in self._ledger.claim(entry_ids, Status(status), owner, seconds)]

    def keep(self, entry_ids: list[int], owner: str) -> list[int]:
        """Claim submitted entries and renew the claim as long as this process lives, as a run does that lands or waits."""
        claimed = self.claim(entry_ids, "submitted", owner, LEASE_SECONDS)
        self._kept.enter_context(self._pipeline.keeping(claimed, owner))
        return claimed

    def post(self) -> list[int]:
        """Post what is due; ids of what is submitted now."""
        return [e.entry_id for e in post_due(self._pipeline).submitted]

    def fail(self, entry_id: int) -> int:
        """The attempt fails; the id of the next one."""
        following = self._ledger.fail(entry_id, "it broke", limits=self._pipeline.limits)
        assert following is not None
        return following.entry_id

    def spend(self) -> list[float]:
        """Take requests from the budget until it is used up: how many, and the seconds it says until the next."""
        taken = 0
        while True:
            try:
                self._limiter.acquire(timeout=0)
            except RateLimitedError as error:
                return [taken, cast("float", error.retry_after)]
            taken += 1


def main(url: str, ahead_seconds: str, requests_per_minute: str) -> None:
    """Answer orders until standard input ends."""
    set_this_hosts_clock(float(ahead_seconds))
    with tempfile.TemporaryDirectory() as folder:
        worker = Worker(url, int(requests_per_minute), folder)
        for line in sys.stdin:
            order, *arguments = json.loads(line)
            print(json.dumps(getattr(worker, order)(*arguments)), flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
