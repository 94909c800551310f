"""`keen-pipeline status`: the ledger at a glance."""

from __future__ import annotations

import click
from rich.table import Table

from keen_pipeline.cli.common import print_json, show
from keen_pipeline.extraction import Status
from keen_pipeline.pipeline.adapters import open_ledger
from keen_pipeline.settings import Settings
from keen_pipeline.timeframe import format_instant

# Rows of a table for a person; --json has all.
_SHOWN = 20


@click.command("status")
@click.option("--json", "as_json", is_flag=True, help="One JSON document on stdout.")
def command(as_json: bool) -> None:
    """Show what the ledger holds: open extractions, failed ones, landed files, the oldest wait.

    Example: keen-pipeline status --json
    """
    summary = open_ledger(Settings.from_environment().ledger_url).summary()
    if as_json:
        rows = [
            {
                "collection": e.request.collection,
                "partition": e.request.partition_key,
                "status": e.status.value,
                "attempt": e.attempt,
                "extraction_id": e.extraction_id,
                "requested_at": format_instant(e.requested_at),
                "error": e.error,
            }
            for e in (*summary.open, *summary.failed)
        ]
        print_json(
            {
                "counts": {status.value: summary.counts.get(status, 0) for status in Status},
                "open": [row for row in rows if row["status"] != Status.ABANDONED.value],
                "failed": [row for row in rows if row["status"] == Status.ABANDONED.value],
                "landed": summary.counts.get(Status.LANDED, 0),
                "oldest_wait_seconds": summary.oldest_wait_seconds,
                "unreported": summary.unreported,
                "orphans": summary.orphans,
            }
        )
        return
    counts = (
        ", ".join(f"{n} {status.value}" for status, n in sorted(summary.counts.items(), key=lambda item: item[0].value))
        or "nothing yet"
    )
    show(f"ledger: {counts}")
    if summary.oldest_wait_seconds is not None:
        show(f"oldest wait: {summary.oldest_wait_seconds / 60:.1f} minutes")
    if summary.unreported:
        show(f"{summary.unreported} ends are not reported to Dagster yet (the sensor extraction_status does)")
    for title, entries in (("Open", summary.open), ("Failed", summary.failed)):
        if entries:
            table = Table("collection", "partition", "status", "attempt", "error", title=title, title_justify="left")
            for e in entries[:_SHOWN]:
                table.add_row(e.request.collection, e.request.partition_key, e.status.value, str(e.attempt), e.error or "")
            show(table)
            if len(entries) > _SHOWN:
                show(f"and {len(entries) - _SHOWN} more (--json lists all)")
