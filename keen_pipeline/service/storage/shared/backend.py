"""The shared storage of a service, put together."""

from __future__ import annotations

from collections.abc import Callable

from keen_pipeline.errors import ConfigurationError
from keen_pipeline.service.config import MIB, ServiceConfig
from keen_pipeline.service.credentials import Credentials
from keen_pipeline.service.extractions.places import SharedPlace, UriPlace
from keen_pipeline.service.extractions.results import Results
from keen_pipeline.service.storage.backend import Backend, KeptEvents
from keen_pipeline.service.storage.engine import Engine
from keen_pipeline.service.storage.shared.cache import FileCache
from keen_pipeline.service.storage.shared.credentials import shared_credentials
from keen_pipeline.service.storage.shared.database import PostgresDatabase
from keen_pipeline.service.storage.shared.limits import SharedRequestsPerMinute
from keen_pipeline.service.storage.shared.log import SharedLogs
from keen_pipeline.service.storage.shared.objects import ObjectStore
from keen_pipeline.service.storage.shared.records import SharedExtractionRecords, SharedQueue
from keen_pipeline.service.storage.shared.tables import SharedTables


class SharedStorage:
    """One process's way to the catalogue and the object store. `remove_result`: removes a file at the results URI by its name.

    Raises ConfigurationError where the catalogue can't be used.
    """

    def __init__(self, config: ServiceConfig, objects: ObjectStore, remove_result: Callable[[str], None] | None) -> None:
        if config.catalogue_url is None or config.storage_uri is None:
            raise ConfigurationError("service: a shared service needs both a catalogue and a storage")
        self._config, self._objects, self._remove_result = config, objects, remove_result
        self._database = PostgresDatabase(config.catalogue_url)

    def credentials(self) -> Credentials:
        """The same for all processes. Raises ConfigurationError."""
        return shared_credentials(self._config, self._database)

    def open(self, config: ServiceConfig, credentials: Credentials, engine: Engine) -> Backend:
        """The parts of a service over this storage; what is kept on this machine can be made again."""
        database, local = self._database, config.data / "shared"
        assert config.storage_uri is not None
        uri = config.results_uri
        place = SharedPlace(self._objects) if uri is None else UriPlace(uri, self._remove_result)
        cache = FileCache(local / "files", self._objects, config.cache_mib * MIB)
        tables = SharedTables(config.storage_uri, self._objects, cache, local / "work")
        logs = SharedLogs(database, local / "log", config.max_properties)
        return Backend(
            database=database,
            store=KeptEvents(tables, logs, engine, config),
            records=SharedExtractionRecords(database),
            queue=SharedQueue(database, config.lease_seconds),
            limits=SharedRequestsPerMinute(database, config.requests_per_minute),
            results=Results(local / "results", place, credentials.signing_key, config.results_url_seconds),
        )
