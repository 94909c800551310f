"""Several services on one PostgreSQL catalogue and one storage, and clients that ask them in turn."""

from __future__ import annotations

import contextlib
import itertools
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import urllib3

from keen_pipeline.service import embedded
from keen_pipeline_tests.contract.s3 import ACCESS_KEY, REGION, SECRET_KEY, S3Server
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

    def start(self, name: str, *options: str, **env: str) -> embedded.EmbeddedService:
        """Start one process, on the data folder of its name."""
        variables = {
            "KEEN_PIPELINE_SERVICE_CATALOGUE_URL": self.catalogue_url,
            "KEEN_PIPELINE_SERVICE_STORAGE": self.storage,
            **self.environment,
            **env,
        }
        return embedded.start(self.folder / name, env=clean_environment(**variables), options=[*self.options, *options])

    @contextlib.contextmanager
    def running(self, number: int, *options: str, **env: str) -> Iterator[list[embedded.EmbeddedService]]:
        """So many processes for the time of a block."""
        with contextlib.ExitStack() as stack:
            services = self.start_all(range(number), *options, **env)
            for service in services:
                stack.callback(service.stop)
            yield services

    def start_all(self, numbers: Iterable[int], *options: str, **env: str) -> list[embedded.EmbeddedService]:
        """Start several at once."""
        with ThreadPoolExecutor() as pool:
            return list(pool.map(lambda number: self.start(f"process-{number}", *options, **env), numbers))


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
