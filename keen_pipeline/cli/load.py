"""`keen-pipeline load`: events from files into the service."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import click
import urllib3
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

from keen_pipeline.cli.common import console
from keen_pipeline.cli.event_files import STANDARD_INPUT, NoEventsError, read_event_batches
from keen_pipeline.errors import (
    AuthenticationError,
    ConfigurationError,
    KeenPipelineError,
    RequestRejectedError,
    ServiceUnavailableError,
)
from keen_pipeline.service import embedded
from keen_pipeline.service.names import check_event_collection
from keen_pipeline.settings import Settings

MAX_TRIES = 6
MAX_WAIT_SECONDS = 60.0
SHOWN_ERRORS = 20
_TIMEOUT = urllib3.Timeout(connect=10, read=300)


@click.command("load")
@click.argument("collection")
@click.argument("files", nargs=-1, required=True, metavar="FILE...", type=click.Path(exists=True, dir_okay=False, allow_dash=True))
def command(collection: str, files: tuple[str, ...]) -> None:
    """Load events into COLLECTION of the service over HTTP, in batches.

    FILE is .ndjson, .csv or .parquet, each also .gz and .zst, or - for NDJSON on standard input. What this package landed comes
    back without loss. At a line that is no event the command stops: the events before it are stored, the line is named.

    Example: keen-pipeline load purchases january.csv.gz february.ndjson
    """
    check_event_collection(collection)
    refused = 0
    empty: list[str] = []
    with _poster(Settings.from_environment()) as poster, _progress() as bar:
        for name in files:
            task = bar.add_task(name, total=None, events=0)
            loaded = 0
            try:
                for batch in read_event_batches(name):
                    problems = poster.post(collection, batch)
                    for index, problem in problems:
                        refused += 1
                        if refused <= SHOWN_ERRORS:
                            bar.console.print(f"{name}: event {loaded + index + 1}: {problem}")
                    loaded += len(batch)
                    bar.update(task, events=loaded)
            except NoEventsError:
                empty.append(name)
            except KeenPipelineError:
                # What went before is stored; the reader has to know where to go on.
                click.echo(f"{name}: stopped; the {loaded} events before were sent to {collection}", err=True)
                raise
            bar.update(task, total=loaded, completed=loaded)
            click.echo(f"{name}: {loaded} events sent to {collection}", err=name == STANDARD_INPUT)
    if empty:
        raise NoEventsError(f"no events, though not empty: {', '.join(empty)}; all other files were sent", field="file")
    if refused:
        raise RequestRejectedError(f"the service refused {refused} events of {collection}; all others are stored", status=200)


def _progress() -> Progress:
    name = TextColumn("{task.description}", markup=False)
    columns = (name, BarColumn(), TextColumn("{task.fields[events]:,} events"), TimeElapsedColumn())
    return Progress(*columns, console=console, transient=True)


class EventPoster:
    """Posts batches of events with the v3.0 resource. The key never shows itself."""

    def __init__(self, base_url: str, project_id: str, write_key: str) -> None:
        self._url = f"{base_url}/3.0/projects/{project_id}/events"
        self._headers = {"Authorization": write_key, "Content-Type": "application/json"}
        self._where = base_url
        self._pool = urllib3.PoolManager(timeout=_TIMEOUT, retries=False)

    def post(self, collection: str, batch: list[dict[str, Any]]) -> list[tuple[int, str]]:
        """Post one batch; returns (index, why) of the events that were refused.

        A refusal to take more now (429, 503) is repeated after the service's own wish; nothing else is, as a batch may be
        stored already where the answer got lost. Raises ServiceUnavailableError, AuthenticationError, RequestRejectedError.
        """
        # ASCII, so that half of a surrogate pair reaches the service and is refused as that one event.
        body = json.dumps({collection: batch}, separators=(",", ":")).encode()
        for attempt in range(1, MAX_TRIES + 1):
            try:
                answer = self._pool.request("POST", self._url, body=body, headers=self._headers, redirect=False)
            except urllib3.exceptions.HTTPError as error:
                raise ServiceUnavailableError(
                    f"{self._where} can't be reached or did not answer ({type(error).__name__})"
                ) from None
            if answer.status not in (429, 503) or attempt == MAX_TRIES:
                break
            time.sleep(min(_seconds(answer.headers.get("Retry-After")), MAX_WAIT_SECONDS))
        return _problems(collection, answer)


def _seconds(text: str | None) -> float:
    return float(text) if text is not None and text.isascii() and text.isdigit() else 2.0


def _problems(collection: str, answer: urllib3.BaseHTTPResponse) -> list[tuple[int, str]]:
    try:
        body = json.loads(answer.data)
    except ValueError:
        body = {}
    if answer.status == 200 and isinstance(body.get(collection), list):
        return [
            (i, str(item.get("error", {}).get("description"))) for i, item in enumerate(body[collection]) if not item.get("success")
        ]
    message = str(body.get("message", "no message"))[:500] if isinstance(body, dict) else "no message"
    if answer.status in (401, 403):
        raise AuthenticationError(f"the service refused the write key (KEEN_WRITE_KEY): {message}")
    if answer.status in (429, 503):
        raise ServiceUnavailableError(f"the service takes no more events now: {message}")
    raise RequestRejectedError(
        f"the service refused a batch of {collection} (HTTP {answer.status}): {message}", status=answer.status
    )


@contextmanager
def _poster(settings: Settings) -> Iterator[EventPoster]:
    """Of the configured service; else of the embedded one, started for the command's time where none runs."""
    if settings.base_url is not None:
        missing = [n for n, v in (("KEEN_PROJECT_ID", settings.project_id), ("KEEN_WRITE_KEY", settings.write_key)) if v is None]
        if missing:
            raise ConfigurationError(f"{' and '.join(missing)} not set: needed to load events into {settings.base_url}")
        yield EventPoster(settings.base_url, str(settings.project_id), str(settings.write_key))
        return
    data = Path(settings.service_data)
    found = embedded.find(data)
    if found is not None:
        yield EventPoster(found.base_url, found.project_id, found.write_key)
        return
    with embedded.start(data) as service:
        yield EventPoster(service.endpoint.base_url, service.endpoint.project_id, service.endpoint.write_key)
