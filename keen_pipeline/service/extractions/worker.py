"""Extractions, beside the request path: a few threads take the oldest record that is due, write its CSV, publish it.

An extraction has no result until its record says so: after a crash it is written again, from the beginning, a few times.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Mapping

from keen_pipeline.errors import ConfigurationError, KeenPipelineError, RetryableError
from keen_pipeline.service.events.analyses import paths_of
from keen_pipeline.service.extractions.csv_export import Selection, write_csv
from keen_pipeline.service.extractions.records import COMPLETE, FAILED, Extraction, ExtractionRecords, Turn
from keen_pipeline.service.extractions.results import Results
from keen_pipeline.service.storage.engine import DiskFullError, Engine, MemoryShortageError, QueryTimeoutError, own_errors
from keen_pipeline.service.storage.places import StorageError
from keen_pipeline.service.storage.store import EventStore

SWEEP_SECONDS = 60.0
# Turns of an extraction that finds no storage or no room, or no memory, which others may hold for long; and the rest before each.
TRIES = 10
MEMORY_TRIES = 60
PAUSE_SECONDS, MAX_PAUSES = 1.0, 60
POLL_SECONDS = 0.5
# Processes that may end in the middle of one extraction, by which they probably did, before it is given up.
LOST_TURNS = 5
MOST_SECONDS = 3600
"""For writing one extraction, since there are few threads for all of them; a hundred million events take some minutes."""
MOST_FAILURES = 3
"""Results that can't be removed before a sweep is given up."""

_log = logging.getLogger(__name__)


class ExtractionWorker:
    """Runs extractions on `threads` threads and removes results `retention_seconds` after their end.

    `faults`: see `ServiceConfig.fail_extractions`. `finished` is called after each end with the status, seconds, events.
    """

    def __init__(
        self,
        store: EventStore,
        engine: Engine,
        records: ExtractionRecords,
        results: Results,
        *,
        threads: int,
        retention_seconds: float,
        faults: Mapping[str, int],
        finished: Callable[[str, float, int], None],
    ) -> None:
        self._store, self._engine, self._records, self._results = store, engine, records, results
        self._retention_seconds = retention_seconds
        self._sweep_seconds = min(SWEEP_SECONDS, retention_seconds / 2)
        self._faults = dict(faults)
        self._finished = finished
        self._condition = threading.Condition()
        self._running: dict[str, Turn] = {}  # by extraction
        self._put_off: dict[str, int] = {}  # how often, by extraction
        self._stop = threading.Event()
        self._swept = float("-inf")
        self._threads = [threading.Thread(target=self._run, name=f"extraction-{i}", daemon=True) for i in range(threads)]
        if records.lease_seconds:
            self._threads.append(threading.Thread(target=self._renew, args=[records.lease_seconds / 3], name="renew", daemon=True))
        for thread in self._threads:
            thread.start()

    def wake(self) -> None:
        with self._condition:
            self._condition.notify()

    @property
    def running(self) -> int:
        return len(self._running)

    def close(self) -> None:
        """Stop; the engine is closed already, so what runs is cancelled and waits for the next start."""
        self._stop.set()
        with self._condition:
            self._condition.notify_all()
        for thread in self._threads:
            thread.join()

    def _run(self) -> None:
        while not self._stop.is_set():
            for work in (self._sweep, self._take_turn):
                try:
                    work()
                except Exception:  # noqa: BLE001 - one record, or a database that is away, must not end the thread for all others
                    _log.exception("extractions are held up", extra={"by": work.__name__})
                    self._stop.wait(PAUSE_SECONDS)

    def _renew(self, pause: float) -> None:
        while not self._stop.wait(pause):
            try:
                self._records.renew(list(self._running.values()))  # without the lock, which who takes a turn holds for as long
            except Exception:  # noqa: BLE001 - what is lost meanwhile is written by another process, and its end is noted once
                _log.exception("turns are not renewed")

    def _take_turn(self) -> None:
        turn = self._next()
        if turn is None:
            return
        try:
            self._extract(turn)
        finally:
            with self._condition:
                del self._running[turn.extraction_id]
                self._condition.notify_all()

    def _next(self) -> Turn | None:
        """The next turn; None after a while without one."""
        with self._condition:
            if self._stop.is_set():
                return None
            put_off = self._put_off.keys() if self._running else set()
            if not self._running.keys() & put_off:  # what found no memory beside others now runs alone
                turn = self._records.take_turn(self._running.keys() | put_off)
                if turn is not None:
                    self._running[turn.extraction_id] = turn
                    return turn
            self._condition.wait(min(POLL_SECONDS, self._sweep_seconds))
            return None

    def _sweep(self) -> None:
        """Remove results past their time, then their records: what could not be removed keeps its record for the next sweep."""
        with self._condition:
            now = time.monotonic()
            if self._stop.is_set() or now - self._swept < self._sweep_seconds:
                return
            self._swept = now
        with self._records.sweeping() as ours:
            if ours:
                self._remove_old()

    def _remove_old(self) -> None:
        finished_before = self._records.now() - self._retention_seconds
        self._results.remove_unknown(self._records.ids, finished_before)
        removed = []
        failures = 0
        for extraction_id, turns in self._records.expired(finished_before):
            try:
                for turn in range(1, turns + 1) if turns else (0,):
                    self._results.remove(Turn(extraction_id, turn).result)
            except (RetryableError, OSError) as error:
                _log.warning("result not removed", extra={"extraction": extraction_id, "reason": str(error)})
                failures += 1
                if failures == MOST_FAILURES:
                    break  # the others wait for the same storage
                continue
            removed.append(extraction_id)
        if removed:
            self._records.remove(removed)

    def _try_again_later(self, turn: Turn, error: Exception) -> bool:
        """Whether an extraction gets another turn. One that was cancelled by a shutdown, or whose events are away, always does,
        ever later, so that others get theirs; one that found no memory, no room or no storage does a few times, as those are
        shared with others, who pass.
        """
        extraction_id, pause = turn.extraction_id, PAUSE_SECONDS
        shortage = isinstance(error, (DiskFullError, MemoryShortageError, StorageError))
        if isinstance(error, QueryTimeoutError) or not (shortage or isinstance(error, RetryableError)):
            return False
        if shortage:
            self._put_off[extraction_id] = self._put_off.get(extraction_id, 0) + 1
            if self._put_off[extraction_id] > (MEMORY_TRIES if isinstance(error, MemoryShortageError) else TRIES):
                return False
        else:
            pause *= min(2**turn.number, MAX_PAUSES)
        _log.warning("extraction put off", extra={"extraction": extraction_id, "reason": f"{type(error).__name__}: {error}"})
        self._records.put_off(turn, 0 if self._stop.is_set() else pause)
        if shortage:
            self._stop.wait(PAUSE_SECONDS)
        return True

    def _extract(self, turn: Turn) -> None:
        extraction = self._records.get(turn.extraction_id)
        if extraction is None:
            return
        began = time.monotonic()
        try:
            _give_up_after_many(turn)
            self._fail_on_purpose(extraction)
            with own_errors("the extraction"):
                events = self._write(extraction, turn)
                size = self._results.publish(turn.result)
        except Exception as error:  # noqa: BLE001 - whatever it is, it ends this extraction and not the next one
            self._results.discard(turn.result)
            if self._try_again_later(turn, error):
                return
            # What is wrong with the configuration, or a folder, is for whoever runs the service: the log has it.
            tells = isinstance(error, KeenPipelineError) and type(error) is not ConfigurationError
            message = str(error) if tells else f"the service could not write the result ({type(error).__name__})"
            self._note(turn, FAILED, None, None, message)
            _log.exception("extraction failed", extra={"extraction": extraction.id, "collection": extraction.collection})
            self._finished(FAILED, time.monotonic() - began, 0)
            return
        if not self._note(turn, COMPLETE, events, size, None):
            return
        seconds = time.monotonic() - began
        fields = {
            "extraction": extraction.id,
            "collection": extraction.collection,
            "events": events,
            "bytes": size,
            "seconds": round(seconds, 3),
        }
        _log.info("extraction complete", extra=fields)
        self._finished(COMPLETE, seconds, events)

    def _note(self, turn: Turn, status: str, events: int | None, size: int | None, message: str | None) -> bool:
        """Note the end of a turn. If another process has the extraction by now, this result is none, and goes."""
        self._put_off.pop(turn.extraction_id, None)
        noted = self._records.finish(turn, status, events=events, size=size, message=message)
        if not noted:
            _log.warning("extraction taken over by another process", extra={"extraction": turn.extraction_id})
            self._results.remove(turn.result)
        return noted

    def _write(self, extraction: Extraction, turn: Turn) -> int:
        with self._store.snapshot(extraction.collection) as snapshot, self._engine.cursor(seconds=MOST_SECONDS) as cursor:
            shape, selection = extraction.shape, Selection(snapshot, extraction.conditions, extraction.timeframe, extraction.names)
            snapshot.fetch(selection.segments)  # all at once: they may be replaced while the first ones are read
            paths = paths_of(selection, shape.property_names) if shape.property_names is not None else None
            return write_csv(cursor, selection, self._results.part(turn.result), paths, latest=shape.latest)

    def _fail_on_purpose(self, extraction: Extraction) -> None:
        day = extraction.timeframe.start.strftime("%Y-%m-%d") if extraction.timeframe else ""
        with self._condition:
            for key in (extraction.collection, f"{extraction.collection}@{day}"):
                if self._faults.get(key, 0) > 0:
                    self._faults[key] -= 1
                    raise KeenPipelineError("this extraction was told to fail")


def _give_up_after_many(turn: Turn) -> None:
    if turn.lost >= LOST_TURNS:
        raise KeenPipelineError(f"given up: the service ended {turn.lost} times while it wrote this extraction")
