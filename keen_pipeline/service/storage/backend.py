"""Where a service keeps what it must not lose: one data folder of its own, or storage that several processes share."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from keen_pipeline.service.config import ServiceConfig
from keen_pipeline.service.credentials import Credentials
from keen_pipeline.service.extractions.places import UriPlace
from keen_pipeline.service.extractions.queue import ExtractionQueue, OneProcessQueue
from keen_pipeline.service.extractions.records import ExtractionRecords
from keen_pipeline.service.extractions.results import Results
from keen_pipeline.service.extractions.worker import PAUSE_SECONDS, sweep_seconds
from keen_pipeline.service.limits import RequestLimit, RequestsPerMinute
from keen_pipeline.service.storage.database import Database
from keen_pipeline.service.storage.engine import Engine
from keen_pipeline.service.storage.event_log import FileLogs
from keen_pipeline.service.storage.files import EventFiles
from keen_pipeline.service.storage.folder import FolderTables
from keen_pipeline.service.storage.layout import open_layout
from keen_pipeline.service.storage.places import Logs, Tables
from keen_pipeline.service.storage.state import SqliteDatabase
from keen_pipeline.service.storage.store import EventStore
from keen_pipeline.service.storage.upkeep import Upkeep


@dataclass(frozen=True)
class Backend:
    """The parts of a service that differ between one process and several."""

    database: Database
    store: EventStore
    records: ExtractionRecords
    queue: ExtractionQueue
    limits: RequestLimit
    results: Results


def one_folder(
    config: ServiceConfig, credentials: Credentials, engine: Engine, remove_result: Callable[[str], None] | None = None
) -> Backend:
    """Everything in the data folder, results perhaps at a URI. `remove_result`: removes a file there by its name."""
    layout = open_layout(config.data, engine, config.max_properties)
    database = SqliteDatabase(config.data / "state.db")
    records = ExtractionRecords(database)
    place = UriPlace(config.results_uri, remove_result) if config.results_uri is not None else None
    tables = FolderTables(layout.events, layout.logs, layout.work)
    return Backend(
        database=database,
        store=KeptEvents(tables, FileLogs(layout.logs, config.max_properties), engine, config),
        records=records,
        queue=OneProcessQueue(records, sweep_seconds(config.retention_seconds), PAUSE_SECONDS),
        limits=RequestsPerMinute(config.requests_per_minute),
        results=Results(config.data / "results", place, credentials.signing_key, config.results_url_seconds),
    )


class KeptEvents(EventStore):
    """A store of events with its upkeep."""

    def __init__(self, tables: Tables, logs: Logs, engine: Engine, config: ServiceConfig) -> None:
        super().__init__(tables, logs, EventFiles(engine, tables.work), config.max_properties)
        self.upkeep = Upkeep(self, logs, config.fold_seconds, config.replaced_seconds)

    def close(self) -> None:
        """Stop the upkeep; what is in logs is folded after the next start."""
        self.upkeep.close()
        super().close()
