"""Beside the requests: appends become segments, small segments become larger ones, files that no segment names go."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass

from keen_pipeline.service.config import MIB
from keen_pipeline.service.storage.shared.catalogue import Backlog, OvertakenError, SharedCatalogue
from keen_pipeline.service.storage.shared.leases import Leases
from keen_pipeline.service.storage.shared.objects import ObjectStore
from keen_pipeline.service.storage.shared.writer import SegmentWriter, SharedCollection

DUE_BYTES = 8 * MIB
DUE_ROWS = 2000
"""A collection's appends are folded once they are so large, so many, or `UpkeepTimes.fold` old; readers do the rest themselves."""

MAX_BACKLOG_BYTES = 1024 * MIB
"""Of one collection's lines; past it appends are refused until the storage takes segments again."""

SWEEP_SECONDS = 60.0
PAUSE_SECONDS = 5.0
"""After a turn that failed: a database or a storage that is away is not back at once."""
MOST_FAILURES = 3
"""Collections that can't be folded before the turn is given up. They come last in the next one, so that they hold up no other."""

_SWEEP = "loose files"
_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class UpkeepTimes:
    """In seconds. `fold`: events rest at most so long in the catalogue. `lease`: of a writer. `loose`: a file that no segment
    names is kept for so long, as readers may still ask for it."""

    fold: float
    lease: float
    loose: float


def writer_lease(collection: int) -> str:
    """The name of the lease of a collection's one writer."""
    return f"writer of collection {collection}"


class Upkeep:
    """One thread of each process. `overfull`: the collections that take no appends now. `backlog_bytes`: of all collections."""

    def __init__(
        self,
        catalogue: SharedCatalogue,
        leases: Leases,
        objects: ObjectStore,
        writer: SegmentWriter,
        times: UpkeepTimes,
        collection: Callable[[int], SharedCollection | None],
    ) -> None:
        self._catalogue, self._leases, self._objects, self._writer = catalogue, leases, objects, writer
        self._times = times
        self._collection = collection
        self.overfull: frozenset[int] = frozenset()
        self.backlog_bytes = 0
        self._failed: dict[int, float] = {}  # when, by collection
        self._swept = float("-inf")
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="upkeep", daemon=True)
        self._thread.start()

    def _run(self) -> None:
        pause = usual = min(1.0, self._times.fold)
        while not self._stop.wait(pause):
            try:
                backlogs = self._catalogue.backlogs()
                self.backlog_bytes = sum(b.bytes for b in backlogs)
                self.overfull = frozenset(b.collection for b in backlogs if b.bytes > MAX_BACKLOG_BYTES)
                sound = self._fold_all([b.collection for b in backlogs if self._is_due(b)])
                pause = usual if sound else PAUSE_SECONDS
                self._sweep()
            except Exception:  # noqa: BLE001 - nothing is lost: the next turn, or another process, does it
                _log.exception("upkeep failed")
                pause = PAUSE_SECONDS

    def _is_due(self, backlog: Backlog) -> bool:
        return backlog.bytes >= DUE_BYTES or backlog.rows >= DUE_ROWS or backlog.age >= self._times.fold

    def _fold_all(self, due: list[int]) -> bool:
        """Whether all could be folded. What never failed comes first, then what failed longest ago."""
        failures = 0
        for number in sorted(due, key=lambda number: self._failed.get(number, 0.0)):
            if self._stop.is_set() or failures == MOST_FAILURES:
                break
            try:
                self._fold(number)
                self._failed.pop(number, None)
            except Exception:  # noqa: BLE001 - as of a turn; the others' storage and memory may be all right
                _log.exception("a collection can't be folded", extra={"collection": number})
                self._failed[number] = time.monotonic()
                failures += 1
        return failures == 0

    def _fold(self, number: int) -> None:
        collection = self._collection(number)
        if collection is None:
            return
        with self._leases.if_free(writer_lease(number), self._times.lease) as lease:
            if lease is None:
                return
            try:
                self._writer.fold(collection)
                lease.take()
                self._writer.merge(collection)
            except OvertakenError as error:  # its lease expired while it worked, and the next writer was quicker
                _log.info("overtaken", extra={"collection": collection.name, "reason": str(error)})

    def _sweep(self) -> None:
        now = time.monotonic()
        if now - self._swept < min(SWEEP_SECONDS, self._times.loose):
            return
        self._swept = now
        with self._leases.if_free(_SWEEP, SWEEP_SECONDS) as lease:
            while lease is not None and self._catalogue.remove_loose(self._times.loose, self._objects.remove):
                pass

    def close(self) -> None:
        """Stop after the fold that is being made; the engine is closed already."""
        self._stop.set()
        self._thread.join()
