"""`keen-pipeline dev`: service, UI and daemon until Ctrl-C."""

from __future__ import annotations

import os
import re
import socket
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from threading import Event

import click

from keen_pipeline.cli.common import configured_collections, console
from keen_pipeline.cli.local.processes import launch_nightly_job, make_dagster_home, running
from keen_pipeline.errors import ConfigurationError, KeenPipelineError
from keen_pipeline.pipeline.sample import load_sample_events
from keen_pipeline.ports import SystemClock
from keen_pipeline.service import embedded
from keen_pipeline.service.endpoint import locked
from keen_pipeline.settings import Settings
from keen_pipeline.wiring import check_named, open_client, open_ledger, scope_of

_LOCK = Path("data/dev.lock")
_LEVELS = ("critical", "error", "warning", "info", "debug")
_LOOK_SECONDS = 0.5
_ANSWER_SECONDS = 2.0


@click.command("dev")
@click.option("--port", type=click.IntRange(1, 65535), default=3000, show_default=True, help="Of the Dagster UI, on 127.0.0.1.")
@click.option("--log-level", type=click.Choice(_LEVELS), default="warning", show_default=True, help="Of Dagster's own lines.")
def command(port: int, log_level: str) -> None:
    """Run the Dagster UI and daemon, with schedules and sensors on, and the embedded service unless KEEN_BASE_URL is set.

    One runs in each folder. If nothing is configured, the sample's nightly job runs once at the first start, so that there is
    something to see.

    Example: keen-pipeline dev --port 3000
    """
    settings = Settings.from_environment()
    if _shows_ours():  # what keeps it from loading is told here, not in the UI
        from keen_pipeline.defs.build import build_keen_definitions

        check_named(settings)
        build_keen_definitions(configured_collections(settings), name=settings.name)
    url = f"http://127.0.0.1:{port}"
    with _only_one(url), ExitStack() as stack:
        _refuse_used_port(port)
        if settings.base_url is None:
            _service(settings, stack)
        env = _environment(log_level)
        # The working directory's dagster.yaml and workspace.yaml count if they are there, as for `dagster dev` itself.
        arguments = ["dagster", "dev", "--host", "127.0.0.1", "--port", str(port), "--log-level", log_level]
        arguments += ["--code-server-log-level", log_level]
        if not Path("workspace.yaml").exists():
            arguments += ["-m", "keen_pipeline.definitions"]
        console.print("starting Dagster, which takes some seconds; Ctrl-C stops everything")
        is_wanted, stopping = _at_least(log_level), Event()
        # How each of its processes dies of Ctrl-C is nothing to read.
        child = stack.enter_context(
            running(arguments, env=env, cwd=Path.cwd(), shown=lambda line: is_wanted(line) and not stopping.is_set())
        )
        try:
            _await_ui(child, url)
            _welcome(settings, url, env)
            _ended(child.wait())
        except KeyboardInterrupt:
            stopping.set()
            with suppress(OSError):  # the terminal may be gone
                console.print("stopping")
            raise


@contextmanager
def _only_one(url: str) -> Iterator[None]:
    """Hold this folder. Raises ConfigurationError saying where the one that holds it is."""
    _LOCK.parent.mkdir(parents=True, exist_ok=True)
    with locked(_LOCK, _refusal) as descriptor:
        os.ftruncate(descriptor, 0)
        os.write(descriptor, f"at {url} (process {os.getpid()})".encode())
        yield


def _refusal() -> str:
    holder = _LOCK.read_text(encoding="utf-8")[:100] or "and is about to start or to end"
    return f"keen-pipeline dev runs in this folder already, {holder}; stop it there, or start this one in another folder"


def _service(settings: Settings, stack: ExitStack) -> None:
    service = stack.enter_context(embedded.shared(settings.service_data))
    console.print(f"embedded service: {service.base_url}")
    if settings.collections_file is None:
        with open_client(settings, None) as client:
            count = load_sample_events(client, settings.service_data, SystemClock().now().date())
        if count:
            console.print(f"{count:,} sample events loaded")


def _environment(log_level: str) -> dict[str, str]:
    """Ours as it is; without DAGSTER_HOME the folder, if it has a dagster.yaml, else one below data/: history lasts."""
    env = {"KEEN_PIPELINE_RUNNING": "true", **os.environ, "PYTHONUNBUFFERED": "1"}
    if log_level in _LEVELS[:3]:
        # Of Dagster's betas, one for each import; they stand in its documentation.
        env.setdefault("PYTHONWARNINGS", "ignore")
    if not env.get("DAGSTER_HOME"):
        env["DAGSTER_HOME"] = str(make_dagster_home(Path() if Path("dagster.yaml").exists() else Path("data/dagster")))
    return env


def _at_least(log_level: str) -> Callable[[bytes], bool]:
    """Whether a line isn't a record of a lower level: Dagster prints every event of every run, whatever its own level is."""
    lower = _LEVELS[_LEVELS.index(log_level) + 1 :]
    record = re.compile(rb" - (?:\x1b\[\d+m)?(%s)(?:\x1b\[\d+m)? - " % "|".join(lower).upper().encode()) if lower else None
    return lambda line: record is None or record.search(line) is None


def _refuse_used_port(port: int) -> None:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError as error:
            raise ConfigurationError(
                f"port {port} on 127.0.0.1 can't be used ({error.strerror}); pass another one with --port"
            ) from None


def _await_ui(child: subprocess.Popen[bytes], url: str) -> None:
    # A proxy of the environment must not stand between two processes of one machine.
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    while child.poll() is None:
        try:
            with opener.open(f"{url}/server_info", timeout=_ANSWER_SECONDS):
                return
        except (urllib.error.URLError, OSError):
            time.sleep(_LOOK_SECONDS)
    _ended(child.returncode)


def _ended(status: int) -> None:
    raise KeenPipelineError(f"dagster dev ended with status {status}; its own lines above say why")


def _welcome(settings: Settings, url: str, env: Mapping[str, str]) -> None:
    console.print(f"Dagster UI: {url}   Ctrl-C stops everything")
    is_sample = settings.is_embedded and settings.collections_file is None and _shows_ours()
    if is_sample and _is_new(settings):
        try:
            job = launch_nightly_job(settings.name, env, Path.cwd(), Path("data/first_night.log"))
            console.print(f"the nightly job {job} runs now on the sample")
        except KeenPipelineError as error:
            console.print(str(error), style="yellow")
    console.print("what to click:")
    console.print(f"  Lineage ({url}/asset-groups) shows what has landed;")
    console.print("  an asset, then Materialize, lands days of your choice;")
    console.print(f"  Runs ({url}/runs) shows what was done")


def _shows_ours() -> bool:
    """Whether our own code location is among those that are shown."""
    workspace = Path("workspace.yaml")
    return not workspace.exists() or "keen_pipeline.definitions" in workspace.read_text(encoding="utf-8")


def _is_new(settings: Settings) -> bool:
    ledger = open_ledger(settings.ledger_url, scope_of(settings))
    return not ledger.open_entries() and not ledger.landed_collections()
