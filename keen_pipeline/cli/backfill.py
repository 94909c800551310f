"""`keen-pipeline backfill`: a range of partitions of configured collections, with or without waiting."""

from __future__ import annotations

import click

from keen_pipeline.cli.common import (
    as_usage,
    complete_collections,
    configured,
    console,
    follow,
    print_landings,
    service_for_command,
)
from keen_pipeline.errors import ExtractionFailedError
from keen_pipeline.extraction import ExtractionRequest
from keen_pipeline.lifecycle import Entry
from keen_pipeline.partitions import partition_range
from keen_pipeline.pipeline import Pipeline, extract, partition_request, post_due, submit
from keen_pipeline.pipeline.context import by_collection
from keen_pipeline.pipeline.files.history import lost_events
from keen_pipeline.pipeline.told import summary
from keen_pipeline.ports import SystemClock
from keen_pipeline.settings import Settings
from keen_pipeline.wiring import check_collections_exist, open_pipeline


@click.command("backfill")
@click.argument("collections", nargs=-1, required=True, shell_complete=complete_collections)
@click.option("--from", "first", required=True, metavar="D", help="First partition key, for example 2026-01-01.")
@click.option("--to", "last", required=True, metavar="D", help="Last partition key, inclusive.")
@click.option("--no-wait", is_flag=True, help="Submit only; the status sensor lands what finishes.")
@click.option("--force", is_flag=True, help="Extract again what has landed and is up to date.")
@click.option("--json", "as_json", is_flag=True, help="One JSON document on stdout.")
def command(collections: tuple[str, ...], first: str, last: str, no_wait: bool, force: bool, as_json: bool) -> None:
    """Land the partitions of COLLECTIONS from D to D; what has landed and is up to date is kept.

    After Ctrl-C the same command goes on with what it has submitted; so does the status sensor, if Dagster runs.

    Example: keen-pipeline backfill purchases signups --from 2026-11-01 --to 2026-11-07
    """
    settings, now = Settings.from_environment(), SystemClock().now()
    chosen = configured(settings, collections)
    with as_usage():
        ranges = [(c, partition_range(c, first, last, now)) for c in chosen]
    with service_for_command(settings):
        pipeline = open_pipeline(settings)
        check_collections_exist(pipeline.api, [c.name for c in chosen])
        requests = [partition_request(c, p, mask_key=pipeline.mask_key) for c, partitions in ranges for p in partitions]
        if no_wait:
            landed, failed = _submit(pipeline, requests, force)
        else:
            what = ", ".join(dict.fromkeys(collections))
            events = extract(pipeline, requests, doing="keen-pipeline backfill", keep=lambda _: not force, resumable=True)
            try:
                landed, failed = follow(events, len(requests), what)
            except KeyboardInterrupt:
                console.print("what is submitted stays at the service, and the same command takes it up again")
                raise
    for collection, partitions in by_collection(landed).items():
        before = pipeline.ledger.replaced(collection, [entry.request.partition_key for entry in partitions])
        for entry in partitions:
            if lost := lost_events(entry, before.get(entry.request.partition_key)):
                console.print(f"{entry.request}: {lost}", style="yellow")
    landed.sort(key=lambda entry: (entry.request.collection, entry.request.timeframe.start))
    print_landings(landed, failed, as_json)
    if failed:
        # A file that its count contradicts is kept, so it is among both.
        raise ExtractionFailedError(summary(len(requests) - len(failed), failed))


def _submit(pipeline: Pipeline, requests: list[ExtractionRequest], force: bool) -> tuple[list[Entry], list[tuple[Entry, str]]]:
    submission = submit(pipeline, requests, keep=lambda _: not force, waits=False)
    open_ = [*submission.created, *submission.adopted]
    with pipeline.working("keen-pipeline backfill --no-wait") as worker:
        posted = post_due(pipeline, open_, worker.id)
    left = f"{len(open_) - len(posted.submitted)} are left to the status sensor" if len(open_) > len(posted.submitted) else ""
    console.print(
        f"{len(posted.submitted)} submitted, {len(submission.landed)} landed before; {left or 'the status sensor lands them'}"
    )
    for collection, problem in {**submission.problems, **posted.problems}.items():
        console.print(f"{collection}: {problem}", style="yellow")
    return submission.landed, [(entry, entry.reason) for entry in posted.ended]
