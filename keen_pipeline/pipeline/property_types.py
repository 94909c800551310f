"""Keen's types of properties: one schema request for all extractions that were complete by then.

A parquet file can't be written without them; of a CSV they only tell in the metadata and to the check of the schema what its
columns mean, so that one answer is good for a whole wait or run, and none holds nothing up.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Mapping
from datetime import datetime

from keen_pipeline.collection import Encoding
from keen_pipeline.errors import ConfigurationError, KeenPipelineError, PermanentError
from keen_pipeline.lifecycle import Entry
from keen_pipeline.pipeline.context import Pipeline

_log = logging.getLogger(__name__)


class PropertyTypes:
    """What the schemas of collections say. Shared by the landings of one wait or run."""

    def __init__(self, pipeline: Pipeline) -> None:
        self._pipeline = pipeline
        self._lock = threading.Lock()
        self._known: dict[str, tuple[datetime, Mapping[str, str]]] = {}

    def of(self, entry: Entry) -> Mapping[str, str]:
        """The type by property, of a parquet file as it was when the extraction was complete or later.

        For a parquet file it raises RetryableError, and ConfigurationError where the service does not tell; for a CSV the answer is
        empty then.
        """
        collection = entry.request.collection
        with self._lock:
            asked_at, types = self._known.get(collection, (None, {}))
            if entry.request.encoding is not Encoding.PARQUET:
                if asked_at is None:
                    asked_at, types = self._pipeline.clock.now(), self._ask_for_csv(collection)
                    self._known[collection] = asked_at, types
                return types
            # An older schema may not know that one of the events has text where all others have a number.
            if asked_at is None or entry.completed_at is None or entry.completed_at > asked_at:
                asked_at, types = self._pipeline.clock.now(), self._ask(collection)
                self._known[collection] = asked_at, types
        return types

    def _ask_for_csv(self, collection: str) -> Mapping[str, str]:
        try:
            return self._pipeline.api.property_types(collection)
        except KeenPipelineError as error:
            _log.info("the types of the properties of %s are not known: %s", collection, error)
            return {}

    def _ask(self, collection: str) -> Mapping[str, str]:
        try:
            return self._pipeline.api.property_types(collection)
        except PermanentError as error:
            raise ConfigurationError(
                f"{collection}: encoding parquet needs the types of its properties, and the service does not tell them: {error}; "
                "the finished extraction is kept; use encoding csv for this collection"
            ) from None
