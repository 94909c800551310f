"""The shared storage of a service, put together: what all processes agree on is in the catalogue."""

from __future__ import annotations

import json
import logging
import secrets
from functools import partial
from pathlib import Path

from keen_pipeline.errors import ConfigurationError
from keen_pipeline.service.config import MIB, ServiceConfig
from keen_pipeline.service.credentials import FILE_NAME, Credentials, complete_credentials, load_credentials, write_private
from keen_pipeline.service.extractions.records import ExtractionRecords
from keen_pipeline.service.extractions.results import Results
from keen_pipeline.service.limits import WINDOW_SECONDS, exceeded, refused
from keen_pipeline.service.storage.backend import Backend, open_store
from keen_pipeline.service.storage.engine import Engine
from keen_pipeline.service.storage.places import ObjectStore
from keen_pipeline.service.storage.shared.cache import FileCache
from keen_pipeline.service.storage.shared.database import NOW, PostgresDatabase
from keen_pipeline.service.storage.shared.log import SharedLogs
from keen_pipeline.service.storage.shared.tables import SharedTables

_log = logging.getLogger(__name__)
_ID, _NEW = "catalogue-id", "new "


def shared(config: ServiceConfig, engine: Engine, objects: ObjectStore, results: ObjectStore | None) -> Backend:
    """The parts of one of several equal processes; what is kept on this machine can be made again.

    `objects`: the configured storage. `results`: where results are kept instead. Raises ConfigurationError if the catalogue or
    the storage can't be used, or one of them is another service's.
    """
    assert config.catalogue_url is not None
    assert config.storage_uri is not None
    database, local = PostgresDatabase(config.catalogue_url), config.data / "shared"
    if (config.data / "layout.json").exists():
        _log.warning("the events in the data folder are not served with the shared ones", extra={"folder": str(config.data)})
    credentials = _credentials(config, database)
    _see_that_they_belong_together(database, objects, local)
    cache = FileCache(local / "files", objects, config.cache_mib * MIB)
    tables = SharedTables(config.storage_uri, objects, cache, local / "work")
    store, upkeep = open_store(config, engine, tables, SharedLogs(database, local / "log", config.max_properties), database)
    prefix = "results/" if results is None else ""
    return Backend(
        credentials,
        database,
        store,
        upkeep,
        ExtractionRecords(database, config.lease_seconds),
        partial(_count_request, database),
        Results(local / "results", results or objects, credentials.signing_key, config.results_url_seconds, prefix),
    )


def _credentials(config: ServiceConfig, database: PostgresDatabase) -> Credentials:
    """The credentials of `config`, completed from the catalogue, else from the data folder, else with new ones; then kept in both.

    The data folder's copy tells commands of this machine which keys the service has. Raises ConfigurationError.
    """
    with database.transaction("credentials") as connection:
        rows = connection.execute("SELECT name, value FROM credentials").fetchall()
        values = {row["name"]: row["value"] for row in rows if row["name"] != _ID}
        kept = Credentials(**values) if values else None
        made = complete_credentials(config, kept or load_credentials(config.data))
        if made != kept:
            sql = "INSERT INTO credentials (name, value) VALUES (?, ?) ON CONFLICT (name) DO UPDATE SET value = EXCLUDED.value"
            connection.executemany(sql, list(made.__dict__.items()))
    write_private(config.data / FILE_NAME, json.dumps(made.__dict__, indent=2) + "\n")
    return made


def _see_that_they_belong_together(database: PostgresDatabase, objects: ObjectStore, local: Path) -> None:
    """Two services on one catalogue, or on one storage, would each take the other's events for folded.

    Both have one id, made by the first start: noted as new in the catalogue until it is in the storage too.
    """
    with database.transaction("credentials") as connection:
        sql = "INSERT INTO credentials (name, value) VALUES (?, ?) ON CONFLICT DO NOTHING"
        connection.execute(sql, [_ID, _NEW + secrets.token_hex(16)])
        (row,) = connection.execute("SELECT value FROM credentials WHERE name = ?", [_ID]).fetchall()
    ours = row["value"].removeprefix(_NEW)
    if row["value"] != ours and _id_in(objects) is None:
        write_private(local / _ID, ours)
        objects.put(_ID, local / _ID)
    if _id_in(objects) != ours:
        raise ConfigurationError(
            f"service: this catalogue and this storage do not belong together, as {_ID} in the storage says; a service needs a"
            " database and a storage of its own. If the right database is lost for good, remove that object"
        )
    database.rows("UPDATE credentials SET value = ? WHERE name = ?", [ours, _ID])


def _id_in(objects: ObjectStore) -> str | None:
    try:
        with objects.open(_ID) as file:
            return file.read().decode("latin-1")
    except FileNotFoundError:
        return None


def _count_request(database: PostgresDatabase, kind: str, limit: int) -> None:
    """As `RequestsPerMinute.count`, of all processes together."""
    with database.transaction(f"{kind} requests") as connection:
        connection.execute("INSERT INTO request_kinds (kind) VALUES (?) ON CONFLICT DO NOTHING", [kind])
        sql = (
            f"SELECT {NOW} AS now, refused_until, (SELECT count(*) FROM requests WHERE kind = ? AND abs(at - {NOW}) < ?) AS made"  # noqa: S608
            " FROM request_kinds WHERE kind = ?"
        )
        (row,) = connection.execute(sql, [kind, WINDOW_SECONDS, kind]).fetchall()
        now, wait = row["now"], row["refused_until"] - row["now"]
        wait = wait if wait <= WINDOW_SECONDS else 0  # a longer one is of a clock that was ahead
        over = wait <= 0 and row["made"] >= limit
        if over:
            connection.execute("UPDATE request_kinds SET refused_until = ? WHERE kind = ?", [now + WINDOW_SECONDS, kind])
        elif wait <= 0:
            connection.execute("INSERT INTO requests (kind, at) VALUES (?, ?)", [kind, now])
        connection.execute("DELETE FROM requests WHERE kind = ? AND (? OR abs(at - ?) >= ?)", [kind, over, now, WINDOW_SECONDS])
    if wait > 0:
        raise refused(kind, wait)
    if over:
        raise exceeded(kind, limit)
