"""`keen-pipeline doctor`: each part of the configuration tried, with what to fix."""

from __future__ import annotations

from collections.abc import Callable

import click

from keen_pipeline.cli.common import configured_collections, service_for_command
from keen_pipeline.errors import ConfigurationError, KeenPipelineError
from keen_pipeline.landing.encode import check_encoding
from keen_pipeline.pipeline.adapters import open_client, open_destination, open_ledger
from keen_pipeline.settings import Settings


@click.command("doctor")
def command() -> None:
    """Check configuration, service, key, destination (writes and removes a probe) and ledger; say what to fix.

    Example: keen-pipeline doctor
    """
    settings = Settings.from_environment()
    with service_for_command(settings):
        checks: list[tuple[str, Callable[[], str]]] = [
            ("collections", lambda: _collections(settings)),
            ("service", lambda: _service(settings)),
            ("key", lambda: _key(settings)),
            ("destination", lambda: _destination(settings)),
            ("ledger", lambda: _ledger(settings)),
        ]
        bad = sum(not _tell(name, check) for name, check in checks)
    if bad:
        raise ConfigurationError(f"{bad} of {len(checks)} checks failed, see above for what to fix")


def _tell(name: str, check: Callable[[], str]) -> bool:
    try:
        click.echo(f"ok    {name}: {check()}")
    except KeenPipelineError as error:
        click.echo(f"wrong {name}: {' '.join(str(error).split())}")
        return False
    return True


def _collections(settings: Settings) -> str:
    collections = configured_collections(settings)
    if not collections:
        raise ConfigurationError("KEEN_PIPELINE_COLLECTIONS is not set: name the collections to extract in a YAML file")
    for encoding in {collection.encoding for collection in collections}:
        check_encoding(encoding)
    source = settings.collections_file or "the sample, as KEEN_PIPELINE_COLLECTIONS is not set"
    return f"{', '.join(c.name for c in collections)} ({source})"


def _service(settings: Settings) -> str:
    client = open_client(settings, None)
    client.ping()
    return f"{client.base_url}, API {client.api_version}" + (
        "" if settings.base_url else " (embedded, as KEEN_BASE_URL is not set)"
    )


def _key(settings: Settings) -> str:
    client = open_client(settings, None)
    client.check_key()
    return f"the read key opens project {client.project_id}"


def _destination(settings: Settings) -> str:
    destination = open_destination(settings.destination, settings.destination_options)
    destination.probe()
    return f"{destination.uri} can be written"


def _ledger(settings: Settings) -> str:
    counts = open_ledger(settings.ledger_url).summary().counts
    return f"{sum(counts.values())} entries"
