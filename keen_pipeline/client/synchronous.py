"""API v3.0 as if it had extractions to poll: its events come with the answer to one GET, which is sent when the file is landed.

Nothing is made at the service, so nothing can be lost or doubled there: a submission gets an id of our own, is complete at the next
poll, and may be landed again as often as need be.
"""

from __future__ import annotations

import secrets
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

from keen_pipeline.extraction import ExtractionRequest, RemoteExtraction, RemoteStatus
from keen_pipeline.ports import ResultsStream

MAX_EVENTS = 100_000
"""Of one synchronous extraction (Keen's documentation of v3.0); a request of more is split."""
READ_SECONDS = 330.0
"""Wait for the first byte of an answer: the service ends a query after 300 s."""
_PREFIX = "v3-"


def new_extraction_id() -> str:
    return _PREFIX + secrets.token_hex(12)


class CompleteExtractions(Mapping[str, RemoteExtraction]):
    """What a list of extractions would say: every id of `new_extraction_id` is complete, others are not known. Lists none."""

    def __getitem__(self, extraction_id: str) -> RemoteExtraction:
        """Raises KeyError for an id of v2.0."""
        if not extraction_id.startswith(_PREFIX):
            raise KeyError(extraction_id)
        return RemoteExtraction(extraction_id, RemoteStatus.COMPLETE)

    def __iter__(self) -> Iterator[str]:
        return iter(())

    def __len__(self) -> int:
        return 0


@dataclass(eq=False, repr=False)
class SynchronousResults:
    """The events of `request` (a ResultsSource), by `ask`; each `open` is a new query, from its beginning."""

    request: ExtractionRequest
    ask: Callable[[ExtractionRequest], ResultsStream]

    def __repr__(self) -> str:
        return f"SynchronousResults({self.request})"

    def open(self, *, offset: int = 0, validator: str | None = None) -> ResultsStream:
        """Ask for the events. Raises ExtractionTooLargeError, AuthenticationError, RetryableError, PermanentError."""
        return self.ask(self.request)
