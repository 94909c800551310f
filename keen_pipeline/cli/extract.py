"""`keen-pipeline extract` and `keen-pipeline list`: Keen's two kinds of data extraction, asked ad hoc and waited for."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import datetime
from urllib.parse import urlsplit

import click

from keen_pipeline.cli.common import (
    as_usage,
    complete_collections,
    configured_collections,
    console,
    follow,
    json_text,
    print_json,
    print_landings,
    service_for_command,
    shown,
)
from keen_pipeline.collection import MaskMethod, check_collection_name, check_listed
from keen_pipeline.errors import ExtractionFailedError, InvalidInputError, NotFoundError
from keen_pipeline.extraction import Status
from keen_pipeline.filters import Filter
from keen_pipeline.pipeline import ad_hoc_request, extract
from keen_pipeline.pipeline.told import grouped
from keen_pipeline.ports import SystemClock
from keen_pipeline.settings import Settings
from keen_pipeline.timeframe import Timeframe, parse_instant, resolve_timeframe
from keen_pipeline.wiring import check_collections_exist, open_client, open_pipeline

# The start if no timeframe is given: before any event.
_BEGINNING = "1970-01-01T00:00:00Z"

_collection = click.argument("collection", shell_complete=complete_collections)
_timeframe = click.option(
    "--timeframe", metavar="T", help="Relative, in UTC: yesterday, last_4_days, this_week, ... Default: all events."
)
_start = click.option("--from", "start", metavar="A", help="Start, ISO-8601; no offset means UTC.")
_filters = click.option(
    "--filter", "filters", multiple=True, metavar="'NAME OP JSON'", help="May be given several times; all must hold."
)


@click.command("extract")
@_collection
@_timeframe
@_start
@click.option(
    "--to",
    multiple=True,
    required=True,
    metavar="B|URI",
    help="The folder to land in (a path or any smart-open URI); given a second time beside --from: the end, ISO-8601.",
)
@_filters
@click.option("--email", metavar="E", help="The service also mails its own notice there.")
@click.option("--force", is_flag=True, help="Extract again what has landed there and is up to date.")
@click.option("--json", "as_json", is_flag=True, help="One JSON document on stdout.")
def command(
    collection: str,
    timeframe: str | None,
    start: str | None,
    to: tuple[str, ...],
    filters: tuple[str, ...],
    email: str | None,
    force: bool,
    as_json: bool,
) -> None:
    """Extract one timeframe of COLLECTION now and land it as a whole file.

    Example: keen-pipeline extract purchases --from 2026-01-01 --to 2026-01-08 --filter 'body:amount gt 3.5' --to ./files
    """
    settings, now = Settings.from_environment(), SystemClock().now()
    end, folder = _end_and_destination(to, start)
    window = parse_timeframe(timeframe, start, end, now) or Timeframe(parse_instant(_BEGINNING), now)
    mask = _mask_of(settings, collection)
    conditions = [parse_filter(f) for f in filters]
    with as_usage():
        request = ad_hoc_request(
            collection, window, now=now, filters=conditions, email=email, mask=mask, mask_key=settings.mask_key
        )
    # Options speak of the configured destination; another place of the same kind may need them too.
    same_kind = urlsplit(folder).scheme == urlsplit(settings.destination).scheme
    settings = replace(settings, destination=folder, destination_options=settings.destination_options if same_kind else {})
    if email is not None and settings.is_embedded and settings.smtp is None:
        console.print(
            f"no mail goes to {email} until the embedded service is started with a mail server: SMTP_HOST", style="yellow"
        )
    with service_for_command(settings):
        pipeline = open_pipeline(settings)
        check_collections_exist(pipeline.api, [collection])
        [known] = pipeline.ledger.current([request])
        if known is not None and known.status is Status.LANDED and known.fingerprint != request.fingerprint(pipeline.scope):
            console.print(
                f"{request.path} at {folder} is of other filters or another mask, and is replaced; another --to keeps both",
                style="yellow",
            )
        events = extract(pipeline, [request], doing="keen-pipeline extract", keep=lambda _: not force)
        landed, failed = follow(events, 1, collection)
    print_landings(landed, failed, as_json)
    if failed:
        raise ExtractionFailedError(grouped(failed)[0])


@click.command("list")
@_collection
@click.argument("property_name", metavar="PROPERTY")
@_timeframe
@_start
@click.option("--to", "end", metavar="B", help="End, exclusive, ISO-8601; no offset means UTC.")
@_filters
@click.option("--json", "as_json", is_flag=True, help="One JSON array on stdout.")
def list_values(
    collection: str,
    property_name: str,
    timeframe: str | None,
    start: str | None,
    end: str | None,
    filters: tuple[str, ...],
    as_json: bool,
) -> None:
    """Print the unique values of PROPERTY in COLLECTION, one a line, numbers by size; texts as they are, other values as JSON.

    Example: keen-pipeline list purchases body:user:email --timeframe last_4_days
    """
    settings = Settings.from_environment()
    with as_usage():
        check_collection_name(collection)
    check_listed(collection, _mask_of(settings, collection), property_name)
    window = parse_timeframe(timeframe, start, end, SystemClock().now())
    conditions = [parse_filter(f) for f in filters]
    with service_for_command(settings):
        client = open_client(settings)
        try:
            values = ordered(client.select_unique(collection, property_name, window, conditions))
        except NotFoundError:
            check_collections_exist(client, [collection])
            raise
    if as_json:
        print_json(values)
        return
    if not values:
        console.print(f"no event of {collection} that was asked for has {property_name}")
    for value in values:
        click.echo(shown(value) if isinstance(value, str) else json_text(value))


def _mask_of(settings: Settings, collection: str) -> Mapping[str, MaskMethod]:
    """What is masked in the collection's own files is masked for a person too."""
    return next((c.mask for c in configured_collections(settings) if c.name == collection), {})


def ordered(values: Sequence[object]) -> list[object]:
    """Null first, then false and true, numbers by size, texts, and the rest by its JSON.

    >>> ordered(["b", 10, 9, True, None, "a", 2.5])
    [None, True, 2.5, 9, 10, 'a', 'b']
    """
    return sorted(values, key=_place)


def _place(value: object) -> tuple[int, float, str]:
    if isinstance(value, bool) or value is None:
        return 0, -1 if value is None else int(value), ""
    if isinstance(value, (int, float)):
        return 1, value, ""
    return (2, 0, value) if isinstance(value, str) else (3, 0, json.dumps(value, sort_keys=True))


def _end_and_destination(values: Sequence[str], start: str | None) -> tuple[str | None, str]:
    """`--to` names the end of the timeframe, the folder, or, given twice, both."""
    ends = [value for value in values if start is not None and _is_instant(value)]
    folders = [value for value in values if value not in ends]
    if len(folders) != 1 or len(ends) > 1 or not folders[0].strip():
        raise click.UsageError("--to must name one folder to land in, and beside it the end of the timeframe if --from is given")
    return (ends[0] if ends else None), folders[0]


def _is_instant(text: str) -> bool:
    try:
        parse_instant(text)
    except InvalidInputError:
        return False
    return True


def parse_timeframe(relative: str | None, start: str | None, end: str | None, now: datetime) -> Timeframe | None:
    """`--timeframe` or `--from` and `--to`; None if none of them is given."""
    if relative is not None:
        if start is not None or end is not None:
            raise click.UsageError("give either --timeframe or --from and --to")
        with as_usage():
            return resolve_timeframe(relative, now=now)
    if (start is None) != (end is None):
        raise click.UsageError("--from and --to belong together")
    if start is None or end is None:
        return None
    with as_usage():
        first, last = parse_instant(start, field="--from"), parse_instant(end, field="--to")
    if last < first:
        raise click.UsageError(f"--to {end} is before --from {start}")
    return Timeframe(first, last)


def parse_filter(text: str) -> Filter:
    """`NAME OP JSON`, for example `body:amount gt 3.5`."""
    parts = text.split(None, 2)
    if len(parts) != 3:
        raise click.UsageError(f"--filter {text!r}: expected NAME OP JSON, for example 'body:amount gt 3.5'")
    try:
        value = json.loads(parts[2])
    except (ValueError, RecursionError) as error:
        raise click.UsageError(f"--filter {text!r}: the value {parts[2]} is not JSON ({error}); quote texts: '\"EUR\"'") from None
    with as_usage(f"--filter {text!r}: "):
        return Filter(parts[0], parts[1], value)
    raise AssertionError("unreachable")
