"""Extractions whose POST was answered to nobody: found in the service's list, adopted where it tells what they are."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import timedelta
from threading import Lock

from keen_pipeline.extraction import RemoteExtraction
from keen_pipeline.lifecycle import Entry
from keen_pipeline.pipeline.context import Pipeline

# The service's clock and ours may differ by so much.
CLOCK_SLACK = timedelta(minutes=5)


class Orphans:
    """The extractions that no ledger entry knows, asked once a collection. Safe to share between threads."""

    def __init__(self, pipeline: Pipeline) -> None:
        self._pipeline = pipeline
        self._lock = Lock()
        self._unknown: dict[str, dict[str, RemoteExtraction]] = {}

    def find(self, entry: Entry) -> str | None:
        """The id of an extraction that an earlier POST of this intent made, each answered once; None where there is none.

        Raises what the list call raises: posting again without having looked could double the extraction.
        """
        assert entry.posted_at is not None
        with self._lock:
            unknown = self._of(entry.request.collection)
            for extraction_id, remote in unknown.items():
                if remote.is_of(entry.request, entry.posted_at, CLOCK_SLACK):
                    del unknown[extraction_id]
                    return extraction_id
        return None

    def _of(self, collection: str) -> dict[str, RemoteExtraction]:
        if collection not in self._unknown:
            listed: Mapping[str, RemoteExtraction] = self._pipeline.api.list_extractions(collection)
            known = self._pipeline.ledger.known(collection, list(listed))
            self._unknown[collection] = {key: remote for key, remote in listed.items() if key not in known}
        return self._unknown[collection]
