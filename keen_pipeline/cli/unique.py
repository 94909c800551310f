"""`keen-pipeline list`: the unique values of a property, the second kind of data extraction."""

from __future__ import annotations

import json

import click

from keen_pipeline.cli.common import complete_collections, parse_filter, parse_timeframe, service_for_command
from keen_pipeline.collection import check_collection_name
from keen_pipeline.ports import SystemClock
from keen_pipeline.settings import Settings
from keen_pipeline.wiring import open_client


@click.command("list")
@click.argument("collection", shell_complete=complete_collections)
@click.argument("property_name", metavar="PROPERTY")
@click.option("--timeframe", metavar="T", help="Relative, in UTC: yesterday, last_4_days, ... Default: all events.")
@click.option("--filter", "filters", multiple=True, metavar="'NAME OP JSON'", help="May be given several times; all must hold.")
def command(collection: str, property_name: str, timeframe: str | None, filters: tuple[str, ...]) -> None:
    """Print the unique values of PROPERTY in COLLECTION, one a line; texts as they are, other values as JSON.

    Example: keen-pipeline list purchases body:user:email --timeframe last_4_days
    """
    settings = Settings.from_environment()
    check_collection_name(collection)
    window = parse_timeframe(timeframe, None, None, SystemClock().now())
    conditions = [parse_filter(f) for f in filters]
    with service_for_command(settings):
        values = open_client(settings, None).select_unique(collection, property_name, window, conditions)
    for value in values:
        plain = isinstance(value, str) and "\n" not in value and "\r" not in value
        click.echo(value if plain else json.dumps(value, ensure_ascii=False))
