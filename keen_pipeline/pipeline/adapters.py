"""The settings made real: which service, which ledger, which destination. The two composition roots and the resources use it."""

from __future__ import annotations

import threading
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from keen_pipeline.errors import ConfigurationError, InvalidInputError
from keen_pipeline.landing import FileDestination
from keen_pipeline.lifecycle import Limits
from keen_pipeline.pipeline.context import Pipeline
from keen_pipeline.settings import Settings

if TYPE_CHECKING:
    # What they bring, urllib3 and SQLAlchemy, a code location needs once it opens them.
    from keen_pipeline.client import KeenClient
    from keen_pipeline.ledger import SqlLedger

# One API call with its repetitions, where the caller has no shorter limit of its own.
CALL_SECONDS = 120.0

_ledgers: dict[str, SqlLedger] = {}
_ledgers_lock = threading.Lock()


def open_ledger(url: str) -> SqlLedger:
    """The ledger at a SQLAlchemy URL, opened once a process. Raises ConfigurationError where it can't be opened."""
    from keen_pipeline.ledger import SqlLedger, open_engine

    with _ledgers_lock:
        if url not in _ledgers:
            _ledgers[url] = SqlLedger(open_engine(url))
        return _ledgers[url]


def open_client(settings: Settings, ledger: SqlLedger | None, *, total_timeout: float = CALL_SECONDS) -> KeenClient:
    """A client of the configured service, or of the embedded one, which is started where none runs.

    `total_timeout`: seconds of one call with its repetitions. The requests-per-minute budget is `ledger`'s; None means no
    budget (for a single question). Raises ConfigurationError naming the variable that is missing.
    """
    from keen_pipeline.client import KeenClient

    limiter = None
    if ledger is not None:
        from keen_pipeline.ledger import LedgerRateLimiter

        limiter = LedgerRateLimiter(ledger.engine, settings.requests_per_minute)
    if settings.base_url is None:
        from keen_pipeline.service import embedded

        endpoint = embedded.ensure(settings.service_data)
        return KeenClient(
            endpoint.base_url,
            endpoint.project_id,
            read_key=settings.read_key or endpoint.read_key,
            write_key=settings.write_key or endpoint.write_key,
            master_key=settings.master_key or endpoint.master_key,
            api_version=settings.api_version,
            limiter=limiter,
            total_timeout=total_timeout,
            allow_private_results=settings.allow_private_results,
            use_proxies=False,  # it runs on this machine
        )
    if settings.project_id is None:
        raise ConfigurationError(f"KEEN_PROJECT_ID is not set: name the project at {settings.base_url}")
    return KeenClient(
        settings.base_url,
        settings.project_id,
        read_key=settings.read_key,
        write_key=settings.write_key,
        master_key=settings.master_key,
        api_version=settings.api_version,
        limiter=limiter,
        total_timeout=total_timeout,
        allow_private_results=settings.allow_private_results,
    )


def open_destination(uri: str, options: Mapping[str, object]) -> FileDestination:
    """The destination; a local folder by its absolute path, so that every process and the ledger name a file alike."""
    return FileDestination(uri if "://" in uri else str(Path(uri).expanduser().resolve()), transport=options)


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
    ledger = open_ledger(settings.ledger_url)
    return Pipeline(
        api=open_client(settings, ledger),
        ledger=ledger,
        destination=open_destination(settings.destination, settings.destination_options),
        limits=limits_of(settings),
        poll_seconds=settings.poll_seconds,
        mask_key=settings.mask_key,
    )


def check_collection_exists(pipeline: Pipeline, collection: str) -> None:
    """Refuse a collection that the service doesn't hold, before anything is journalled or submitted.

    Raises InvalidInputError with the names it does hold.
    """
    known = pipeline.api.collections()
    if collection not in known:
        names = ", ".join(known[:20]) or "none"
        raise InvalidInputError(f"the service has no collection {collection!r}; it has: {names}", field="collection")
