"""A worker in a process of its own; a test tells it what to do, one JSON line an order.

python -m keen_pipeline_tests.contract.database.host LEDGER_URL AHEAD_SECONDS LEASE_SECONDS
"""

from __future__ import annotations

import json
import logging
import signal
import subprocess
import sys
from contextlib import suppress
from types import TracebackType
from typing import Any, cast

from keen_pipeline.errors import ClaimLostError, RateLimitedError
from keen_pipeline.ledger import LedgerRateLimiter, SqlLedger, open_engine
from keen_pipeline.lifecycle import Limits
from keen_pipeline_tests.ledgers import SCOPE, landing
from keen_pipeline_tests.skewed import set_this_hosts_clock

RETRY_SECONDS = 2.0
REQUESTS_PER_MINUTE = 7


class Host:
    """The test's end of one worker, which is killed at the end of the `with` block."""

    def __init__(self, url: str, ahead_seconds: float = 0.0, lease_seconds: float = 2.0) -> None:
        arguments = [url, str(ahead_seconds), str(lease_seconds)]
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

    def send(self, number: signal.Signals) -> None:
        """SIGSTOP, SIGCONT."""
        self._child.send_signal(number)

    def kill(self, *, wait: bool = True) -> None:
        """The process vanishes: no handler runs, nothing is given back."""
        self._child.kill()
        if not wait:  # nobody has asked what became of it: a zombie
            return
        self._child.wait()
        for pipe in (self._child.stdin, self._child.stdout):
            with suppress(BrokenPipeError):
                pipe.close()  # type: ignore[union-attr]


class Worker:
    """The orders."""

    def __init__(self, url: str, lease_seconds: float) -> None:
        self._ledger = SqlLedger(open_engine(url), SCOPE)
        self._limiter = LedgerRateLimiter(self._ledger.engine, REQUESTS_PER_MINUTE, budget="b")
        self._limits = Limits(retry_seconds=RETRY_SECONDS, lease_seconds=lease_seconds)
        self._working = self._ledger.working("a test", self._limits)
        self._worker = self._working.__enter__()

    def worker_id(self) -> str:
        return self._worker.id

    def claim(self, entry_ids: list[int]) -> list[int]:
        """Ids of the entries that are this worker's now; those that are gone are taken over first."""
        self._ledger.workers.prune(self._limits.lease_seconds)
        return [e.entry_id for e in self._ledger.claim(entry_ids, self._worker.id)]

    def complete(self, entry_id: int) -> bool:
        """requested ▶ complete."""
        self._ledger.posting(entry_id, self._worker.id)
        self._ledger.submitted(entry_id, self._worker.id, f"e{entry_id}")
        return bool(self._ledger.complete([entry_id], self._worker.id))

    def land(self, entry_id: int, worker_id: str, sha256: str) -> bool:
        """complete ▶ landed by a worker's id; False if the claim was lost."""
        try:
            self._ledger.publishing(entry_id, worker_id)
            self._ledger.landed(entry_id, worker_id, landing(sha256=sha256))
        except ClaimLostError:
            return False
        return True

    def post(self) -> list[int]:
        """Submit what is due; ids of what is submitted now."""
        now = self._ledger.clock.now()
        due = [e.entry_id for e in self._ledger.open_entries() if e.due_at <= now and e.status.value == "requested"]
        for entry_id in self.claim(due):
            self._ledger.posting(entry_id, self._worker.id)
            self._ledger.submitted(entry_id, self._worker.id, f"e{entry_id}")
        return due

    def fail(self, entry_id: int) -> int:
        """The attempt fails; the id of the next one."""
        following = self._ledger.fail(entry_id, "it broke", limits=self._limits, worker=self._worker.id)
        assert following is not None
        self._ledger.release([following.entry_id], self._worker.id)
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


def main(url: str, ahead_seconds: str, lease_seconds: str) -> None:
    """Answer orders until standard input ends."""
    logging.basicConfig(stream=sys.stderr)
    set_this_hosts_clock(float(ahead_seconds))
    worker = Worker(url, float(lease_seconds))
    for line in sys.stdin:
        order, *arguments = json.loads(line)
        print(json.dumps(getattr(worker, order)(*arguments)), flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
