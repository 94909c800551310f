"""A POST whose answer got lost, on a live service: the extraction is found in the list and adopted, not made twice."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, cast

import pytest

from keen_pipeline.client import KeenClient
from keen_pipeline.collection import Collection
from keen_pipeline.errors import ServiceUnavailableError
from keen_pipeline.extraction import ExtractionRequest, RemoteExtraction
from keen_pipeline.filters import Filter
from keen_pipeline.landing import FileDestination
from keen_pipeline.lifecycle import Limits
from keen_pipeline.partitions import partition_range
from keen_pipeline.pipeline import Landed, Pipeline, extract, partition_request
from keen_pipeline.ports import ExtractionApi, SystemClock
from keen_pipeline.testing import live_service, memory_ledger


@dataclass
class LosesAnswers:
    """The real API, but the answers to the first `lost` submissions don't arrive; `tells`: whether its list says what was asked."""

    api: KeenClient
    lost: int
    tells: bool = True

    def submit(self, request: ExtractionRequest) -> RemoteExtraction:
        made = self.api.submit(request)
        if self.lost:
            self.lost -= 1
            raise ServiceUnavailableError("the connection broke")
        return made

    def list_extractions(self, collection: str) -> Mapping[str, RemoteExtraction]:
        listed = self.api.list_extractions(collection)
        if self.tells:
            return listed
        return {key: replace(one, created_at=None, timeframe=None, filters=None) for key, one in listed.items()}

    def __getattr__(self, name: str) -> Any:
        return getattr(self.api, name)


@pytest.mark.parametrize(("tells", "extractions", "orphans"), [(True, 2, 0), (False, 4, 2)])
def test_an_extraction_that_nobody_was_told_of_is_adopted_where_the_service_says_what_it_is(
    tmp_path: Path, tells: bool, extractions: int, orphans: int
) -> None:
    collection = Collection("purchases", "2026-01-01", filters=(Filter("body:amount", "gt", 0.5), Filter("body:kind", "eq", "a")))
    with live_service() as end:
        keen = KeenClient(end.base_url, end.project_id, read_key=end.read_key, write_key=end.write_key)
        keen.add_events(
            {"purchases": [{"keen": {"timestamp": f"2026-01-0{d}T10:00:00Z"}, "amount": d, "kind": "a"} for d in (1, 2)]}
        )
        ledger = memory_ledger()
        api = cast("ExtractionApi", LosesAnswers(keen, 2, tells))
        pipeline = Pipeline(api, ledger, FileDestination(str(tmp_path)), Limits(retry_seconds=0.1), poll_seconds=0.1)
        days = partition_range(collection, "2026-01-01", "2026-01-02", SystemClock().now())
        events = list(extract(pipeline, [partition_request(collection, day, str(tmp_path)) for day in days]))
        landed = {e.entry.request.partition_key: e.entry.landing for e in events if isinstance(e, Landed)}
        assert {key: landing.records for key, landing in landed.items() if landing} == {"2026-01-01": 1, "2026-01-02": 1}
        assert len(keen.list_extractions("purchases")) == extractions
        assert ledger.summary().orphans == orphans
        keen.close()
