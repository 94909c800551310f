"""Every storage that can be a destination, as a fixture."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest
from azure.storage.blob import LinearRetry

from keen_pipeline.landing.storages import azure as azure_storage
from keen_pipeline.landing.storages import gcs as gcs_storage
from keen_pipeline.landing.storages import remote
from keen_pipeline.landing.storages import s3 as s3_storage
from keen_pipeline.landing.storages.storage import Options
from keen_pipeline.landing.transfer import download
from keen_pipeline_tests.contract.storages.places import Place, folder_place
from keen_pipeline_tests.servers import azure as azure_server
from keen_pipeline_tests.servers.azure import AzureServer, azure_place, running_azure
from keen_pipeline_tests.servers.gcs import gcs_place, running_gcs
from keen_pipeline_tests.servers.proxy import HttpProxy, http_proxy
from keen_pipeline_tests.servers.s3 import ACCESS_KEY, SECRET_KEY, S3Server, running_s3, s3_place
from keen_pipeline_tests.servers.sftp import PASSWORD, SftpServer, running_sftp


@pytest.fixture(autouse=True)
def short_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    """The first back-off is 10 ms instead of 200."""
    monkeypatch.setattr(download, "FIRST_WAIT_SECONDS", 0.01)


@pytest.fixture(autouse=True)
def keys(monkeypatch: pytest.MonkeyPatch) -> None:
    """Keys come from the environment alone."""
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", ACCESS_KEY)
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", SECRET_KEY)
    monkeypatch.setenv("AZURE_STORAGE_KEY", azure_server.KEY)
    monkeypatch.setenv("KEEN_PIPELINE_SFTP_PASSWORD", PASSWORD)


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Several parts, and each request is tried twice."""
    monkeypatch.setattr(remote, "PART_BYTES", 5 * 1024 * 1024)  # S3's least
    monkeypatch.setattr(s3_storage, "ATTEMPTS", 2)
    once = LinearRetry(backoff=0, retry_total=1, random_jitter_range=0)
    monkeypatch.setattr(azure_storage, "ExponentialRetry", lambda **_: once)
    monkeypatch.setattr(gcs_storage, "RETRY_SECONDS", 1.5)


@pytest.fixture(scope="session")
def s3(tmp_path_factory: pytest.TempPathFactory) -> Iterator[S3Server]:
    with running_s3(tmp_path_factory.mktemp("s3")) as server:
        yield server


@pytest.fixture(scope="session")
def gcs(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with running_gcs(tmp_path_factory.mktemp("gcs")) as endpoint:
        yield endpoint


@pytest.fixture(scope="session")
def azure() -> Iterator[AzureServer]:
    with running_azure() as server:
        yield server


@pytest.fixture(scope="session")
def sftp(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SftpServer]:
    with running_sftp(tmp_path_factory.mktemp("sftp")) as server:
        yield server


@pytest.fixture(params=["local", "s3", "gcs", "azure", "sftp"])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> Place:
    """An empty root on each kind of storage."""
    prefix = quote(tmp_path.name)
    if request.param == "local":
        return folder_place(tmp_path / "landed files")
    server = request.getfixturevalue(request.param)
    if request.param == "sftp":
        return folder_place(server.folder / prefix, f"{server.uri}/{prefix}", server.transport)
    return {"s3": s3_place, "gcs": gcs_place, "azure": azure_place}[request.param](server, prefix)  # type: ignore[operator,no-any-return]


@pytest.fixture(scope="module")
def made() -> Iterator[dict[Any, Any]]:
    """Proxies by the kind of what is behind them, and clients of S3, which take a second of the processor, by their options."""
    with ExitStack() as stack:
        yield {"stack": stack}


@pytest.fixture
def between(place: Place, made: dict[Any, Any], monkeypatch: pytest.MonkeyPatch) -> HttpProxy:
    """Stands before the service of `place`, and spoils nothing yet."""
    kind, new = place.root.partition(":")[0], s3_storage._new_client

    def client(options: Options) -> Any:
        key = tuple(options.items())
        if key not in made:
            made[key] = new(options)
        return made[key]

    monkeypatch.setattr(s3_storage, "_new_client", client)
    if kind not in made:
        made[kind] = made["stack"].enter_context(http_proxy(place.transport["endpoint"]))
    found: HttpProxy = made[kind]
    found.fault = lambda _: False
    return found
