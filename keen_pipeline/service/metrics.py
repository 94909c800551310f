"""Prometheus metrics of the service: counted where things happen, gauges read when asked for."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable
from typing import TYPE_CHECKING

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

if TYPE_CHECKING:
    from keen_pipeline.service.application import Service

_log = logging.getLogger(__name__)
_SECONDS = (0.001, 0.005, 0.02, 0.1, 0.5, 2, 10, 60, 300)

_METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"})


class Metrics:
    """One registry per service, so that several may live in one process."""

    def __init__(self, service: Service) -> None:
        self._registry = CollectorRegistry()
        self.events = Counter("keen_events_stored", "Events stored durably", registry=self._registry)
        self.requests = Counter("keen_requests", "HTTP requests answered", ["method", "status"], registry=self._registry)
        self.request_seconds = Histogram(
            "keen_request_seconds", "Time to the end of an answer", buckets=_SECONDS, registry=self._registry
        )
        self._extractions = Counter("keen_extractions", "Extractions ended", ["status"], registry=self._registry)
        self._extraction_seconds = Histogram(
            "keen_extraction_seconds", "Time to write a result", buckets=_SECONDS, registry=self._registry
        )
        self._extracted = Counter("keen_events_extracted", "Events written to results", registry=self._registry)
        self.mails = Counter("keen_mails", "Attempts to send a mail", ["outcome"], registry=self._registry)
        self._gauge("keen_extractions_waiting", "Extractions not finished", lambda: float(service.records.count_waiting()))
        self._gauge("keen_extractions_running", "Extractions being written", lambda: float(service.worker.running))
        self._gauge("keen_events_unfolded_bytes", "Events in no segment yet", lambda: float(service.store.unfolded_bytes()))

    def _gauge(self, name: str, text: str, read: Callable[[], float]) -> None:
        def value() -> float:
            try:
                return read()
            except Exception:  # noqa: BLE001 - a database that is away must not hide all other metrics
                _log.exception("metric not read", extra={"metric": name})
                return math.nan

        Gauge(name, text, registry=self._registry).set_function(value)

    def request_finished(self, method: str, status: int, seconds: float) -> None:
        """Count a request that was answered; whatever methods clients invent are one."""
        self.requests.labels(method if method in _METHODS else "other", str(status)).inc()
        self.request_seconds.observe(seconds)

    def extraction_finished(self, status: str, seconds: float, events: int) -> None:
        self._extractions.labels(status).inc()
        self._extraction_seconds.observe(seconds)
        self._extracted.inc(events)

    def text(self) -> bytes:
        """The exposition format, version 0.0.4."""
        return generate_latest(self._registry)
