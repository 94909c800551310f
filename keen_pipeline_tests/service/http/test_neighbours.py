"""A damaged collection, or a folder of somebody else, beside collections that are whole."""

from __future__ import annotations

import json
import shutil
import threading
from collections.abc import Iterator
from contextlib import nullcontext
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import anyio
import pytest

from keen_pipeline.client import KeenClient
from keen_pipeline.errors import ServiceUnavailableError
from keen_pipeline.service import embedded
from keen_pipeline.service.application import Service
from keen_pipeline.service.events import analyses
from keen_pipeline.service.http.resources.collections import MOST_AWAY, schemas
from keen_pipeline_tests.service.environment import clean_environment
from keen_pipeline_tests.service.extractions.test_going_on import Calls
from keen_pipeline_tests.service.http_client import Http
from keen_pipeline_tests.service.stores import Place, fold, n_of


def test_a_schema_names_the_properties_that_a_file_of_its_version_has(http: Http, collection: str) -> None:
    http.add(collection, {"a": {"b": 1}})
    found = http.json("GET", f"{http.v2}/{collection}", key="read_key")
    assert found["property_names"] == list(found["inferred_property_types"]) == ["body:a:b", "header:timestamp"]
    assert http.csv(collection).splitlines()[0] == b"header:timestamp,body:a:b"
    found = http.json("GET", f"{http.v3}/events/{collection}", key="read_key")
    assert sorted(found["properties"]) == ["a.b", "keen.created_at", "keen.id", "keen.timestamp"]


def test_a_damaged_collection_is_listed_with_its_error_and_hides_no_other(tmp_path: Path) -> None:
    place = Place(tmp_path)
    service = place.open("data")
    for name in ("damaged", "shop"):
        service.add_events(name, [{"n": 1}])
        fold(service, name)
    place.close()
    data = tmp_path / "data"
    shutil.rmtree(data / "log")
    (file,) = (data / "events" / "damaged").glob("*.parquet")
    file.unlink()
    with embedded.start(data, env=clean_environment()) as running:
        endpoint = running.endpoint
        http = Http(endpoint)
        damaged, shop = http.json("GET", f"{http.v3}/events", key="read_key")
        assert (damaged["name"], damaged["properties"]) == ("damaged", {})
        assert damaged["error"]["error_code"] == "ServiceUnavailableError"
        assert shop == http.json("GET", f"{http.v3}/events/shop", key="read_key")
        client = KeenClient(endpoint.base_url, endpoint.project_id, read_key=endpoint.read_key, api_version="3.0")
        assert client.collections() == ["damaged", "shop"]
        assert http.request("GET", f"{http.v3}/events/damaged", key="read_key").status == 503
    for kept in ("events", "log"):
        shutil.rmtree(data / kept / "shop")
    with embedded.start(data, env=clean_environment()) as running:
        http = Http(running.endpoint)
        assert http.request("GET", f"{http.v3}/events", key="read_key").status == 503  # there is no other


def test_a_folder_of_somebody_else_among_the_tables_is_looked_into_by_nobody(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    place = Place(tmp_path)
    place.open("data").add_events("shop", [{"n": 1}])
    place.close()
    (tmp_path / "data" / "events" / "lost+found").mkdir()
    usual = Path.iterdir

    def closed(path: Path) -> Iterator[Path]:
        if path.name == "lost+found":
            raise PermissionError(13, "Permission denied", str(path))
        return usual(path)

    monkeypatch.setattr(Path, "iterdir", closed)
    again = place.open("data")
    assert (again.store.names(), n_of(again, "shop")) == (["shop"], [1])
    place.close()


@pytest.mark.parametrize("away", [3, 4])
def test_the_schemas_wait_for_few_collections_that_are_away(service: Service, monkeypatch: pytest.MonkeyPatch, away: int) -> None:
    usual, names, asked = service.store.snapshot, [f"away{n}" for n in range(away)], list[str]()

    def snapshot(name: str) -> Any:
        asked.append(name)
        if name in names:
            raise ServiceUnavailableError("the storage is away")
        return usual(name)

    async def run(lane: str, work: Any) -> Any:
        return work()

    monkeypatch.setattr(service.store, "names", lambda: [*names, "purchases"])
    monkeypatch.setattr(service.store, "snapshot", snapshot)
    call: Any = SimpleNamespace(service=service, run=run, version="v3", collection_url=str)
    with pytest.raises(ServiceUnavailableError) if away > MOST_AWAY else nullcontext():
        listed = json.loads(bytes(anyio.run(schemas, call).body))
        assert [one.get("error", {}).get("error_code") for one in listed] == ["ServiceUnavailableError"] * 3 + [None]
    assert len(asked) == 4


def test_lists_of_unique_values_are_put_together_by_few_threads(service: Service, monkeypatch: pytest.MonkeyPatch) -> None:
    calls, release = Calls(service), threading.Event()
    monkeypatch.setattr(analyses, "unique_values", lambda *_: (release.wait(60), [])[1])
    queries = f"/3.0/projects/{service.credentials.project_id}/queries"
    count, unique = (f"{queries}/{kind}?event_collection=purchases" for kind in ("count", "select_unique"))
    unique = f"{unique}&target_property=a"
    anyio.run(calls.beside, release, [("GET", unique)], [("GET", count)])  # eight of them took 2 GB
    assert calls.answered == [(count, 200), *[(unique, 200)] * 12]
