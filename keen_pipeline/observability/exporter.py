"""The ledger's statistics for whoever scrapes: never older than promised, never waited for longer than a scrape lasts."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterable
from concurrent.futures import Future
from concurrent.futures import TimeoutError as FutureTimeoutError
from threading import Lock, Thread

from prometheus_client import CollectorRegistry, ProcessCollector
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector

from keen_pipeline.errors import ServiceUnavailableError
from keen_pipeline.ledger.statistics import LedgerStatistics
from keen_pipeline.observability.metrics import metrics_of, reachable

# A scrape within so many seconds of another gets the same answer.
CACHE_SECONDS = 5.0
# Prometheus gives a scrape up after ten.
SCRAPE_SECONDS = 8.0
# A ledger that takes longer than a scrape to answer is told as it was, up to so long ago.
LATE_SECONDS = 120.0

_log = logging.getLogger(__name__)


class PipelineMetrics(Collector):
    """The metrics of one ledger. Safe to ask from many threads: one of them reads, and all get its answer.

    `read`: answers the statistics, or raises ServiceUnavailableError. `requests_per_minute`: the configured budget.
    `cache_seconds`: how long one answer serves.
    """

    def __init__(
        self, read: Callable[[], LedgerStatistics], requests_per_minute: int, *, cache_seconds: float = CACHE_SECONDS
    ) -> None:
        self._read = read
        self.cache_seconds = cache_seconds
        self._requests_per_minute = requests_per_minute
        self._lock = Lock()
        self._reading: Future[LedgerStatistics] | None = None
        self._begun = 0.0
        # The last one, and when it came.
        self._answer: tuple[LedgerStatistics | None, float] = (None, 0.0)
        self.registry = CollectorRegistry()
        self.registry.register(self)
        ProcessCollector(registry=self.registry)

    def statistics(self, seconds: float = SCRAPE_SECONDS) -> LedgerStatistics:
        """The ledger as of at most `cache_seconds` ago or, if it does not answer within `seconds`, LATE_SECONDS.

        Raises ServiceUnavailableError if that is not known; it is read on meanwhile, for the next who asks.
        """
        with self._lock:
            reading = self._reading
            if reading is None or (reading.done() and time.monotonic() - self._begun > self.cache_seconds):
                self._begun = time.monotonic()
                reading = self._reading = Future()
                # A daemon: a database that hangs must not hold up the end of the process.
                Thread(target=self._fill, args=(reading,), name="keen-metrics", daemon=True).start()
        try:
            return reading.result(seconds)
        except FutureTimeoutError:
            answer, answered = self._answer
            if answer is not None and time.monotonic() - answered < LATE_SECONDS:
                return answer
            raise ServiceUnavailableError(f"the ledger has not answered for {time.monotonic() - self._begun:.0f} s") from None

    def _fill(self, reading: Future[LedgerStatistics]) -> None:
        try:
            answer = self._read()
        except Exception as error:  # noqa: BLE001 - raised where it is asked for
            reading.set_exception(error)
            return
        self._answer = (answer, time.monotonic())
        reading.set_result(answer)

    def describe(self) -> Iterable[Metric]:
        """Nothing: what is registered is not read for it."""
        return []

    def collect(self) -> Iterable[Metric]:
        """The metrics of one scrape."""
        try:
            statistics = self.statistics()
        except ServiceUnavailableError as error:
            _log.warning("%s", error)
            return [reachable(False)]
        return list(metrics_of(statistics, self._requests_per_minute))
