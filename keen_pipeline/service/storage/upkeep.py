"""Beside the requests: logs become files, small files become larger ones, what was replaced long ago goes."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable

from keen_pipeline.service.config import MIB
from keen_pipeline.service.storage.parts import Backlog
from keen_pipeline.service.storage.store import EventStore
from keen_pipeline.service.storage.tables import OvertakenError

DUE_BYTES = 8 * MIB
DUE_APPENDS = 64
"""A collection's logs are folded once they are so large, so many, or `fold_seconds` old."""

SWEEP_SECONDS = 600.0
PAUSE_SECONDS = 5.0
"""After a turn that failed: a disk or a storage that is full or away is not back at once."""
MOST_FAILURES = 3
"""Collections that can't be folded before the turn is given up. They come last in the next one, so that they hold up no other."""

_log = logging.getLogger(__name__)


class Upkeep:
    """One thread. `fold_seconds`: events rest at most so long in logs. `keep_seconds`: what was replaced is kept for so long.

    Whatever fails is tried again: the logs are read as they are, and nothing is lost.
    """

    def __init__(self, store: EventStore, fold_seconds: float, keep_seconds: float) -> None:
        self._store = store
        self._fold_seconds, self._keep_seconds = fold_seconds, keep_seconds
        self._failed: dict[str, float] = {}  # when, by collection
        self._swept = time.monotonic()
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="upkeep", daemon=True)
        self._thread.start()

    def _run(self) -> None:
        pause = usual = min(1.0, self._fold_seconds)
        taken_up = False
        while not self._stop.wait(pause):
            try:
                if not taken_up:  # what the last process left, so that its logs are folded though nobody asks for them
                    self._all(self._store.known, "a collection can't be opened")
                    taken_up = True
                due = [backlog.name for backlog in self._store.backlogs() if self._is_due(backlog)]
                pause = usual if self._each(due) else PAUSE_SECONDS
                if time.monotonic() - self._swept >= min(SWEEP_SECONDS, self._keep_seconds):
                    self._swept = time.monotonic()
                    self._all(self._sweep, "a collection can't be swept")
            except Exception:  # noqa: BLE001 - nothing is lost: the next turn does it
                _log.exception("upkeep failed")
                pause = PAUSE_SECONDS

    def _all(self, step: Callable[[str], object], problem: str) -> None:
        for name in self._store.names():
            if self._stop.is_set():
                return
            try:
                step(name)
            except Exception:  # noqa: BLE001 - whoever asks for that collection gets the error; the others are all right
                _log.exception(problem, extra={"collection": name})

    def _is_due(self, backlog: Backlog) -> bool:
        return backlog.bytes >= DUE_BYTES or backlog.appends >= DUE_APPENDS or backlog.age >= self._fold_seconds

    def _each(self, due: list[str]) -> bool:
        """Whether all could be folded. What never failed comes first, then what failed longest ago."""
        failures = 0
        for name in sorted(due, key=lambda name: self._failed.get(name, 0.0)):
            if self._stop.is_set() or failures == MOST_FAILURES:
                break
            try:
                self._fold(name)
                self._failed.pop(name, None)
            except Exception:  # noqa: BLE001 - as of a turn; the others' files and memory may be all right
                if self._stop.is_set():
                    break  # by which it was cancelled
                _log.exception("a collection can't be folded", extra={"collection": name})
                self._failed[name] = time.monotonic()
                failures += 1
        return failures == 0

    def _fold(self, name: str) -> None:
        collection = self._store.known(name)
        for work, step in (("fold", self._store.fold), ("rewrite", self._store.merge)):
            with self._store.exclusive(f"{work} of {name}", 0) as ours:
                try:
                    while ours and collection is not None and not self._stop.is_set() and step(collection):
                        pass
                except OvertakenError as error:
                    _log.info("overtaken", extra={"collection": name, "reason": str(error)})

    def _sweep(self, name: str) -> None:
        collection = self._store.known(name)
        with self._store.exclusive(f"sweep of {name}", 0) as ours:
            if ours and collection is not None:
                self._store.sweep(collection, self._keep_seconds)

    def stop(self) -> None:
        """Begin nothing any more."""
        self._stop.set()

    def close(self) -> None:
        """Stop after the fold that is being made; the engine is closed already."""
        self._stop.set()
        self._thread.join()
