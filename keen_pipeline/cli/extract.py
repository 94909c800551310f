"""`keen-pipeline extract`: one ad hoc extraction, waited for."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from datetime import datetime
from urllib.parse import urlsplit

import click

from keen_pipeline.cli.common import (
    as_usage,
    complete_collections,
    configured_collections,
    follow,
    landing_json,
    landings_table,
    parse_filter,
    parse_timeframe,
    print_json,
    service_for_command,
    show,
)
from keen_pipeline.collection import check_collection_name
from keen_pipeline.errors import ExtractionFailedError, InvalidInputError
from keen_pipeline.filters import Filter
from keen_pipeline.pipeline import ad_hoc_request, extract
from keen_pipeline.pipeline.told import grouped
from keen_pipeline.ports import SystemClock
from keen_pipeline.settings import Settings
from keen_pipeline.timeframe import Timeframe, parse_instant
from keen_pipeline.wiring import check_collections_exist, open_pipeline

# The start where no timeframe is given: before any event.
_BEGINNING = "1970-01-01T00:00:00Z"


def _is_instant(text: str) -> bool:
    try:
        parse_instant(text)
    except InvalidInputError:
        return False
    return True


def _end_and_destination(values: Sequence[str], start: str | None) -> tuple[str | None, str]:
    """`--to` names the end of the timeframe, the folder, or, given twice, both."""
    ends = [value for value in values if start is not None and _is_instant(value)]
    folders = [value for value in values if value not in ends]
    if len(folders) != 1 or len(ends) > 1:
        raise click.UsageError("--to must name one folder to land in, and beside it the end of the timeframe where --from is given")
    return (ends[0] if ends else None), folders[0]


@click.command("extract")
@click.argument("collection", shell_complete=complete_collections)
@click.option("--timeframe", metavar="T", help="Relative, in UTC: yesterday, last_4_days, this_week, ... Default: all events.")
@click.option("--from", "start", metavar="A", help="Start, ISO-8601; no offset means UTC.")
@click.option(
    "--to",
    "to",
    multiple=True,
    required=True,
    metavar="B|URI",
    help="The folder to land in (a path or any smart-open URI); given a second time beside --from: the end, ISO-8601.",
)
@click.option("--filter", "filters", multiple=True, metavar="'NAME OP JSON'", help="May be given several times; all must hold.")
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
    with as_usage():
        check_collection_name(collection)
    end, folder = _end_and_destination(to, start)
    window = parse_timeframe(timeframe, start, end, now) or Timeframe(parse_instant(_BEGINNING), now)
    # Options speak of the configured destination; another place of the same kind may need them too.
    same_kind = urlsplit(folder).scheme == urlsplit(settings.destination).scheme
    settings = replace(settings, destination=folder, destination_options=settings.destination_options if same_kind else {})
    _run(settings, collection, window, [parse_filter(f) for f in filters], email, force, as_json, now)


def _run(
    settings: Settings,
    collection: str,
    window: Timeframe,
    filters: list[Filter],
    email: str | None,
    force: bool,
    as_json: bool,
    now: datetime,
) -> None:
    # What is masked in the collection's own files is masked in a person's too.
    mask = next((c.mask for c in configured_collections(settings) if c.name == collection), {})
    with as_usage():
        ad_hoc_request(collection, window, now=now, filters=filters)  # refuses before a service is started
    with service_for_command(settings):
        pipeline = open_pipeline(settings)
        request = ad_hoc_request(collection, window, now=now, filters=filters, email=email, mask=mask, mask_key=pipeline.mask_key)
        check_collections_exist(pipeline, [collection])
        events = extract(pipeline, [request], doing="keen-pipeline extract", keep=lambda _: not force)
        landed, failed = follow(events, 1, collection)
    if failed:
        raise ExtractionFailedError(grouped(failed)[0])
    if as_json:
        print_json({"landings": [landing_json(entry) for entry in landed]})
    else:
        show(landings_table(landed, "Landed"))
