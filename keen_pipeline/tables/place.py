"""Where tables lie: a dlt destination, made of a SQLAlchemy URL or given; and who may load there at a moment."""

from __future__ import annotations

import contextlib
import hashlib
import importlib.util
import os
import sqlite3
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from keen_pipeline.errors import ConfigurationError

WAIT_SECONDS = 600
"""How long a load waits for others into the same database."""
BUSY_SECONDS = 60
"""How long a statement waits for another program that writes to a SQLite database."""
# dlt keeps its pipeline and its configuration for the whole process.
_one_at_a_time = threading.Lock()
_STAGING_LAYOUT = "%s_keen_staging"
_EXAMPLE = "for example sqlite:///warehouse.db"


def import_dlt() -> Any:
    """The module, which reports nothing to anybody. Raises ConfigurationError if the extra is missing."""
    os.environ.setdefault("RUNTIME__DLTHUB_TELEMETRY", "false")
    try:
        import dlt
    except ImportError:
        raise ConfigurationError("tables need dlt: pip install 'keen_pipeline[tables]'") from None
    return dlt


@dataclass(frozen=True)
class TablePlace:
    """A database. `destination`: dlt's; `dataset`: the schema of its tables; `file_format`: of what is handed over, None for dlt's
    own choice; `file`: of SQLite and DuckDB, the database's file.
    """

    destination: Any = field(repr=False)  # its own shows passwords
    dataset: str
    file_format: str | None = None
    file: Path | None = None

    @contextmanager
    def locked(self, pipeline: Any) -> Iterator[None]:
        """Only one load at a time into the dataset, on this machine and, on PostgreSQL, on any. `pipeline`: dlt's.

        dlt's loads into one table share their staging table, so two at once would lose the events of one. Elsewhere than on SQLite,
        DuckDB and PostgreSQL only the loads of one process wait for each other.
        Raises ConfigurationError if the others have not ended in time.
        """
        if not _one_at_a_time.acquire(timeout=WAIT_SECONDS):
            raise _too_long()
        try:
            with self._held(pipeline):
                yield
        finally:
            _one_at_a_time.release()

    def _held(self, pipeline: Any) -> contextlib.AbstractContextManager[None]:
        if self.file is not None:
            return _held_file(self.file)
        if "postgres" in pipeline.destination.destination_type:
            return _held_in_postgres(pipeline, self.dataset)
        return contextlib.nullcontext()


def place_of_url(url: str, dataset: str | None = None) -> TablePlace:
    """The database at a SQLAlchemy URL. Raises ConfigurationError without the URL's password."""
    import sqlalchemy as sa

    from keen_pipeline.ledger.database.engine import read_url

    destinations = import_dlt().destinations
    try:
        parsed = read_url(url)
        backend = parsed.get_backend_name()
        if backend == "postgresql":
            return TablePlace(
                destinations.postgres(credentials=_of_postgres(parsed), staging_dataset_name_layout=_STAGING_LAYOUT),
                dataset or "public",
                file_format=_postgres_format(),
            )
        if backend == "duckdb":
            file = Path(parsed.database or "")
            made = destinations.duckdb(credentials=str(file), staging_dataset_name_layout=_STAGING_LAYOUT)
            return TablePlace(made, dataset or "main", file=_file(parsed))
        parsed.get_dialect().import_dbapi()
    except (sa.exc.NoSuchModuleError, ModuleNotFoundError) as error:
        raise ConfigurationError(f"no driver for {parsed.render_as_string(hide_password=True)}: {error}") from None
    except (sa.exc.ArgumentError, ValueError):
        raise ConfigurationError(f"the URL of a table's database isn't a SQLAlchemy URL, {_EXAMPLE}") from None
    made = destinations.sqlalchemy(credentials=_engine(parsed), staging_dataset_name_layout=_STAGING_LAYOUT)
    if backend == "sqlite":
        return TablePlace(made, dataset or "main", file=_file(parsed))
    return TablePlace(made, dataset or parsed.database or "keen")


def place_of_destination(destination: Any, dataset: str | None = None) -> TablePlace:
    """The database of a dlt destination, or of the name of one whose credentials dlt finds in its own configuration."""
    dlt = import_dlt()
    made = destination
    if isinstance(destination, str):
        try:
            made = dlt.destinations.__dict__[destination]()
        except KeyError:
            raise ConfigurationError(f"dlt has no destination {destination!r}, for example duckdb or snowflake") from None
    is_postgres = getattr(made, "destination_name", "") == "postgres"
    return TablePlace(made, dataset or "keen", file_format=_postgres_format() if is_postgres else None)


class _Everything(set[str]):
    """Words that need quotes: SQLAlchemy's lists lack some, such as SQLite's `nothing`."""

    def __contains__(self, word: object) -> bool:
        return True


def _engine(url: Any) -> Any:
    import sqlalchemy as sa

    patience = {"timeout": BUSY_SECONDS} if url.get_backend_name() == "sqlite" else {}
    engine = sa.create_engine(url, connect_args=patience)
    engine.dialect.identifier_preparer.reserved_words = _Everything()
    return engine


def _of_postgres(url: Any) -> dict[str, Any]:
    return {
        "database": url.database,
        "username": url.username,
        "password": url.password or "",
        "host": url.host or "localhost",  # one of the query, such as a socket's folder, comes before it
        "port": url.port or 5432,
        "query": dict(url.query),
    }


def _postgres_format() -> str:
    """Parquet goes by COPY, with ADBC; without it by INSERT. Never CSV, in which dlt takes an empty text for NULL."""
    return "parquet" if importlib.util.find_spec("adbc_driver_postgresql") else "insert_values"


def _file(url: Any) -> Path:
    if not url.database or url.database == ":memory:":
        raise ConfigurationError(f"tables need a database that stays, not one in memory, {_EXAMPLE}")
    file = Path(url.database).absolute()
    if not file.parent.is_dir():
        raise ConfigurationError(f"the folder of the database {file} does not exist")
    return file


@contextmanager
def _held_file(file: Path) -> Iterator[None]:
    """A lock that ends with its process: SQLite's own, on a file beside the database."""
    lock = sqlite3.connect(file.with_name(f"{file.name}.keen-lock"), timeout=WAIT_SECONDS, isolation_level=None)
    try:
        lock.execute("BEGIN EXCLUSIVE")
        yield
    except sqlite3.OperationalError as error:
        if "locked" not in str(error):
            raise
        raise _too_long() from None
    finally:
        lock.close()


@contextmanager
def _held_in_postgres(pipeline: Any, dataset: str) -> Iterator[None]:
    """A lock that ends with its connection."""
    number = int.from_bytes(hashlib.sha256(f"keen tables {dataset}".encode()).digest()[:8], "big", signed=True)
    with pipeline.destination_client() as client:
        client.sql_client.execute_sql(f"SET lock_timeout = '{WAIT_SECONDS}s'")
        client.sql_client.execute_sql(f"SELECT pg_advisory_lock({number})")
        yield


def _too_long() -> ConfigurationError:
    return ConfigurationError(
        f"other loads into this database have not ended in {WAIT_SECONDS} s; nothing was changed, run it again"
    )
