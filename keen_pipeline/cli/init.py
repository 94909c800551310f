"""`keen-pipeline init`: a commented collections file to begin with."""

from __future__ import annotations

import json
import shlex
from collections.abc import Sequence
from datetime import date, timedelta
from pathlib import Path

import click

from keen_pipeline.cli.common import service_for_command, show
from keen_pipeline.collection import is_collection_name
from keen_pipeline.errors import ConfigurationError
from keen_pipeline.ports import SystemClock
from keen_pipeline.settings import Settings
from keen_pipeline.wiring import open_client

_DAYS = 30
_EXAMPLE = "purchases"
_HEAD = """\
# The event collections that keen_pipeline extracts. Everything but the name has a default; `keen-pipeline doctor` checks this file.
#
# What a collection may have beside its name:
#   start_date: 2026-01-01        the first partition (default 2020-01-01)
#   granularity: daily            hourly, daily, weekly or monthly
#   timezone: UTC                 an IANA name; partitions start at its midnights
#   filters:                      all of them must hold
#     - {property_name: "body:amount", operator: gt, property_value: 0}
#   encoding: csv                 csv, csv.gz, csv.zst or parquet
#   layout: plain                 plain (purchases/2026-01-01.csv) or hive (purchases/date=2026-01-01/events.csv)
#   lookback_days: 3              how many days back the nightly job looks for late events
#   catch_up: 31                  older partitions, missing since the first landed, that it asks for in one night
#   mask: {"body:user:email": hash}    hash, mask or drop personal data before anything is written
#   count_check: fail             if a file lacks events that the service counts: fail, warn or off
#   schema_check: warn            columns that came, went or changed type; fail, warn or off
#   size_check: warn              a number of events far from the usual; fail, warn or off
#   fresh_within_hours: 6         how many hours after a partition ends it must have landed
#   owners: ["team:growth"]       of the Dagster asset; so are description and tags
collections:
"""


@click.command("init")
@click.option("--from-project", is_flag=True, help="The collections that the project has, if the key may list them.")
@click.option(
    "--file",
    "path",
    type=click.Path(dir_okay=False, path_type=Path),
    default=Path("collections.yaml"),
    show_default=True,
    help="Where to write it; a file that is there is left alone.",
)
def command(from_project: bool, path: Path) -> None:
    """Write a commented collections file to begin with.

    Example: keen-pipeline init --from-project
    """
    if path.exists():
        raise ConfigurationError(f"{path} already exists and is left as it is; pass another name with --file")
    names = _names() if from_project else [_EXAMPLE]
    first = SystemClock().now().date() - timedelta(days=_DAYS)
    try:
        with path.open("x", encoding="utf-8") as file:
            file.write(collections_text(names, first))
    except OSError as error:
        raise ConfigurationError(f"{path} can't be written: {error.strerror}") from None
    show(
        f"{path} written with {', '.join(names[:5])}{f' and {len(names) - 5} more' if len(names) > 5 else ''}",
        "Next:",
        f"  export KEEN_PIPELINE_COLLECTIONS={shlex.quote(str(path))}",
        "  keen-pipeline doctor",
    )


def collections_text(names: Sequence[str], first: date) -> str:
    """The file for some collections whose first partition is `first`.

    >>> print(collections_text(["Sign Ups"], date(2026, 1, 1)).splitlines()[-1])
      - {name: "Sign Ups", start_date: 2026-01-01}
    """
    return _HEAD + "".join(f"  - {{name: {json.dumps(name)}, start_date: {first}}}\n" for name in names)


def _names() -> list[str]:
    settings = Settings.from_environment()
    with service_for_command(settings):
        names = [name for name in open_client(settings, None).collections() if is_collection_name(name)]
    if not names:
        raise ConfigurationError("the project has no collection yet; `keen-pipeline init` without --from-project writes an example")
    return names
