"""`keen-pipeline load`: events from files into the service."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Any

import click
from rich.progress import TextColumn

from keen_pipeline.cli.common import as_usage, progress_bar, service_for_command
from keen_pipeline.cli.local.event_files import STANDARD_INPUT, NoEventsError, read_event_batches
from keen_pipeline.client import KeenClient
from keen_pipeline.errors import (
    ExtractionTooLargeError,
    RequestRejectedError,
    RetryableError,
    UnreachableError,
    UnreadableAnswerError,
)
from keen_pipeline.service.names import check_event_collection
from keen_pipeline.settings import Settings
from keen_pipeline.wiring import open_client

MAX_TRIES = 6
MAX_WAIT_SECONDS = 60.0
SHOWN_ERRORS = 20


@click.command("load")
@click.argument("collection")
@click.argument("files", nargs=-1, required=True, metavar="FILE...", type=click.Path(exists=True, dir_okay=False, allow_dash=True))
def command(collection: str, files: tuple[str, ...]) -> None:
    """Load events into COLLECTION of the service over HTTP, in batches.

    FILE is .ndjson, .csv or .parquet, each also .gz and .zst, or - for NDJSON on standard input. What this package landed comes
    back without loss. At a line that isn't an event the command stops: the events before it are stored, the line is named.

    Example: keen-pipeline load purchases january.csv.gz february.ndjson
    """
    with as_usage():
        check_event_collection(collection)
    settings = Settings.from_environment()
    refused = 0
    empty: list[str] = []
    with (
        service_for_command(settings),
        open_client(settings) as client,
        progress_bar(TextColumn("{task.fields[events]:,} events")) as bar,
    ):
        for name in files:
            task = bar.add_task(name, total=None, events=0)
            loaded = 0
            try:
                for batch in read_event_batches(name):
                    for problem in _post(client, collection, batch):
                        loaded += 1
                        refused += problem is not None
                        if problem is not None and refused <= SHOWN_ERRORS:
                            bar.console.print(f"{name}: event {loaded}: {problem}")
                    bar.update(task, events=loaded)
            except NoEventsError:
                empty.append(name)
            except BaseException as error:
                # What went before is stored; the reader has to know where to go on, after Ctrl-C too.
                perhaps = ", perhaps those of the request under way too" if isinstance(error, KeyboardInterrupt) else ""
                if loaded or perhaps:
                    click.echo(f"{name}: stopped; the {loaded} events before were sent to {collection}{perhaps}", err=True)
                raise
            bar.update(task, total=loaded, completed=loaded)
            click.echo(f"{name}: {loaded} events sent to {collection}", err=name == STANDARD_INPUT)
    if empty:
        raise NoEventsError(f"no events, though not empty: {', '.join(empty)}; all other files were sent", field="file")
    if refused:
        raise RequestRejectedError(f"the service refused {refused} events of {collection}; all others are stored", status=200)


def _post(client: KeenClient, collection: str, batch: list[dict[str, Any]]) -> Iterator[str | None]:
    """Post one batch; answers for each event why it was refused, or None.

    A service that says when to come again has stored nothing, and is asked again then; one that finds the batch too large, or a
    proxy before it, is given halves. Nothing else is repeated: a batch may be stored although its answer got lost.
    """
    for attempt in range(1, MAX_TRIES + 1):
        try:
            outcomes = client.add_events({collection: batch}).get(collection, [])
            break
        except ExtractionTooLargeError:
            if len(batch) == 1:
                raise RequestRejectedError(
                    f"an event of {collection} is larger than the service, or a proxy before it, takes", status=413
                ) from None
            for half in (batch[: len(batch) // 2], batch[len(batch) // 2 :]):
                yield from _post(client, collection, half)
            return
        except RetryableError as error:
            if error.retry_after is None and not isinstance(error, UnreachableError):
                error.args = (
                    f"{error}\nWhether these {len(batch)} events are stored is unknown: count before you load them again",
                )
            if error.retry_after is None or attempt == MAX_TRIES:
                raise
            time.sleep(min(error.retry_after, MAX_WAIT_SECONDS))
    if len(outcomes) != len(batch):
        raise UnreadableAnswerError(f"the service answered for {len(outcomes)} of {len(batch)} events of {collection}")
    yield from outcomes
