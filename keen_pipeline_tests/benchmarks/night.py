"""What one night of many collections costs: seconds to load the definitions, of each sensor's tick, and CPU seconds of everything.

    python -m keen_pipeline_tests.benchmarks.night [--collections 500] [--interval 5] [--json] [--profile FOLDER]

A real embedded service holds three events of yesterday for each collection. As in a deployment, a code server loads the definitions
once and evaluates the schedule and the sensor, while each run is a process of its own that loads them too. CPU seconds are user and
system time of the code server and its runs, and of the service; the budget of requests a minute is out of the way. The script uses
public names only, so that it runs on the first edition as well: put it into that checkout's folder of benchmarks.

With `--profile`, each process of the pipeline leaves its cProfile in the folder.
"""

from __future__ import annotations

import argparse
import cProfile
import json
import os
import resource
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import datetime, timedelta, timezone
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import dagster as dg

_EVENTS = 3
_LONGEST_SECONDS = 900.0
_BATCH = 100
_NIGHT = "KEEN_BENCHMARK_NIGHT"


def names(number: int) -> list[str]:
    """The collections."""
    return [f"c{n:04d}" for n in range(number)]


def load(settings: dict[str, Any]) -> dg.Definitions:
    """The code location; cold, as the first thing of its process."""
    from keen_pipeline import Collection, CsvDestination, ExtractionLedger, KeenResource, build_keen_definitions

    collections = [Collection(name, settings["start_date"]) for name in names(settings["collections"])]
    keen = KeenResource(
        base_url=settings["base_url"],
        project_id=settings["project_id"],
        read_key=settings["read_key"],
        requests_per_minute=100_000,
    )
    ledger, destination = ExtractionLedger(url=settings["ledger"]), CsvDestination(uri=settings["landing"])
    defs = build_keen_definitions(collections, keen=keen, ledger=ledger, destination=destination)
    defs.get_repository_def()
    return defs


def code_server(settings: dict[str, Any]) -> dict[str, Any]:
    """The schedule's tick and its run, then the sensor's ticks and theirs until nothing is open."""
    begun = time.perf_counter()
    defs = load(settings)
    import dagster as dg

    found: dict[str, Any] = {"load_seconds": round(time.perf_counter() - begun, 2), "tick_seconds": [], "run_seconds": []}

    def run(job: str, config: Any) -> None:
        started = time.perf_counter()
        asked = Path(os.environ[_NIGHT]).with_name("run.json")  # longer than a variable may be
        asked.write_text(json.dumps({**settings, "job": job, "config": config}))
        subprocess.run([sys.executable, "-m", __spec__.name], env={**os.environ, _NIGHT: str(asked)}, check=True)
        found["run_seconds"].append(round(time.perf_counter() - started, 2))

    with dg.DagsterInstance.get() as instance:
        [schedule] = defs.schedules or []
        assert isinstance(schedule, dg.ScheduleDefinition)
        with dg.build_schedule_context(instance=instance, scheduled_execution_time=datetime.now(timezone.utc)) as at_night:
            [request] = schedule.evaluate_tick(at_night).run_requests or []
        run(schedule.job_name, request.run_config)
        sensor = next(s for s in defs.sensors or [] if s.name.endswith("extraction_status"))
        needed = {name: defs.resources[name] for name in sensor.required_resource_keys} if defs.resources else {}
        while time.perf_counter() - begun < _LONGEST_SECONDS:
            started = time.perf_counter()
            with dg.build_sensor_context(instance=instance, resources=needed) as context:
                tick = sensor.evaluate_tick(context)
            found["tick_seconds"].append(round(time.perf_counter() - started, 2))
            if "no extraction is open" in (tick.skip_message or ""):
                break
            for request in tick.run_requests or []:
                run(str(request.job_name), request.run_config)
            time.sleep(settings["interval"] if not tick.run_requests else 0)
    found["wall_seconds"] = round(time.perf_counter() - begun, 1)
    return found


def one_run(settings: dict[str, Any]) -> None:
    """A run's own process."""
    defs = load(settings)
    import dagster as dg

    with dg.DagsterInstance.get() as instance:
        result = defs.resolve_job_def(settings["job"]).execute_in_process(run_config=settings["config"], instance=instance)
        assert result.success


@contextmanager
def night_service(folder: Path, collections: int) -> Iterator[dict[str, Any]]:
    """A service with the events; its address and keys."""
    from keen_pipeline.client import KeenClient
    from keen_pipeline_tests.benchmarks.service_log import logged_service

    yesterday = datetime.now(timezone.utc).replace(hour=0, minute=0, second=0, microsecond=0) - timedelta(days=1)
    events = [{"keen": {"timestamp": f"{yesterday:%Y-%m-%d}T1{n}:00:00.000Z"}, "n": n} for n in range(_EVENTS)]
    with logged_service(folder) as endpoint:
        read_key, write_key = endpoint.read_key, endpoint.write_key
        with KeenClient(endpoint.base_url, endpoint.project_id, read_key=read_key, write_key=write_key) as client:
            every = names(collections)
            for start in range(0, collections, _BATCH):
                client.add_events(dict.fromkeys(every[start : start + _BATCH], events))
        yield {
            "base_url": endpoint.base_url,
            "project_id": endpoint.project_id,
            "read_key": endpoint.read_key,
            "start_date": f"{yesterday:%Y-%m-%d}",
        }


def cpu_seconds() -> float:
    """User and system time of the children that have ended, theirs included."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def measure(options: argparse.Namespace) -> dict[str, Any]:
    """One night."""
    with TemporaryDirectory(prefix="keen-night-") as temporary:
        folder = Path(temporary)
        (folder / "dagster").mkdir()
        (folder / "dagster" / "dagster.yaml").write_text("telemetry: {enabled: false}\n")
        with night_service(folder, options.collections) as service:
            settings = {
                **service,
                "collections": options.collections,
                "interval": options.interval,
                "ledger": f"sqlite:///{folder / 'ledger.db'}",
                "landing": str(folder / "landing"),
                "profile": options.profile,
            }
            (folder / "code_server.json").write_text(json.dumps(settings))
            environment = {**os.environ, "DAGSTER_HOME": str(folder / "dagster"), _NIGHT: str(folder / "code_server.json")}
            before = cpu_seconds()
            with (folder / "pipeline.log").open("wb") as log:
                done = subprocess.run([sys.executable, "-m", __spec__.name], env=environment, stdout=subprocess.PIPE, stderr=log)
            assert done.returncode == 0, (folder / "pipeline.log").read_text()[-2000:]
            pipeline = cpu_seconds() - before
            landed = sum(1 for path in (folder / "landing").rglob("*.csv"))
        found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
        return {
            "collections": options.collections,
            "landed": landed,
            **found,
            "pipeline_cpu_seconds": round(pipeline, 1),
            "service_cpu_seconds": round(cpu_seconds() - before - pipeline, 1),
            "cores": os.cpu_count(),
            "load_average": round(os.getloadavg()[0], 1),
        }


def profiled(settings: dict[str, Any], body: Callable[[], Any]) -> Any:
    """`body`'s answer; its profile in the folder, if there is one."""
    if not settings.get("profile"):
        return body()
    with cProfile.Profile() as profile:
        answer = body()
    profile.dump_stats(Path(settings["profile"]) / f"{settings.get('job', 'code_server')}-{os.getpid()}.prof")
    return answer


def main() -> int:
    """Print the figures; 1 if not every collection's file is there."""
    if _NIGHT in os.environ:
        settings = json.loads(Path(os.environ[_NIGHT]).read_text())
        answer = profiled(settings, lambda: one_run(settings) if "job" in settings else code_server(settings))
        if answer is not None:
            print(json.dumps(answer))
        return 0
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--collections", type=int, default=500)
    parser.add_argument("--interval", type=float, default=5.0, help="seconds between two ticks that ask for no run")
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--profile", help="a folder")
    options = parser.parse_args()
    found = measure(options)
    print(json.dumps(found) if options.json else "\n".join(f"{name:<22}{value}" for name, value in found.items()))
    return 0 if found["landed"] == options.collections else 1


if __name__ == "__main__":
    sys.exit(main())
