"""`keen-pipeline metrics`: what the ledger knows, for Prometheus, until a signal."""

from __future__ import annotations

import logging
from pathlib import Path

import click

from keen_pipeline.ledger.statistics import StatisticsReader
from keen_pipeline.observability.exporter import PipelineMetrics
from keen_pipeline.observability.files import write_files
from keen_pipeline.observability.server import serve
from keen_pipeline.settings import Settings
from keen_pipeline.wiring import open_ledger, scope_of


@click.command("metrics")
@click.option("--host", default="127.0.0.1", show_default=True, help="Address to listen on.")
@click.option("--port", type=click.IntRange(0, 65535), default=9464, show_default=True, help="Port to listen on; 0: a free one.")
@click.option(
    "--files",
    "folder",
    type=click.Path(path_type=Path, file_okay=False),
    help="Write the Grafana dashboard and the Prometheus alerting rules into this folder, and end.",
)
def command(host: str, port: int, folder: Path | None) -> None:
    """Serve the pipeline's metrics to Prometheus, at /metrics, until Ctrl-C.

    They are read from the ledger (KEEN_PIPELINE_LEDGER_URL), so they are those of all runs, sensors and commands on it, whenever
    and wherever these ran; one exporter for each ledger is enough, and several do no harm. Prints `listening on http://HOST:PORT`
    once the history is read. /healthz says whether the ledger answers.

    Example: keen-pipeline metrics --port 9464
    """
    if folder is not None:
        for path in write_files(folder):
            click.echo(path)
        return
    settings = Settings.from_environment()
    logging.basicConfig(level=logging.WARNING, format="%(asctime)s %(levelname)s %(message)s")
    ledger = open_ledger(settings.ledger_url, scope_of(settings))
    reader = StatisticsReader(ledger, budget=settings.budget)
    reader.read()
    serve(PipelineMetrics(reader.read, settings.requests_per_minute), host, port)
