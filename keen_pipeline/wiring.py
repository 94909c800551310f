"""The settings made real: which service, whose ledger, which destination. Everything that opens something goes through here."""

from __future__ import annotations

import logging
import threading
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

from keen_pipeline.errors import ConfigurationError, InvalidInputError
from keen_pipeline.landing import FileDestination
from keen_pipeline.landing.storages.storage import normal_root
from keen_pipeline.lifecycle import Limits
from keen_pipeline.scope import Scope, source_of
from keen_pipeline.settings import Settings

if TYPE_CHECKING:
    # What they bring, urllib3 and SQLAlchemy, a code location needs once it opens them.
    import sqlalchemy as sa

    from keen_pipeline.client import KeenClient
    from keen_pipeline.ledger import SqlLedger
    from keen_pipeline.pipeline import Pipeline
    from keen_pipeline.ports import ExtractionApi

_log = logging.getLogger(__name__)

# One API call with its repetitions, if the caller has no shorter limit of its own.
CALL_SECONDS = 120.0
_engines: dict[str, sa.Engine] = {}
_lock = threading.Lock()


def open_database(url: str) -> sa.Engine:
    """The ledger's database at a SQLAlchemy URL, migrated; opened once a process, and again if its file was replaced.

    Raises ConfigurationError.
    """
    from keen_pipeline.ledger.database.engine import is_replaced, open_engine

    with _lock:
        if url not in _engines or is_replaced(_engines[url]):
            _engines[url] = open_engine(url)
        return _engines[url]


def open_ledger(url: str, scope: Scope) -> SqlLedger:
    """The share of a ledger that belongs to a scope. Raises ConfigurationError if the ledger can't be opened."""
    from keen_pipeline.ledger import SqlLedger

    return SqlLedger(open_database(url), scope)


def open_client(settings: Settings, ledger: SqlLedger | None = None, *, total_timeout: float = CALL_SECONDS) -> KeenClient:
    """A client of the configured service, or of the embedded one, which is started if none runs.

    `total_timeout`: seconds of one call with its repetitions. Its requests count for the budget in `ledger`'s database; None means
    no budget (for a single question). Raises ConfigurationError naming the variable that is missing.
    """
    from keen_pipeline.client import KeenClient

    limiter = None
    if ledger is not None:
        from keen_pipeline.ledger import LedgerRateLimiter

        budget = settings.budget or ledger.scope.source
        limiter = LedgerRateLimiter(ledger.engine, settings.requests_per_minute, budget=budget, clock=ledger.clock)
    base_url, project_id = settings.base_url, settings.project_id
    read_key, write_key, master_key = settings.read_key, settings.write_key, settings.master_key
    if base_url is None:
        from keen_pipeline.service import embedded

        endpoint = embedded.ensure(settings.service_data)
        base_url, project_id = endpoint.base_url, endpoint.project_id
        read_key, write_key, master_key = endpoint.read_key, endpoint.write_key, endpoint.master_key
    if project_id is None:
        raise ConfigurationError(f"KEEN_PROJECT_ID is not set: name the project at {base_url}")
    return KeenClient(
        base_url,
        project_id,
        read_key=read_key,
        write_key=write_key,
        master_key=master_key,
        api_version=settings.api_version,
        limiter=limiter,
        total_timeout=total_timeout,
        allow_private_results=settings.allow_private_results,
        use_proxies=not settings.is_embedded,  # the embedded service runs on this machine
    )


def open_destination(uri: str, options: Mapping[str, object]) -> FileDestination:
    """The destination at a folder or URI. Raises ConfigurationError for a scheme or an option it can't serve."""
    # A local folder by its absolute path, so that every process names a file alike.
    root = normal_root(uri)
    return FileDestination(root if "://" in root else str(Path(root).resolve()), transport=options)


def scope_of(settings: Settings, destination: str | None = None) -> Scope:
    """Whose entries the settings speak of; `destination`: a root instead of the configured one.

    Of the embedded service it is its project; one that never ran is started, as it makes its project then.

    Raises ConfigurationError.
    """
    root = open_destination(settings.destination, settings.destination_options).uri if destination is None else destination
    if settings.base_url is not None:
        if settings.project_id is None:
            raise ConfigurationError(f"KEEN_PROJECT_ID is not set: name the project at {settings.base_url}")
        return Scope(source_of(settings.base_url, settings.project_id), root, settings.name)
    from keen_pipeline.service import embedded
    from keen_pipeline.service.credentials import load_credentials

    kept = load_credentials(settings.service_data) or embedded.ensure(settings.service_data)
    return Scope(source_of("http://localhost", kept.project_id), root, settings.name)


def limits_of(settings: Settings) -> Limits:
    """The bounds of an extraction as the environment sets them."""
    max_events = settings.max_extraction_events
    if settings.api_version != "2.0":
        from keen_pipeline.client.synchronous import MAX_EVENTS

        max_events = min(max_events, MAX_EVENTS)
    return Limits(
        max_attempts=settings.max_attempts,
        retry_seconds=settings.retry_seconds,
        lease_seconds=settings.lease_seconds,
        max_events=max_events,
    )


def open_pipeline(settings: Settings) -> Pipeline:
    """Everything of the settings; nothing is requested yet, but the embedded service runs afterwards."""
    place = open_destination(settings.destination, settings.destination_options)
    ledger = open_ledger(settings.ledger_url, scope_of(settings, place.uri))
    return pipeline_of(settings, open_client(settings, ledger), ledger, place)


def pipeline_of(settings: Settings, api: ExtractionApi, ledger: SqlLedger, destination: FileDestination) -> Pipeline:
    """The use cases' context of what is open already, within the bounds of the settings."""
    from keen_pipeline.pipeline import Pipeline

    return Pipeline(
        api=api,
        ledger=ledger,
        destination=destination,
        limits=limits_of(settings),
        poll_seconds=settings.poll_seconds,
        mask_key=settings.mask_key,
    )


@cache
def warn_of_unknown(names: tuple[str, ...]) -> None:
    """Name the variables that look like settings of ours and are none, once a process: a sensor's lives long."""
    for name in names:
        _log.warning("%s isn't a setting of keen_pipeline; `keen-pipeline doctor` names those that are", name)


def check_named(settings: Settings) -> None:
    """Raises ConfigurationError if there is a project, and no file says what to extract of it."""
    if settings.base_url is not None and settings.collections_file is None:
        raise ConfigurationError(
            f"{settings.base_url} is configured but KEEN_PIPELINE_COLLECTIONS is not: write the file with `keen-pipeline init` "
            "and point the variable at it"
        )


def check_collections_exist(api: ExtractionApi, names: list[str]) -> None:
    """Refuse collections that the service doesn't hold, before anything is journalled or submitted.

    Raises InvalidInputError with the names it does hold.
    """
    known = api.collections()
    missing = [name for name in names if name not in known]
    if missing:
        has = ", ".join(known[:20]) or "none yet (`keen-pipeline load` stores events)"
        wrong = ", ".join(map(repr, missing))
        raise InvalidInputError(f"the service has no collection {wrong}; it has: {has}", field="collection")
