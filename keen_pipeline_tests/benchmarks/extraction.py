"""The service's figures: ingest in events a second, and an extraction's wall time against DuckDB's own COPY.

    python -m keen_pipeline_tests.benchmarks.extraction [--events 5000000] [--rounds 3]

Both write the same columns of the same events to CSV in the same run, in turns: DuckDB from its own Parquet file with natural
types and with as many threads and as much memory as the service's DuckDB has; the service from its store, through HTTP, from the
POST until `complete`. Memory is the peak of the service's process.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import sys
import time
from pathlib import Path
from tempfile import TemporaryDirectory

import duckdb
import urllib3

from keen_pipeline.service import embedded
from keen_pipeline.service.config import ServiceConfig

BATCH_BYTES = 10_000_000
FOLDED_SECONDS = 300.0
SINGLE_SECONDS = 5.0
_EVENTS = """
SELECT make_timestamp(1767225600000000 + i * 10007) AS moment, 'user-' || (hash(i) % 100000) AS uid,
    (hash(i * 3) % 10000) / 100.0 AS amount, (hash(i * 5) % 7)::INTEGER AS quantity, i % 3 = 0 AS gift,
    'SKU-' || (hash(i * 7) % 1000) AS sku, 'city ' || (hash(i * 11) % 500) AS city,
    'https://example.com/page?ref=' || (hash(i * 13) % 50) || ',x' AS url, (hash(i * 17) % 1000000)::BIGINT AS session,
    random() AS score, 'order ' || i AS label, 'desktop' AS device
FROM range({events}) t(i)"""
_BODY = """to_json({amount: amount, quantity: quantity, gift: gift, sku: sku, url: url, session: session, score: score,
    label: label, device: device, "user": {id: uid, city: city},
    keen: {timestamp: strftime(moment, '%Y-%m-%dT%H:%M:%S.%gZ')}})"""


def main() -> None:
    """Run and print one JSON document."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--events", type=int, default=5_000_000)
    parser.add_argument("--rounds", type=int, default=3)
    arguments = parser.parse_args()
    with TemporaryDirectory(prefix="keen-benchmark-") as name, embedded.start(Path(name) / "data") as service:
        folder = Path(name)
        connection = duckdb.connect()
        connection.execute(f"SET memory_limit = '{ServiceConfig(folder).memory_mib}MiB'")
        source = folder / "events.parquet"
        connection.execute(f"COPY ({_EVENTS.format(events=arguments.events)}) TO '{source}' (FORMAT parquet)")
        ingest = load(connection, source, service.endpoint)
        wait_until_folded(service.endpoint, arguments.events)
        figures = compare(connection, source, service.endpoint, arguments.rounds)
        figures |= {"delete_two_percent_seconds": delete(service.endpoint, arguments.events)}
        figures |= {"ingest_one_by_one_per_second": one_by_one(service.endpoint)}
        peak = peak_bytes(service.pid)
    document = {"events": arguments.events, **ingest, **figures, "service_peak_mib": round(peak / 2**20)}
    json.dump(document, sys.stdout, indent=2)
    sys.stdout.write("\n")


def load(connection: duckdb.DuckDBPyConnection, source: Path, endpoint: embedded.Endpoint) -> dict[str, float]:
    """Post every event in batches of 10 MB, one after the other; only the requests are timed."""
    pool = urllib3.PoolManager(retries=False)
    url, headers = f"{endpoint.base_url}/3.0/projects/{endpoint.project_id}/events", {"Authorization": endpoint.write_key}
    cursor = connection.cursor().execute(f"SELECT {_BODY} FROM '{source}'")
    times: list[float] = []
    total, events, parts = 0, 0, []
    rows = cursor.fetchmany(10_000)
    while rows or parts:
        for (text,) in rows:
            parts.append(text.encode())
        size = sum(map(len, parts)) + len(parts)
        rows = cursor.fetchmany(10_000)
        average = size / len(parts)
        if size + average * 10_000 < BATCH_BYTES and rows:
            continue
        body = b'{"benchmark":[' + b",".join(parts) + b"]}"
        began = time.monotonic()
        answer = pool.request("POST", url, body=body, headers=headers)
        times.append(time.monotonic() - began)
        assert answer.status == 200, answer.data[:200]
        total, events, parts = total + len(body), events + len(parts), []
    return {
        "ingest_events_per_second": round(events / sum(times)),
        "ingest_mb_per_second": round(total / 1e6 / sum(times), 1),
        "batch_median_seconds": round(statistics.median(times), 3),
        "batch_max_seconds": round(max(times), 3),
    }


def wait_until_folded(endpoint: embedded.Endpoint, events: int) -> None:
    """What is left in the log is folded after a while, so that both sides read from columns."""
    pool = urllib3.PoolManager(retries=False)
    url = f"{endpoint.base_url}/2.0/projects/{endpoint.project_id}/benchmark/_count"
    deadline = time.monotonic() + FOLDED_SECONDS
    while b"keen_events_unfolded_bytes 0.0" not in pool.request("GET", f"{endpoint.base_url}/metrics").data:
        assert time.monotonic() < deadline, "not everything was folded"
        time.sleep(0.5)
    counted = json.loads(pool.request("GET", url, headers={"Authorization": endpoint.read_key}).data)
    assert counted == {"result": events}, counted


def compare(connection: duckdb.DuckDBPyConnection, source: Path, endpoint: embedded.Endpoint, rounds: int) -> dict[str, object]:
    """Both sides in turns; the ratio of the medians."""
    target = source.with_suffix(".csv")
    ours: list[float] = []
    theirs: list[float] = []
    size = 0
    for _ in range(rounds):
        began = time.monotonic()
        connection.execute(f"COPY (SELECT * FROM '{source}') TO '{target}' (FORMAT csv, HEADER)")
        descriptor = os.open(target, os.O_RDONLY)
        os.fsync(descriptor)  # the service syncs its results too
        os.close(descriptor)
        theirs.append(time.monotonic() - began)
        size = target.stat().st_size
        target.unlink()
        ours.append(extract(endpoint))
    return {
        "copy_seconds": [round(t, 2) for t in theirs],
        "extraction_seconds": [round(t, 2) for t in ours],
        "ratio_of_medians": round(statistics.median(ours) / statistics.median(theirs), 3),
        "csv_mb": round(size / 1e6),
    }


def extract(endpoint: embedded.Endpoint) -> float:
    """Seconds from the POST until the extraction is complete."""
    pool = urllib3.PoolManager(retries=False)
    url, headers = (
        f"{endpoint.base_url}/2.0/projects/{endpoint.project_id}/benchmark/_extract",
        {"Authorization": endpoint.read_key},
    )
    began = time.monotonic()
    made = json.loads(pool.request("POST", url, body=b'{"filters":[]}', headers=headers).data)
    while True:
        found = json.loads(pool.request("GET", f"{url}/{made['_id']}", headers=headers).data)
        if found["status"] == "complete":
            return time.monotonic() - began
        assert found["status"] == "not started", found
        time.sleep(0.02)


def delete(endpoint: embedded.Endpoint, events: int) -> float:
    """Seconds to delete every event of twenty of a thousand products, which lie all over the collection."""
    pool = urllib3.PoolManager(retries=False)
    products = [f"SKU-{n}" for n in range(20)]
    filters = json.dumps([{"property_name": "sku", "operator": "in", "property_value": products}])
    url = f"{endpoint.base_url}/3.0/projects/{endpoint.project_id}/events/benchmark"
    began = time.monotonic()
    answer = pool.request("DELETE", url, fields={"filters": filters}, headers={"Authorization": endpoint.master_key})
    seconds = time.monotonic() - began
    assert answer.status == 204, answer.data[:200]
    url = f"{endpoint.base_url}/2.0/projects/{endpoint.project_id}/benchmark/_count"
    left = json.loads(pool.request("GET", url, headers={"Authorization": endpoint.read_key}).data)["result"]
    assert 0.97 < left / events < 0.99, left
    return round(seconds, 2)


def one_by_one(endpoint: embedded.Endpoint) -> int:
    """Events a second from one client that sends each in a request of its own."""
    pool = urllib3.PoolManager(retries=False)
    url, headers = f"{endpoint.base_url}/3.0/projects/{endpoint.project_id}/events/single", {"Authorization": endpoint.write_key}
    began, sent = time.monotonic(), 0
    while time.monotonic() < began + SINGLE_SECONDS:
        answer = pool.request("POST", url, body=b'{"n":%d,"shop":"x"}' % sent, headers=headers)
        assert answer.status == 201, answer.data[:200]
        sent += 1
    return round(sent / SINGLE_SECONDS)


def peak_bytes(pid: int) -> int:
    """The largest resident size a process has had (Linux)."""
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM:"))


if __name__ == "__main__":
    main()
