"""Extractions, beside the request path: a few threads take the oldest record that is due, write its CSV, publish it.

Nothing of a running extraction is in the database: after a crash its record still waits, and it is written again.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Mapping

import duckdb

from keen_pipeline.errors import KeenPipelineError, RetryableError
from keen_pipeline.service.analyses import paths_of
from keen_pipeline.service.csv_export import Selection, write_csv
from keen_pipeline.service.engine import Engine
from keen_pipeline.service.extraction_records import COMPLETE, FAILED, Extraction, ExtractionRecords
from keen_pipeline.service.results import Results, StorageError
from keen_pipeline.service.store import EventStore

SWEEP_SECONDS = 60.0
# Turns of an extraction that finds no memory or no storage, and the rest before each.
TRIES = 10
PAUSE_SECONDS = 1.0
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
        self._running: set[str] = set()
        self._put_off: dict[str, int] = {}
        self._stopping = False
        self._swept = 0.0
        results.remove_all_but(records.ids())
        self._threads = [threading.Thread(target=self._run, name=f"extraction-{i}", daemon=True) for i in range(threads)]
        for thread in self._threads:
            thread.start()

    def wake(self) -> None:
        """A new record may be there."""
        with self._condition:
            self._condition.notify()

    @property
    def running(self) -> int:
        """How many extractions are being written."""
        with self._condition:
            return len(self._running)

    def close(self) -> None:
        """Stop; the engine is closed already, so what runs is cancelled and waits for the next start."""
        with self._condition:
            self._stopping = True
            self._condition.notify_all()
        for thread in self._threads:
            thread.join()

    def _run(self) -> None:
        while True:
            self._sweep()
            with self._condition:
                if self._stopping:
                    return
                chosen, pause = self._choose()
                if chosen is None:
                    self._condition.wait(pause)
                    continue
                self._running.add(chosen)
            try:
                self._extract(chosen)
            except Exception:  # noqa: BLE001 - one record that can't be handled must not end the thread for all others
                _log.exception("extraction stopped", extra={"extraction": chosen})
                time.sleep(1)
            finally:
                with self._condition:
                    self._running.discard(chosen)
                    self._condition.notify_all()

    def _choose(self) -> tuple[str | None, float]:
        """The next record to run, else the seconds until one is due or the next sweep."""
        now = time.time()
        if self._running & self._put_off.keys():
            return None, PAUSE_SECONDS  # what found no memory beside others now runs alone
        pause = self._sweep_seconds
        for extraction_id, not_before in self._records.waiting():
            if extraction_id in self._running:
                continue
            if extraction_id in self._put_off and self._running:
                pause = min(pause, PAUSE_SECONDS)
                continue
            if not_before <= now:
                return extraction_id, 0.0
            pause = min(pause, not_before - now)
        return None, pause

    def _sweep(self) -> None:
        """Remove results past their time, then their records: what could not be removed keeps its record for the next sweep."""
        with self._condition:
            now = time.time()
            if self._stopping or 0 <= now - self._swept < self._sweep_seconds:
                return
            self._swept = now
        removed = []
        for extraction_id in self._records.expired(now - self._retention_seconds):
            try:
                self._results.remove(extraction_id)
            except (StorageError, OSError) as error:
                _log.warning("result not removed", extra={"extraction": extraction_id, "reason": str(error)})
                break  # the others wait for the same storage
            removed.append(extraction_id)
        if removed:
            self._records.remove(removed)

    def _try_again_later(self, extraction_id: str, error: Exception) -> bool:
        """Whether a failed extraction gets another turn: memory is shared with others, who pass; a storage comes back."""
        if not isinstance(error, (duckdb.OutOfMemoryException, StorageError)):
            return False
        self._put_off[extraction_id] = self._put_off.get(extraction_id, 0) + 1
        if self._put_off[extraction_id] > TRIES:
            del self._put_off[extraction_id]
            return False
        _log.warning("extraction put off", extra={"extraction": extraction_id, "reason": type(error).__name__})
        time.sleep(PAUSE_SECONDS)
        return True

    def _extract(self, extraction_id: str) -> None:
        extraction = self._records.get(extraction_id)
        if extraction is None:
            return
        began = time.monotonic()
        try:
            self._fail_on_purpose(extraction)
            events = self._write(extraction)
            size = self._results.publish(extraction_id)
        except RetryableError as error:
            # Only a shutdown cancels an extraction; the record stays as it is.
            self._results.discard(extraction_id)
            _log.info("extraction put off", extra={"extraction": extraction_id, "reason": str(error)})
            return
        except (KeenPipelineError, duckdb.Error, OSError) as error:
            self._results.discard(extraction_id)
            if self._try_again_later(extraction_id, error):
                return
            message = (
                str(error)
                if isinstance(error, KeenPipelineError)
                else f"the service could not write the result ({type(error).__name__})"
            )
            self._records.finish(extraction_id, FAILED, now=time.time(), events=None, size=None, message=message)
            _log.exception("extraction failed", extra={"extraction": extraction_id, "collection": extraction.collection})
            self._finished(FAILED, time.monotonic() - began, 0)
            return
        self._put_off.pop(extraction_id, None)
        self._records.finish(extraction_id, COMPLETE, now=time.time(), events=events, size=size, message=None)
        seconds = time.monotonic() - began
        fields = {
            "extraction": extraction_id,
            "collection": extraction.collection,
            "events": events,
            "bytes": size,
            "seconds": round(seconds, 3),
        }
        _log.info("extraction complete", extra=fields)
        self._finished(COMPLETE, seconds, events)

    def _write(self, extraction: Extraction) -> int:
        with self._store.snapshot(extraction.collection) as snapshot, self._engine.cursor() as cursor:
            selection = Selection(snapshot, extraction.filters, extraction.timeframe, extraction.names)
            shape = extraction.shape
            paths = paths_of(selection, list(shape.property_names)) if shape.property_names is not None else None
            return write_csv(cursor, selection, self._results.part(extraction.id), paths, latest=shape.latest)

    def _fail_on_purpose(self, extraction: Extraction) -> None:
        day = extraction.timeframe.start.strftime("%Y-%m-%d") if extraction.timeframe else ""
        with self._condition:
            for key in (extraction.collection, f"{extraction.collection}@{day}"):
                if self._faults.get(key, 0) > 0:
                    self._faults[key] -= 1
                    raise KeenPipelineError("this extraction was told to fail")
