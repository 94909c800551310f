"""Four services behind nginx on one PostgreSQL catalogue and one S3 bucket, and how much they take against one.

    python -m keen_pipeline_tests.acceptance.shared_service [--rounds 6] [--seconds 10] [--json]

Through the proxy Keen's own client makes its checks, and services are killed (kill -9, some of the four at random moments) while
events are loaded and extractions run: nothing acknowledged may be lost, nothing doubled. Then events are loaded and extracted,
with one data folder, with one process on the shared storage, and with four. What went wrong is named, and the exit status is 1.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import psycopg

from keen_pipeline.service import embedded
from keen_pipeline_tests.servers.ports import free_ports
from keen_pipeline_tests.servers.postgres import database, running_postgres
from keen_pipeline_tests.servers.s3 import S3Server, running_s3
from keen_pipeline_tests.service.clients.test_official_client import CHECKS, load, official
from keen_pipeline_tests.service.cluster import Cluster, in_bucket
from keen_pipeline_tests.service.crash_load import check, crash_some
from keen_pipeline_tests.service.environment import clean_environment
from keen_pipeline_tests.service.http_client import Http
from keen_pipeline_tests.service.nginx import running_nginx

PROCESSES = 4
CLIENTS = 8
BATCH_EVENTS = 500
EXTRACTIONS = 24


@dataclass(frozen=True)
class Throughput:
    """Of some processes: events a second acknowledged, and the seconds that extractions of all these events took together.

    `one_by_one_per_second`: events acknowledged where each comes in a request of its own. `catalogue_mib`: the size of the
    database after both; None where there is none.
    """

    name: str
    processes: int
    events: int
    seconds: float
    events_per_second: int
    one_by_one_per_second: int
    extractions: int
    result_mib: float
    extraction_seconds: float
    catalogue_mib: float | None


@dataclass(frozen=True)
class Report:
    """What `--json` prints. `acknowledged`: batches of 500 events; `unknown`: those whose answer a killed process took along."""

    cores: int
    official_client_checks: int
    rounds: int
    killed: int
    acknowledged: int
    unknown: int
    extractions: int
    throughput: list[Throughput]


def proxied(cluster: Cluster, url: str) -> embedded.Endpoint:
    """The service as clients see it: the proxy's address, the keys that all processes have."""
    return replace(cluster.endpoints[0], base_url=url)


def check_official_client(endpoint: embedded.Endpoint) -> int:
    """Every check of `service/test_official_client.py`; returns their number."""
    for number, one in enumerate(CHECKS):
        keen = official(endpoint)
        one(keen, load(keen, f"official-{number}"))
    return len(CHECKS)


def measure(name: str, processes: int, endpoint: embedded.Endpoint, seconds: float, catalogue: str | None = None) -> Throughput:
    """Load events for so many seconds from several clients, then extract all of them many times at once."""
    http = Http(endpoint)
    http.add("measured", {"n": -1})
    events = [
        {"n": n, "shop": f"shop {n % 50}", "amount": n * 1.25, "buyer": {"id": n, "vip": n % 3 == 0}} for n in range(BATCH_EVENTS)
    ]
    body = json.dumps({"measured": events}).encode()
    acknowledged: list[int] = []
    began = time.monotonic()

    def post() -> None:
        client = Http(endpoint)
        while time.monotonic() < began + seconds:
            answer = client.request("POST", f"{client.v3}/events", body=body, key="write_key")
            assert answer.status == 200, answer.data[:300]
            acknowledged.append(BATCH_EVENTS)

    in_threads(post, CLIENTS)
    taken = time.monotonic() - began
    total = sum(acknowledged)
    single = one_by_one(endpoint, seconds / 2)
    assert http.query("count", "measured") == total + 1  # acknowledged is counted at once, whoever is asked
    began = time.monotonic()
    made: list[str] = []

    def submit() -> None:
        client = Http(endpoint)
        made.append(client.json("POST", f"{client.v2}/measured/_extract", body={"filters": []})["_id"])

    in_threads(submit, EXTRACTIONS)
    urls = [http.wait("measured", extraction_id, seconds=600) for extraction_id in made]
    extracting = time.monotonic() - began
    sizes = {int(http.request("HEAD", url, key=None).headers["Content-Length"]) for url in urls}
    first = http.request("GET", urls[0], key=None).data
    assert sizes == {len(first)}
    assert first.count(b"\n") == total + 2
    size = round(len(first) / 2**20, 1)
    rate = round(total / taken)
    return Throughput(
        name, processes, total, round(taken, 2), rate, single, len(urls), size, round(extracting, 2), catalogue_mib(catalogue)
    )


def one_by_one(endpoint: embedded.Endpoint, seconds: float) -> int:
    """Events a second that come one a request."""
    event = {"n": 1, "shop": "shop 1", "amount": 1.25, "buyer": {"id": 1, "vip": True}}
    acknowledged: list[int] = []
    began = time.monotonic()

    def post() -> None:
        client = Http(endpoint)
        while time.monotonic() < began + seconds:
            client.json("POST", f"{client.v3}/events/single", status=201, body=event, key="write_key")
            acknowledged.append(1)

    in_threads(post, CLIENTS)
    rate = round(len(acknowledged) / (time.monotonic() - began))
    assert Http(endpoint).query("count", "single") == len(acknowledged)
    return rate


def catalogue_mib(url: str | None) -> float | None:
    """The size of a database."""
    if url is None:
        return None
    with psycopg.connect(url.replace("+psycopg", "")) as connection:
        row = connection.execute("SELECT pg_database_size(current_database())").fetchone()
    assert row is not None
    return round(row[0] / 2**20, 1)


def in_threads(work: Any, number: int) -> None:
    failures: list[BaseException] = []

    def guarded() -> None:
        try:
            work()
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=guarded) for _ in range(number)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if failures:
        raise failures[0]


@contextmanager
def served(folder: Path, postgres: str, s3: S3Server, name: str, processes: int, *options: str) -> Iterator[tuple[Cluster, str]]:
    """So many services behind nginx, on a catalogue and a prefix of their own."""
    port, *ports = free_ports(1 + processes)
    with ExitStack() as stack:
        url = stack.enter_context(database(postgres, name))
        shared = in_bucket(folder / name, url, s3, name, options)
        cluster = stack.enter_context(shared.running(ports))
        yield cluster, stack.enter_context(running_nginx(folder / name / "nginx", port, ports))


def run(folder: Path, rounds: int, seconds: float) -> Report:
    """All of it. Raises AssertionError where something is lost, doubled or answered wrongly."""
    with running_postgres() as postgres, running_s3(folder / "s3") as s3:
        quick = ("--lease-seconds", "2", "--fold-seconds", "0.5")
        with served(folder, postgres, s3, "crashing", PROCESSES, *quick) as (cluster, url):
            checks = check_official_client(proxied(cluster, url))
            outcome = crash_some(cluster, lambda: [proxied(cluster, url)] * PROCESSES, rounds, seed=1)
            check(Http(proxied(cluster, url)), outcome)
            check_again(proxied(cluster, url))
        measured = []
        port, proxy = free_ports(2)
        with (
            embedded.start(folder / "alone", port=port, env=clean_environment()) as service,
            running_nginx(folder / "alone-nginx", proxy, [port]) as url,
        ):
            measured.append(measure("one data folder", 1, replace(service.endpoint, base_url=url), seconds))
        for processes in (1, PROCESSES):
            with served(folder, postgres, s3, f"measured{processes}", processes) as (cluster, url):
                endpoint = proxied(cluster, url)
                measured.append(measure("shared storage", processes, endpoint, seconds, cluster.shared.catalogue_url))
    cores = len(os.sched_getaffinity(0))
    batches = len(outcome.acknowledged), len(outcome.unknown)
    return Report(cores, checks, rounds, outcome.killed, *batches, len(outcome.made), measured)


def check_again(endpoint: embedded.Endpoint) -> None:
    """What the client's checks left before the crashes is as they left it."""
    keen = official(endpoint)
    assert keen.count("official-0") == 60
    assert keen.count("official-4") == 0


def main() -> int:
    """Run it and print what came out; returns the exit status."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=6)
    parser.add_argument("--seconds", type=float, default=10)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="keen-shared-") as folder:
        report = run(Path(folder), options.rounds, options.seconds)
    if options.json:
        print(json.dumps(asdict(report), indent=2))
        return 0
    print(f"{report.official_client_checks} checks of Keen's client through nginx passed")
    print(f"{report.rounds} rounds, {report.killed} processes killed: {report.acknowledged} acknowledged batches are there once,")
    print(f"{report.unknown} unknown ones whole or not at all, {report.extractions} extractions complete and whole")
    for one in report.throughput:
        print(
            f"{one.name}, {one.processes} process(es): {one.events_per_second} events/s in, {one.one_by_one_per_second} one by one,"
            f" {one.extractions} extractions of {one.events + 1} events ({one.result_mib} MiB) each in {one.extraction_seconds} s"
        )
    return 0


if __name__ == "__main__":
    sys.exit(main())
