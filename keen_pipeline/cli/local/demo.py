"""`keen-pipeline demo`: the whole pipeline once, headless: service, nightly job, sensor, landing, downstream asset."""

from __future__ import annotations

import os
import shlex
import shutil
import subprocess
import time
from contextlib import ExitStack
from pathlib import Path

import click

from keen_pipeline.cli.common import console, landing_json, landings_table, print_json, show
from keen_pipeline.cli.local.processes import environment, launch_nightly_job, make_dagster_home, running
from keen_pipeline.errors import ConfigurationError, KeenPipelineError
from keen_pipeline.extraction import ExtractionRequest, Status
from keen_pipeline.ledger import SqlLedger
from keen_pipeline.lifecycle import Entry
from keen_pipeline.partitions import due_partitions
from keen_pipeline.pipeline import partition_request
from keen_pipeline.pipeline.sample import load_sample_events, sample_collections
from keen_pipeline.ports import SystemClock
from keen_pipeline.service import embedded
from keen_pipeline.service.endpoint import is_held
from keen_pipeline.settings import Settings
from keen_pipeline.wiring import open_client, open_ledger, scope_of

# The whole takes about a minute on two cores; past this something is wrong, and the logs say what.
LIMIT_SECONDS = 300.0
_LOOK_SECONDS = 0.5
_MARKER = ".keen-pipeline-demo"
_DOWNSTREAM = "daily_revenue"


@click.command("demo")
@click.option(
    "--dir", "folder", type=click.Path(file_okay=False, path_type=Path), default=Path("data/demo"), show_default=True, metavar="D"
)
@click.option("--json", "as_json", is_flag=True, help="One JSON document on stdout.")
def command(folder: Path, as_json: bool) -> None:
    """Run the nightly job on sample events, headless: submit, poll by sensor, land, downstream asset; then stop everything.

    Example: keen-pipeline demo --dir ./data/demo
    """
    begun = time.monotonic()
    folder = _fresh(folder)
    landed, downstream = _run(folder)
    seconds = time.monotonic() - begun
    if as_json:
        landings = [landing_json(entry) for entry in landed]
        woken = {"asset": _DOWNSTREAM, "partitions": downstream}
        print_json({"landings": landings, "downstream": woken, "seconds": round(seconds, 1), "dir": str(folder)})
        return
    variables = _variables(Path(os.path.relpath(folder)) if folder.is_relative_to(Path.cwd()) else folder)
    show(
        landings_table(landed, f"Landed in {seconds:.0f} s by the nightly job"),
        f"Downstream asset {_DOWNSTREAM} woke for {len(downstream)} partitions: {', '.join(downstream)}",
        f"Dagster's history: DAGSTER_HOME={folder / 'dagster'}",
        f"Logs: {folder / 'logs'}",
        "Next, the same in the Dagster UI at http://127.0.0.1:3000, on events of its own:",
        "  keen-pipeline dev",
        "and what this demo has landed, read and proven again:",
        f"  {' '.join(f'{name}={shlex.quote(value)}' for name, value in variables.items())} keen-pipeline verify",
    )


def _fresh(folder: Path) -> Path:
    """An empty folder of the demo's; one of an earlier demo is emptied, anybody else's is refused."""
    folder = folder.resolve()
    if is_held(folder / "keen"):
        raise ConfigurationError(f"another demo runs in {folder}; pass another folder with --dir")
    if folder.exists() and any(folder.iterdir()):
        if not (folder / _MARKER).exists():
            raise ConfigurationError(f"{folder} is not empty and not a folder of an earlier demo; pass another one with --dir")
        shutil.rmtree(folder)
    try:
        for name in ("keen", "logs"):
            (folder / name).mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigurationError(f"{folder} can't be made: {error.strerror}; pass another one with --dir") from None
    (folder / _MARKER).touch()
    make_dagster_home(folder / "dagster")
    return folder


def _variables(folder: Path) -> dict[str, str]:
    """What makes a command speak of the demo in this folder; nothing of the user's configuration is in it."""
    return {
        "KEEN_PIPELINE_DESTINATION": str(folder / "landing"),
        "KEEN_PIPELINE_LEDGER_URL": f"sqlite:///{folder / 'ledger.db'}",
        "KEEN_PIPELINE_SERVICE_DATA": str(folder / "keen"),
    }


def _run(folder: Path) -> tuple[list[Entry], list[str]]:
    """What landed, and the partitions that the downstream asset has. Raises KeenPipelineError if it can't be done."""
    variables, home, logs = _variables(folder), folder / "dagster", folder / "logs"
    settings, env = Settings.from_environment(variables), environment(DAGSTER_HOME=str(home), **variables)
    with ExitStack() as stack, console.status("starting the embedded service") as status:
        service = stack.enter_context(embedded.start(settings.service_data))
        status.update("loading sample events")
        with open_client(settings) as client:
            count = load_sample_events(client, settings.service_data, SystemClock().now().date())
        console.print(f"embedded service at {service.endpoint.base_url} with {count:,} sample events")
        status.update("starting Dagster's daemon")
        import dagster as dg

        instance = stack.enter_context(dg.DagsterInstance.from_config(str(home)))
        instance.get_runs(limit=1)  # makes its databases, before two processes that start together both try to
        daemon = ["dagster._daemon", "run", "-m", "keen_pipeline.definitions"]
        child = stack.enter_context(running(daemon, env=env, cwd=folder, log=logs / "daemon.log"))
        status.update("nightly job: submitting")
        job = launch_nightly_job(settings.name, env, folder, logs / "launch.log")
        console.print(f"nightly job {job} is launched; its run ends without waiting for the extractions")
        now, deadline = SystemClock().now(), time.monotonic() + LIMIT_SECONDS
        # What the night asks for, as its op computes it.
        requests = [partition_request(c, p) for c in sample_collections() for p in due_partitions(c, now)]
        ledger = open_ledger(settings.ledger_url, scope_of(settings))
        landed: list[Entry] = []
        while len(landed) < len(requests):
            _look(child, deadline, logs)
            landed = _landed(ledger, requests, logs)
            status.update(f"the sensor keen_extraction_status polls and lands: {len(landed)} of {len(requests)} partitions landed")
        console.print(f"{len(landed)} partitions landed; automation wakes {_DOWNSTREAM}")
        wanted = {e.request.partition_key for e in landed if e.request.collection == "purchases"}
        done: set[str] = set()
        while not wanted <= done:
            _look(child, deadline, logs)
            done = set(instance.get_materialized_partitions(dg.AssetKey(_DOWNSTREAM)))
            status.update(f"downstream asset {_DOWNSTREAM}: {len(done & wanted)} of {len(wanted)} partitions")
        status.update("stopping what was started")
        return landed, sorted(done)


def _landed(ledger: SqlLedger, requests: list[ExtractionRequest], logs: Path) -> list[Entry]:
    latest = ledger.current(requests)
    for entry in latest:
        if entry is not None and entry.status is Status.ABANDONED:
            raise KeenPipelineError(f"{entry.error} (logs: {logs})")
    return [entry for entry in latest if entry is not None and entry.status is Status.LANDED]


def _look(daemon: subprocess.Popen[bytes], deadline: float, logs: Path) -> None:
    """Wait for the next look. Raises KeenPipelineError if the daemon has ended or the time is over."""
    if daemon.poll() is not None:
        raise KeenPipelineError(f"Dagster's daemon ended unexpectedly, see {logs / 'daemon.log'}")
    if time.monotonic() > deadline:
        raise KeenPipelineError(f"not finished after {LIMIT_SECONDS:.0f} seconds, see {logs}")
    time.sleep(_LOOK_SECONDS)
