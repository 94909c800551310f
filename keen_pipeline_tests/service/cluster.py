"""Several services on one PostgreSQL catalogue and one storage, and clients that ask them in turn."""

from __future__ import annotations

import contextlib
import itertools
import os
import signal
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import urllib3

from keen_pipeline.service import embedded
from keen_pipeline_tests.servers.s3 import ACCESS_KEY, REGION, SECRET_KEY, S3Server
from keen_pipeline_tests.service.environment import clean_environment
from keen_pipeline_tests.service.http_client import Http


@dataclass(frozen=True)
class Shared:
    """What the processes share. `folder`: below it each process has its own data folder."""

    folder: Path
    catalogue_url: str
    storage: str
    environment: Mapping[str, str] = field(default_factory=dict)
    options: Sequence[str] = ()

    def start(self, name: str, *options: str, port: int = 0, **env: str) -> embedded.EmbeddedService:
        """Start one process, on the data folder of its name. `port` 0: a free one."""
        variables = {
            "KEEN_PIPELINE_SERVICE_CATALOGUE_URL": self.catalogue_url,
            "KEEN_PIPELINE_SERVICE_STORAGE": self.storage,
            **self.environment,
            **env,
        }
        return embedded.start(self.folder / name, port=port, env=clean_environment(**variables), options=[*self.options, *options])

    def start_all(self, ports: Mapping[int, int]) -> dict[int, embedded.EmbeddedService]:
        """Start several at once, by their numbers, each on its port."""
        with ThreadPoolExecutor() as pool:
            started = pool.map(lambda number: self.start(f"process-{number}", port=ports[number]), ports)
            return dict(zip(ports, started, strict=True))

    @contextlib.contextmanager
    def running(self, ports: Sequence[int]) -> Iterator[Cluster]:
        """A process on each of the ports, 0: a free one, for the time of a block."""
        cluster = Cluster(self, self.start_all(dict(enumerate(ports))), dict(enumerate(ports)))
        try:
            yield cluster
        finally:
            for service in cluster.services.values():
                service.stop()


@dataclass
class Cluster:
    """Running processes by their numbers."""

    shared: Shared
    services: dict[int, embedded.EmbeddedService]
    ports: Mapping[int, int]

    @property
    def endpoints(self) -> list[embedded.Endpoint]:
        """Where they are reached."""
        return [service.endpoint for service in self.services.values()]

    def kill(self, numbers: Iterable[int]) -> None:
        """kill -9."""
        for number in numbers:
            os.kill(self.services[number].pid, signal.SIGKILL)

    def restart(self, numbers: Sequence[int]) -> None:
        """Start those again that were killed."""
        for number in numbers:
            self.services[number].stop()
        self.services.update(self.shared.start_all({number: self.ports[number] for number in numbers}))


def in_bucket(folder: Path, catalogue_url: str, s3: S3Server, prefix: str, options: Sequence[str] = ()) -> Shared:
    """Shared storage in a bucket."""
    keys = {"AWS_ACCESS_KEY_ID": ACCESS_KEY, "AWS_SECRET_ACCESS_KEY": SECRET_KEY, "AWS_DEFAULT_REGION": REGION}
    return Shared(folder, catalogue_url, f"{s3.uri}/{prefix}", {"AWS_ENDPOINT_URL": s3.endpoint, **keys}, options)


class TurningHttp(Http):
    """Asks another process each time, as behind a proxy."""

    def __init__(self, endpoints: Sequence[embedded.Endpoint]) -> None:
        super().__init__(endpoints[0])
        self._endpoints = itertools.cycle(endpoints)

    def request(self, method: str, path: str, **options: Any) -> urllib3.BaseHTTPResponse:
        self.endpoint = next(self._endpoints)
        return super().request(method, path, **options)


class Turning:
    """Of several clients another one for each call."""

    def __init__(self, clients: Sequence[Any]) -> None:
        self._clients = itertools.cycle(clients)

    def __getattr__(self, name: str) -> Any:
        return getattr(next(self._clients), name)
