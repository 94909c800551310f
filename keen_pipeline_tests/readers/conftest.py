"""Thirty days of literal events, landed in every encoding and on every kind of storage. No service runs."""

from __future__ import annotations

import json
from collections.abc import Iterator
from datetime import date, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from keen_pipeline.collection import Collection, Encoding
from keen_pipeline.landing import FileDestination
from keen_pipeline.testing import KeenLanding
from keen_pipeline_tests.servers.s3 import ACCESS_KEY, SECRET_KEY, S3Server, running_s3

FIRST = date(2026, 1, 1)
KEYS = [(FIRST + timedelta(days=n)).isoformat() for n in range(30)]
EMPTY = 12
"""The number of the day without events."""
PER_DAY = 20
EVENTS = 29 * PER_DAY
TEXTS = ["plain", "", 'a "quoted", one', "two\nlines", "null", "12", " padded ", "naïve ✓"]


def event(day: int, number: int) -> dict[str, Any]:
    """`member` holds texts that look like numbers, `score` a null now and then, `coupon` comes with the 20th day; `id` is more than
    a double holds from the second day on, `hash` always more than 64 bits do, and `userId` and `userid` are two properties."""
    made: dict[str, Any] = {
        "keen": {"timestamp": f"{KEYS[day]}T{number:02d}:00:00.{day:03d}Z"},
        "id": number if day == 0 else 2**53 + day * 100 + number,
        "hash": 2**64 + number,
        "member": f"{day * 100 + number:05d}",
        "score": None if number == 3 else number / 4,
        "userId": f"upper {number}",
        "userid": number,
        "paid": number % 3 == 0,
        "text": TEXTS[number % len(TEXTS)],
        "tags": ["a", {"b": number}],
        "nothing": {},
        "void": None,
    }
    if number == 5:
        del made["score"], made["paid"]
    if day >= 19:
        made["coupon"] = {"code": f"{number:03d}", "off": None if number % 2 else 0.1 * number}
    return made


def events(day: int) -> list[dict[str, Any]]:
    return [] if day == EMPTY else [event(day, number) for number in range(PER_DAY)]


def land_all(landing: KeenLanding, encoding: Encoding = Encoding.CSV) -> KeenLanding:
    landing.land(Collection("visits", FIRST, encoding=encoding), {key: events(day) for day, key in enumerate(KEYS)})
    return landing


@pytest.fixture(scope="session")
def s3(tmp_path_factory: pytest.TempPathFactory) -> Iterator[S3Server]:
    with running_s3(tmp_path_factory.mktemp("s3")) as server, pytest.MonkeyPatch.context() as environment:
        environment.setenv("AWS_ACCESS_KEY_ID", ACCESS_KEY)
        environment.setenv("AWS_SECRET_ACCESS_KEY", SECRET_KEY)
        yield server


@pytest.fixture(scope="session")
def csv(tmp_path_factory: pytest.TempPathFactory) -> KeenLanding:
    return land_all(KeenLanding(tmp_path_factory.mktemp("csv")))


@pytest.fixture(scope="session", params=["csv", "csv.gz", "csv.zst", "parquet", "s3 csv.zst", "s3 parquet"])
def landed(request: pytest.FixtureRequest, csv: KeenLanding, tmp_path_factory: pytest.TempPathFactory) -> KeenLanding:
    """The thirty days at each kind of place."""
    storage, _, encoding = f" {request.param}".rpartition(" ")
    folder: Path = tmp_path_factory.mktemp("landed")
    if storage.strip() == "s3":
        server: S3Server = request.getfixturevalue("s3")
        destination = FileDestination(f"{server.uri}/{encoding}", transport=server.transport)
        return land_all(KeenLanding(folder, destination), Encoding(encoding))
    return csv if encoding == "csv" else land_all(KeenLanding(folder), Encoding(encoding))


def expected_rows() -> list[dict[str, Any]]:
    """What the events are as rows: every property of any day, in the order of its first day."""
    rows = []
    for day in range(len(KEYS)):
        for number, made in enumerate(events(day)):
            coupon = made.get("coupon", {})
            rows.append(
                {
                    "header:timestamp": datetime.fromisoformat(made["keen"]["timestamp"].replace("Z", "+00:00")),
                    "body:hash": made["hash"],
                    "body:id": made["id"],
                    "body:member": made["member"],
                    "body:nothing": "{}",
                    "body:paid": made.get("paid"),
                    "body:score": made.get("score"),
                    "body:tags": json.dumps(made["tags"], separators=(",", ":")),
                    "body:text": made["text"],
                    "body:userId": f"upper {number}",
                    "body:userid": number,
                    "body:void": None,
                    "body:coupon:code": coupon.get("code"),
                    "body:coupon:off": coupon.get("off"),
                }
            )
    return rows


@pytest.fixture
def keen_landing(tmp_path: Path) -> KeenLanding:
    return KeenLanding(tmp_path / "keen")
