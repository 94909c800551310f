"""KeenClient against a real web server on loopback: the wire forms, the keys, the address, what is repeated."""

from __future__ import annotations

import gzip
import json
from collections.abc import Callable
from dataclasses import replace
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest

from keen_pipeline.client import KeenClient, transport
from keen_pipeline.errors import (
    AuthenticationError,
    ConfigurationError,
    ExtractionTooLargeError,
    InvalidInputError,
    RateLimitedError,
    ServiceUnavailableError,
)
from keen_pipeline.extraction import ExtractionRequest, RemoteStatus
from keen_pipeline_tests.client.calls import (
    AMOUNT,
    CALLS,
    COMPLETE,
    DAY,
    GETS,
    PENDING,
    READ,
    REQUEST,
    WRITE,
    Budget,
    QuickClock,
)
from keen_pipeline_tests.servers import faults
from keen_pipeline_tests.servers.faults import FaultServer, Request, document, status


def query(request: Request) -> dict[str, Any]:
    return {name: values[0] for name, values in parse_qs(urlsplit(request.target).query).items()}


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
        status(400, gzip.compress(b'{"message": "the extraction is too large"}'), Content_Encoding="gzip"),
        status(504, b""),
        status(429, b""),
    ]
    for error in (ExtractionTooLargeError, ExtractionTooLargeError, ExtractionTooLargeError, RateLimitedError):
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
    with pytest.raises(ServiceUnavailableError, match=r"^submit of purchases\[2026-01-01\] \(project P1\): no connection to 127"):
        client.submit(REQUEST)
    assert len(clock.slept) == transport.MOST_TRIES - 1


def test_repr_shows_no_key(client: KeenClient) -> None:
    shown = repr(client) + repr(vars(client)) + repr(vars(client._transport)) + repr(vars(client._results))
    assert READ not in shown
    assert WRITE not in shown


@pytest.mark.parametrize("url", ["", "ftp://x", "https://user:pw@host", "https://host/?q=1", "https://host/#a", "host"])
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
