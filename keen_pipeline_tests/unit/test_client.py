"""KeenClient against a real web server on loopback: the wire forms, the answers in every reading, the errors."""

from __future__ import annotations

import gzip
import json
from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import datetime, timedelta, timezone
from email.utils import format_datetime
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from keen_pipeline.client import KeenClient, transport
from keen_pipeline.errors import (
    AuthenticationError,
    ConfigurationError,
    ExtractionTooLargeError,
    InvalidInputError,
    KeenPipelineError,
    NotFoundError,
    PaymentRequiredError,
    RateLimitedError,
    RequestRejectedError,
    ServiceUnavailableError,
    UnreadableAnswerError,
)
from keen_pipeline.extraction import ExtractionRequest, RemoteStatus, SecretUrl
from keen_pipeline.filters import Filter
from keen_pipeline.timeframe import Timeframe
from keen_pipeline_tests import faults
from keen_pipeline_tests.faults import FaultServer, Request, document, status

UTC = timezone.utc
READ, WRITE = "read-key-77aa", "write-key-88bb"
DAY = Timeframe(datetime(2026, 1, 1, tzinfo=UTC), datetime(2026, 1, 2, tzinfo=UTC))
AMOUNT = Filter("body:amount", "gt", 3.5)
REQUEST = ExtractionRequest("purchases", DAY, "2026-01-01", "/x/purchases/2026-01-01.csv", (AMOUNT,), "alert@keen.io")
PENDING = {"_id": "e1", "status": "not started"}
COMPLETE = {"_id": "e2", "status": "complete", "results_url": "https://results.example/f.csv?signature=s3cr3t"}


class QuickClock:
    """Real time, but nobody sleeps: `slept` holds the seconds asked for."""

    def __init__(self) -> None:
        self.slept: list[float] = []

    def now(self) -> datetime:
        return datetime.now(UTC)

    def sleep(self, seconds: float) -> None:
        self.slept.append(seconds)


class Budget:
    """A limiter that notes what the client asks and tells it."""

    def __init__(self) -> None:
        self.acquired = 0
        self.refused: list[float] = []

    def acquire(self, *, timeout: float) -> None:
        assert timeout > 0
        self.acquired += 1

    def refuse_until(self, seconds: float) -> None:
        self.refused.append(seconds)


@pytest.fixture
def server() -> Iterator[FaultServer]:
    with FaultServer() as running:
        yield running


@pytest.fixture
def clock() -> QuickClock:
    return QuickClock()


@pytest.fixture
def budget() -> Budget:
    return Budget()


@pytest.fixture
def client(server: FaultServer, clock: QuickClock, budget: Budget) -> Iterator[KeenClient]:
    with KeenClient(server.url, "P1", read_key=READ, write_key=WRITE, read_timeout=1, clock=clock, limiter=budget) as made:
        yield made


@pytest.fixture(scope="module")
def api() -> Iterator[tuple[FaultServer, KeenClient]]:
    with FaultServer() as running, KeenClient(running.url, "P1", read_key=READ, write_key=WRITE, clock=QuickClock()) as made:
        yield running, made


def query(request: Request) -> dict[str, Any]:
    return {name: values[0] for name, values in parse_qs(urlsplit(request.target).query).items()}


CALLS: dict[str, Callable[[KeenClient], object]] = {
    "submit": lambda c: c.submit(REQUEST),
    "list": lambda c: c.list_extractions("purchases"),
    "get": lambda c: c.get_extraction("purchases", "e1"),
    "count": lambda c: c.count("purchases", DAY),
    "select_unique": lambda c: c.select_unique("purchases", "body:user", DAY),
    "collections": lambda c: c.collections(),
    "property_types": lambda c: c.property_types("purchases"),
    "add_events": lambda c: c.add_events({"purchases": [{"a": 1}]}),
    "check_key": lambda c: c.check_key(),
}
GETS = {name: call for name, call in CALLS.items() if name not in ("submit", "add_events")}


def test_submit_sends_the_seeds_form(client: KeenClient, server: FaultServer) -> None:
    server.api = [document(PENDING)]
    remote = client.submit(REQUEST)
    assert (remote.extraction_id, remote.status, remote.results_url) == ("e1", RemoteStatus.PENDING, None)
    (request,) = server.requests
    assert (request.method, request.target) == ("POST", "/2.0/projects/P1/purchases/_extract")
    assert request.headers["authorization"] == READ
    assert request.headers["content-type"] == "application/json"
    assert json.loads(request.body) == {
        "filters": [{"property_name": "body:amount", "operator": "gt", "property_value": 3.5}],
        "timeframe": {"start": "2026-01-01T00:00:00Z", "end": "2026-01-02T00:00:00Z"},
        "email": "alert@keen.io",
    }


def test_submit_without_filters_and_email_sends_an_empty_list(client: KeenClient, server: FaultServer) -> None:
    server.api = [document(PENDING)]
    client.submit(ExtractionRequest("purchases", DAY, "2026-01-01", "/x/purchases/2026-01-01.csv"))
    assert json.loads(server.requests[0].body)["filters"] == []
    assert "email" not in json.loads(server.requests[0].body)


def test_submit_may_be_complete_at_once(client: KeenClient, server: FaultServer) -> None:
    server.api = [document(COMPLETE)]
    remote = client.submit(REQUEST)
    assert remote.status is RemoteStatus.COMPLETE
    assert remote.results_url is not None
    assert remote.results_url.reveal() == COMPLETE["results_url"]
    assert "s3cr3t" not in repr(remote)


@pytest.mark.parametrize("wrap", [lambda x: x, lambda x: {"results": x}, lambda x: {"result": x}])
def test_list_is_read_in_every_form(client: KeenClient, server: FaultServer, wrap: Callable[[Any], Any]) -> None:
    server.api = [
        document(wrap([PENDING, COMPLETE, {"_id": 3, "status": "failed", "message": "disk"}, {"_id": "4", "status": "brewing"}]))
    ]
    found = client.list_extractions("purchases")
    assert {name: one.status.value for name, one in found.items()} == {
        "e1": "pending",
        "e2": "complete",
        "3": "failed",
        "4": "pending",
    }
    assert found["3"].message == "disk"
    assert server.requests[0].target == "/2.0/projects/P1/purchases/_extract"


def test_one_extraction(client: KeenClient, server: FaultServer) -> None:
    server.api = [document(COMPLETE)]
    assert client.get_extraction("a b/c", "e2").extraction_id == "e2"
    assert server.requests[0].target == "/2.0/projects/P1/a%20b%2Fc/_extract/e2"


@pytest.mark.parametrize("answer", [{"result": 5}, {"results": 5}, {"result": 5.0}])
def test_count(client: KeenClient, server: FaultServer, answer: object) -> None:
    server.api = [document(answer)]
    assert client.count("purchases", DAY, [AMOUNT]) == 5
    (request,) = server.requests
    assert urlsplit(request.target).path == "/2.0/projects/P1/purchases/_count"
    assert {name: json.loads(value) for name, value in query(request).items()} == {
        "filters": [AMOUNT.to_wire()],
        "timeframe": DAY.to_wire(),
    }


def test_unique_values(client: KeenClient, server: FaultServer) -> None:
    server.api = [document({"results": ["a", None, 3]})]
    assert client.select_unique("purchases", "body:user:email", None) == ["a", None, 3]
    sent = query(server.requests[0])
    assert json.loads(sent["distinct_property"]) == ["body:user:email"]
    assert "timeframe" not in sent


def test_version_3_forms(server: FaultServer) -> None:
    server.api = [document({"result": 7}), document({"result": ["x"]}), document([{"name": "b"}, {"name": "a"}])]
    client = KeenClient(server.url + "/", "P1", read_key=READ, api_version="3.0")
    assert client.count("purchases", DAY) == 7
    assert client.select_unique("purchases", "user.email", DAY) == ["x"]
    assert client.collections() == ["a", "b"]
    counted, unique, schemas = server.requests
    assert urlsplit(counted.target).path == "/3.0/projects/P1/queries/count"
    assert query(counted)["event_collection"] == "purchases"
    assert query(unique)["target_property"] == "user.email"
    assert schemas.target == "/3.0/projects/P1/events"
    with pytest.raises(ConfigurationError, match=r"KEEN_API_VERSION is 3\.0"):
        client.get_extraction("purchases", "e1")


def test_version_3_extracts_with_one_query_that_its_refusals_explain(server: FaultServer) -> None:
    client = KeenClient(server.url, "P1", read_key=READ, api_version="3.0")
    made = client.submit(replace(REQUEST, email=None))
    assert server.requests == []
    assert client.list_extractions("purchases")[made.extraction_id].status is RemoteStatus.COMPLETE
    assert "e1" not in client.list_extractions("purchases")
    server.api = [
        status(400, b'{"message": "the extraction is too large", "error_code": "ExtractionTooLargeError"}'),
        status(504, b""),
        status(429, b""),
    ]
    for error in (ExtractionTooLargeError, ExtractionTooLargeError, RateLimitedError):
        with pytest.raises(error, match="extraction of purchases"):
            client.results_of(REQUEST, made.extraction_id).open()
    asked = server.requests[0]
    assert asked.headers["authorization"] == READ
    assert query(asked)["content_type"] == "text/csv"
    assert json.loads(query(asked)["timeframe"]) == REQUEST.timeframe.to_wire()


def test_version_3_passes_a_mail_address_on(server: FaultServer) -> None:
    server.api = [document({"result": "Processing."})]
    client = KeenClient(server.url, "P1", read_key=READ, api_version="3.0")
    client.submit(replace(REQUEST, email="nightly@example.com"))
    [asked] = server.requests
    assert (asked.method, urlsplit(asked.target).path) == ("POST", "/3.0/projects/P1/queries/extraction")
    assert json.loads(asked.body)["email"] == "nightly@example.com"


def test_collections(client: KeenClient, server: FaultServer) -> None:
    server.api = [
        document(
            {"api_key": "x", "_id": "P1", "collections": [{"url": "/u", "name": "pageviews"}, {"url": "/u", "name": "logins"}]}
        )
    ]
    assert client.collections() == ["logins", "pageviews"]
    assert server.requests[0].target == "/2.0/projects/P1"


def test_property_of_several_types_is_text(client: KeenClient, server: FaultServer) -> None:
    inferred = {"body:amount": "num", "body:mixed": "num", "body:plain": "string", "body:sometimes": "bool"}
    appearances = {
        "body:amount": {"num": 7, "string": 0},
        "body:mixed": {"num": 6, "string": 1},
        "body:sometimes": {"bool": 1, "null": 6},
    }
    properties = {name: {"num_appearances": 7, "type_appearances": counts} for name, counts in appearances.items()}
    server.api = [document({"inferred_property_types": inferred, "properties": properties})]
    assert client.property_types("purchases") == inferred | {"body:mixed": "string"}
    assert server.requests[0].target == "/2.0/projects/P1/purchases"


def test_batch_of_events_goes_with_the_write_key(client: KeenClient, server: FaultServer) -> None:
    refused = {"success": False, "error": {"name": "BadName", "description": "no dots"}}
    server.api = [document({"purchases": [{"success": True}, refused]})]
    assert client.add_events({"purchases": [{"a": 1}, {"b.c": 2}]}) == {"purchases": [None, "BadName: no dots"]}
    (request,) = server.requests
    assert (request.method, request.target) == ("POST", "/3.0/projects/P1/events")
    assert request.headers["authorization"] == WRITE
    assert json.loads(request.body) == {"purchases": [{"a": 1}, {"b.c": 2}]}


@pytest.mark.parametrize("name", CALLS)
def test_missing_key_is_named_and_nothing_is_sent(name: str, server: FaultServer) -> None:
    variable = "KEEN_WRITE_KEY" if name == "add_events" else "KEEN_READ_KEY"
    with pytest.raises(AuthenticationError, match=rf"P1.*{variable} is not set"):
        CALLS[name](KeenClient(server.url, "P1", read_key=None))
    assert server.requests == []


@pytest.mark.parametrize("name", CALLS)
@pytest.mark.parametrize("code", [401, 403])
def test_wrong_key_is_named_on_one_line(name: str, code: int, client: KeenClient, server: FaultServer) -> None:
    variable = "KEEN_WRITE_KEY" if name == "add_events" else "KEEN_READ_KEY"
    server.api = [
        document({"message": f"Specified API Key {READ}\n is {WRITE} invalid.", "error_code": "InvalidApiKeyError"}, code)
    ]
    with pytest.raises(AuthenticationError) as raised:
        CALLS[name](client)
    text = str(raised.value)
    assert variable in text
    assert "P1" in text
    assert f"HTTP {code} InvalidApiKeyError" in text
    assert "\n" not in text
    assert READ not in text
    assert WRITE not in text
    assert len(server.requests) == 1


@pytest.mark.parametrize(
    ("code", "answer", "error"),
    [
        (402, {"message": "Upgrade", "error_code": "PaymentRequired"}, PaymentRequiredError),
        (404, {"message": "No such collection", "error_code": "ResourceNotFoundError"}, NotFoundError),
        (400, {"message": "Bad filter", "error_code": "InvalidFilter"}, RequestRejectedError),
        (422, {"message": "Unprocessable"}, RequestRejectedError),
        (413, {"message": "Payload"}, ExtractionTooLargeError),
        (400, {"message": "The extraction is too large: 12,000,000 events", "error_code": "X"}, ExtractionTooLargeError),
        (422, {"message": "no", "error_code": "ExtractionTooLargeError"}, ExtractionTooLargeError),
        (400, {"message": "Extractions exceed the maximum number of events"}, ExtractionTooLargeError),
    ],
)
def test_refusal_is_one_error_with_the_services_words(
    code: int, answer: dict[str, str], error: type[KeenPipelineError], client: KeenClient, server: FaultServer
) -> None:
    server.api = [document(answer, code)]
    with pytest.raises(error) as raised:
        client.submit(REQUEST)
    assert answer["message"] in str(raised.value)
    assert "purchases[2026-01-01]" in str(raised.value)
    assert len(server.requests) == 1
    if isinstance(raised.value, RequestRejectedError):
        assert raised.value.status == code


def test_page_instead_of_an_error_document_is_quoted_in_short(client: KeenClient, server: FaultServer) -> None:
    server.api = [status(400, b"<html>" + b"x" * 5000)]
    with pytest.raises(UnreadableAnswerError) as raised:
        client.submit(REQUEST)
    assert len(str(raised.value)) < 700
    assert len(server.requests) == 1


@pytest.mark.parametrize(
    ("header", "expected"),
    [
        ("7", 7.0),
        ("0", 0.0),
        ("99999999", 3600.0),
        ("-5", 0.0),
        ("soon", 60.0),
        (None, 60.0),
    ],
)
def test_429_tells_the_limiter(
    header: str | None, expected: float, client: KeenClient, server: FaultServer, budget: Budget
) -> None:
    server.api = [status(429, b'{"message": "slow down"}', **({"Retry_After": header} if header is not None else {}))]
    with pytest.raises(RateLimitedError) as raised:
        client.submit(REQUEST)
    assert raised.value.retry_after == expected
    assert budget.refused == [expected]
    assert len(server.requests) == 1


def test_429_with_a_date(client: KeenClient, server: FaultServer, budget: Budget) -> None:
    server.api = [status(429, Retry_After=format_datetime(datetime.now(UTC) + timedelta(seconds=90), usegmt=True))]
    with pytest.raises(RateLimitedError) as raised:
        client.submit(REQUEST)
    assert raised.value.retry_after == pytest.approx(90, abs=5)
    assert budget.refused == [raised.value.retry_after]


@pytest.mark.parametrize("name", GETS)
def test_get_is_repeated_with_growing_waits(
    name: str, client: KeenClient, server: FaultServer, clock: QuickClock, budget: Budget
) -> None:
    server.api = [status(500), status(503, Retry_After="7"), faults.reset_at_once(), status(502)]
    with pytest.raises(ServiceUnavailableError):
        GETS[name](client)
    assert len(server.requests) == transport.MOST_TRIES == budget.acquired
    first, second, third = clock.slept
    assert 0.25 <= first <= 0.5
    assert second == 7
    assert 1.0 <= third <= 2.0


def test_get_recovers(client: KeenClient, server: FaultServer) -> None:
    server.api = [faults.stall_before_headers(), status(503), document({"result": 1})]
    assert client.count("purchases", DAY) == 1


def test_get_gives_up_where_the_wish_of_the_service_is_longer_than_the_time_limit(
    client: KeenClient, server: FaultServer, clock: QuickClock
) -> None:
    server.api = [status(429, Retry_After="600")]
    with pytest.raises(RateLimitedError):
        client.count("purchases", DAY)
    assert len(server.requests) == 1
    assert clock.slept == []


@pytest.mark.parametrize("name", ["submit", "add_events"])
@pytest.mark.parametrize(
    "fault",
    [status(500), status(503), status(504), faults.reset_at_once(), faults.stall_before_headers(), status(408)],
    ids=["500", "503", "504", "reset", "stall", "408"],
)
def test_post_is_never_repeated_after_an_ambiguous_failure(
    name: str, fault: faults.Behaviour, client: KeenClient, server: FaultServer
) -> None:
    server.api = [fault, document(PENDING)]
    with pytest.raises(ServiceUnavailableError):
        CALLS[name](client)
    assert len(server.requests) == 1


def test_post_never_meets_a_kept_connection_that_is_about_to_close(client: KeenClient, server: FaultServer) -> None:
    server.api = [status(200, b'{"result": 1}', Connection="keep-alive"), document(PENDING)] * 20
    for _ in range(20):
        client.count("purchases", DAY)
        client.submit(REQUEST)


def test_post_is_repeated_where_no_connection_came_up(clock: QuickClock) -> None:
    with FaultServer() as gone:
        url = gone.url
    client = KeenClient(url, "P1", read_key=READ, clock=clock)
    with pytest.raises(ServiceUnavailableError, match="no connection to 127"):
        client.submit(REQUEST)
    assert len(clock.slept) == transport.MOST_TRIES - 1


@pytest.mark.parametrize(
    ("name", "answer"),
    [
        ("submit", b"Processing."),
        ("submit", b"[]"),
        ("submit", b'{"status": "not started"}'),
        ("submit", b'{"_id": "e1"}'),
        ("submit", b'{"_id": true, "status": "x"}'),
        ("get", b'{"_id": "e1", "status": "complete"}'),
        ("get", b'{"_id": "e1", "status": "complete", "results_url": 5}'),
        ("list", b'{"nothing": []}'),
        ("list", b'{"results": [5]}'),
        ("list", b"{}"),
        ("list", b"null"),
        ("list", b"[null, null]"),
        ("list", b'[{"_id": "e1", "status": "complete"'),
        ("list", b'[{"_id": "e1", "status": "complete"}, {"status": "complete"}]'),
        ("list", b"<html>maintenance</html>"),
        ("list", b'{"error": "down"}'),
        ("list", b'[{"_id": "e\\u0000", "status": "x"}]'),
        ("list", b'[{"_id": "e\\ud800", "status": "x"}]'),
        ("list", b'[{"_id": "' + b"e" * 257 + b'", "status": "x"}]'),
        ("get", b'{"_id": "e1", "status": "complete", "results_url": "ftp://x/y"}'),
        ("get", b'{"_id": "e1", "status": "complete", "results_url": "https://[::1"}'),
        ("count", b'{"result": 1e400}'),
        ("count", b'{"result": 1' + b"0" * 5000 + b"}"),
        ("count", b'{"result": 9223372036854775808}'),
        ("count", b'{"result": null}'),
        ("property_types", b'{"inferred_property_types": [1]}'),
        ("collections", b'{"collections": {"a": 1}}'),
        ("select_unique", b"[]"),
        ("count", b'{"result": "5"}'),
        ("count", b'{"result": -1}'),
        ("count", b'{"result": true}'),
        ("count", b'{"result": 1.5}'),
        ("count", b'{"result": NaN}'),
        ("select_unique", b'{"result": {}}'),
        ("collections", b'{"collections": [{"url": "x"}]}'),
        ("collections", b"null"),
        ("property_types", b'{"properties": {}}'),
        ("property_types", b'{"inferred_property_types": {"body:a": 5}}'),
        ("add_events", b'{"purchases": 5}'),
        ("count", b"\xff\xfe"),
        ("count", b"[" * 100_000),
        ("count", b""),
    ],
)
def test_undocumented_answer_is_unreadable(name: str, answer: bytes, client: KeenClient, server: FaultServer) -> None:
    server.api = [status(200, answer)]
    with pytest.raises(UnreadableAnswerError, match="P1"):
        CALLS[name](client)
    assert len(server.requests) == 1


def test_excerpt_of_an_answer_holds_no_key_and_no_url(client: KeenClient, server: FaultServer) -> None:
    text = f"key {READ} url https://x.example/f?signature=s3cr3t and https:\\/\\/x.example\\/f?signature=s3cr3t"
    server.api = [status(200, text.encode())]
    with pytest.raises(UnreadableAnswerError) as raised:
        client.count("purchases", DAY)
    assert READ not in str(raised.value)
    assert "s3cr3t" not in str(raised.value)
    assert "key ***" in str(raised.value)


def test_redirect_within_the_service_is_followed(client: KeenClient, server: FaultServer) -> None:
    server.api = [faults.redirect("/elsewhere", 307), document({"result": 3})]
    assert client.count("purchases", DAY) == 3
    assert server.requests[1].target == "/elsewhere"


def test_redirects_have_a_bound(client: KeenClient, server: FaultServer) -> None:
    server.api = [faults.redirect("/again")]
    with pytest.raises(UnreadableAnswerError, match="redirects"):
        client.count("purchases", DAY)
    assert len(server.requests) == transport.MOST_REDIRECTS + 1


def test_key_never_goes_to_another_host(client: KeenClient, server: FaultServer) -> None:
    with FaultServer(api=[document({"result": 3})]) as other:
        server.api = [faults.redirect(other.url + "/stolen")]
        with pytest.raises(ConfigurationError, match="KEEN_BASE_URL"):
            client.count("purchases", DAY)
        with pytest.raises(UnreadableAnswerError):
            client.submit(REQUEST)
        assert other.requests == []


def test_drip_ends_at_the_total_time_limit(server: FaultServer) -> None:
    server.body = json.dumps({"result": 5}).encode() + b" " * 10_000
    server.api = [faults.drip(0.02)]
    client = KeenClient(server.url, "P1", read_key=READ, total_timeout=0.5)
    with pytest.raises(ServiceUnavailableError, match=r"time limit of 0\.5 s"):
        client.count("purchases", DAY)


def test_answer_has_a_bound(client: KeenClient, server: FaultServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(transport, "LARGEST_ANSWER_BYTES", 100_000)
    server.api = [status(200, b" " * 200_000)]
    with pytest.raises(UnreadableAnswerError, match="longer than 100000 bytes"):
        client.count("purchases", DAY)


def test_cut_answer_of_a_get_is_repeated(client: KeenClient, server: FaultServer) -> None:
    server.body = b'{"result": 5}'
    server.api = [faults.cut(5), faults.whole()]
    assert client.count("purchases", DAY) == 5


def test_ping_and_check_key(client: KeenClient, server: FaultServer) -> None:
    server.api = [document([{"url": "/2.0", "is_public": True, "version": "2.0"}]), document({"collections": []})]
    client.ping()
    client.check_key()
    assert [request.target for request in server.requests] == ["/", "/2.0/projects/P1"]


def test_repr_shows_no_key(client: KeenClient) -> None:
    shown = repr(client) + repr(vars(client)) + repr(vars(client._transport)) + repr(vars(client._results))
    assert READ not in shown
    assert WRITE not in shown


@pytest.mark.parametrize("url", ["", "ftp://x", "https://user:pw@host", "https://host/?q=1", "host"])
def test_base_url_must_be_plain(url: str) -> None:
    with pytest.raises(InvalidInputError, match="KEEN_BASE_URL") as raised:
        KeenClient(url, "P1", read_key=READ)
    assert "pw" not in str(raised.value)


def test_unknown_version_and_missing_project_are_refused() -> None:
    with pytest.raises(InvalidInputError, match="KEEN_API_VERSION"):
        KeenClient("http://x", "P1", read_key=READ, api_version="1.0")
    with pytest.raises(InvalidInputError, match="KEEN_PROJECT_ID"):
        KeenClient("http://x", "", read_key=READ)


@pytest.mark.parametrize(
    "url", ["https://", "http://host:99999", "http://ho st", "http://a..b", "http://host\x00", "http://" + "x" * 64]
)
def test_base_url_is_checked_before_anything_is_sent(url: str) -> None:
    with pytest.raises(InvalidInputError, match="KEEN_BASE_URL"):
        KeenClient(url, "P1", read_key=READ)


@pytest.mark.parametrize("around", ["{}\n", " {}", "\t{}\r\n", "{}"])
def test_key_is_stripped_at_the_door(around: str, server: FaultServer) -> None:
    server.api = [document({"result": 1})]
    KeenClient(server.url, "P1", read_key=around.format(READ)).count("purchases", DAY)
    assert server.requests[0].headers["authorization"] == READ


@pytest.mark.parametrize(
    "key", ["secret\nkey-9", "secret\x00key-9", "secret kéy-9", "sécret-key-9", "secret\udc80-9", "secret\u2028-9"]
)
@pytest.mark.parametrize("variable", ["KEEN_READ_KEY", "KEEN_WRITE_KEY", "KEEN_MASTER_KEY"])
def test_key_that_no_header_can_carry_is_refused_by_name(variable: str, key: str) -> None:
    keys = {"read_key": READ, variable.removeprefix("KEEN_").lower(): key}
    with pytest.raises(ConfigurationError, match=variable) as raised:
        KeenClient("http://127.0.0.1:9", "P1", **keys)
    assert "secret" not in ascii(str(raised.value))
    assert "-9" not in str(raised.value)


@pytest.mark.parametrize("key", [None, "", " \n"])
def test_blank_key_is_none(key: str | None) -> None:
    with pytest.raises(AuthenticationError, match="KEEN_READ_KEY is not set"):
        KeenClient("http://127.0.0.1:9", "P1", read_key=key).ping()


def test_entry_of_a_list_that_is_unreadable_waits_and_says_why(client: KeenClient, server: FaultServer) -> None:
    bad = [
        {"_id": "e5", "status": "complete", "results_url": "ftp://x"},
        {"_id": "e6"},
        {"_id": "e7", "status": "complete", "results_url": 5},
    ]
    server.api = [document([COMPLETE, *bad, {"_id": "e8", "status": "complete"}, {"_id": "e9", "status": {"odd": 1}}])]
    found = client.list_extractions("purchases")
    assert list(found) == ["e2", "e5", "e6", "e7", "e8", "e9"]
    assert [one.extraction_id for one in found.values() if one.status is RemoteStatus.PENDING] == ["e5", "e6", "e7", "e9"]
    assert all("unreadable" in str(found[name].message) for name in ("e5", "e6", "e7"))
    assert found["e2"].results_url is not None
    assert found["e8"].results_url is None  # the single answer has it


@pytest.mark.parametrize("code", [400, 409, 422, 418, 302, 304, 101])
@pytest.mark.parametrize("answer", [b"<html>no</html>", b"", b"[1]", b'{"odd": 1}'], ids=["page", "empty", "list", "odd"])
def test_answer_that_is_not_keens_says_nothing_about_an_extraction(
    code: int, answer: bytes, client: KeenClient, server: FaultServer
) -> None:
    server.api = [status(code, b"" if code in (304, 101) else answer)]
    with pytest.raises(UnreadableAnswerError, match=str(code)):
        client.submit(REQUEST)
    with pytest.raises(UnreadableAnswerError):
        client.list_extractions("purchases")
    assert len(server.requests) == 2


@pytest.mark.parametrize(("code", "error"), [(401, AuthenticationError), (403, AuthenticationError), (404, NotFoundError)])
def test_refused_list_keeps_its_kind_whatever_its_body(
    code: int, error: type[KeenPipelineError], client: KeenClient, server: FaultServer
) -> None:
    server.api = [status(code, b"<html>no</html>")]
    with pytest.raises(error):
        client.list_extractions("purchases")


def test_large_error_body_is_read_with_a_bound(client: KeenClient, server: FaultServer) -> None:
    body = b'{"message": "' + b"x" * 30_000_000 + b'"}'
    server.api = [status(400, body)]
    with pytest.raises(UnreadableAnswerError) as raised:
        client.submit(REQUEST)
    assert len(str(raised.value)) < 700


def test_zipped_answer_is_bounded_as_unzipped(client: KeenClient, server: FaultServer, monkeypatch: pytest.MonkeyPatch) -> None:
    server.api = [status(200, gzip.compress(b'{"result": 5}'), Content_Encoding="gzip")]
    assert client.count("purchases", DAY) == 5
    monkeypatch.setattr(transport, "LARGEST_ANSWER_BYTES", 100_000)
    server.api = [status(200, gzip.compress(b" " * 200_000 + b"5"), Content_Encoding="gzip")]
    with pytest.raises(UnreadableAnswerError, match="longer than 100000 bytes"):
        client.count("purchases", DAY)
    server.api = [status(200, b"5", Content_Encoding="gzip, gzip")]
    with pytest.raises(UnreadableAnswerError, match="Content-Encoding"):
        client.count("purchases", DAY)


@pytest.mark.parametrize("data", [gzip.compress(b'{"result": 5}')[:-5], b"no gzip"], ids=["cut", "none"])
def test_zipped_answer_that_is_damaged_is_asked_for_again(data: bytes, client: KeenClient, server: FaultServer) -> None:
    server.api = [status(200, data, Content_Encoding="gzip"), document({"result": 5})]
    assert client.count("purchases", DAY) == 5


@pytest.mark.parametrize("location", ["http://[::1", "http://127.0.0.1:99999/x", "\xff\xfe", "//"])
def test_bad_location_is_an_error_of_ours(location: str, client: KeenClient, server: FaultServer) -> None:
    server.api = [faults.redirect(location)]
    with pytest.raises(KeenPipelineError, match="P1"):
        client.count("purchases", DAY)


RAW = [
    b"",
    b"\x00\xff" * 50,
    b"HTTP/9.9 200 OK\r\n\r\n",
    b"HTTP/1.1 abc OK\r\n\r\n",
    b"HTTP/1.1 200 OK\r\n" + b"X: y\r\n" * 500 + b"\r\n",
    b"HTTP/1.1 200 OK\r\nX: " + b"y" * 200_000 + b"\r\n\r\n",
    b"HTTP/1.1 200 OK\r\nContent-Length: 99\r\n\r\nno",
    b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
    b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nno",
    b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n-5\r\nno",
    b"HTTP/1.1 200 OK\r\nContent-Length: " + b"9" * 6000 + b"\r\n\r\nno",
    b"HTTP/1.1 200 OK\r\nContent-Length: -1\r\n\r\nno",
    b"HTTP/1.1 200 OK\r\nContent-Encoding: br\r\n\r\nno",
    b"HTTP/1.1 302 Found\r\nLocation: \x00\r\n\r\n",
    b"HTTP/1.1 429 No\r\nRetry-After: Mon, 99 Foo 99999 99:99:99 GMT\r\n\r\n",
    b"HTTP/1.1 429 No\r\nRetry-After: 1e999\r\n\r\n",
    b"HTTP/1.1 103 Early Hints\r\n\r\n",
    b"SSH-2.0-OpenSSH\r\n",
]


@pytest.mark.parametrize("data", RAW, ids=range(len(RAW)))
@pytest.mark.parametrize("name", ["submit", "list", "count", "ping", "results"])
def test_whatever_bytes_come_the_error_is_ours(name: str, data: bytes, clock: QuickClock) -> None:
    calls = CALLS | {"ping": KeenClient.ping, "results": lambda c: c.open_results(SecretUrl(f"{c.base_url}/results/x"))}
    with FaultServer(api=[faults.raw(data)], results=[faults.raw(data)]) as server:
        client = KeenClient(server.url, "P1", read_key=READ, read_timeout=1, clock=clock)
        if name == "results" and data in RAW[6:12] and b"Length" in data[:40]:
            return  # a head that is right: its body is test_faults' matter
        if name == "ping" and b"Length: -1" in data:
            return  # a whole answer
        with pytest.raises(KeenPipelineError):
            calls[name](client)


@settings(max_examples=80, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    answer=st.recursive(
        st.none()
        | st.booleans()
        | st.floats()
        | st.integers()
        | st.text(max_size=5)
        | st.sampled_from(["complete", "failed", "http://x/y"]),
        lambda inner: (
            st.lists(inner, max_size=3)
            | st.dictionaries(
                st.sampled_from(
                    [
                        "_id",
                        "id",
                        "status",
                        "results_url",
                        "result",
                        "results",
                        "collections",
                        "properties",
                        "inferred_property_types",
                        "name",
                        "message",
                        "error",
                        "error_code",
                        "timeframe",
                        "filters",
                        "created_at",
                        "success",
                        "type_appearances",
                        "start",
                        "end",
                    ]
                ),
                inner,
                max_size=4,
            )
        ),
        max_leaves=12,
    )
)
def test_any_json_is_read_or_unreadable(answer: object, api: tuple[FaultServer, KeenClient]) -> None:
    server, made = api
    for code in (200, 400):
        server.api = [status(code, json.dumps(answer).encode())]
        for call in CALLS.values():
            try:
                call(made)
            except KeenPipelineError:
                continue
