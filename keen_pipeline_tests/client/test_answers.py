"""What an answer says, and what says nothing: refusals, unreadable answers, redirects, bounds; every error is one of ours."""

from __future__ import annotations

import gzip
import json
from datetime import datetime, timedelta
from email.utils import format_datetime

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from keen_pipeline.client import KeenClient, transport
from keen_pipeline.errors import (
    AuthenticationError,
    ExtractionTooLargeError,
    KeenPipelineError,
    NotFoundError,
    PaymentRequiredError,
    RateLimitedError,
    RequestRejectedError,
    ServiceUnavailableError,
    UnreadableAnswerError,
)
from keen_pipeline.extraction import RemoteStatus, SecretUrl
from keen_pipeline_tests.client.calls import CALLS, COMPLETE, DAY, READ, REQUEST, UTC, WRITE, Budget, QuickClock
from keen_pipeline_tests.servers import faults, wire_faults
from keen_pipeline_tests.servers.faults import FaultServer, document, status


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
        (400, {"message": "no", "error_code": "TooManyEventsError"}, ExtractionTooLargeError),
        (400, {"message": "Too many concurrent extractions"}, RequestRejectedError),
        (400, {"message": "Too many filters"}, RequestRejectedError),
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


@pytest.mark.parametrize(
    ("name", "answer"),
    [
        ("submit", b"Processing."),
        ("submit", b"[]"),
        ("submit", b'{"status": "not started"}'),
        ("submit", b'{"_id": "e1"}'),
        ("submit", b'{"_id": "..", "status": "not started"}'),
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


def test_ping_asks_for_the_root(client: KeenClient, server: FaultServer) -> None:
    server.api = [document([{"url": "/2.0", "is_public": True, "version": "2.0"}]), document({"collections": []})]
    client.ping()
    client.collections()
    assert [request.target for request in server.requests] == ["/", "/2.0/projects/P1"]


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


@pytest.mark.parametrize("code", [400, 404, 409, 422, 418, 302, 304, 101])
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


@pytest.mark.parametrize(("code", "error"), [(401, AuthenticationError), (403, AuthenticationError)])
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
    server.api = [status(200, data, Content_Encoding="gzip"), document({"result": 6})]
    assert client.count("purchases", DAY) == 6


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
    with FaultServer(api=[wire_faults.raw(data)], results=[wire_faults.raw(data)]) as server:
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
