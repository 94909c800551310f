"""The exporter's cache and its bounds, and the metrics' names and units."""

from __future__ import annotations

import re
import socket
import threading
import time
import urllib.request
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import datetime, timedelta, timezone

import pytest
from prometheus_client import generate_latest
from prometheus_client.parser import text_string_to_metric_families

from keen_pipeline.errors import ServiceUnavailableError
from keen_pipeline.extraction import Status
from keen_pipeline.ledger.statistics import CollectionStatistics, LedgerStatistics
from keen_pipeline.ledger.totals import Totals
from keen_pipeline.observability import exporter
from keen_pipeline.observability.exporter import PipelineMetrics
from keen_pipeline.observability.server import MOST_CLIENTS, _bind

NOW = datetime(2026, 1, 10, 2, tzinfo=timezone.utc)
ONE = CollectionStatistics(
    Totals(requested=4, landed=2, last_landed_at=NOW, newest_start=NOW - timedelta(hours=26), newest_end=NOW - timedelta(hours=2)),
    {Status.SUBMITTED: 2},
    NOW - timedelta(minutes=3),
)
STATISTICS = LedgerStatistics(NOW, {'a "quoted" name': ONE, "new": CollectionStatistics()}, 7, 1, NOW + timedelta(seconds=20))


def scraped(metrics: PipelineMetrics) -> dict[str, dict[tuple[str, ...], float]]:
    """By metric and label values what a scrape tells of the pipeline."""
    found: dict[str, dict[tuple[str, ...], float]] = {}
    for family in text_string_to_metric_families(generate_latest(metrics.registry).decode()):
        for sample in family.samples:
            if sample.name.startswith("keen_pipeline_"):
                found.setdefault(sample.name, {})[tuple(sample.labels.values())] = sample.value
    return found


def test_what_is_told() -> None:
    found = scraped(PipelineMetrics(lambda: STATISTICS, 200))
    name = 'a "quoted" name'
    assert found["keen_pipeline_ledger_reachable"] == {(): 1}
    assert found["keen_pipeline_extractions_requested_total"] == {(name,): 4, ("new",): 0}
    assert found["keen_pipeline_open_extractions"][name, "submitted"] == 2
    assert found["keen_pipeline_open_extractions"]["new", "split"] == 0
    assert found["keen_pipeline_oldest_open_extraction_age_seconds"] == {(name,): 180, ("new",): 0}
    assert found["keen_pipeline_last_landed_timestamp_seconds"] == {(name,): NOW.timestamp()}
    assert found["keen_pipeline_newest_partition_end_timestamp_seconds"] == {(name,): NOW.timestamp() - 7200}
    assert found["keen_pipeline_newest_partition_seconds"] == {(name,): 86400}
    assert found["keen_pipeline_api_requests_last_minute"] == {(): 7}
    assert found["keen_pipeline_api_requests_budget"] == {(): 200}
    assert found["keen_pipeline_api_refusals_total"] == {(): 1}
    assert found["keen_pipeline_api_pause_seconds"] == {(): 20}
    assert found["keen_pipeline_waiting_seconds_bucket"]["new", "+Inf"] == 0


def test_names_follow_prometheus() -> None:
    for family in PipelineMetrics(lambda: STATISTICS, 200).collect():
        assert re.fullmatch(r"keen_pipeline_[a-z_]+", family.name)
        assert family.documentation
        labels = {label for sample in family.samples for label in sample.labels} - {"le"}
        assert labels <= {"collection", "status"}
        if family.type == "histogram":
            assert family.name.endswith("_seconds")


def test_many_who_ask_at_once_cost_one_reading() -> None:
    begun, go_on = threading.Event(), threading.Event()
    readings: list[int] = []

    def read() -> LedgerStatistics:
        readings.append(1)
        begun.set()
        go_on.wait(30)
        return STATISTICS

    metrics = PipelineMetrics(read, 200)
    with ThreadPoolExecutor(8) as pool:
        asked = [pool.submit(metrics.statistics) for _ in range(8)]
        begun.wait(30)
        go_on.set()
        assert [one.result() for one in asked] == [STATISTICS] * 8
    assert len(readings) == 1


def test_a_slow_ledger_is_waited_for_no_longer_than_a_scrape_and_told_as_it_was(monkeypatch: pytest.MonkeyPatch) -> None:
    go_on = threading.Semaphore(0)
    later = replace(STATISTICS, api_requests=8)
    answers = [STATISTICS, later]

    def read() -> LedgerStatistics:
        go_on.acquire()
        return answers.pop(0)

    metrics = PipelineMetrics(read, 200, cache_seconds=3600)
    with pytest.raises(ServiceUnavailableError, match="has not answered"):
        metrics.statistics(0.01)
    go_on.release()
    assert metrics.statistics(30) is STATISTICS
    metrics.cache_seconds = 0
    assert metrics.statistics(0.01) is STATISTICS  # the next one is being read
    with monkeypatch.context() as patch:
        patch.setattr(exporter, "LATE_SECONDS", -1)
        with pytest.raises(ServiceUnavailableError, match="has not answered"):
            metrics.statistics(0.01)
    go_on.release()
    metrics.cache_seconds = 3600
    assert metrics.statistics(30) is later


def broken() -> LedgerStatistics:
    raise ServiceUnavailableError("the ledger can't be read: connection refused")


def test_a_ledger_that_fails_is_one_metric_and_comes_back(caplog: pytest.LogCaptureFixture) -> None:
    answers: list[Callable[[], LedgerStatistics]] = [broken, lambda: STATISTICS]
    metrics = PipelineMetrics(lambda: answers.pop(0)(), 200, cache_seconds=0)
    assert scraped(metrics) == {"keen_pipeline_ledger_reachable": {(): 0}}
    assert "connection refused" in caplog.text
    assert scraped(metrics)["keen_pipeline_ledger_reachable"] == {(): 1}


def test_an_answer_serves_for_some_seconds() -> None:
    answers = [STATISTICS]
    metrics = PipelineMetrics(answers.pop, 200, cache_seconds=3600)
    assert scraped(metrics) == scraped(metrics)
    assert answers == []


def test_silent_clients_are_bounded_and_the_exporter_answers_when_they_are_gone() -> None:
    with _bind(PipelineMetrics(lambda: STATISTICS, 200), "127.0.0.1", 0) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        before = threading.active_count()
        place = ("127.0.0.1", server.server_port)
        silent = [socket.create_connection(place, timeout=30) for _ in range(MOST_CLIENTS + 20)]
        closed = [one for one in silent[MOST_CLIENTS:] if one.recv(1) == b""]
        assert len(closed) == 20
        assert threading.active_count() - before == MOST_CLIENTS
        for one in silent:
            one.close()
        for _ in range(200):
            if threading.active_count() == before:
                break
            time.sleep(0.05)
        with urllib.request.urlopen(f"http://127.0.0.1:{server.server_port}/metrics", timeout=30) as answer:
            assert b"keen_pipeline_ledger_reachable 1.0" in answer.read()
        server.shutdown()
