"""A backfill of many days: ours, the naive Dagster asset, and the bare asyncio ideal, on the same service and the same files.
Beside them Dagster alone: a run as long as ours that only tells an event for each partition.

    python -m keen_pipeline_tests.benchmarks.backfill --days 365 --delay 10 [--naive-days 20] [--requests-per-minute 200] [--json]

Ours and the naive side are asset backfills that Dagster's own daemon runs; "from the click" is from the backfill's request to its
end, "from the first POST" from the first request that the service logs to the last file. CPU, processes and memory are those of
the daemon, its code server and its runs together, from the click on; the service's are nobody's. What daemon and code server use
at rest, measured on each side for half a minute before the click, is shown beside it. The naive side is measured on a few days and
its wall and CPU seconds and requests are scaled to all of them, which the output says. API requests are counted in
the service's log, downloads of results not among them. Every side's files must be equal byte by byte.
"""

from __future__ import annotations

import argparse
import contextlib
import hashlib
import json
import os
import signal
import subprocess
import sys
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import date, timedelta
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import dagster as dg
import yaml
from dagster._core.execution.backfill import BULK_ACTION_TERMINAL_STATUSES

from keen_pipeline.client import KeenClient
from keen_pipeline_tests.backfills import add_backfill
from keen_pipeline_tests.benchmarks.meter import MARK, Meter, await_end, living
from keen_pipeline_tests.benchmarks.service_log import logged_service, requests_of

FIRST = date(2025, 1, 1)
EVENTS_A_DAY = 200
LIMIT_SECONDS = 3600.0
REST_SECONDS = 30.0


@dataclass
class Bench:
    folder: Path
    days: int
    delay: float
    per_minute: int
    poll_seconds: float

    def __post_init__(self) -> None:
        (self.folder / "collections.yaml").write_text(
            yaml.safe_dump({"collections": [{"name": "purchases", "start_date": FIRST.isoformat()}]})
        )

    @contextmanager
    def service(self) -> Iterator[None]:
        """The same one for all sides."""
        with logged_service(self.folder, ["--extraction-delay", str(self.delay)]) as self.endpoint:
            self._load()
            yield

    def _load(self) -> None:
        endpoint = self.endpoint
        with KeenClient(endpoint.base_url, endpoint.project_id, read_key=endpoint.read_key, write_key=endpoint.write_key) as client:
            for number in range(self.days):
                day = FIRST + timedelta(days=number)
                stamps = (f"{day}T{n * 86400 // EVENTS_A_DAY // 3600:02d}:{n % 60:02d}:00Z" for n in range(EVENTS_A_DAY))
                client.add_events(
                    {"purchases": [{"keen": {"timestamp": t}, "n": n, "text": f"order {n}"} for n, t in enumerate(stamps)]}
                )

    def environment(self, side: str, mark: str) -> dict[str, str]:
        kept = {k: v for k, v in os.environ.items() if not k.startswith(("KEEN_", "DAGSTER_"))}
        return {
            **kept,
            MARK: mark,
            "DAGSTER_HOME": str(self.folder / side / "dagster"),
            "DAGSTER_DISABLE_TELEMETRY": "yes",
            "KEEN_BASE_URL": self.endpoint.base_url,
            "KEEN_PROJECT_ID": self.endpoint.project_id,
            "KEEN_READ_KEY": self.endpoint.read_key,
            "KEEN_PIPELINE_COLLECTIONS": str(self.folder / "collections.yaml"),
            "KEEN_PIPELINE_DESTINATION": str(self.folder / side / "landing"),
            "KEEN_PIPELINE_LEDGER_URL": f"sqlite:///{self.folder / side / 'ledger.db'}",
            "KEEN_PIPELINE_REQUESTS_PER_MINUTE": str(self.per_minute),
            "KEEN_PIPELINE_POLL_SECONDS": str(self.poll_seconds),
        }

    def figures(self, side: str, since: float, meter: Meter, wall: float) -> dict[str, Any]:
        """Of a side that ended; also removes nothing, so that files can be compared."""
        api = [line for line in requests_of(self.folder / "service.log") if line["came"] >= since]
        files = sorted((self.folder / side / "landing").rglob("*.csv"))
        last = max(file.stat().st_mtime for file in files)
        posts = [line for line in api if line["method"] == "POST"]
        return {
            "files": len(files),
            "wall_seconds_from_click": round(wall, 1),
            "seconds_from_first_post_to_last_file": round(last - min(line["came"] for line in posts), 1),
            "cpu_seconds": round(meter.cpu_seconds, 2),
            "cpu_seconds_by_role": meter.cpu_seconds_by_role,
            "processes_at_peak": meter.processes,
            "memory_mib_at_peak": round(meter.memory_mib),
            "api_requests": len(api),
            "posts": len(posts),
            "list_calls": sum(line["method"] == "GET" and line["path"].endswith("/_extract") for line in api),
            "status_calls": sum("/_extract/" in line["path"] for line in api),
            "counts": sum(line["path"].endswith("/_count") for line in api),
            "refused": sum(line["status"] == 429 for line in api),
        }

    def digest(self, side: str, days: int) -> list[str]:
        """Of the first files of a side."""
        folder = self.folder / side / "landing" / "purchases"
        return [hashlib.sha256((folder / f"{FIRST + timedelta(days=n)}.csv").read_bytes()).hexdigest() for n in range(days)]


def ideal(bench: Bench) -> dict[str, Any]:
    """The bare asyncio side."""
    mark, since, begun = uuid.uuid4().hex, time.time(), time.monotonic()
    with Meter(mark) as meter:
        command = [sys.executable, "-m", "keen_pipeline_tests.benchmarks.backfill.ideal", FIRST.isoformat(), str(bench.days)]
        subprocess.run(command, env=bench.environment("ideal", mark), check=True)
        wall = time.monotonic() - begun
    return bench.figures("ideal", since, meter, wall)


@dataclass
class Backfilled:
    """An asset backfill that Dagster's own daemon ran: from the click (`since`, seconds since 1970) to its end."""

    since: float
    wall: float
    meter: Meter
    rest: Meter
    runs: int

    @property
    def cpu_seconds_beyond_rest(self) -> float:
        """What daemon and code server would have used anyway is left out."""
        return round(self.meter.cpu_seconds - self.rest.cpu_seconds * self.wall / REST_SECONDS, 2)


def dagster(bench: Bench, side: str, module: str, key: dg.AssetKey, days: int) -> dict[str, Any]:
    """A side that is an asset backfill."""
    done = backfilled(bench, side, module, key, days)
    figures = bench.figures(side, done.since, done.meter, done.wall)
    return {**figures, "cpu_seconds_beyond_rest": done.cpu_seconds_beyond_rest, "runs": done.runs}


def floor(bench: Bench, seconds: float) -> dict[str, Any]:
    """What Dagster uses for one event a partition in one run of `seconds`, with nothing extracted, landed or checked."""
    os.environ["FLOOR_SECONDS"] = str(seconds)
    done = backfilled(
        bench, "floor", "keen_pipeline_tests.benchmarks.backfill.floor", dg.AssetKey(["floor", "purchases"]), bench.days
    )
    return {
        "wall_seconds_from_click": round(done.wall, 1),
        "cpu_seconds": round(done.meter.cpu_seconds, 2),
        "cpu_seconds_by_role": done.meter.cpu_seconds_by_role,
        "cpu_seconds_beyond_rest": done.cpu_seconds_beyond_rest,
    }


def backfilled(bench: Bench, side: str, module: str, key: dg.AssetKey, days: int) -> Backfilled:
    """Click, and wait until it has ended well."""
    home = bench.folder / side / "dagster"
    home.mkdir(parents=True)
    (home / "dagster.yaml").write_text("telemetry: {enabled: false}\n")
    mark = uuid.uuid4().hex
    environment = bench.environment(side, mark)
    with dg.DagsterInstance.from_config(str(home)) as instance, (bench.folder / f"{side}.log").open("wb") as log:
        instance.get_runs(limit=1)  # makes the databases before the daemon does
        daemon = subprocess.Popen(
            [sys.executable, "-m", "dagster._daemon", "run", "-m", module],
            env=environment,
            stdout=log,
            stderr=log,
            cwd=bench.folder,
        )
        try:
            time.sleep(20)  # what every Dagster spends on its start is nobody's
            with Meter(mark) as rest:
                time.sleep(REST_SECONDS)
            with Meter(mark) as meter:
                since, begun = time.time(), time.monotonic()
                backfill_id = _click(instance, key, days)
                while (backfill := instance.get_backfill(backfill_id)) and backfill.status not in BULK_ACTION_TERMINAL_STATUSES:
                    assert daemon.poll() is None, (bench.folder / f"{side}.log").read_text()[-3000:]
                    assert time.monotonic() - begun < LIMIT_SECONDS
                    time.sleep(0.5)
                wall = time.monotonic() - begun
            assert backfill is not None
            assert backfill.status.value == "COMPLETED_SUCCESS", (backfill.status, backfill.error)
            runs = instance.get_runs_count()
        finally:
            daemon.terminate()
            await_end(mark, 20)
            for pid in living(mark):
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            daemon.wait()
    return Backfilled(since, wall, meter, rest, runs)


def _click(instance: dg.DagsterInstance, key: dg.AssetKey, days: int) -> str:
    definition = dg.DailyPartitionsDefinition(start_date=FIRST.isoformat())
    return add_backfill(instance, [key], definition, [(FIRST + timedelta(days=n)).isoformat() for n in range(days)])


def compare(bench: Bench, naive_days: int) -> dict[str, Any]:
    """All three sides, and the goals."""
    found = {"ideal": ideal(bench)}
    found["ours"] = dagster(bench, "ours", "keen_pipeline.definitions", dg.AssetKey(["keen", "purchases"]), bench.days)
    assert bench.digest("ours", bench.days) == bench.digest("ideal", bench.days)
    found["Dagster alone, an event a partition"] = floor(bench, found["ours"]["seconds_from_first_post_to_last_file"])
    if naive_days:
        module, key = "keen_pipeline_tests.benchmarks.backfill.naive", dg.AssetKey(["naive", "purchases"])
        measured = found[f"naive, {naive_days} days measured"] = dagster(bench, "naive", module, key, naive_days)
        assert bench.digest("naive", naive_days) == bench.digest("ideal", naive_days)
        factor = bench.days / naive_days
        names = ("wall_seconds_from_click", "cpu_seconds", "cpu_seconds_beyond_rest", "api_requests", "files")
        found[f"naive, scaled to {bench.days} days"] = {name: round(measured[name] * factor, 1) for name in names}
    ours, base = found["ours"], found["ideal"]
    intervals = -(-ours["seconds_from_first_post_to_last_file"] // bench.poll_seconds) + 1
    goals: dict[str, Any] = {
        "ours / ideal, first POST to last file (goal <= 1.2)": round(
            ours["seconds_from_first_post_to_last_file"] / base["seconds_from_first_post_to_last_file"], 3
        ),
        f"API requests (goal <= {int(bench.days + 2 * intervals)}: partitions + 2 a poll interval)": ours["api_requests"],
    }
    if naive_days:
        scaled = found[f"naive, scaled to {bench.days} days"]
        goals["CPU, naive / ours (goal >= 100)"] = round(scaled["cpu_seconds"] / ours["cpu_seconds"], 1)
        beyond = scaled["cpu_seconds_beyond_rest"] / ours["cpu_seconds_beyond_rest"]
        goals["the same without what daemon and code server use at rest"] = round(beyond, 1)
        alone = found["Dagster alone, an event a partition"]["cpu_seconds"]
        goals["the most that Dagster lets anybody reach: CPU, naive / Dagster alone"] = round(scaled["cpu_seconds"] / alone, 1)
    return {"sides": found, "goals": goals}


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--days", type=int, default=365)
    parser.add_argument("--delay", type=float, default=10.0, help="seconds that the service lets each extraction rest")
    parser.add_argument("--naive-days", type=int, default=20, help="how many of them the naive side is measured on; 0: none")
    parser.add_argument("--requests-per-minute", type=int, default=200, help="the budget of ours and of the ideal")
    parser.add_argument("--poll-seconds", type=float, default=5.0)
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    with TemporaryDirectory(prefix="keen-backfill-") as name:
        bench = Bench(Path(name), arguments.days, arguments.delay, arguments.requests_per_minute, arguments.poll_seconds)
        with bench.service():
            document = compare(bench, arguments.naive_days)
    document = {**vars(arguments), **document}
    if arguments.json:
        print(json.dumps(document, indent=2))
        return
    for side, figures in document["sides"].items():
        print(f"\n{side}")
        for what, value in figures.items():
            print(f"  {what.replace('_', ' '):<42} {value!s:>10}")
    print()
    for what, value in document["goals"].items():
        print(f"{what:<70} {value:>8}")
    if arguments.naive_days:
        print("\nThe naive side's figures for all days are scaled from the days measured, not measured.")


if __name__ == "__main__":
    main()
