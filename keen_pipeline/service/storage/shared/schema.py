"""The tables of the catalogue, in a PostgreSQL schema of their own, made and brought up by the first process that starts."""

from __future__ import annotations

from typing import Any

import psycopg

from keen_pipeline.errors import ConfigurationError

SCHEMA = "keen_service"
_VERSION = 2
_LOCK = "keen_service:schema"

# A path may be longer than an index takes, and hold characters that TEXT does not. `event_log.payload` is compressed already.
_TABLES = """
CREATE TABLE collections (
    id INTEGER GENERATED ALWAYS AS IDENTITY PRIMARY KEY, name TEXT NOT NULL UNIQUE, next_number BIGINT NOT NULL DEFAULT 1,
    folded BIGINT NOT NULL DEFAULT 0, properties INTEGER NOT NULL DEFAULT 0);
CREATE TABLE properties (
    collection INTEGER NOT NULL REFERENCES collections (id), number INTEGER NOT NULL, path BYTEA NOT NULL,
    PRIMARY KEY (collection, number));
CREATE TABLE event_log (
    collection INTEGER NOT NULL REFERENCES collections (id), number BIGINT NOT NULL, written DOUBLE PRECISION NOT NULL,
    token BYTEA NOT NULL, events INTEGER NOT NULL, first BIGINT NOT NULL, last BIGINT NOT NULL, bytes BIGINT NOT NULL,
    longest INTEGER NOT NULL, payload BYTEA NOT NULL, PRIMARY KEY (collection, number));
ALTER TABLE event_log ALTER COLUMN payload SET STORAGE EXTERNAL;
CREATE INDEX event_log_by_token ON event_log (collection, token);
CREATE TABLE extractions (
    id TEXT PRIMARY KEY, collection TEXT NOT NULL, names TEXT NOT NULL, filters TEXT NOT NULL, start_time TEXT, end_time TEXT,
    email TEXT, status TEXT NOT NULL, created DOUBLE PRECISION NOT NULL, not_before DOUBLE PRECISION NOT NULL,
    finished DOUBLE PRECISION, events BIGINT, bytes BIGINT, message TEXT, mail_status TEXT,
    mail_attempts INTEGER NOT NULL DEFAULT 0, mail_next DOUBLE PRECISION, options TEXT NOT NULL DEFAULT '{}',
    turn INTEGER NOT NULL DEFAULT 0, lost INTEGER NOT NULL DEFAULT 0, holder TEXT, held_until DOUBLE PRECISION NOT NULL DEFAULT 0);
CREATE INDEX extractions_by_collection ON extractions (collection, created);
CREATE INDEX extractions_by_status ON extractions (status, created);
CREATE TABLE request_kinds (kind TEXT PRIMARY KEY, refused_until DOUBLE PRECISION NOT NULL DEFAULT 0);
CREATE TABLE requests (kind TEXT NOT NULL REFERENCES request_kinds (kind), at DOUBLE PRECISION NOT NULL);
CREATE INDEX requests_by_time ON requests (kind, at);
CREATE TABLE credentials (name TEXT PRIMARY KEY, value TEXT NOT NULL);
CREATE TABLE version (number INTEGER NOT NULL);
"""


def bring_up(connection: psycopg.Connection[Any]) -> None:
    """Make the tables where they are missing. Raises ConfigurationError where a newer version made them."""
    with connection.transaction():
        connection.execute("SELECT pg_advisory_xact_lock(hashtextextended(%s, 0))", [_LOCK])
        if connection.execute("SELECT to_regclass(%s) AS found", [f"{SCHEMA}.version"]).fetchone() == {"found": None}:
            connection.execute(f"CREATE SCHEMA IF NOT EXISTS {SCHEMA}")
            connection.execute(_TABLES)
            connection.execute("INSERT INTO version VALUES (%s)", [_VERSION])
            return
        row = connection.execute("SELECT number FROM version").fetchone()
    if row != {"number": _VERSION}:
        found = row["number"] if row else "none"
        raise ConfigurationError(
            f"service: the catalogue has schema {found}, this version reads {_VERSION}; use the version that made it, or"
            " extract its events there and load them here"
        )
