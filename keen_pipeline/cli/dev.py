"""`keen-pipeline dev`: service, UI and daemon until Ctrl-C."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
from contextlib import ExitStack
from pathlib import Path

import click

from keen_pipeline.cli.common import configured_collections, console
from keen_pipeline.cli.dagster_home import make_dagster_home
from keen_pipeline.cli.processes import running
from keen_pipeline.errors import ConfigurationError, KeenPipelineError
from keen_pipeline.pipeline.sample import load_sample_events
from keen_pipeline.ports import SystemClock
from keen_pipeline.service import embedded
from keen_pipeline.settings import Settings
from keen_pipeline.wiring import open_client


@click.command("dev")
@click.option("--port", type=click.IntRange(1, 65535), default=3000, show_default=True, help="Of the Dagster UI, on 127.0.0.1.")
def command(port: int) -> None:
    """Run the Dagster UI and daemon, with schedules and sensors on, and the embedded service unless KEEN_BASE_URL is set.

    Example: keen-pipeline dev --port 3000
    """
    settings = Settings.from_environment()
    configured_collections(settings)  # a wrong file is told here, not in the UI
    _refuse_used_port(port)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    with ExitStack() as stack:
        if settings.base_url is None:
            _service(settings, stack)
        # The working directory's dagster.yaml and workspace.yaml count where they are there, as for `dagster dev` itself.
        arguments = ["dagster", "dev", "--host", "127.0.0.1", "--port", str(port)]
        if not Path("workspace.yaml").exists():
            arguments += ["-m", "keen_pipeline.definitions"]
        child = stack.enter_context(running(arguments, env=_environment(), cwd=Path.cwd(), log=None))
        console.print(f"Dagster UI: http://127.0.0.1:{port}   Ctrl-C stops everything")
        _wait(child)


def _service(settings: Settings, stack: ExitStack) -> None:
    found = embedded.find(settings.service_data)
    if found is None:
        found = stack.enter_context(embedded.start(settings.service_data)).endpoint
    console.print(f"embedded service: {found.base_url}")
    if settings.collections_file is None:
        with open_client(settings, None) as client:
            count = load_sample_events(client, settings.service_data, SystemClock().now().date())
        if count:
            console.print(f"{count:,} sample events loaded")


def _environment() -> dict[str, str]:
    """Ours as it is; where neither DAGSTER_HOME nor a dagster.yaml is there, a home below data/, so that history lasts."""
    env = {"KEEN_PIPELINE_RUNNING": "true", **os.environ, "PYTHONUNBUFFERED": "1"}
    if not env.get("DAGSTER_HOME") and not Path("dagster.yaml").exists():
        env["DAGSTER_HOME"] = str(make_dagster_home(Path("data/dagster")))
    return env


def _refuse_used_port(port: int) -> None:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError as error:
            raise ConfigurationError(
                f"port {port} on 127.0.0.1 can't be used ({error.strerror}); give another one by --port"
            ) from None


def _wait(child: subprocess.Popen[bytes]) -> None:
    try:
        status = child.wait()
    except KeyboardInterrupt:
        console.print("stopping")
        return
    raise KeenPipelineError(f"dagster dev ended with status {status}; its own lines above say why")
