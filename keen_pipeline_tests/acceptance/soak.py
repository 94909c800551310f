"""Nights without end, a night a minute, with faults on: flat memory, a ledger of the expected size, nothing lost, nothing doubled.

    python -m keen_pipeline_tests.acceptance.soak [--minutes 20] [--per-minute 50] [--seed S] [--json]

The embedded service, Dagster's daemon with its code server, schedules and sensors run as processes, as one machine has them.
Each minute an operator launches the next night: hourly and daily partitions of several collections, `--per-minute` in all.
Meanwhile the service lets extractions fail and its results URLs die after two seconds, and a proxy before it refuses (429, 500,
503), loses answers, resets connections, and breaks bodies of results. Memory is the anonymous memory of the processes that live
on: what they have allocated, without libraries that they share with others.

At the end everything has to land by itself; then the audit of the crash rounds asks files, ledger, event log and service.
Exit status 0 only where everything holds. Linux only.
"""

from __future__ import annotations

import argparse
import random
import secrets
import sys
import time
from collections import Counter, defaultdict
from collections.abc import Sequence
from contextlib import ExitStack
from datetime import datetime, timedelta
from datetime import time as clock_time
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from typing import Any

import sqlalchemy as sa

from keen_pipeline.collection import Collection, Granularity
from keen_pipeline.landing.layout import QUARANTINE, REASON_SUFFIX
from keen_pipeline.ledger.database.tables import entries
from keen_pipeline_tests.acceptance.crash.__main__ import settle
from keen_pipeline_tests.acceptance.crash.audit import Partition, audit
from keen_pipeline_tests.acceptance.crash.rig import COLLECTIONS, START, SUPERVISION, Rig
from keen_pipeline_tests.acceptance.faults.fault_proxy import FaultProxy
from keen_pipeline_tests.acceptance.ledger_figures import counts
from keen_pipeline_tests.acceptance.report import report

MINUTE = 60.0
LOOK_SECONDS = 5.0
HOURS = 24
# Of each collection and day, the first extractions that the service lets fail; attempts are as many as this and other faults need.
FAILURES_A_DAY = 2
ATTEMPTS = 8
# Nothing is killed here: a run that a busy machine starts late is late, not dead.
PATIENCE_SECONDS = 180
# Shares of the requests.
API_FAULTS = {"429": 0.02, "500": 0.01, "503": 0.03, "reset": 0.01, "answer lost": 0.01}
RESULTS_FAULTS = {"503": 0.03, "reset": 0.02, "cut": 0.05, "undelimited and cut": 0.02, "login page": 0.02}
# What the last quarter's memory may exceed the second quarter's by; a leak of one landing's buffers an hour would be more.
GROWTH, GROWTH_MIB = 0.05, 8.0


def plan(per_minute: int) -> list[Collection]:
    """Collections that have `per_minute` partitions a day: as many hourly ones as fit, the rest daily."""
    hourly, daily = divmod(per_minute, HOURS)
    wanted = [f"hourly{n + 1}" for n in range(hourly)] + [f"{COLLECTIONS[n % 3]}{n + 1}" for n in range(daily)]
    grain = {True: Granularity.HOURLY, False: Granularity.DAILY}
    return [Collection(name, START, grain[name.startswith("hourly")], lookback_days=1) for name in wanted]


def asked_in(collections: Sequence[Collection], nights: int) -> list[Partition]:
    """What the nights ask for: night n stands for 01:00 of day n + 1, and the hours that ended in the day before that."""
    begin = datetime.combine(START, clock_time(1))
    hours = [(begin + timedelta(hours=n)).strftime("%Y-%m-%d-%H:%M") for n in range(HOURS * nights)]
    days = [(START + timedelta(days=n)).isoformat() for n in range(nights)]
    return [(c.name, key) for c in collections for key in (hours if c.granularity is Granularity.HOURLY else days)]


class SoakRig(Rig):
    """Bodies that were broken on the way are kept aside, each with its reason; they are not among the files."""

    def files(self) -> dict[str, bytes]:
        return {name: data for name, data in super().files().items() if not name.startswith(f"{QUARANTINE}/")}

    def quarantined(self) -> int:
        """How many files lie there; each has to have its reason beside it."""
        kept = {name for name in super().files() if name.startswith(f"{QUARANTINE}/")}
        whole = {name for name in kept if not name.endswith(REASON_SUFFIX)}
        assert kept == whole | {name + REASON_SUFFIX for name in whole}, kept
        return len(whole)


class Memory:
    """The long-living processes' memory over time."""

    def __init__(self, rig: Rig) -> None:
        self._rig = rig
        self.samples: dict[str, list[tuple[float, float]]] = defaultdict(list)

    def look(self) -> None:
        """One sample of each role."""
        found: dict[str, float] = defaultdict(float)
        for pid, line in self._rig.processes():
            role = next((role for part, role in _ROLES.items() if part in line), None)
            if role is not None:
                found[role] += anonymous_mib(pid)
        for role, mib in found.items():
            self.samples[role].append((time.monotonic(), mib))

    def quarters(self) -> dict[str, list[float]]:
        """By role the median of each quarter of the time, in MiB: a process that is just being forked counts twice in a mean."""
        quarters: dict[str, list[float]] = {}
        for role, samples in sorted(self.samples.items()):
            first, last = samples[0][0], samples[-1][0]
            parts: list[list[float]] = [[], [], [], []]
            for at, mib in samples:
                parts[min(3, int(4 * (at - first) / max(last - first, 1.0)))].append(mib)
            quarters[role] = [round(median(part), 1) for part in parts if part]
        return quarters


def anonymous_mib(pid: int) -> float:
    """What a process has allocated and holds in memory; 0 where it has ended."""
    try:
        lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    except OSError:
        return 0.0
    return next((int(line.split()[1]) / 1024 for line in lines if line.startswith("RssAnon:")), 0.0)


_ROLES = {"keen_pipeline serve": "service", "dagster._daemon": "daemon", "api grpc": "code server"}


def soak(folder: Path, minutes: int, per_minute: int, seed: int) -> tuple[dict[str, Any], list[str]]:
    """Run it in an empty folder; the figures, and what is wrong."""
    begun, rng = time.monotonic(), random.Random(seed)
    collections = plan(per_minute)
    asked = asked_in(collections, minutes)
    options = ["--extraction-delay", "3", "--results-url-seconds", "2"]
    for day in range(minutes + 1):
        for c in collections:
            options += ["--fail-extraction", f"{c.name}@{(START + timedelta(days=day)).isoformat()}={FAILURES_A_DAY}"]
    with ExitStack() as stack:
        proxies: list[FaultProxy] = []

        def way(upstream: str) -> str:
            if not proxies:
                proxies.append(stack.enter_context(FaultProxy(upstream, rng, API_FAULTS, RESULTS_FAULTS)))
            return proxies[0].url

        settings = {
            "KEEN_PIPELINE_MAX_ATTEMPTS": str(ATTEMPTS),
            "KEEN_PIPELINE_LEASE_SECONDS": str(PATIENCE_SECONDS),
            "CRASH_SENSOR_SECONDS": "15",
        }
        monitoring = {**SUPERVISION["run_monitoring"], "start_timeout_seconds": PATIENCE_SECONDS, "max_runtime_seconds": 900}
        concurrency = {"runs": {"max_concurrent_runs": 2}}
        supervision = {**SUPERVISION, "run_monitoring": monitoring, "concurrency": concurrency}
        rig = stack.enter_context(SoakRig(folder, minutes + 1, rng, collections, options, settings, way, supervision))
        memory = Memory(rig)
        _nights(rig, memory, minutes)
        settle(rig)
        memory.look()
        nights_took = time.monotonic() - begun
        figures: dict[str, Any] = {
            "minutes": minutes,
            "submissions a minute": round(len(asked) / minutes, 1),
            "seed": seed,
            "faults of the network": dict(proxies[0].faults),
            "runs": dict(Counter(run.status.value for run in rig.instance.get_runs())),
            "seconds until everything had landed": round(nights_took),
            "broken bodies in the quarantine": rig.quarantined(),
        }
        wrong = [*_memory(memory, figures), *_rows(rig, asked, figures)]
        audited, found = audit(rig, asked)
    return {**figures, **audited}, [*wrong, *found]


def _nights(rig: Rig, memory: Memory, minutes: int) -> None:
    """A night a minute, and looks in between."""
    begun = time.monotonic()
    for night in range(minutes):
        rig.begin_nights(night + 1)
        while time.monotonic() < begun + MINUTE * (night + 1):
            rig.check()
            memory.look()
            time.sleep(LOOK_SECONDS)
        found = {status.value: number for status, number in counts(rig.ledger).items()}
        sys.stderr.write(f"\rminute {night + 1} of {minutes}: {found} ")
    sys.stderr.write("\n")


def _memory(memory: Memory, figures: dict[str, Any]) -> list[str]:
    quarters = memory.quarters()
    figures["memory by quarter, MiB"] = quarters
    return [
        f"the {role} grew from {medians[1]} MiB in the second quarter to {medians[-1]} MiB in the last"
        for role, medians in quarters.items()
        if medians[-1] > medians[1] * (1 + GROWTH) + GROWTH_MIB
    ]


def _rows(rig: Rig, asked: Sequence[Partition], figures: dict[str, Any]) -> list[str]:
    """One row for each partition and one for each attempt that failed, no more failures than faults."""
    with rig.ledger.engine.connect() as connection:
        rows = connection.execute(sa.select(entries.c.status, entries.c.error)).all()
    by_status = Counter(status for status, _ in rows)
    reasons = [reason for status, reason in rows if status == "failed"]
    told = sum("told to fail" in (reason or "") for reason in reasons)
    figures["attempts that failed"] = {"by the service": told, "by the network": len(reasons) - told}
    figures["ledger bytes a row"] = round((rig.folder / "ledger.db").stat().st_size / len(rows))
    wrong = []
    if len(rows) != len(asked) + by_status["failed"] + by_status["superseded"]:
        wrong.append(f"the ledger has {dict(by_status)}, for {len(asked)} partitions")
    if told > FAILURES_A_DAY * len(rig.collections) * rig.days:
        wrong.append(f"{told} attempts failed by the service, which was told to fail less")
    if not told:
        wrong.append("no extraction failed: the faults were off")
    return wrong


def main(arguments: Sequence[str] | None = None) -> int:
    """Print the figures and what is wrong; 0 where nothing is."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=int, default=20)
    parser.add_argument("--per-minute", type=int, default=50, help="submissions")
    parser.add_argument("--seed", type=int, default=None, help="of the faults; printed")
    parser.add_argument("--dir", type=Path, help="an empty or new folder to keep; default: a temporary one")
    parser.add_argument("--json", action="store_true", help="one JSON document instead of a table")
    given = parser.parse_args(arguments)
    seed = given.seed if given.seed is not None else secrets.randbelow(1_000_000)
    with TemporaryDirectory(prefix="keen-soak-") as temporary:
        figures, wrong = soak(given.dir or Path(temporary) / "rig", given.minutes, given.per_minute, seed)
    return report(figures, wrong, as_json=given.json)


if __name__ == "__main__":
    sys.exit(main())
