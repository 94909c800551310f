"""Thirty days of a live service's events, landed in every encoding and on every kind of storage."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import date, datetime, timedelta, timezone
from typing import Any

import pytest

from keen_pipeline.client import KeenClient
from keen_pipeline.collection import Collection, Encoding
from keen_pipeline.extraction import Status
from keen_pipeline.landing import FileDestination
from keen_pipeline.landing.csv.joined import JoinedResults
from keen_pipeline.ledger import SqlLedger
from keen_pipeline.partitions import partition_range
from keen_pipeline.pipeline import Pipeline, extract, partition_request
from keen_pipeline.readers import LandedReader
from keen_pipeline.testing import live_service, memory_ledger
from keen_pipeline_tests.contract.s3 import ACCESS_KEY, SECRET_KEY, S3Server, running_s3

FIRST = date(2026, 1, 1)
KEYS = [(FIRST + timedelta(days=n)).isoformat() for n in range(30)]
PER_DAY = 20
NOW = datetime(2026, 2, 5, tzinfo=timezone.utc)
TEXTS = ["plain", "", 'a "quoted", one', "two\nlines", "null", "12", " padded ", "naïve ✓"]


def event(day: int, number: int) -> dict[str, Any]:
    """`member` holds texts that look like numbers, `score` a null now and then, `coupon` comes with the 20th day."""
    made: dict[str, Any] = {
        "keen": {"timestamp": f"{KEYS[day]}T{number:02d}:00:00.{day:03d}Z"},
        "member": f"{day * 100 + number:05d}",
        "score": None if number == 3 else number / 4,
        "visits": number,
        "paid": number % 3 == 0,
        "text": TEXTS[number % len(TEXTS)],
        "tags": ["a", {"b": number}],
    }
    if number == 5:
        del made["score"], made["paid"]
    if day >= 19:
        made["coupon"] = {"code": f"{number:03d}", "off": None if number % 2 else 0.1 * number}
    return made


@dataclass
class Landed:
    """A destination, and the reader of what lies there."""

    destination: FileDestination
    ledger: SqlLedger
    reader: LandedReader


@dataclass
class Source:
    """The service, and the CSV files that were extracted from it."""

    client: KeenClient
    csv: Landed
    types_asked: list[str] = field(default_factory=list)

    def landed(self, root: str, encoding: Encoding, **transport: Any) -> Landed:
        """The same CSV landed at `root` as `encoding`."""
        destination = FileDestination(root, encoding=encoding, transport=transport)
        ledger = memory_ledger()
        collection = Collection("visits", FIRST, encoding=encoding)
        types = self.client.property_types("visits")
        for number, partition in enumerate(partition_range(collection, KEYS[0], KEYS[-1], NOW)):
            request = partition_request(collection, partition, destination.uri)
            source = JoinedResults(self.csv.destination, [self.csv.destination.target_uri("visits", partition.key)])
            landing = destination.land(source, request.target, extraction_id=f"e{number}", types=types)
            entry_id = ledger.request([request])[0].entry.entry_id
            ledger.claim([entry_id], Status.REQUESTED, "me", 60)
            ledger.posting(entry_id, "me")
            ledger.submitted(entry_id, "me", f"e{number}")
            ledger.complete([entry_id])
            ledger.claim([entry_id], Status.COMPLETE, "me", 60)
            ledger.landed(entry_id, "me", landing)
        return self.around(destination, ledger)

    def around(self, destination: FileDestination, ledger: SqlLedger) -> Landed:
        def api() -> KeenClient:
            self.types_asked.append(destination.uri)
            return self.client

        return Landed(destination, ledger, LandedReader(ledger, destination, api))


@pytest.fixture(scope="session")
def source(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Source]:
    with live_service() as endpoint:
        client = KeenClient(endpoint.base_url, endpoint.project_id, read_key=endpoint.read_key, write_key=endpoint.write_key)
        client.add_events({"visits": [event(day, number) for day in range(len(KEYS)) for number in range(PER_DAY)]})
        destination, ledger = FileDestination(str(tmp_path_factory.mktemp("csv"))), memory_ledger()
        collection = Collection("visits", FIRST)
        requests = [partition_request(collection, p, destination.uri) for p in partition_range(collection, KEYS[0], KEYS[-1], NOW)]
        for _ in extract(Pipeline(client, ledger, destination, poll_seconds=0.1), requests):
            pass
        made = Source(client, None)  # type: ignore[arg-type]
        made.csv = made.around(destination, ledger)
        yield made
        client.close()


@pytest.fixture(scope="session")
def s3(tmp_path_factory: pytest.TempPathFactory) -> Iterator[S3Server]:
    with running_s3(tmp_path_factory.mktemp("s3")) as server, pytest.MonkeyPatch.context() as environment:
        environment.setenv("AWS_ACCESS_KEY_ID", ACCESS_KEY)
        environment.setenv("AWS_SECRET_ACCESS_KEY", SECRET_KEY)
        yield server


@pytest.fixture(scope="session", params=["csv", "csv.gz", "csv.zst", "parquet", "s3 csv.zst", "s3 parquet"])
def landed(request: pytest.FixtureRequest, source: Source, tmp_path_factory: pytest.TempPathFactory) -> Landed:
    """The thirty days at each kind of place."""
    storage, _, encoding = f" {request.param}".rpartition(" ")
    if storage.strip() == "s3":
        server: S3Server = request.getfixturevalue("s3")
        return source.landed(f"{server.uri}/{encoding}", Encoding(encoding), **server.transport)
    if encoding == "csv":
        return source.csv
    return source.landed(str(tmp_path_factory.mktemp("landed")), Encoding(encoding))


def expected_rows() -> list[dict[str, Any]]:
    """What the events are as rows: every property of any day, in the order of its first day."""
    rows = []
    for day in range(len(KEYS)):
        for number in range(PER_DAY):
            made = event(day, number)
            coupon = made.get("coupon", {})
            rows.append(
                {
                    "header:timestamp": datetime.fromisoformat(made["keen"]["timestamp"].replace("Z", "+00:00")),
                    "body:member": made["member"],
                    "body:paid": made.get("paid"),
                    "body:score": made.get("score"),
                    "body:tags": json.dumps(made["tags"], separators=(",", ":")),
                    "body:text": made["text"],
                    "body:visits": float(number),
                    "body:coupon:code": coupon.get("code"),
                    "body:coupon:off": coupon.get("off"),
                }
            )
    return rows
