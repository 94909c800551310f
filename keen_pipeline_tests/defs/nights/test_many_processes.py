"""Two sensors and four landing processes on one PostgreSQL ledger: nothing landed twice, the minute's limit never exceeded.

Each is on a host of its own, whose clock is ten minutes ahead or behind.

Asserted on the service's own access log: it says of every request when it came, and what for.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from datetime import date, datetime, timedelta
from pathlib import Path

import pytest
import yaml

from keen_pipeline.client import KeenClient
from keen_pipeline.collection import Collection
from keen_pipeline.ledger import SqlLedger, open_engine
from keen_pipeline.partitions import partition_range
from keen_pipeline.pipeline import partition_request
from keen_pipeline.ports import SystemClock
from keen_pipeline.scope import Scope, source_of
from keen_pipeline.service import embedded
from keen_pipeline_tests.defs.conftest import counts_of

NAMES = ("purchases", "logins", "pageviews", "refunds", "visits")
FIRST, DAYS = date(2026, 1, 1), 100
MINUTE = 60.0
AHEAD_SECONDS = 600
# From the stop file to the end of a process: one transfer or one tick.
_STOP_SECONDS = 30.0


@dataclass(frozen=True)
class Access:
    """One request in the service's log. `came`: seconds since 1970."""

    came: float
    method: str
    path: str
    status: int

    @property
    def limited(self) -> bool:
        """Whether the service counts it against the limit of extraction requests."""
        return "/_extract" in self.path


@dataclass
class Place:
    folder: Path
    env: dict[str, str]
    endpoint: embedded.Endpoint
    ledger: SqlLedger
    collections: list[Collection]

    def start(self, role: str, ahead_seconds: int, *arguments: str) -> subprocess.Popen[bytes]:
        with (self.folder / f"{role}.log").open("ab") as log:
            command = [
                sys.executable,
                "-m",
                "keen_pipeline_tests.defs.nights.many_processes",
                role,
                str(self.folder),
                str(ahead_seconds),
                *arguments,
            ]
            return subprocess.Popen(command, env=self.env, stdout=log, stderr=subprocess.STDOUT)

    def counts(self) -> dict[str, int]:
        """How many attempts there are by status."""
        return counts_of(self.ledger)

    def trouble(self, role: str) -> str:
        """What a role's processes logged from the first error on; all of the log's end where there is none."""
        text = (self.folder / f"{role}.log").read_text()
        first = re.search(r"^.*( ERROR |Traceback )", text, re.M)
        return text[first.start() :][:6000] if first else text[-3000:]

    @contextmanager
    def running(self, roles: Sequence[str]) -> Iterator[Callable[[], None]]:
        """All of them for the block's time; the answer's call fails where one has ended. Each must end well afterwards."""
        children = [self.start(role, AHEAD_SECONDS * (-1) ** number) for number, role in enumerate(roles)]

        def check() -> None:
            for role, child in zip(roles, children, strict=True):
                assert child.poll() is None, self.trouble(role)

        try:
            yield check
            (self.folder / "stop").touch()
            assert [child.wait(_STOP_SECONDS) for child in children] == [0] * len(children)
        finally:
            for child in children:
                child.kill()
                child.wait()

    def accesses(self) -> list[Access]:
        found = []
        for text in (self.folder / "service.log").read_text().splitlines():
            line = json.loads(text)
            if line["message"] == "request":
                came = datetime.fromisoformat(line["time"]).timestamp() - line["seconds"]
                found.append(Access(came, line["method"], line["path"], line["status"]))
        return sorted(found, key=lambda access: access.came)


def most_in_a_minute(accesses: Sequence[Access]) -> int:
    """The largest number of limited requests in any 60 seconds."""
    came = [access.came for access in accesses if access.limited]
    most, first = 0, 0
    for number, moment in enumerate(came):
        while came[first] <= moment - MINUTE:
            first += 1
        most = max(most, number - first + 1)
    return most


MakePlace = Callable[..., Place]


@pytest.fixture
def make_place(tmp_path: Path, postgres_url: str) -> Iterator[MakePlace]:
    """`make_place(limit, *options)`: a service that refuses more than so many requests a minute, a ledger that allows as many."""
    with ExitStack() as stack:

        def make(limit: int, *more: str) -> Place:
            for name in ("dispatched", "landed", "keen"):
                (tmp_path / name).mkdir()
            options = ["--requests-per-minute", str(limit), "--max-concurrency", "4", *more]
            endpoint = stack.enter_context(_service(tmp_path, options))
            collections = [Collection(name, FIRST) for name in NAMES]
            wire = [{"name": c.name, "start_date": FIRST.isoformat()} for c in collections]
            (tmp_path / "collections.yaml").write_text(yaml.safe_dump({"collections": wire}))
            engine = open_engine(postgres_url)
            stack.callback(engine.dispose)
            _load(endpoint)
            env = {
                **os.environ,
                "KEEN_BASE_URL": endpoint.base_url,
                "KEEN_PROJECT_ID": endpoint.project_id,
                "KEEN_READ_KEY": endpoint.read_key,
                "KEEN_PIPELINE_LEDGER_URL": postgres_url,
                "KEEN_PIPELINE_DESTINATION": str(tmp_path / "landing"),
                "KEEN_PIPELINE_COLLECTIONS": str(tmp_path / "collections.yaml"),
                "KEEN_PIPELINE_REQUESTS_PER_MINUTE": str(limit),
            }
            scope = Scope(source_of(endpoint.base_url, endpoint.project_id), str(tmp_path / "landing"))
            return Place(tmp_path, env, endpoint, SqlLedger(engine, scope), collections)

        yield make


@contextmanager
def _service(folder: Path, options: Sequence[str]) -> Iterator[embedded.Endpoint]:
    command = [sys.executable, "-m", "keen_pipeline", "serve", "--port", "0", "--data", str(folder / "keen"), *options]
    with (folder / "service.log").open("wb") as log:
        child = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=log)
    try:
        deadline = time.monotonic() + 30
        while (endpoint := embedded.find(folder / "keen")) is None:
            assert child.poll() is None, (folder / "service.log").read_text()
            assert time.monotonic() < deadline
            time.sleep(0.1)
        yield endpoint
    finally:
        child.terminate()
        child.wait(30)


def _load(endpoint: embedded.Endpoint) -> None:
    days = [FIRST + timedelta(days=n) for n in range(DAYS)]
    with KeenClient(endpoint.base_url, endpoint.project_id, read_key=endpoint.read_key, write_key=endpoint.write_key) as client:
        client.add_events(
            {
                name: [{"keen": {"timestamp": f"{day}T12:00:00Z"}, "day": day.isoformat(), "of": name} for day in days]
                for name in NAMES
            }
        )


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_five_hundred_extractions_land_once_each_by_two_sensors_and_four_landing_processes(make_place: MakePlace) -> None:
    limit = 1000
    place = make_place(limit)
    last = FIRST + timedelta(days=DAYS - 1)
    requests = [
        partition_request(c, p)
        for c in place.collections
        for p in partition_range(c, FIRST.isoformat(), last.isoformat(), SystemClock().now())
    ]
    assert len(requests) == 500
    place.ledger.request(requests)
    with place.running(["sensor"] * 2 + ["land"] * 4) as check:
        deadline = time.monotonic() + 240
        while place.ledger.open_entries() or place.ledger.outbox():
            check()
            assert time.monotonic() < deadline, place.counts()
            time.sleep(0.5)
    assert place.counts() == {"landed": 500}
    assert place.ledger.orphans() == 0
    assert len(list((place.folder / "landed").iterdir())) == 500
    accesses = place.accesses()
    submitted = [a for a in accesses if a.method == "POST" and a.path.endswith("/_extract")]
    downloads = Counter(a.path for a in accesses if a.path.startswith("/results/"))
    assert len(submitted) == 500
    assert (len(downloads), set(downloads.values())) == (500, {1})
    assert most_in_a_minute(accesses) <= limit
    assert {a.status for a in accesses} == {200}
    for request in requests:
        text = (place.folder / "landing" / request.path).read_text()
        assert text.endswith(f'"{request.partition_key}","{request.collection}"\n')
        assert text.count("\n") == 2


@pytest.mark.timeout(300)
@pytest.mark.parametrize(("limit", "seconds"), [pytest.param(50, 20, marks=pytest.mark.slow)])
def test_the_minutes_limit_holds_over_processes_that_all_want_more(make_place: MakePlace, limit: int, seconds: int) -> None:
    place = make_place(limit)
    with place.running(["ask"] * 6) as check:
        begun = time.monotonic()
        while time.monotonic() < begun + seconds:
            check()
            time.sleep(0.5)
        (place.folder / "stop").touch()
    accesses = place.accesses()
    assert most_in_a_minute(accesses) == limit
    assert {a.status for a in accesses if a.limited} == {200}
