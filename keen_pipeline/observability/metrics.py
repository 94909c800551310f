"""From the ledger's statistics to Prometheus metrics: names, units, help texts. Pure.

Labels are collections and open statuses, never partitions or extraction ids, so that the number of series stays bounded.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping

from prometheus_client.metrics_core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric

from keen_pipeline.extraction import OPEN_STATUSES
from keen_pipeline.ledger.statistics import CollectionStatistics, LedgerStatistics
from keen_pipeline.ledger.totals import LANDING_SECONDS, SUBMITTING_SECONDS, WAITING_SECONDS, Distribution, Totals

_COLLECTION = ["collection"]
REACHABLE = "keen_pipeline_ledger_reachable"

_COUNTERS: Mapping[str, tuple[str, Callable[[Totals], int]]] = {
    "extractions_requested": (
        "Extractions asked for: attempts and slices of each partition or ad hoc extraction",
        lambda t: t.requested,
    ),
    "extractions_submitted": ("Extractions that the service took", lambda t: t.submitted),
    "extractions_failed": ("Attempts that ended without a file, whether or not another one followed", lambda t: t.failed),
    "extractions_abandoned": ("Files given up after the last attempt: somebody has to act", lambda t: t.abandoned),
    "extractions_cancelled": ("Extractions cancelled by a person, or by another question for the same file", lambda t: t.cancelled),
    "extractions_landed": ("Files landed whole", lambda t: t.landed),
    "landed_events": ("Events in the files landed", lambda t: t.landed_events),
    "landed_bytes": ("Bytes of Keen's CSV in the files landed", lambda t: t.landed_bytes),
    "landing_failures": ("Finished extractions that did not become a file, each time it was tried", lambda t: t.landing_failures),
    "orphans": ("Requests for an extraction whose answer was lost, sent again", lambda t: t.orphans),
}
_HISTOGRAMS: Mapping[str, tuple[str, tuple[float, ...], Callable[[Totals], Distribution]]] = {
    "submitting_seconds": (
        "From the intent to the service's answer, with back-offs and waits for the budget of requests",
        SUBMITTING_SECONDS,
        lambda t: t.submitting,
    ),
    "waiting_seconds": (
        "From the submission until the service had finished, noted when the attempt has ended",
        WAITING_SECONDS,
        lambda t: t.waiting,
    ),
    "landing_seconds": ("From the first byte to the whole file", LANDING_SECONDS, lambda t: t.landing),
}

_GAUGES: Mapping[str, tuple[str, Callable[[CollectionStatistics], float | None]]] = {
    "abandoned_partitions": ("Partitions whose newest attempt was given up: missing until asked for again", lambda c: c.abandoned),
    "unreported_extractions": (
        "Landed or given up, and Dagster has not heard of it; 10,000 at most are counted",
        lambda c: c.unreported,
    ),
    "last_landed_timestamp_seconds": (
        "When a file landed last, in seconds since 1970; absent before the first",
        lambda c: c.totals.last_landed_at.timestamp() if c.totals.last_landed_at else None,
    ),
    "newest_partition_end_timestamp_seconds": (
        "Exclusive end of the newest landed partition, in seconds since 1970; ad hoc extractions aside",
        lambda c: c.totals.newest_end.timestamp() if c.totals.newest_end else None,
    ),
    "newest_partition_seconds": ("Length of the newest landed partition", lambda c: c.totals.newest_seconds),
}


def metrics_of(statistics: LedgerStatistics, requests_per_minute: int) -> Iterator[Metric]:
    """Every metric of the pipeline. `requests_per_minute`: the configured budget."""
    yield reachable(True)
    for name, (text, total) in _COUNTERS.items():
        counter = CounterMetricFamily(f"keen_pipeline_{name}", text, labels=_COLLECTION)
        for collection, found in statistics.collections.items():
            counter.add_metric([collection], total(found.totals))
        yield counter
    for name, (text, bounds, distribution) in _HISTOGRAMS.items():
        histogram = HistogramMetricFamily(f"keen_pipeline_{name}", text, labels=_COLLECTION)
        for collection, found in statistics.collections.items():
            durations = distribution(found.totals)
            buckets = [(str(bound), float(n)) for bound, n in zip(bounds, durations.counts, strict=True)]
            histogram.add_metric([collection], [*buckets, ("+Inf", float(durations.count))], durations.milliseconds / 1000)
        yield histogram
    yield from _open(statistics)
    yield from _gauges(statistics)
    yield from _api(statistics, requests_per_minute)


def reachable(value: bool) -> Metric:
    """Whether the ledger answered: the only metric of the pipeline if it did not."""
    return GaugeMetricFamily(REACHABLE, "1 if the ledger answers, 0 if it does not: then nothing else is told", float(value))


def _open(statistics: LedgerStatistics) -> Iterator[Metric]:
    number = GaugeMetricFamily(
        "keen_pipeline_open_extractions", "Extractions that have not ended, by status", labels=["collection", "status"]
    )
    age = GaugeMetricFamily(
        "keen_pipeline_oldest_open_extraction_age_seconds",
        "How long ago the oldest extraction that has not ended was asked for; 0 if none is open",
        labels=_COLLECTION,
    )
    for collection, found in statistics.collections.items():
        for status in sorted(OPEN_STATUSES, key=lambda status: status.value):
            number.add_metric([collection, status.value], found.open.get(status, 0))
        asked = found.oldest_open_at
        age.add_metric([collection], 0.0 if asked is None else max(0.0, (statistics.at - asked).total_seconds()))
    yield number
    yield age


def _gauges(statistics: LedgerStatistics) -> Iterator[Metric]:
    for name, (text, value) in _GAUGES.items():
        gauge = GaugeMetricFamily(f"keen_pipeline_{name}", text, labels=_COLLECTION)
        for collection, found in statistics.collections.items():
            number = value(found)
            if number is not None:
                gauge.add_metric([collection], number)
        yield gauge


def _api(statistics: LedgerStatistics, requests_per_minute: int) -> Iterator[Metric]:
    paused = 0.0
    if statistics.api_paused_until is not None:
        paused = max(0.0, (statistics.api_paused_until - statistics.at).total_seconds())
    yield GaugeMetricFamily(
        "keen_pipeline_api_requests_last_minute",
        "API requests sent in the last minute by all processes on this ledger",
        statistics.api_requests,
    )
    yield GaugeMetricFamily(
        "keen_pipeline_api_requests_budget",
        "The budget of them (KEEN_PIPELINE_REQUESTS_PER_MINUTE where this exporter runs)",
        requests_per_minute,
    )
    yield CounterMetricFamily(
        "keen_pipeline_api_refusals", "Requests that the service refused as too many (429)", statistics.api_refusals
    )
    yield GaugeMetricFamily("keen_pipeline_api_pause_seconds", "How long nobody will send a request, after a refusal", paused)
