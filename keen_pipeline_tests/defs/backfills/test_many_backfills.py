"""Runs over the same range at once, on hosts whose clocks differ, on one PostgreSQL ledger: each partition lands once."""

from __future__ import annotations

import subprocess
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path

import dagster as dg
import pytest

from keen_pipeline.extraction import Status
from keen_pipeline_tests.defs.nights.test_many_processes import AHEAD_SECONDS, FIRST, NAMES, MakePlace, Place
from keen_pipeline_tests.defs.nights.test_many_processes import make_place as make_place
from keen_pipeline_tests.servers.postgres import deadlocks

DAYS = 8
LEASE_SECONDS = 4
PATIENCE = 120.0
# A run lands at most so many files at once; what it had begun when it was killed is begun again.
LANDING_THREADS = 4


def key(day: int) -> str:
    return (FIRST + timedelta(days=day)).isoformat()


@pytest.fixture
def place(make_place: MakePlace) -> Place:
    """Extractions are finished one after the other, some a second, so that runs are caught in the middle."""
    place = make_place(100_000, "--max-concurrency", "1", "--extraction-delay", "0.1")
    place.env |= {"KEEN_PIPELINE_LEASE_SECONDS": str(LEASE_SECONDS), "KEEN_PIPELINE_POLL_SECONDS": "0.3"}
    (place.folder / "dagster").mkdir()
    with dg.DagsterInstance.local_temp(str(place.folder / "dagster")) as instance:
        instance.get_runs(limit=1)  # makes the databases before two processes that start together both do
    return place


@contextmanager
def backfills(place: Place, ranges: Sequence[tuple[int, int]]) -> Iterator[list[subprocess.Popen[bytes]]]:
    """A run for each range of days, both inclusive, all at once."""
    runs = [
        place.start("backfill", AHEAD_SECONDS * (-1) ** number, key(first), key(last))
        for number, (first, last) in enumerate(ranges)
    ]
    try:
        yield runs
    finally:
        for run in runs:
            run.kill()
            run.wait()


def landed(place: Place) -> int:
    return place.counts().get("landed", 0)


def materialized(place: Place) -> dict[str, set[str | None]]:
    """Partitions in Dagster's event log by collection."""
    with dg.DagsterInstance.local_temp(str(place.folder / "dagster")) as instance:
        return {
            name: {r.partition_key for r in instance.fetch_materializations(dg.AssetKey(["keen", name]), limit=1000).records}
            for name in NAMES
        }


def assert_all_landed_once(place: Place, days: int, *, before: int = 0) -> None:
    """`before`: of them had landed before the run was launched, and were extracted again as it explicitly asked."""
    assert place.counts() == {"landed": days * len(NAMES), **({"superseded": before} if before else {})}
    # What two runs told at once is left to a landing run, whose check results are the newest; no end of an extraction is.
    assert {entry.status for entry in place.ledger.outbox()} <= {Status.LANDED}
    for name in NAMES:
        for day in range(days):
            text = Path(place.env["KEEN_PIPELINE_DESTINATION"], name, f"{key(day)}.csv").read_text()
            assert text.endswith(f'"{key(day)}","{name}"\n')
            assert text.count("\n") == 2
    assert materialized(place) == {name: {key(day) for day in range(days)} for name in NAMES}


def downloads(place: Place) -> Counter[str]:
    return Counter(a.path for a in place.accesses() if a.path.startswith("/results/"))


@pytest.mark.slow
@pytest.mark.timeout(240)
def test_runs_over_overlapping_ranges_at_once_ask_for_and_land_each_partition_once(place: Place) -> None:
    with backfills(place, [(0, DAYS - 1), (0, DAYS - 1), (DAYS // 2, DAYS + 1)]) as runs:
        assert [run.wait(PATIENCE) for run in runs] == [0, 0, 0], place.trouble("backfill")
    number = (DAYS + 2) * len(NAMES)
    assert_all_landed_once(place, DAYS + 2)
    assert sum(a.method == "POST" and a.path.endswith("/_extract") for a in place.accesses()) == number
    assert (len(downloads(place)), set(downloads(place).values())) == (number, {1})
    assert deadlocks(place.ledger.engine) == 0


@pytest.mark.slow
@pytest.mark.timeout(240)
def test_what_a_killed_run_held_is_taken_over_by_the_next_one(place: Place) -> None:
    number = DAYS * len(NAMES)
    with backfills(place, [(0, DAYS - 1)]) as [dying]:
        deadline = time.monotonic() + PATIENCE
        while not 0 < landed(place) < number:
            assert dying.poll() is None, place.trouble("backfill")
            assert time.monotonic() < deadline
            time.sleep(0.02)
        dying.kill()
        dying.wait()
    held, before = [e for e in place.ledger.open_entries() if e.claimed_by is not None], landed(place)
    assert held
    with backfills(place, [(0, DAYS - 1)]) as [heir]:
        assert heir.wait(PATIENCE) == 0, place.trouble("backfill")
    assert_all_landed_once(place, DAYS, before=before)
    assert place.ledger.orphans() <= LANDING_THREADS
    fetched = downloads(place)
    assert len(fetched) == number + before
    assert sum(fetched.values()) <= number + before + LANDING_THREADS
