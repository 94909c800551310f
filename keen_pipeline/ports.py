"""The protocols between the use cases and the world: the extraction API, the ledger, the destination, the clock."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from datetime import datetime, timezone
from typing import BinaryIO, Protocol

from keen_pipeline.extraction import ExtractionRequest, Landing, MaskMethod, RemoteExtraction, SecretUrl, Status
from keen_pipeline.filters import Filter
from keen_pipeline.lifecycle import Entry, Limits
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

        Raises RateLimitedError (with `retry_after`) where none comes free in time.
        """
        ...

    def refuse_until(self, seconds: float) -> None:
        """The service refused a request (429): nobody sends another for `seconds`."""
        ...


class ResultsStream(Protocol):
    """The body of one HTTP answer to a results request. Use as a context manager; leaving it closes the connection.

    `start`: offset in the whole file of the first byte of this body (0, or the asked offset where the service honoured
    the range). `total`: length in bytes of the whole file, None where the service did not say. `validator`: a strong
    ETag or Last-Modified for If-Range, None where it gave none. `encoding`: `identity` or `gzip` (Content-Encoding).
    `delimited`: whether the end of the body can be told from a cut (Content-Length or chunked).
    """

    @property
    def start(self) -> int: ...
    @property
    def total(self) -> int | None: ...
    @property
    def validator(self) -> str | None: ...
    @property
    def encoding(self) -> str: ...
    @property
    def delimited(self) -> bool: ...

    def readinto(self, buffer: memoryview) -> int:
        """Fill `buffer` with up to its length of raw body bytes (before any content decoding); 0 at the body's end.

        Raises TransferError where the body ends before its announced length or the connection breaks.
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
        """One extraction; carries a fresh results URL where it is complete."""
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
        """Start the transfer of a result; ResultsExpiredError where the URL is no longer valid."""
        ...

    def results_of(self, request: ExtractionRequest, extraction_id: str, url: SecretUrl | None = None) -> ResultsSource:
        """The bytes of a complete extraction of `request`; `url` saves the first status request where it is known."""
        ...


class Destination(Protocol):
    """The configured place where files land whole or not at all."""

    @property
    def uri(self) -> str:
        """Root of the destination, without a trailing slash."""
        ...

    def land(
        self,
        source: ResultsSource,
        target: str,
        *,
        extraction_id: str,
        types: Mapping[str, str] | None = None,
        mask: Mapping[str, MaskMethod] | None = None,
        mask_key: bytes | None = None,
    ) -> Landing:
        """Download, verify, then publish the file at the URI `target` in one step (the old whole file or the new one).

        `types`: Keen's type by property. `mask`, with the key of its hashes: what is done to which columns before anything is
        written.
        Raises VerificationError (kept under `_quarantine/`), RetryableError where the transfer can't finish now.
        """
        ...

    def exists(self, target: str) -> int | None:
        """Size in bytes of the file at `target`, None where there is none."""
        ...

    def remove(self, target: str) -> None:
        """Remove the file at `target`; nothing where there is none."""
        ...

    def remove_leftovers(self) -> list[str]:
        """Remove what landings that died long ago have left; answers its URIs. Never a landed file."""
        ...

    def for_slices(self) -> Destination:
        """Where the slices of split extractions rest until they are put together, beside the landed files."""
        ...

    def open(self, target: str) -> AbstractContextManager[BinaryIO]:
        """A binary reader of the file as it is stored."""
        ...


@dataclass(frozen=True)
class Slice:
    """A part of a request's timeframe. `depth`: how often it was halved; `expected`: its count, None where not known."""

    request: ExtractionRequest
    depth: int
    expected: int | None


class Ledger(Protocol):
    """The durable history. Every method is one transaction; a change names the state it expects.

    `owner` is a caller's token for its claims (leases); a claim held by another raises LeaseLostError or leaves the entry
    out of the answer.
    """

    @property
    def clock(self) -> Clock:
        """The time of its instants: due times and leases are compared with no other."""
        ...

    def request(self, requests: Sequence[ExtractionRequest], *, force: bool = False, run_id: str | None = None) -> list[Requested]:
        """Journal intents, in order. An open or landed attempt of the same request is adopted instead of repeated,
        a landed one not where `force` is set."""
        ...

    def claim(self, entry_ids: Sequence[int], status: Status, owner: str, seconds: float) -> list[Entry]:
        """Take (or renew) the claim on those of `entry_ids` that are in `status` and that nobody else holds."""
        ...

    def release(self, entry_ids: Sequence[int], owner: str) -> None:
        """Give claims back; those of others stay."""
        ...

    def posting(self, entry_id: int, owner: str) -> None:
        """The POST is about to leave; raises LeaseLostError where the claim is gone."""
        ...

    def postpone(self, entry_id: int, owner: str, due_at: datetime, reason: str, *, ambiguous: bool = False) -> None:
        """Post again not before `due_at`: the POST had no effect or, where `ambiguous`, its answer was lost."""
        ...

    def submitted(self, entry_id: int, owner: str, extraction_id: str) -> Entry:
        """requested ▶ submitted."""
        ...

    def listed(self, collection: str, pending: Sequence[str]) -> None:
        """A list call has found these extractions of the collection unfinished."""
        ...

    def pending(self, collections: Sequence[str], seconds: float) -> Mapping[str, frozenset[str]]:
        """The unfinished extractions of those collections that anybody has listed within the last `seconds`."""
        ...

    def complete(self, entry_ids: Sequence[int]) -> list[Entry]:
        """submitted ▶ complete; answers those it moved."""
        ...

    def fail(
        self, entry_id: int, reason: str, *, owner: str | None = None, limits: Limits, jitter: float = 1.0, final: bool = False
    ) -> Entry | None:
        """An open attempt ▶ failed with the next attempt journalled, or ▶ abandoned. None where it had moved on already.

        The answer is the next attempt, or the abandoned entry. `final` leaves no further attempt.
        """
        ...

    def cancel(self, entry_ids: Sequence[int], reason: str) -> list[Entry]:
        """Open attempts ▶ cancelled; answers those it moved."""
        ...

    def landing_failed(self, entry_id: int, owner: str, reason: str, due_at: datetime) -> Entry:
        """Count a landing that can be tried again, not before `due_at`; the claim stays."""
        ...

    def known(self, collection: str, extraction_ids: Sequence[str]) -> set[str]:
        """Those of the service's extractions that an attempt of this ledger asked for."""
        ...

    def planned(self, entry_ids: Sequence[int], expected: int | None) -> None:
        """The service's count lets these intents be posted whole; `expected`: that count of each, None where not known."""
        ...

    def split(
        self, entry_id: int, slices: Sequence[Slice], reason: str, *, owner: str | None = None, expected: int | None = None
    ) -> list[Entry]:
        """requested, submitted or complete (v3.0 says only then what is too large) ▶ split, with an intent for each slice; a slice
        that is split again ▶ failed, and the new
        slices are its parent's. Answers the new entries, none where the entry had moved on."""
        ...

    def slices(self, parent_ids: Sequence[int]) -> Mapping[int, list[Entry]]:
        """For each split entry its slices in the order of time, without failed attempts."""
        ...

    def joined(self, entry_id: int, slices: int) -> Entry | None:
        """split ▶ complete: all its slices have landed. None where it had moved on."""
        ...

    def stale_slices(self) -> list[Entry]:
        """Landed slices of entries that need them no more."""
        ...

    def supersede(self, entry_ids: Sequence[int]) -> None:
        """landed ▶ superseded: the files are gone."""
        ...

    def landed_entries(self, collection: str) -> list[Entry]:
        """The valid landings of a collection in the order of time, without slices."""
        ...

    def landed_between(self, collection: str, start: datetime, end: datetime) -> list[Entry]:
        """The valid landings of a collection whose timeframe begins in [start, end), in the order of time, without slices."""
        ...

    def uncounted(self) -> list[Entry]:
        """Landed, not yet held against the service's count, and nobody's claim."""
        ...

    def counted(self, counts: Mapping[int, int | None]) -> list[Entry]:
        """Note the service's count of landed entries (None: it can't be had), and give claims on reported ones back."""
        ...

    def again(self, entry_id: int, *, limits: Limits, jitter: float = 1.0) -> Entry | None:
        """Journal the next attempt of a landed entry that is not whole; its file stays until the new one supersedes it.

        None where no attempt is left, or where the file is asked for already.
        """
        ...

    def landed(self, entry_id: int, owner: str, landing: Landing) -> Entry:
        """complete ▶ landed, with the proof; earlier landings of the same target ▶ superseded. Keeps the claim until reported."""
        ...

    def reported(self, entry_ids: Sequence[int]) -> None:
        """Dagster's event log knows of these landings or ends. Claims are given back, those on uncounted landings by `counted`."""
        ...

    def entries(self, entry_ids: Sequence[int]) -> list[Entry]:
        """Entries by id, ascending; unknown ids are left out."""
        ...

    def latest(self, requests: Sequence[ExtractionRequest]) -> list[Entry | None]:
        """For each request its newest attempt, None where there is none."""
        ...

    def open_entries(self, *, status: Status | None = None) -> list[Entry]:
        """All open attempts, or those in one status; oldest first."""
        ...

    def unreported(self) -> list[Entry]:
        """Landed or abandoned, not reported to Dagster, and nobody's claim."""
        ...

    def summary(self) -> LedgerSummary:
        """Counts by status, the oldest wait, and recent failures."""
        ...


@dataclass(frozen=True)
class Requested:
    """What became of one intent: the entry, and whether it was `created` now or adopted."""

    entry: Entry
    created: bool


@dataclass(frozen=True)
class LedgerSummary:
    """The ledger at a glance. `oldest_wait_seconds` is the age of the oldest open attempt, None where none is open."""

    counts: Mapping[Status, int]
    oldest_wait_seconds: float | None
    open: tuple[Entry, ...]
    failed: tuple[Entry, ...]
    unreported: int
    orphans: int
