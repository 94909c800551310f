"""An extraction API whose faults a test scripts; everything else behind it is real."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from datetime import timedelta
from io import BytesIO

from keen_pipeline.client.renewal import RenewingResults
from keen_pipeline.errors import KeenPipelineError
from keen_pipeline.extraction import ExtractionRequest, RemoteExtraction, RemoteStatus, SecretUrl
from keen_pipeline.filters import Filter
from keen_pipeline.ports import ResultsSource, ResultsStream
from keen_pipeline.timeframe import Timeframe


class _Body:
    start = 0
    validator = None
    encoding = "identity"
    delimited = True

    def __init__(self, data: bytes) -> None:
        self.total = len(data)
        self._data = BytesIO(data)

    def readinto(self, buffer: memoryview) -> int:
        return self._data.readinto(buffer)

    def __enter__(self) -> ResultsStream:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self._data.close()


class ScriptedApi:
    """Extractions that complete at the second poll, with one event each, unless the test says otherwise.

    `counts`: events a day that the service counts.
    `on_submit` and `on_open` may raise; `status` answers for an extraction id at its nth poll (1-based).
    """

    def __init__(self) -> None:
        self.calls: Counter[str] = Counter()
        self.submitted: dict[str, ExtractionRequest] = {}
        self.polls: Counter[str] = Counter()
        self.on_submit: Callable[[int, ExtractionRequest], KeenPipelineError | None] = lambda number, request: None
        self.on_open: Callable[[int], KeenPipelineError | None] = lambda number: None
        self.status: Callable[[str, int], str] = lambda extraction_id, poll: "complete" if poll > 1 else "not started"
        self.body: Callable[[ExtractionRequest], bytes] = lambda request: b"body:day\r\n" + request.partition_key.encode() + b"\r\n"
        self.counts = 1

    def submit(self, request: ExtractionRequest) -> RemoteExtraction:
        self.calls["submit"] += 1
        error = self.on_submit(self.calls["submit"], request)
        if error is not None:
            raise error
        extraction_id = f"x{len(self.submitted) + 1}"
        self.submitted[extraction_id] = request
        return RemoteExtraction(extraction_id, RemoteStatus.PENDING)

    def list_extractions(self, collection: str) -> Mapping[str, RemoteExtraction]:
        self.calls["list"] += 1
        found = {}
        for extraction_id, request in self.submitted.items():
            if request.collection == collection:
                self.polls[extraction_id] += 1
                found[extraction_id] = self._remote(extraction_id)
        return found

    def _remote(self, extraction_id: str) -> RemoteExtraction:
        status = RemoteStatus.from_wire(self.status(extraction_id, self.polls[extraction_id]))
        url = SecretUrl(f"http://results.test/{extraction_id}?signature=s3cret") if status is RemoteStatus.COMPLETE else None
        return RemoteExtraction(extraction_id, status, url, "scripted" if status is RemoteStatus.FAILED else None)

    def get_extraction(self, collection: str, extraction_id: str) -> RemoteExtraction:
        self.calls["get"] += 1
        return self._remote(extraction_id)

    def count(self, collection: str, timeframe: Timeframe | None, filters: Sequence[Filter] = ()) -> int:
        self.calls["count"] += 1
        assert timeframe is not None
        return round(self.counts * (timeframe.duration / timedelta(days=1)))

    def select_unique(
        self, collection: str, property_name: str, timeframe: Timeframe | None, filters: Sequence[Filter] = ()
    ) -> list[object]:
        raise NotImplementedError

    def collections(self) -> list[str]:
        return ["purchases"]

    def property_types(self, collection: str) -> Mapping[str, str]:
        self.calls["types"] += 1
        return {"body:day": "string"}

    def open_results(self, url: SecretUrl, *, offset: int = 0, validator: str | None = None) -> ResultsStream:
        self.calls["open"] += 1
        error = self.on_open(self.calls["open"])
        if error is not None:
            raise error
        extraction_id = url.reveal().rsplit("/", 1)[1].split("?")[0]
        return _Body(self.body(self.submitted[extraction_id])[offset:])

    def results_of(self, request: ExtractionRequest, extraction_id: str, url: SecretUrl | None = None) -> ResultsSource:
        return RenewingResults(self, request.collection, extraction_id, url)
