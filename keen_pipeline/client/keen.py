"""KeenClient: Keen's Data Extraction API (v2.0, or the synchronous one of v3.0) and the calls beside it, as methods."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any
from urllib.parse import quote

from keen_pipeline.client import synchronous, wire
from keen_pipeline.client.address import is_private_host, split_url
from keen_pipeline.client.connection import Connector, TimeLimits
from keen_pipeline.client.proxy import Proxies
from keen_pipeline.client.results.opening import ResultsOpener
from keen_pipeline.client.results.renewal import RenewingResults
from keen_pipeline.client.scrub import Credential, Scrubber
from keen_pipeline.client.transport import ApiTransport, check_base_url
from keen_pipeline.client.wire import Answer
from keen_pipeline.errors import ConfigurationError, InvalidInputError, RateLimitedError
from keen_pipeline.extraction import ExtractionRequest, RemoteExtraction, RemoteStatus, SecretUrl
from keen_pipeline.filters import Filter
from keen_pipeline.ports import Clock, RateLimiter, ResultsSource, ResultsStream, SystemClock
from keen_pipeline.timeframe import Timeframe

# Seconds a submission waits for the requests a minute. Short, so that its thread can be stopped; the caller comes again.
SUBMIT_BUDGET_WAIT = 1.0


class KeenClient:
    """HTTP to one project of a Keen service. Safe to share between threads; `close()` or `with` ends its connections.

    Time limits are seconds: `connect_timeout` for each connection, `read_timeout` for each wait for bytes, `total_timeout` for
    one call with its repetitions, `transfer_timeout` for one connection of a results transfer. `limiter`: every API request
    takes one from it first, a results transfer does not.
    `allow_private_results`: whether a results URL may lead to a private or loopback address; None allows it exactly when
    `base_url` itself names one (such an IP address, `localhost`, or a name no public one can be, as `keen-service`), whatever it
    resolves to. Link-local and other addresses that hand out a machine's credentials are never followed.
    `use_proxies`: whether HTTP_PROXY, HTTPS_PROXY, ALL_PROXY and NO_PROXY hold, for the API and for results. A proxy resolves the
    names itself: of what it fetches only the address or name in the URL can be checked.

    Every method raises ConfigurationError (AuthenticationError names the variable of the key), RetryableError or
    PermanentError of `keen_pipeline.errors`, and nothing else. An answer that is not the documented one, whatever its status, is an
    UnreadableAnswerError, which says nothing about an extraction. GETs are repeated inside, with bounds; a POST is repeated only
    when no connection came up.
    """

    def __init__(
        self,
        base_url: str,
        project_id: str,
        *,
        read_key: str | None,
        write_key: str | None = None,
        master_key: str | None = None,
        api_version: str = "2.0",
        connect_timeout: float = 10.0,
        read_timeout: float = 60.0,
        total_timeout: float = 120.0,
        transfer_timeout: float = 3600.0,
        limiter: RateLimiter | None = None,
        allow_private_results: bool | None = None,
        use_proxies: bool = True,
        clock: Clock | None = None,
    ) -> None:
        if api_version not in ("2.0", "3.0"):
            raise InvalidInputError(f"KEEN_API_VERSION: {api_version!r} is neither 2.0 nor 3.0", field="KEEN_API_VERSION")
        project_id = (project_id or "").strip()
        if not project_id:
            raise InvalidInputError("KEEN_PROJECT_ID is not set", field="KEEN_PROJECT_ID")
        if not project_id.isprintable():
            raise InvalidInputError("KEEN_PROJECT_ID holds a control character", field="KEEN_PROJECT_ID")
        self.project_id = project_id
        self.api_version = api_version
        self._read = Credential.checked("KEEN_READ_KEY", read_key)
        self._write = Credential.checked("KEEN_WRITE_KEY", write_key)
        self._master = Credential.checked("KEEN_MASTER_KEY", master_key)
        self.base_url, clock = check_base_url(base_url), clock or SystemClock()
        read_timeout = read_timeout if api_version == "2.0" else max(read_timeout, synchronous.READ_SECONDS)
        limits = TimeLimits(connect_timeout, read_timeout, total_timeout, transfer_timeout)
        connector = Connector(limits, Proxies(used=use_proxies))
        keys = (self._read.key, self._write.key, self._master.key)
        scrub = Scrubber((*keys, *connector.proxies.secrets))
        self._transport = ApiTransport(self.base_url, connector, limiter=limiter, clock=clock, scrub=scrub)
        if allow_private_results is None:
            allow_private_results = is_private_host(split_url(self.base_url)[1].host)
        self._results = ResultsOpener(self.base_url, self._read, connector, allow_private_results, clock, scrub)

    def __repr__(self) -> str:
        return f"KeenClient({self.base_url}, project {self.project_id}, v{self.api_version})"

    def __enter__(self) -> KeenClient:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the kept connections; the client can be used again."""
        self._transport.close()

    def submit(self, request: ExtractionRequest) -> RemoteExtraction:
        """Create an extraction. Never repeated after an ambiguous failure (ServiceUnavailableError, UnreadableAnswerError).

        The caller then asks `list_extractions` before it submits again. With v3.0 nothing is requested but a mail, if one
        is wanted.
        """
        if self.api_version == "3.0":
            return self._submit_v3(request)
        body = _selection(request.timeframe, request.filters)
        if request.email:
            body["email"] = request.email
        return self._submit(self._path("2.0", request.collection, "_extract"), body, wire.read_extraction, f"submit of {request}")

    def _submit_v3(self, request: ExtractionRequest) -> RemoteExtraction:
        if request.email:
            body = {**self._query_of(request), "email": request.email}
            self._submit(self._query("extraction"), body, _anything, f"mail of {request}")
        return RemoteExtraction(synchronous.new_extraction_id(), RemoteStatus.PENDING)

    def _submit(self, path: str, body: Mapping[str, Any], read: wire.Reader[Answer], action: str) -> Answer:
        return self._transport.post(path, body, read, self._subject(action), self._read, budget_wait=SUBMIT_BUDGET_WAIT)

    def list_extractions(self, collection: str) -> Mapping[str, RemoteExtraction]:
        """Every extraction of the collection by id, in one request; with v3.0 without one, as nothing waits there."""
        if self.api_version == "3.0":
            return synchronous.CompleteExtractions()
        path = self._path("2.0", collection, "_extract")
        return self._get(path, wire.read_extractions, f"list of extractions of {collection}")

    def get_extraction(self, collection: str, extraction_id: str) -> RemoteExtraction:
        """One extraction, with a fresh results URL if it is complete. Raises ConfigurationError with v3.0, which has none."""
        if self.api_version == "3.0":
            raise ConfigurationError("KEEN_API_VERSION is 3.0, which has no id to poll: the status of an extraction needs 2.0")
        path = self._path("2.0", collection, "_extract", extraction_id)
        return self._get(path, wire.read_extraction, f"status of extraction {extraction_id} of {collection}")

    def count(self, collection: str, timeframe: Timeframe | None, filters: Sequence[Filter] = ()) -> int:
        """The number of events that an extraction with the same arguments would hold."""
        return self._analysis(collection, "count", wire.read_count, timeframe, filters, {})

    def select_unique(
        self, collection: str, property_name: str, timeframe: Timeframe | None, filters: Sequence[Filter] = ()
    ) -> list[object]:
        """The unique values of a property, as JSON values, in the service's order."""
        # v2.0 takes a JSON array of one name, v3.0 the name itself.
        extra = {"distinct_property": [property_name]} if self.api_version == "2.0" else {"target_property": property_name}
        return self._analysis(collection, "select_unique", wire.read_values, timeframe, filters, extra)

    def collections(self) -> list[str]:
        """The names of the project's event collections, sorted."""
        path = self._path("2.0") if self.api_version == "2.0" else self._path("3.0", "events")
        return self._get(path, wire.read_collections, "list of collections")

    def property_types(self, collection: str) -> Mapping[str, str]:
        """Keen's type by property of a collection (nulls aside); with v2.0 `string` for those that have several."""
        if self.api_version == "3.0":
            return self._get(self._path("3.0", "events", collection), wire.read_schema, f"schema of {collection}")
        return self._get(self._path("2.0", collection), wire.read_property_types, f"schema of {collection}")

    def add_events(self, events: Mapping[str, Sequence[Mapping[str, Any]]]) -> dict[str, list[str | None]]:
        """Store a batch of events by collection (v3.0 form, at most 10 MB, write key).

        Returns for each collection and event, in order, None if it was stored, else the service's reason.
        Not repeated after an ambiguous failure: some of the batch may have been stored.
        """
        number = sum(len(batch) for batch in events.values())
        path = self._path("3.0", "events")
        body = {name: list(batch) for name, batch in events.items()}
        return self._transport.post(path, body, wire.read_outcomes, self._subject(f"load of {number} events"), self._write)

    def ping(self) -> None:
        """Ask the service's root resource: raises ServiceUnavailableError or UnreadableAnswerError when no Keen service answers.

        The key need not be right for it, but must be set.
        """
        self._get("/", _anything, "reaching the service")

    def open_results(self, url: SecretUrl, *, offset: int = 0, validator: str | None = None) -> ResultsStream:
        """Start the transfer of a result from byte `offset` (Range, with If-Range `validator`).

        Raises ResultsExpiredError when the URL is no longer valid (401, 403, 404, 410), ConfigurationError when it points
        to an address that is not allowed, TransferError, ServiceUnavailableError or RateLimitedError.
        """
        return self._results.open(url, offset=offset, validator=validator)

    def results_of(self, request: ExtractionRequest, extraction_id: str, url: SecretUrl | None = None) -> ResultsSource:
        """The bytes of a complete extraction of `request`; `url` saves the first status request when it is known."""
        if self.api_version == "3.0":
            return synchronous.SynchronousResults(request, self._extract_now)
        return RenewingResults(self, request.collection, extraction_id, url)

    def _extract_now(self, request: ExtractionRequest) -> ResultsStream:
        subject = self._subject(f"extraction of {request}")
        url = self._transport.url(self._query("extraction"), {**self._query_of(request), "content_type": "text/csv"})
        self._transport.take_one()
        try:
            return self._results.open(SecretUrl(url), offset=0, validator=None, subject=subject)
        except RateLimitedError as error:
            self._transport.rest(error.retry_after)
            raise

    def _query_of(self, request: ExtractionRequest) -> dict[str, Any]:
        return {"event_collection": request.collection, **_selection(request.timeframe, request.filters)}

    def _get(self, path: str, read: wire.Reader[Answer], action: str, params: Mapping[str, Any] | None = None) -> Answer:
        return self._transport.get(path, read, self._subject(action), self._read, params or {})

    def _analysis(
        self,
        collection: str,
        kind: str,
        read: wire.Reader[Answer],
        timeframe: Timeframe | None,
        filters: Sequence[Filter],
        extra: Mapping[str, Any],
    ) -> Answer:
        params = {**extra, **_selection(timeframe, filters)}
        if self.api_version == "2.0":
            path = self._path("2.0", collection, f"_{kind}")
        else:
            path = self._query(kind)
            params["event_collection"] = collection
        return self._get(path, read, f"{kind} of {collection}", params)

    def _query(self, kind: str) -> str:
        return self._path("3.0", "queries", kind)

    def _path(self, version: str, *parts: str) -> str:
        return "/".join([f"/{version}/projects", _part(self.project_id), *map(_part, parts)])

    def _subject(self, action: str) -> str:
        return f"{action} (project {self.project_id})"


def _selection(timeframe: Timeframe | None, filters: Sequence[Filter]) -> dict[str, Any]:
    selected: dict[str, Any] = {"filters": [one.to_wire() for one in filters]}
    return selected if timeframe is None else {**selected, "timeframe": timeframe.to_wire()}


def _anything(answer: Any, clean: wire.Clean) -> None:
    """Takes any JSON for an answer."""


def _part(text: str) -> str:
    """One path segment: a name can never reach into another one."""
    if text in ("", ".", ".."):
        raise InvalidInputError(f"{text!r} can't be part of a URL's path", field="path")
    try:
        return quote(text, safe="")
    except UnicodeError:
        raise InvalidInputError(f"{text!a} can't be part of a URL's path", field="path") from None
