"""Real service processes for the tests of this folder; each test uses a collection, or a storage, of its own."""

from __future__ import annotations

import itertools
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest

from keen_pipeline.service import embedded
from keen_pipeline.service.application import Service
from keen_pipeline.service.config import ServiceConfig
from keen_pipeline.service.storage.shared.database import PostgresDatabase
from keen_pipeline_tests.servers.postgres import database
from keen_pipeline_tests.servers.s3 import S3Server, running_s3
from keen_pipeline_tests.service.cluster import Shared, in_bucket
from keen_pipeline_tests.service.environment import clean_environment
from keen_pipeline_tests.service.http_client import Http
from keen_pipeline_tests.service.stores import Place, Services

_numbers = itertools.count()


@pytest.fixture(scope="session")
def endpoint(tmp_path_factory: pytest.TempPathFactory) -> Iterator[embedded.Endpoint]:
    with embedded.start(tmp_path_factory.mktemp("service"), env=clean_environment()) as service:
        yield service.endpoint


@pytest.fixture
def http(endpoint: embedded.Endpoint) -> Http:
    return Http(endpoint)


@pytest.fixture
def collection() -> str:
    return f"purchases-{next(_numbers)}"


@pytest.fixture
def data(tmp_path: Path) -> Path:
    return tmp_path / "data"


@pytest.fixture(scope="session")
def bucket(tmp_path_factory: pytest.TempPathFactory) -> Iterator[S3Server]:
    with running_s3(tmp_path_factory.mktemp("s3")) as server:
        yield server


@pytest.fixture
def shared(tmp_path: Path, postgres_url: str, bucket: S3Server) -> Shared:
    """A catalogue and a place in a bucket, for services that let go of things soon."""
    return in_bucket(tmp_path, postgres_url, bucket, uuid.uuid4().hex, ["--lease-seconds", "2", "--fold-seconds", "0.2"])


@pytest.fixture(scope="session")
def shared_endpoints(
    tmp_path_factory: pytest.TempPathFactory, postgres: str, bucket: S3Server
) -> Iterator[list[embedded.Endpoint]]:
    """Two services on one catalogue and one bucket, for tests that use a collection of their own."""
    name = f"t{uuid.uuid4().hex}"
    with database(postgres, name) as url:
        shared = in_bucket(tmp_path_factory.mktemp("shared"), url, bucket, name, ["--fold-seconds", "0.5"])
        with shared.running([0, 0]) as cluster:
            yield cluster.endpoints


@pytest.fixture
def services(tmp_path: Path, postgres_url: str) -> Iterator[Services]:
    made = Services(tmp_path, postgres_url, str(tmp_path / "storage"))
    yield made
    made.close()


@pytest.fixture
def catalogue(postgres_url: str) -> Iterator[PostgresDatabase]:
    made = PostgresDatabase(postgres_url)
    yield made
    made.close()


@pytest.fixture
def service(data: Path) -> Iterator[Service]:
    """One in this process, on a folder of its own, with one event."""
    data.mkdir()
    config = ServiceConfig(data=data, max_concurrency=1)
    made = Service(config, "http://127.0.0.1")
    made.add_event("purchases", {"a": 1}, version="v3")
    yield made
    made.close()


@pytest.fixture
def folder(tmp_path: Path) -> Iterator[Place]:
    made = Place(tmp_path)
    yield made
    made.close()
