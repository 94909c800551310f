"""`keen-pipeline metrics` on the ledger of a real pipeline: what a scrape tells; dashboard and alerts ask for nothing else."""

from __future__ import annotations

import json
import re
import signal
import subprocess
from collections.abc import Iterator

import pytest
import urllib3
from prometheus_client.parser import text_string_to_metric_families

from keen_pipeline.client import KeenClient
from keen_pipeline.service.embedded import Endpoint
from keen_pipeline.testing import live_service
from keen_pipeline_tests.acceptance.processes import Shell, await_text
from keen_pipeline_tests.observability.promql import alert_rules, dashboard_queries, metrics_in


@pytest.fixture(scope="module")
def endpoint() -> Iterator[Endpoint]:
    with live_service(options=["--fail-extraction", "purchases@2026-01-03=3"]) as endpoint:
        with KeenClient(endpoint.base_url, endpoint.project_id, read_key=endpoint.read_key, write_key=endpoint.write_key) as client:
            days = [f"2026-01-0{day}" for day in range(1, 5)]
            client.add_events({"purchases": [{"keen": {"timestamp": f"{day}T12:00:00Z"}, "n": 1} for day in days]})
        yield endpoint


@pytest.fixture(scope="module")
def shell(tmp_path_factory: pytest.TempPathFactory, endpoint: Endpoint) -> Shell:
    """After a backfill of four days, one of which was given up."""
    folder = tmp_path_factory.mktemp("metrics")
    (folder / "collections.yaml").write_text('collections: [{name: purchases, start_date: "2026-01-01"}]')
    shell = Shell(
        folder,
        {
            "KEEN_BASE_URL": endpoint.base_url,
            "KEEN_PROJECT_ID": endpoint.project_id,
            "KEEN_READ_KEY": endpoint.read_key,
            "KEEN_PIPELINE_COLLECTIONS": "collections.yaml",
            "KEEN_PIPELINE_RETRY_SECONDS": "0.1",
        },
    )
    assert shell.run("backfill", "purchases", "--from", "2026-01-01", "--to", "2026-01-04").returncode == 1
    return shell


@pytest.fixture(scope="module")
def exporter(shell: Shell) -> Iterator[tuple[str, subprocess.Popen[bytes]]]:
    """Its address and its process."""
    log = shell.folder / "metrics.log"
    process = shell.start("metrics", "--port", "0", log=log)
    try:
        await_text(log, "listening on ", process, 60)
        yield log.read_text().split("listening on ")[1].split()[0], process
    finally:
        process.kill()
        process.wait()


def samples(text: str) -> dict[str, float]:
    """By name; of several the sum."""
    found: dict[str, float] = {}
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            found[sample.name] = found.get(sample.name, 0.0) + sample.value
    return found


def get(url: str, **headers: str) -> urllib3.BaseHTTPResponse:
    return urllib3.request("GET", url, headers=headers, timeout=30)


def test_a_scrape_tells_what_the_ledger_holds(
    shell: Shell, exporter: tuple[str, subprocess.Popen[bytes]], endpoint: Endpoint
) -> None:
    url, _ = exporter
    answer = get(f"{url}/metrics")
    assert (answer.status, answer.headers["Content-Type"].split(";")[0]) == (200, "text/plain")
    text = answer.data.decode()
    found = samples(text)
    [status] = json.loads(shell.run("status", "--json").stdout)["collections"]
    files = [(shell.folder / "data" / "landing" / "purchases" / f"2026-01-0{day}.csv").stat().st_size for day in (1, 2, 4)]
    assert found["keen_pipeline_extractions_landed_total"] == status["landed"] == 3
    assert found["keen_pipeline_landed_bytes_total"] == sum(files)
    assert found["keen_pipeline_landed_events_total"] == 3
    assert found["keen_pipeline_extractions_requested_total"] == 6
    assert found["keen_pipeline_extractions_failed_total"] == 3
    assert found["keen_pipeline_extractions_abandoned_total"] == found["keen_pipeline_abandoned_partitions"] == 1
    assert found["keen_pipeline_open_extractions"] == 0
    assert found["keen_pipeline_unreported_extractions"] == 4  # no Dagster has heard of them
    assert found["keen_pipeline_landing_seconds_count"] == found["keen_pipeline_waiting_seconds_count"] == 3
    assert 0 < found["keen_pipeline_api_requests_last_minute"] <= found["keen_pipeline_api_requests_budget"] == 200
    labels = {sample.labels.get("collection") for family in text_string_to_metric_families(text) for sample in family.samples}
    assert labels == {None, "purchases"}
    for secret in (endpoint.read_key, endpoint.write_key, endpoint.project_id, "2026-01-03"):
        assert secret not in text


def test_dashboard_and_alerts_ask_for_what_is_told(exporter: tuple[str, subprocess.Popen[bytes]], endpoint: Endpoint) -> None:
    pipeline = set(samples(get(f"{exporter[0]}/metrics").data.decode()))
    service = set(samples(get(f"{endpoint.base_url}/metrics").data.decode()))
    asked = {where: metrics_in(query) for where, query in dashboard_queries().items()}
    asked |= {rule["alert"]: metrics_in(rule["expr"]) for rule in alert_rules()}
    assert {where: names - pipeline - service for where, names in asked.items() if names - pipeline - service} == {}
    used = set().union(*asked.values())
    ours = {name for name in pipeline if name.startswith("keen_pipeline_") and not re.search("_(count|sum)$", name)}
    assert ours - used == {"keen_pipeline_extractions_requested_total"}


def test_it_answers_for_its_health_and_ends_in_order(exporter: tuple[str, subprocess.Popen[bytes]], shell: Shell) -> None:
    url, process = exporter
    assert (get(f"{url}/healthz").status, get(f"{url}/nothing").status) == (200, 404)
    assert get(f"{url}/metrics", Accept="application/openmetrics-text").data.endswith(b"# EOF\n")
    port = url.rpartition(":")[2]
    taken = shell.run("metrics", "--port", port)
    assert (taken.returncode, port in taken.stderr, taken.stderr.strip().count("\n")) == (1, True, 0), taken.stderr
    process.send_signal(signal.SIGTERM)
    assert process.wait(30) == 0
    assert "Traceback" not in (shell.folder / "metrics.log").read_text()


def test_dashboard_and_alerts_come_out_of_the_package_and_are_not_overwritten(shell: Shell) -> None:
    done = shell.run("metrics", "--files", "monitoring")
    assert (done.returncode, done.stdout.split()) == (0, ["monitoring/dashboard.json", "monitoring/alerts.yaml"])
    dashboard = json.loads((shell.folder / "monitoring" / "dashboard.json").read_text())
    assert dashboard["title"] == "Keen pipeline"
    assert shell.run("metrics", "--files", "monitoring").returncode == 0
    (shell.folder / "monitoring" / "alerts.yaml").write_text("groups: []")
    refused = shell.run("metrics", "--files", "monitoring")
    assert (refused.returncode, "alerts.yaml" in refused.stderr) == (1, True)
    assert (shell.folder / "monitoring" / "alerts.yaml").read_text() == "groups: []"
