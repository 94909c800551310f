"""What every use case works with."""

from __future__ import annotations

import logging
import random
import uuid
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from threading import Event, Thread

from keen_pipeline.extraction import Status
from keen_pipeline.lifecycle import Limits
from keen_pipeline.ports import Clock, Destination, ExtractionApi, Ledger

_log = logging.getLogger(__name__)


def new_owner() -> str:
    """A token for claims that nobody else has."""
    return uuid.uuid4().hex


@dataclass(frozen=True)
class Pipeline:
    """The four adapters and the bounds. `poll_seconds`: between two polls of a wait. `landing_threads`: files at once.

    `mask_key`: of the hashes of masked columns.
    """

    api: ExtractionApi
    ledger: Ledger
    destination: Destination
    limits: Limits = field(default_factory=Limits)
    poll_seconds: float = 5.0
    landing_threads: int = 4
    posting_threads: int = 4
    mask_key: bytes | None = field(default=None, repr=False)

    @property
    def clock(self) -> Clock:
        """The ledger's time, whatever this machine's clock says."""
        return self.ledger.clock

    def jitter(self) -> float:
        """Uniform in [0, 1], for back-offs."""
        return random.random()  # noqa: S311 - spreads retries, guards nothing

    @contextmanager
    def keeping(self, entry_ids: Sequence[int], owner: str) -> Iterator[None]:
        """Renew the claim on entries (a list that may grow meanwhile) every third of the lease until the block ends.

        Where the ledger can't be reached it is tried again the next time. A claim that ran out meanwhile may be another's by then:
        the ledger refuses what the block does without it.
        """
        stop = Event()

        def renew() -> None:
            while not stop.wait(self.limits.lease_seconds / 3):
                try:
                    for status in (Status.REQUESTED, Status.SUBMITTED, Status.SPLIT, Status.COMPLETE, Status.LANDED):
                        self.ledger.claim(list(entry_ids), status, owner, self.limits.lease_seconds)
                except Exception as error:  # noqa: BLE001 - this thread has no caller, and must not end before the block
                    # A database driver's first line says it; the others hold the statement.
                    reason = (str(error).splitlines() or [""])[0]
                    _log.warning("claims on %d extractions are not renewed: %s: %s", len(entry_ids), type(error).__name__, reason)

        thread = Thread(target=renew, name="keen-claims", daemon=True)
        thread.start()
        try:
            yield
        finally:
            stop.set()
            thread.join(timeout=30)
