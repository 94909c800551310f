"""`keen-pipeline ledger`: recreated from manifests, pruned, upgraded; `keen-pipeline metrics`: what it knows, for Prometheus."""

from __future__ import annotations

import logging
from datetime import timedelta
from pathlib import Path

import click

from keen_pipeline.cli.common import MOST_SHOWN, console, copy_files, print_json, show, shown
from keen_pipeline.errors import VerificationError
from keen_pipeline.ledger import open_engine
from keen_pipeline.ledger.database.migrate import CONTRACT_COMMAND, ledger_version
from keen_pipeline.ledger.statistics import StatisticsReader
from keen_pipeline.observability import ALERTS, DASHBOARD
from keen_pipeline.observability.exporter import PipelineMetrics
from keen_pipeline.observability.server import serve
from keen_pipeline.settings import Settings
from keen_pipeline.wiring import open_destination, open_ledger, scope_of


@click.group("ledger")
def command() -> None:
    """The ledger: recreate a lost one, forget old attempts, finish an upgrade.

    Example: keen-pipeline ledger rebuild
    """


@command.command("rebuild")
@click.option("--json", "as_json", is_flag=True, help="One JSON document on stdout.")
def rebuild(as_json: bool) -> None:
    """Recreate a lost ledger from the manifests at the destination.

    What has landed is neither asked for nor told to Dagster again. What the ledger holds already stays as it is, so this can be
    repeated; it also takes over files that were copied from another destination. A manifest that can't be taken over is named, and
    the exit status is 1.

    Example: keen-pipeline ledger rebuild
    """
    from keen_pipeline.pipeline.files.rebuild import rebuild as take_over  # the pipeline, for this command alone

    settings = Settings.from_environment()
    destination = open_destination(settings.destination, settings.destination_options)
    done = take_over(open_ledger(settings.ledger_url, scope_of(settings, destination.uri)), destination)
    if as_json:
        left = [{"uri": uri, "problem": problem} for uri, problem in done.problems]
        print_json({"restored": len(done.restored), "known": done.known, "others": done.others, "left_out": left})
    else:
        for uri, problem in done.problems[:MOST_SHOWN]:
            console.print(f"left out: {shown(uri)}: {problem}", style="yellow")
        if len(done.problems) > MOST_SHOWN:
            console.print(f"and {len(done.problems) - MOST_SHOWN} more (--json lists all)")
        of_others = f", {done.others} of other projects or definitions left alone" if done.others else ""
        show(f"{len(done.restored)} landings restored, {done.known} known before{of_others}")
    if done.problems:
        raise VerificationError(
            f"{len(done.problems)} manifests were left out of the ledger; `keen-pipeline status` says which partitions are missing"
        )


@command.command("prune")
@click.option(
    "--older-than", "days", type=click.IntRange(1, 36_500), required=True, metavar="DAYS", help="Since they were asked for."
)
def prune(days: int) -> None:
    """Forget attempts that mean nothing any more; what is open, landed or the last word on a partition stays.

    Example: keen-pipeline ledger prune --older-than 90
    """
    settings = Settings.from_environment()
    ledger = open_ledger(settings.ledger_url, scope_of(settings))
    show(f"{ledger.prune(ledger.clock.now() - timedelta(days=days))} old attempts forgotten")


@command.command("upgrade")
@click.option("--contract", is_flag=True, help="Take away what only older releases need; none of their processes runs any more.")
def upgrade(contract: bool) -> None:
    """Bring the ledger's tables to this release.

    Every process adds by itself what this release needs, and an older one goes on beside it. What only older releases need is
    taken away by --contract alone: run it once the last of their processes has ended.

    Example: keen-pipeline ledger upgrade --contract
    """
    engine = open_engine(Settings.from_environment().ledger_url, contract=contract)
    try:
        version = ledger_version(engine)
    finally:
        engine.dispose()
    show(f"ledger: revision {version.revision}, serves keen_pipeline from revision {version.oldest_code} on")
    if version.waiting:
        show(f"revision {', '.join(version.waiting)} waits until no older release runs: {CONTRACT_COMMAND}")


@click.command("metrics")
@click.option("--host", default="127.0.0.1", show_default=True, help="Address to listen on.")
@click.option("--port", type=click.IntRange(0, 65535), default=9464, show_default=True, help="Port to listen on; 0: a free one.")
@click.option(
    "--files",
    "folder",
    type=click.Path(path_type=Path, file_okay=False),
    help="Write the Grafana dashboard and the Prometheus alerting rules into this folder, and end.",
)
def metrics(host: str, port: int, folder: Path | None) -> None:
    """Serve the pipeline's metrics to Prometheus, at /metrics, until Ctrl-C.

    They are read from the ledger (KEEN_PIPELINE_LEDGER_URL), so they are those of all runs, sensors and commands on it, whenever
    and wherever these ran; one exporter for each ledger is enough, and several do no harm. Prints `listening on http://HOST:PORT`
    once the history is read. /healthz says whether the ledger answers.

    Example: keen-pipeline metrics --port 9464
    """
    if folder is not None:
        copy_files([DASHBOARD, ALERTS], folder)
        return
    settings = Settings.from_environment()
    logging.basicConfig(level=logging.WARNING, format="%(asctime)s %(levelname)s %(message)s")
    ledger = open_ledger(settings.ledger_url, scope_of(settings))
    reader = StatisticsReader(ledger, budget=settings.budget)
    reader.read()
    serve(PipelineMetrics(reader.read, settings.requests_per_minute), host, port)
