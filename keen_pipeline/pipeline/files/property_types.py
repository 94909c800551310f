"""Keen's types of properties: one schema request for all extractions that were complete by then.

A parquet file can't be written without them; of a CSV they only tell in the metadata and to the check of the schema what its
columns mean, so that one answer is good for a whole wait or run, and none holds nothing up.
"""

from __future__ import annotations

import logging
import threading
from collections import defaultdict
from collections.abc import Mapping
from datetime import datetime

from keen_pipeline.collection import Encoding
from keen_pipeline.errors import ConfigurationError, KeenPipelineError, PermanentError
from keen_pipeline.extraction import Landing
from keen_pipeline.lifecycle import Entry
from keen_pipeline.pipeline.context import Pipeline

_log = logging.getLogger(__name__)


class PropertyTypes:
    """What the schemas of collections say. Shared by the landings of one wait or run."""

    def __init__(self, pipeline: Pipeline) -> None:
        self._pipeline = pipeline
        # One each, so that a schema which is slow to come holds up no other collection.
        self._locks: defaultdict[str, threading.Lock] = defaultdict(threading.Lock)
        self._known: dict[str, tuple[datetime, Mapping[str, str]]] = {}
        self._earlier: dict[str, dict[str, str]] = {}

    def of(self, entry: Entry) -> Mapping[str, str]:
        """The type by property, of a parquet file as it was when the extraction was complete or later.

        For a parquet file it raises RetryableError, and ConfigurationError if the service does not tell; for a CSV the answer is
        empty then.
        """
        collection, is_parquet = entry.request.collection, entry.request.encoding is Encoding.PARQUET
        with self._locks[collection]:
            asked_at, types = self._known.get(collection, (None, {}))
            # An older schema may not know that one of the events has text if all others have a number.
            if asked_at is None or (is_parquet and (entry.completed_at is None or entry.completed_at > asked_at)):
                asked_at, types = self._pipeline.clock.now(), self._ask(collection, is_parquet)
                self._known[collection] = asked_at, types
        return types

    def earlier(self, entry: Entry) -> Mapping[str, str]:
        """Of a parquet file: the types that its columns have in the collection's landed files, the widest of each."""
        collection = entry.request.collection
        if entry.request.encoding is not Encoding.PARQUET:
            return {}
        with self._locks[collection]:
            if collection not in self._earlier:
                self._earlier[collection] = {}
                for landed in self._pipeline.ledger.landed_entries(collection):
                    if landed.landing is not None:
                        self._take_up(collection, landed.landing)
            return dict(self._earlier[collection])

    def landed(self, entry: Entry, landing: Landing) -> None:
        """One more file of the collection: what lands after it has no narrower types."""
        with self._locks[entry.request.collection]:
            if entry.request.collection in self._earlier:
                self._take_up(entry.request.collection, landing)

    def _take_up(self, collection: str, landing: Landing) -> None:
        from keen_pipeline.landing.parquet.types import wider

        known = self._earlier[collection]
        for name, kind in zip(landing.columns, landing.column_types, strict=False):
            known[name] = wider(known[name], kind) if name in known else kind

    def _ask(self, collection: str, is_parquet: bool) -> Mapping[str, str]:
        try:
            return self._pipeline.api.property_types(collection)
        except KeenPipelineError as error:
            if not is_parquet:
                _log.info("the types of the properties of %s are not known: %s", collection, error)
                return {}
            if not isinstance(error, PermanentError):
                raise
            raise ConfigurationError(
                f"{collection}: encoding parquet needs the types of its properties, and the service does not tell them: {error}; "
                "the finished extraction is kept; use encoding csv for this collection"
            ) from None
