"""What is asked for one collection, and is slow to come, holds up no landing of another."""

from __future__ import annotations

import threading
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from types import SimpleNamespace
from typing import Any, cast

import pytest

from keen_pipeline.collection import Collection, Encoding
from keen_pipeline.extraction import RemoteExtraction, Status
from keen_pipeline.pipeline import Landed, Pipeline, land, poll, post_due
from keen_pipeline.pipeline.files.property_types import PropertyTypes
from keen_pipeline.testing import FakeClock
from keen_pipeline_tests.ledgers import landing
from keen_pipeline_tests.pipeline.scripted import COMPLETE
from keen_pipeline_tests.pipeline.world import World


def entry_of(collection: str) -> Any:
    return SimpleNamespace(request=SimpleNamespace(collection=collection, encoding=Encoding.CSV), completed_at=None)


def test_a_schema_that_is_slow_to_come_holds_up_no_other_collection() -> None:
    asked, others_done = threading.Event(), threading.Event()

    def property_types(collection: str) -> Mapping[str, str]:
        if collection == "slow":
            asked.set()
            assert others_done.wait(20)
        return {"body:a": collection}

    api = SimpleNamespace(property_types=property_types)
    types = PropertyTypes(cast("Pipeline", SimpleNamespace(api=api, clock=FakeClock())))
    with ThreadPoolExecutor(1) as thread:
        slow = thread.submit(types.of, entry_of("slow"))
        assert asked.wait(20)
        assert types.of(entry_of("quick")) == {"body:a": "quick"}
        others_done.set()
        assert slow.result() == {"body:a": "slow"}


def test_landings_begin_while_the_list_of_another_collection_is_waited_for(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    requests = [world.requests(Collection(name, "2026-01-01"), 1)[0] for name in ("quick", "slow")]
    world.ledger.request(requests)
    world.api.answer = lambda made: COMPLETE
    with world.pipeline.working("the sensor") as worker:
        post_due(world.pipeline, world.ledger.open_entries(), worker.id)
        poll(world.pipeline, world.ledger.open_entries(), worker=worker.id)
    landed, lists, lands = threading.Event(), world.api.list_extractions, world.pipeline.destination.land

    def listed(collection: str) -> Mapping[str, RemoteExtraction]:
        assert collection == "quick" or landed.wait(20)
        return lists(collection)

    def landing(*args: Any, **options: Any) -> Any:
        proof = lands(*args, **options)
        landed.set()
        return proof

    monkeypatch.setattr(world.api, "list_extractions", listed)
    monkeypatch.setattr(world.pipeline.destination, "land", landing)
    complete = [entry.entry_id for entry in world.ledger.open_entries(status=Status.COMPLETE)]
    with world.pipeline.working("a run") as worker:
        assert len([one for one in land(world.pipeline, complete, worker) if isinstance(one, Landed)]) == 2


def test_a_column_is_as_wide_as_in_any_file_of_its_collection(world: World) -> None:
    [request] = world.requests(Collection("well", "2026-01-01", encoding=Encoding.PARQUET), 1)
    entry: Any = SimpleNamespace(request=request)
    files = {kind: replace(landing(), column_types=(kind, "string")) for kind in ("double", "string")}
    ledger: Any = SimpleNamespace(landed_entries=lambda _: [SimpleNamespace(landing=files["double"])])
    types = PropertyTypes(cast("Pipeline", SimpleNamespace(api=world.api, ledger=ledger, clock=world.clock)))
    assert types.earlier(entry) == {"a": "double", "b,c": "string"}
    for kind in ("string", "double"):
        types.landed(entry, files[kind])
        assert types.earlier(entry) == {"a": "string", "b,c": "string"}
