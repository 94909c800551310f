"""`keen-pipeline list`: the unique values of a property, the second kind of data extraction."""

from __future__ import annotations

import json
from collections.abc import Sequence

import click

from keen_pipeline.cli.common import (
    as_usage,
    complete_collections,
    parse_filter,
    parse_timeframe,
    print_json,
    service_for_command,
)
from keen_pipeline.collection import check_collection_name
from keen_pipeline.ports import SystemClock
from keen_pipeline.settings import Settings
from keen_pipeline.wiring import open_client


@click.command("list")
@click.argument("collection", shell_complete=complete_collections)
@click.argument("property_name", metavar="PROPERTY")
@click.option("--timeframe", metavar="T", help="Relative, in UTC: yesterday, last_4_days, ... Default: all events.")
@click.option("--from", "start", metavar="A", help="Start, ISO-8601; no offset means UTC.")
@click.option("--to", "end", metavar="B", help="End, exclusive, ISO-8601; no offset means UTC.")
@click.option("--filter", "filters", multiple=True, metavar="'NAME OP JSON'", help="May be given several times; all must hold.")
@click.option("--json", "as_json", is_flag=True, help="One JSON array on stdout.")
def command(
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
    window = parse_timeframe(timeframe, start, end, SystemClock().now())
    conditions = [parse_filter(f) for f in filters]
    with service_for_command(settings):
        values = ordered(open_client(settings, None).select_unique(collection, property_name, window, conditions))
    if as_json:
        print_json(values)
        return
    for value in values:
        plain = isinstance(value, str) and value.isprintable()
        click.echo(value if plain else json.dumps(value, ensure_ascii=False))


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
