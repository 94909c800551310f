"""The protocols between the use cases and the world that have more than one implementer: the extraction API, results, time."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from datetime import datetime, timezone
from typing import Protocol

from keen_pipeline.extraction import ExtractionRequest, RemoteExtraction, SecretUrl
from keen_pipeline.filters import Filter
from keen_pipeline.timeframe import Timeframe


class Clock(Protocol):
    """Time, so that tests can own it."""

    def now(self) -> datetime:
        """The current instant, aware UTC."""
        ...

    def sleep(self, seconds: float) -> None:
        """Wait `seconds` (>= 0)."""
        ...


class SystemClock:
    """The machine's own time."""

    def now(self) -> datetime:
        """The current instant, aware UTC."""
        return datetime.now(timezone.utc)

    def sleep(self, seconds: float) -> None:
        """Wait `seconds` (>= 0)."""
        time.sleep(seconds)


class RateLimiter(Protocol):
    """The requests-per-minute budget, shared by every process that uses one ledger."""

    def acquire(self, *, timeout: float) -> None:
        """Take one request from the budget, waiting at most `timeout` seconds.

        Raises RateLimitedError (with `retry_after`) if none comes free in time.
        """
        ...

    def refuse_until(self, seconds: float) -> None:
        """The service refused a request (429): nobody sends another for `seconds`."""
        ...


class ResultsStream(Protocol):
    """The body of one HTTP answer to a results request. Use as a context manager; leaving it closes the connection.

    `start`: offset in the whole file of the first byte of this body (0, or the requested offset if the service honoured
    the range). `total`: length in bytes of the whole file, None if the service did not say. `validator`: a strong
    ETag for If-Range, None if it gave none. `encoding`: `identity` or `gzip` (Content-Encoding).
    """

    @property
    def start(self) -> int: ...
    @property
    def total(self) -> int | None: ...
    @property
    def validator(self) -> str | None: ...
    @property
    def encoding(self) -> str: ...

    def readinto(self, buffer: memoryview) -> int:
        """Fill `buffer` with up to its length of raw body bytes (before any content decoding); 0 at the body's end.

        Raises TransferError if the body ends before its announced length or the connection breaks.
        """
        ...

    def __enter__(self) -> ResultsStream: ...
    def __exit__(self, *exc_info: object) -> None: ...


class ResultsSource(Protocol):
    """Where a landing gets its bytes; knows how to come by a fresh results URL."""

    def open(self, *, offset: int = 0, validator: str | None = None) -> ResultsStream:
        """Request the results from byte `offset` (Range with If-Range `validator`).

        Raises TransferError, ServiceUnavailableError or RateLimitedError (retryable), PermanentError, ConfigurationError.
        An expired URL is renewed inside.
        """
        ...


class ExtractionApi(Protocol):
    """Keen's Data Extraction API. Every method may raise RetryableError, PermanentError or ConfigurationError."""

    def submit(self, request: ExtractionRequest) -> RemoteExtraction:
        """Create an extraction. NOT repeated after an ambiguous failure: the caller owns the intent."""
        ...

    def list_extractions(self, collection: str) -> Mapping[str, RemoteExtraction]:
        """Every extraction of the collection by id, in one request."""
        ...

    def get_extraction(self, collection: str, extraction_id: str) -> RemoteExtraction:
        """One extraction; carries a fresh results URL if it is complete."""
        ...

    def count(self, collection: str, timeframe: Timeframe | None, filters: Sequence[Filter] = ()) -> int:
        """The number of events that an extraction with the same arguments would hold."""
        ...

    def select_unique(
        self, collection: str, property_name: str, timeframe: Timeframe | None, filters: Sequence[Filter] = ()
    ) -> list[object]:
        """The unique values of a property."""
        ...

    def collections(self) -> list[str]:
        """The names of the project's event collections, sorted."""
        ...

    def property_types(self, collection: str) -> Mapping[str, str]:
        """Keen's type (`num`, `string`, `bool`, `datetime`, ...) by property; `string` for those that have several."""
        ...

    def open_results(self, url: SecretUrl, *, offset: int = 0, validator: str | None = None) -> ResultsStream:
        """Start the transfer of a result; ResultsExpiredError if the URL is no longer valid."""
        ...

    def results_of(self, request: ExtractionRequest, extraction_id: str, url: SecretUrl | None = None) -> ResultsSource:
        """The bytes of a complete extraction of `request`; `url` saves the first status request if it is known."""
        ...
