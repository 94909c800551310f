"""`keen-pipeline backfill`: a range of partitions of a configured collection, with or without waiting."""

from __future__ import annotations

import click

from keen_pipeline.cli.common import (
    complete_collections,
    configured_collections,
    console,
    follow,
    landing_json,
    landings_table,
    print_json,
    service_for_command,
    show,
)
from keen_pipeline.errors import ExtractionFailedError, InvalidInputError
from keen_pipeline.lifecycle import Entry
from keen_pipeline.partitions import partition_range
from keen_pipeline.pipeline import extract, partition_request, post_due, submit
from keen_pipeline.pipeline.adapters import open_pipeline
from keen_pipeline.ports import SystemClock
from keen_pipeline.settings import Settings


@click.command("backfill")
@click.argument("collection", shell_complete=complete_collections)
@click.option("--from", "first", required=True, metavar="D", help="First partition key, for example 2026-01-01.")
@click.option("--to", "last", required=True, metavar="D", help="Last partition key, inclusive.")
@click.option("--no-wait", is_flag=True, help="Submit only; the sensor extraction_status lands what finishes.")
@click.option("--force", is_flag=True, help="Extract again what has landed and is up to date.")
@click.option("--json", "as_json", is_flag=True, help="One JSON document on stdout.")
def command(collection: str, first: str, last: str, no_wait: bool, force: bool, as_json: bool) -> None:
    """Land the partitions of COLLECTION from D to D; what has landed and is up to date is kept.

    After Ctrl-C the same command goes on with what it has submitted; so does the sensor extraction_status, where Dagster runs.

    Example: keen-pipeline backfill purchases --from 2026-11-01 --to 2026-11-07
    """
    settings, now = Settings.from_environment(), SystemClock().now()
    known = {c.name: c for c in configured_collections(settings)}
    if collection not in known:
        names = ", ".join(sorted(known)) or "none"
        raise InvalidInputError(f"collection {collection!r} is not configured (KEEN_PIPELINE_COLLECTIONS); configured are: {names}")
    partitions = partition_range(known[collection], first, last, now)
    with service_for_command(settings):
        pipeline = open_pipeline(settings)
        requests = [partition_request(known[collection], partition, pipeline.destination.uri) for partition in partitions]
        if no_wait:
            submission = submit(pipeline, requests, force=force, recount=True)
            ids = [e.entry_id for e in (*submission.created, *submission.adopted)]
            refused = [follower for _, follower in post_due(pipeline, ids).failed if follower is not None]
            failed = [(entry, entry.error or str(entry)) for entry in refused if entry.status.is_terminal]
            landed: list[Entry] = submission.landed
            console.print(f"{len(ids)} submitted, {len(landed)} landed before; the sensor extraction_status lands what finishes")
        else:
            try:
                landed, failed = follow(extract(pipeline, requests, force=force, resumable=True), len(requests), collection)
            except KeyboardInterrupt:
                console.print("what is submitted stays at the service, and the same command takes it up again")
                raise
    _show(landed, failed, as_json)
    if failed:
        names = ", ".join(f"{entry.request.partition_key}: {reason}" for entry, reason in failed)
        raise ExtractionFailedError(
            f"{len(landed)} of {len(requests)} partitions of {collection} landed, {len(failed)} failed: {names}"
        )


def _show(landed: list[Entry], failed: list[tuple[Entry, str]], as_json: bool) -> None:
    landed = sorted(landed, key=lambda entry: entry.request.timeframe.start)
    if as_json:
        failures = [{"partition": e.request.partition_key, "error": reason} for e, reason in failed]
        print_json({"landings": [landing_json(e) for e in landed], "failed": failures})
    elif landed:
        show(landings_table(landed, "Landed"))
