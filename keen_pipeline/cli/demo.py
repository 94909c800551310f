"""`keen-pipeline demo`: the whole pipeline once, headless: service, nightly job, sensor, landing, downstream asset."""

from __future__ import annotations

import shlex
import shutil
import subprocess
import time
from contextlib import ExitStack
from datetime import timedelta
from pathlib import Path

import click

from keen_pipeline.cli.common import console, landing_json, landings_table, print_json, show
from keen_pipeline.cli.processes import environment, make_dagster_home, running
from keen_pipeline.errors import ConfigurationError, KeenPipelineError
from keen_pipeline.extraction import ExtractionRequest, Status
from keen_pipeline.ledger import SqlLedger
from keen_pipeline.lifecycle import Entry
from keen_pipeline.partitions import due_partitions
from keen_pipeline.pipeline import partition_request
from keen_pipeline.pipeline.sample import load_sample_events, sample_collections
from keen_pipeline.ports import SystemClock
from keen_pipeline.service import embedded
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
    demo = _Demo(_fresh(folder))
    landed, downstream = demo.run()
    seconds = time.monotonic() - begun
    if as_json:
        landings = [landing_json(entry) for entry in landed]
        print_json(
            {
                "landings": landings,
                "downstream": {"asset": _DOWNSTREAM, "partitions": downstream},
                "seconds": round(seconds, 1),
                "dir": str(demo.folder),
            }
        )
        return
    show(
        landings_table(landed, f"Landed in {seconds:.0f} s by the nightly job"),
        f"Downstream asset {_DOWNSTREAM} woke for {len(downstream)} partitions: {', '.join(downstream)}",
        f"Files: {demo.folder / 'landing'}",
        f"Dagster's history: DAGSTER_HOME={demo.home}   Logs: {demo.folder / 'logs'}",
        "Next, the same in the Dagster UI at http://127.0.0.1:3000, on events of its own:",
        "  keen-pipeline dev",
        "and what this demo has landed, read and proven again:",
        f"  {demo.variables} keen-pipeline verify",
    )


def _fresh(folder: Path) -> Path:
    """An empty folder of the demo's; one of an earlier demo is emptied, anybody else's is refused."""
    folder = folder.resolve()
    if folder.exists() and any(folder.iterdir()):
        if not (folder / _MARKER).exists():
            raise ConfigurationError(f"{folder} is not empty and not a folder of an earlier demo; give another one by --dir")
        shutil.rmtree(folder)
    try:
        for name in ("keen", "logs"):
            (folder / name).mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigurationError(f"{folder} can't be made: {error.strerror}; give another one by --dir") from None
    (folder / _MARKER).touch()
    make_dagster_home(folder / "dagster")
    return folder


class _Demo:
    """One demo in its folder: everything below it, nothing of the user's configuration in it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.home = folder / "dagster"
        self.settings = Settings(
            destination=str(folder / "landing"), ledger_url=f"sqlite:///{folder / 'ledger.db'}", service_data=folder / "keen"
        )
        self.env = environment(
            DAGSTER_HOME=str(self.home),
            KEEN_PIPELINE_DESTINATION=self.settings.destination,
            KEEN_PIPELINE_LEDGER_URL=self.settings.ledger_url,
            KEEN_PIPELINE_SERVICE_DATA=str(self.settings.service_data),
        )
        # For a shell: what makes other commands speak of this demo.
        self.variables = " ".join(f"{name}={shlex.quote(value)}" for name, value in self.env.items() if name.startswith("KEEN_"))
        self._deadline = time.monotonic() + LIMIT_SECONDS

    def run(self) -> tuple[list[Entry], list[str]]:
        """What landed, and the partitions that the downstream asset has; raises KeenPipelineError where it can't be done."""
        with ExitStack() as stack, console.status("starting the embedded service") as status:
            service = stack.enter_context(embedded.start(self.settings.service_data))
            client = stack.enter_context(open_client(self.settings, None))
            today = SystemClock().now().date()
            count = load_sample_events(client, self.settings.service_data, today)
            console.print(f"embedded service at {service.endpoint.base_url} with {count:,} sample events")
            self._make_history()
            daemon = ["dagster._daemon", "run", "-m", "keen_pipeline.definitions"]
            status.update("starting Dagster's daemon")
            children = [
                stack.enter_context(running(daemon, env=self.env, cwd=self.folder, log=self.folder / "logs" / "daemon.log"))
            ]
            status.update("nightly job: submitting")
            self._launch_nightly_job()
            console.print("nightly job keen_submit_extractions is launched; its run ends without waiting for the extractions")
            requests = self._requests()
            ledger = open_ledger(self.settings.ledger_url, scope_of(self.settings))
            landed: list[Entry] = []
            while len(landed) < len(requests):
                self._look(children)
                landed = self._landed(ledger, requests)
                status.update(
                    f"the sensor keen_extraction_status polls and lands: {len(landed)} of {len(requests)} partitions landed"
                )
            console.print(f"{len(landed)} partitions landed; automation wakes {_DOWNSTREAM}")
            wanted = {e.request.partition_key for e in landed if e.request.collection == "purchases"}
            done: set[str] = set()
            while not wanted <= done:
                self._look(children)
                done = self._materialized()
                status.update(f"downstream asset {_DOWNSTREAM}: {len(done & wanted)} of {len(wanted)} partitions")
            status.update("stopping what was started")
            return landed, sorted(done)

    def _launch_nightly_job(self) -> None:
        launch = ["dagster", "job", "launch", "-m", "keen_pipeline.definitions", "-j", "keen_submit_extractions"]
        with running(launch, env=self.env, cwd=self.folder, log=self.folder / "logs" / "launch.log") as child:
            while child.poll() is None:
                self._look([])
        if child.returncode:
            raise KeenPipelineError(f"the nightly job could not be launched, see {self.folder / 'logs' / 'launch.log'}")

    def _requests(self) -> list[ExtractionRequest]:
        """What the night asks for, as its op computes it."""
        now = SystemClock().now()
        return [partition_request(c, p) for c in sample_collections() for p in due_partitions(c, now)]

    def _landed(self, ledger: SqlLedger, requests: list[ExtractionRequest]) -> list[Entry]:
        latest = ledger.current(requests)
        for entry in latest:
            if entry is not None and entry.status is Status.ABANDONED:
                raise KeenPipelineError(f"{entry.error} (logs: {self.folder / 'logs'})")
        return [entry for entry in latest if entry is not None and entry.status is Status.LANDED]

    def _make_history(self) -> None:
        """Create Dagster's databases once, before two processes that start together both try to."""
        import dagster as dg

        with dg.DagsterInstance.from_config(str(self.home)) as instance:
            instance.get_runs(limit=1)

    def _materialized(self) -> set[str]:
        import dagster as dg

        with dg.DagsterInstance.from_config(str(self.home)) as instance:
            return set(instance.get_materialized_partitions(dg.AssetKey(_DOWNSTREAM)))

    def _look(self, children: list[subprocess.Popen[bytes]]) -> None:
        """Wait for the next look; raises where a child has ended or the time is over."""
        logs = self.folder / "logs"
        if any(child.poll() is not None for child in children):
            raise KeenPipelineError(f"Dagster's daemon ended unexpectedly, see {logs / 'daemon.log'}")
        if time.monotonic() > self._deadline:
            raise KeenPipelineError(f"not done after {timedelta(seconds=LIMIT_SECONDS)}, see {logs} and `keen-pipeline status`")
        time.sleep(_LOOK_SECONDS)
