"""The project's id and keys, the same for all processes: kept in the catalogue."""

from __future__ import annotations

import json

from keen_pipeline.service.config import ServiceConfig
from keen_pipeline.service.credentials import FILE_NAME, Credentials, complete_credentials, load_credentials, write_private
from keen_pipeline.service.storage.shared.database import PostgresDatabase


def shared_credentials(config: ServiceConfig, database: PostgresDatabase) -> Credentials:
    """The credentials of `config`, completed from the catalogue, else from the data folder, else with new ones; then kept in both.

    The data folder's copy tells commands of this machine which keys the service has. Raises ConfigurationError.
    """
    with database.transaction("credentials") as connection:
        rows = connection.execute("SELECT name, value FROM credentials").fetchall()
        kept = Credentials(**{row["name"]: row["value"] for row in rows}) if rows else None
        made = complete_credentials(config, kept or load_credentials(config.data))
        if made != kept:
            sql = "INSERT INTO credentials (name, value) VALUES (?, ?) ON CONFLICT (name) DO UPDATE SET value = EXCLUDED.value"
            connection.executemany(sql, list(made.__dict__.items()))
    write_private(config.data / FILE_NAME, json.dumps(made.__dict__, indent=2) + "\n")
    return made
