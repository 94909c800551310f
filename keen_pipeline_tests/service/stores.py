"""Services in this process, on a folder or on a PostgreSQL catalogue and a bucket, for the tests of what they keep."""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from keen_pipeline.cli.local.serve import StorageObjects
from keen_pipeline.service.application import Service
from keen_pipeline.service.config import ServiceConfig
from keen_pipeline.service.events import analyses
from keen_pipeline.service.extractions.csv_export import Selection, count, write_csv
from keen_pipeline.service.storage.store import Collection, EventStore
from keen_pipeline.timeframe import Timeframe

WAIT_SECONDS = 20.0
LOCAL_URL = "http://127.0.0.1:1"


@dataclass
class Place:
    """Where services keep things. `catalogue`, `storage`: what they share; None: each has its folder alone."""

    folder: Path
    catalogue: str | None = None
    storage: str | None = None
    environment: Mapping[str, str] = field(default_factory=dict)
    opened: list[Service] = field(default_factory=list)

    def open(self, name: str = "one", objects: Any = None, **settings: Any) -> Service:
        """A service; what it folds, it is told to."""
        settings = {"fold_seconds": 3600.0, "memory_mib": 128, **settings}
        if self.catalogue is None or self.storage is None:
            config = ServiceConfig(self.folder / name, **settings)
            service = Service(config, LOCAL_URL)
        else:
            os.environ.update(self.environment)
            config = ServiceConfig(self.folder / name, catalogue_url=self.catalogue, storage_uri=self.storage, **settings)
            service = Service(config, LOCAL_URL, objects or StorageObjects(self.storage))
        self.opened.append(service)
        return service

    def close(self) -> None:
        """All of them."""
        while self.opened:
            self.opened.pop().close()


class Services(Place):
    """Services in this process, on one catalogue and a folder."""

    def files(self) -> list[str]:
        assert self.storage is not None
        return sorted(path.name for path in (Path(self.storage) / "events").glob("*/*.parquet"))


def store_of(service: Service) -> EventStore:
    assert isinstance(service.store, EventStore)
    return service.store


def collection_of(service: Service, name: str) -> Collection:
    collection = store_of(service).known(name)
    assert collection is not None
    return collection


def fold(service: Service, name: str) -> int:
    """What the upkeep does with a collection, now; returns how many files were made."""
    folds = 0
    while store_of(service).fold(collection_of(service, name)):
        folds += 1
    return folds


def merge(service: Service, name: str) -> bool:
    return store_of(service).merge(collection_of(service, name))


def files(service: Service, name: str) -> list[str]:
    return [file.name for file in collection_of(service, name).table.state().files]


def asked(service: Service, *filters: dict[str, Any]) -> Any:
    return service.filters({"filters": list(filters)})


def delete(service: Service, name: str, *filters: dict[str, Any], window: Timeframe | None = None) -> int:
    conditions = asked(service, *filters)
    return service.store.delete(name, lambda snapshot: Selection(snapshot, conditions, window, "v3"))


@contextlib.contextmanager
def selected(service: Service, name: str, *filters: dict[str, Any]) -> Iterator[tuple[Any, Selection]]:
    with service.query(name, {"filters": list(filters)}) as found:
        yield found


def number(service: Service, name: str, *filters: dict[str, Any]) -> int:
    with selected(service, name, *filters) as (cursor, selection):
        return count(cursor, selection)


def events(service: Service, name: str, *filters: dict[str, Any]) -> list[dict[str, Any]]:
    with selected(service, name, *filters) as (cursor, selection):
        return analyses.events(cursor, selection, latest=None, paths=None)


def csv_text(service: Service, name: str, target: Path) -> str:
    with selected(service, name) as (cursor, selection):
        write_csv(cursor, selection, target)
    return target.read_bytes().decode()


def until(condition: Callable[[], Any], what: str) -> None:
    deadline = time.monotonic() + WAIT_SECONDS
    while not condition():
        assert time.monotonic() < deadline, what
        time.sleep(0.02)


def n_of(service: Service, name: str, *filters: dict[str, Any]) -> list[Any]:
    return [event["n"] for event in events(service, name, *filters)]


def rule(name: str, operator: str, value: Any) -> dict[str, Any]:
    return {"property_name": name, "operator": operator, "property_value": value}


def await_status(service: Service, extraction_id: str, status: str) -> None:
    deadline = time.monotonic() + 20
    while (found := service.records.get(extraction_id)) is None or found.status != status:
        assert time.monotonic() < deadline, found
        time.sleep(0.02)
