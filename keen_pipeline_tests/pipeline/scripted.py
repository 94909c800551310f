"""A project in memory behind the `ExtractionApi`, whose answers a test scripts; ledger, destination and use cases are real."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from io import BytesIO
from threading import RLock
from typing import Any

from keen_pipeline.client.results.renewal import RenewingResults
from keen_pipeline.errors import ExtractionTooLargeError, KeenPipelineError
from keen_pipeline.extraction import Asked, ExtractionRequest, RemoteExtraction, RemoteStatus, SecretUrl
from keen_pipeline.filters import Filter
from keen_pipeline.ports import Clock, RateLimiter, ResultsSource, ResultsStream
from keen_pipeline.timeframe import Timeframe, format_instant

COLUMNS = "keen.timestamp,body:n"


@dataclass(frozen=True)
class Answer:
    """What the service says of an extraction in its list: `pending`, `complete`, `failed` (with `message`) or `absent`."""

    status: str
    message: str | None = None


COMPLETE, PENDING, ABSENT = Answer("complete"), Answer("not started"), Answer("absent")


@dataclass
class Made:
    """An extraction that the service has made. `number`: which POST of its partition it was, 1-based."""

    extraction_id: str
    request: ExtractionRequest
    number: int
    created_at: datetime
    polls: int = 0
    body: bytes | None = None


class Body:
    """A result as one whole answer."""

    start = 0
    validator = None
    encoding = "identity"

    def __init__(self, data: bytes) -> None:
        self.total = len(data)
        self._data = BytesIO(data)

    def readinto(self, buffer: memoryview) -> int:
        return self._data.readinto(buffer)

    def __enter__(self) -> ResultsStream:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self._data.close()


Fault = Callable[[str, str, int], KeenPipelineError | None]


@dataclass
class ScriptedKeen:
    """Events by collection, and extractions of them that complete at the second list call, unless the test says otherwise.

    `fault(call, collection, number)`: the error that the nth (1-based) `submit`, `list`, `get`, `count`, `types` or `open` of a
    collection meets. `made_anyway`: whether a POST that meets one has made an extraction all the same. `tells`: whether the list
    says what each extraction was asked for. `answer`: of the list, about one extraction. `body`: what is delivered instead of the
    right bytes. `limit`: of the events of one extraction. `limiter`: takes each call from a budget.
    """

    clock: Clock
    events: dict[str, list[tuple[datetime, int]]] = field(default_factory=dict)
    fault: Fault = lambda call, collection, number: None
    made_anyway: bool = False
    tells: bool = True
    answer: Callable[[Made], Answer] = lambda made: COMPLETE if made.polls > 1 else PENDING
    body: Callable[[Made, bytes], bytes] = lambda made, right: right
    limit: int | None = None
    limiter: RateLimiter | None = None
    limit_seconds: float = 120.0
    calls: Counter[tuple[str, str]] = field(default_factory=Counter)
    posts: Counter[tuple[str, str]] = field(default_factory=Counter)
    made: dict[str, Made] = field(default_factory=dict)
    counted: list[tuple[str, Timeframe | None, tuple[Filter, ...]]] = field(default_factory=list)
    emails: list[str | None] = field(default_factory=list)
    _lock: Any = field(default_factory=RLock)

    def add(self, collection: str, moment: datetime, n: int = 1) -> None:
        """One event."""
        self.events.setdefault(collection, []).append((moment, n))

    def rows(self, collection: str, timeframe: Timeframe | None, filters: Sequence[Filter]) -> list[tuple[datetime, int]]:
        """The events that an extraction holds, in the order of time."""
        found = [
            (moment, n)
            for moment, n in self.events.get(collection, [])
            if (timeframe is None or timeframe.start <= moment < timeframe.end) and all(_passes(n, one) for one in filters)
        ]
        return sorted(found)

    def csv(self, request: ExtractionRequest) -> bytes:
        """What Keen delivers for a request now."""
        rows = self.rows(request.collection, request.timeframe, request.filters)
        return "".join([f"{COLUMNS}\r\n", *(f"{format_instant(moment)},{n}\r\n" for moment, n in rows)]).encode()

    def count_of(self, call: str, collection: str) -> int:
        """How often something was called."""
        return self.calls[call, collection]

    def _called(self, call: str, collection: str) -> KeenPipelineError | None:
        if self.limiter is not None and call != "open":
            self.limiter.acquire(timeout=self.limit_seconds)
        with self._lock:
            self.calls[call, collection] += 1
            return self.fault(call, collection, self.calls[call, collection])

    def _raise(self, call: str, collection: str) -> None:
        error = self._called(call, collection)
        if error is not None:
            raise error

    def submit(self, request: ExtractionRequest) -> RemoteExtraction:
        error = self._called("submit", request.collection)
        with self._lock:
            self.posts[request.place] += 1
            self.emails.append(request.email)
            if error is not None and not self.made_anyway:
                raise error
            if self.limit is not None and len(self.rows(request.collection, request.timeframe, request.filters)) > self.limit:
                raise ExtractionTooLargeError(f"more than {self.limit} events")
            made = Made(f"x{len(self.made) + 1}", request, self.posts[request.place], self.clock.now())
            self.made[made.extraction_id] = made
            if error is not None:
                raise error
            return RemoteExtraction(made.extraction_id, RemoteStatus.PENDING)

    def list_extractions(self, collection: str) -> Mapping[str, RemoteExtraction]:
        self._raise("list", collection)
        found = {}
        with self._lock:
            for made in self.made.values():
                if made.request.collection == collection:
                    made.polls += 1
                    remote = self._remote(made)
                    if remote is not None:
                        found[made.extraction_id] = remote
        return found

    def _remote(self, made: Made) -> RemoteExtraction | None:
        said = self.answer(made)
        if said == ABSENT:
            return None
        status = RemoteStatus.from_wire(said.status)
        url = None
        if status is RemoteStatus.COMPLETE:
            made.body = made.body if made.body is not None else self.body(made, self.csv(made.request))
            url = SecretUrl(f"http://results.test/{made.extraction_id}?signature=s3cret")
        asked = Asked(made.created_at, made.request.timeframe, made.request.filters) if self.tells else None
        return RemoteExtraction(made.extraction_id, status, url, said.message, lambda: asked)

    def get_extraction(self, collection: str, extraction_id: str) -> RemoteExtraction:
        self._raise("get", collection)
        with self._lock:
            remote = self._remote(self.made[extraction_id])
        assert remote is not None
        return remote

    def count(self, collection: str, timeframe: Timeframe | None, filters: Sequence[Filter] = ()) -> int:
        self._raise("count", collection)
        self.counted.append((collection, timeframe, tuple(filters)))
        return len(self.rows(collection, timeframe, filters))

    def select_unique(
        self, collection: str, property_name: str, timeframe: Timeframe | None, filters: Sequence[Filter] = ()
    ) -> list[object]:
        raise NotImplementedError

    def collections(self) -> list[str]:
        return sorted(self.events)

    def property_types(self, collection: str) -> Mapping[str, str]:
        self._raise("types", collection)
        return {"keen.timestamp": "datetime", "body:n": "num"}

    def open_results(self, url: SecretUrl, *, offset: int = 0, validator: str | None = None) -> ResultsStream:
        made = self.made[url.reveal().rsplit("/", 1)[1].split("?")[0]]
        self._raise("open", made.request.collection)
        assert made.body is not None
        return Body(made.body[offset:])

    def results_of(self, request: ExtractionRequest, extraction_id: str, url: SecretUrl | None = None) -> ResultsSource:
        return RenewingResults(self, request.collection, extraction_id, url)


def _passes(n: int, condition: Filter) -> bool:
    match condition.operator.value:
        case "gt":
            return n > condition.property_value
        case "lt":
            return n < condition.property_value
        case _:
            return bool(n == condition.property_value)
