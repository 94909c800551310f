"""Where a service keeps what it must not lose: one data folder of its own, or storage that several processes share."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from keen_pipeline.errors import ConfigurationError
from keen_pipeline.service.config import ServiceConfig
from keen_pipeline.service.credentials import Credentials, make_credentials
from keen_pipeline.service.extractions.records import ExtractionRecords
from keen_pipeline.service.extractions.results import Results
from keen_pipeline.service.limits import RequestsPerMinute
from keen_pipeline.service.storage.engine import Engine
from keen_pipeline.service.storage.folder.layout import open_layout
from keen_pipeline.service.storage.folder.state import SqliteDatabase
from keen_pipeline.service.storage.places import Database, Logs, ObjectStore, Tables
from keen_pipeline.service.storage.store import EventStore
from keen_pipeline.service.storage.upkeep import Upkeep


@dataclass(frozen=True)
class Backend:
    """The parts of a service that differ between one process and several."""

    credentials: Credentials
    database: Database
    store: EventStore
    upkeep: Upkeep
    records: ExtractionRecords
    count_request: Callable[[str, int], None]  # of a kind, under a limit; raises RateLimitedError
    results: Results
    check: Callable[[], object] = lambda: None  # raises StorageError if a part of the data folder was removed or replaced

    def close(self) -> None:
        """Stop the upkeep and hold nothing any more; what is in logs is folded after the next start."""
        self.upkeep.close()
        self.store.close()
        self.database.close()


def open_backend(config: ServiceConfig, engine: Engine, objects: ObjectStore | None, results: ObjectStore | None) -> Backend:
    """Everything in the data folder, or in the catalogue and `objects`; `results`, if given, in a storage of their own."""
    if objects is not None:
        try:
            from keen_pipeline.service.storage.shared.backend import shared  # only this needs psycopg
        except ImportError:
            raise ConfigurationError(
                "service: a shared catalogue needs the postgres extra: pip install 'keen_pipeline[postgres]'"
            ) from None
        return shared(config, engine, objects, results)
    credentials = make_credentials(config)
    tables, logs = open_layout(config.data, engine, config.max_properties)
    database = SqliteDatabase(config.data / "state.db")
    store, upkeep = open_store(config, engine, tables, logs, database)
    return Backend(
        credentials,
        database,
        store,
        upkeep,
        ExtractionRecords(database),
        RequestsPerMinute().count,
        Results(config.data / "results", results, credentials.signing_key, config.results_url_seconds),
        check=lambda: (tables.check(), logs.check()),
    )


def open_store(config: ServiceConfig, engine: Engine, tables: Tables, logs: Logs, database: Database) -> tuple[EventStore, Upkeep]:
    """The store of the events that lie in some tables and logs, with its upkeep, which begins."""
    store = EventStore(tables, logs, engine, config.max_properties, database.exclusive)
    return store, Upkeep(store, config.fold_seconds, config.replaced_seconds)
