"""Fixtures of the whole suite: real parts, from pip, on loopback."""

from __future__ import annotations

import os
import sys
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

from keen_pipeline import wiring
from keen_pipeline_tests.servers.postgres import database, running_postgres

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
    with running_postgres() as url:
        yield url


@pytest.fixture(autouse=True)
def _ledgers_of_one_test() -> Iterator[None]:
    """A process keeps the ledgers it has opened; here each test has another."""
    yield
    while wiring._engines:
        wiring._engines.popitem()[1].dispose()


@pytest.fixture
def postgres_url(postgres: str) -> Iterator[str]:
    """A database of the test's own."""
    with database(postgres, f"t{uuid.uuid4().hex}") as url:
        yield url


@pytest.fixture
def keen_pipeline_command() -> list[str]:
    """The command line as a user's shell would start it."""
    return [sys.executable, "-m", "keen_pipeline"]


@pytest.fixture
def project_root() -> Path:
    """The folder of pyproject.toml."""
    return Path(__file__).resolve().parent.parent
