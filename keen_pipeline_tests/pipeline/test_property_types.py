"""Schemas of several collections at once."""

from __future__ import annotations

import threading
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace
from typing import Any, cast

import pytest

from keen_pipeline.collection import Encoding
from keen_pipeline.pipeline import Pipeline
from keen_pipeline.pipeline.files.property_types import PropertyTypes
from keen_pipeline.testing import FakeClock


def entry_of(collection: str) -> Any:
    return SimpleNamespace(request=SimpleNamespace(collection=collection, encoding=Encoding.CSV), completed_at=None)


@pytest.mark.timeout(60)
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
