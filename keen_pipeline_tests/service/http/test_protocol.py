"""What is no HTTP request, byte by byte: refused in JSON, and never in the way of the next connection."""

from __future__ import annotations

import asyncio
import json
import socket
import time
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from keen_pipeline.errors import NotFoundError, RateLimitedError
from keen_pipeline.service.http.answers import MAX_MESSAGE_CHARACTERS, error_answer
from keen_pipeline.service.http.server.serve import _bind
from keen_pipeline_tests.service.configured import configured, log_lines
from keen_pipeline_tests.service.http_client import Http


def exchange(http: Http, sent: bytes, *, end: bool = True) -> tuple[int, dict[str, str], bytes]:
    """Status, headers and body of what comes back until the service closes the connection. `end`: say that no more is sent."""
    url = urlsplit(http.endpoint.base_url)
    with socket.create_connection((url.hostname, url.port), timeout=30) as connection:
        connection.sendall(sent)
        if end:
            connection.shutdown(socket.SHUT_WR)
        received = b""
        while part := connection.recv(65536):
            received += part
    head, _, body = received.partition(b"\r\n\r\n")
    first, *lines = head.decode().split("\r\n")
    headers = dict(line.lower().split(": ", 1) for line in lines)
    assert int(headers["content-length"]) == len(body)
    return int(first.split(" ")[1]), headers, body


@pytest.mark.parametrize(
    ("sent", "status", "code"),
    [
        (b"GARBAGE\r\n\r\n", 400, "InvalidRequestError"),
        (b"GET / HTTP/1.1\r\nHost: x\r\nno colon\r\n\r\n", 400, "InvalidRequestError"),
        (b"GET /\x00 HTTP/1.1\r\nHost: x\r\n\r\n", 400, "InvalidRequestError"),
        (b"GET /\xff HTTP/1.1\r\nHost: x\r\n\r\n", 400, "InvalidRequestError"),
        (b"GET / HTTP/1.1\r\n\r\n", 400, "InvalidRequestError"),
        (b"POST /2.0 HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\nContent-Length: 6\r\n\r\nhello", 400, "InvalidRequestError"),
        (b"POST /2.0 HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: gzip\r\n\r\n", 501, "TransferCodingError"),
        (b"GET /" + b"a" * (1024 * 1024) + b"b", 431, "RequestHeadTooLargeError"),
    ],
    ids=["no request", "no header", "NUL", "not ASCII", "no host", "two lengths", "unknown coding", "long line"],
)
def test_what_is_no_request_is_refused_as_everything_else_is(http: Http, sent: bytes, status: int, code: str) -> None:
    found, headers, body = exchange(http, sent)
    assert (found, headers["content-type"], headers["connection"]) == (status, "application/json", "close")
    answer = json.loads(body)
    assert (set(answer), answer["error_code"]) == ({"message", "error_code"}, code)
    assert str(status) in http.json("GET", "/openapi.json", key=None)["paths"]["/"]["get"]["responses"]


@pytest.mark.parametrize("framing", [b"Transfer-Encoding: chunked\r\n\r\nzz\r\n", b'Content-Length: 1000\r\n\r\n{"a": 1'])
def test_a_body_that_breaks_off_stores_nothing_and_is_no_fault_of_ours(http: Http, collection: str, framing: bytes) -> None:
    http.add(collection, {"a": 1})
    faults = http.request("GET", "/metrics", key=None).data.count(b'status="500"')
    head = f"POST {http.v3}/events/{collection} HTTP/1.1\r\nHost: x\r\nAuthorization: {http.endpoint.write_key}\r\n"
    url = urlsplit(http.endpoint.base_url)
    seen = refused(http)
    with socket.create_connection((url.hostname, url.port), timeout=30) as connection:
        connection.sendall(head.encode() + framing)
    deadline = time.monotonic() + 30
    while refused(http) == seen:
        assert time.monotonic() < deadline, "the request that broke off was not counted"
        time.sleep(0.02)
    assert http.query("count", collection) == 1
    assert http.request("GET", "/metrics", key=None).data.count(b'status="500"') == faults


def test_a_body_that_breaks_off_behind_a_refusal_is_no_error_in_the_log(data: Path) -> None:
    with configured(data) as service:
        head = b"POST /nowhere HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n"
        assert exchange(Http(service.endpoint), head, end=False)[0] == 400
        assert [line for line in log_lines(service) if line["level"] == "error"] == []


def refused(http: Http) -> float:
    """How many POST requests were answered with 400."""
    lines = http.request("GET", "/metrics", key=None).data.decode().splitlines()
    return sum(float(line.split()[-1]) for line in lines if line.startswith('keen_requests_total{method="POST",status="400"}'))


def test_an_upgrade_is_not_followed(http: Http) -> None:
    upgrade = "Connection: Upgrade, close\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: AAAA\r\n\r\n"
    status, _, body = exchange(http, f"GET /2.0 HTTP/1.1\r\nHost: x\r\n{upgrade}".encode(), end=False)
    assert (status, json.loads(body)) == (200, {"projects_resource_url": "http://x/2.0/projects"})


@pytest.mark.parametrize(
    ("target", "resource"),
    [
        ("http://keen.example:81/3.0", "/3.0"),
        ("HTTPS://ada:pass@keen.example:81/2.0?x=http://y/", "/2.0"),
        ("http://keen.example:81", ""),
    ],
)
def test_a_target_in_the_absolute_form_is_its_path_and_its_host(http: Http, target: str, resource: str) -> None:
    status, _, body = exchange(http, f"GET {target} HTTP/1.1\r\nHost: other\r\n\r\n".encode())
    assert status == 200
    found = json.loads(body)
    url = found["projects_resource_url"] if resource else found[0]["url"]
    assert url.startswith(f"http://keen.example:81{resource}")


def test_no_answer_waits_for_an_acknowledgement() -> None:
    async def accepted() -> int:
        found: asyncio.Future[int] = asyncio.get_running_loop().create_future()

        def look(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            found.set_result(writer.get_extra_info("socket").getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY))
            writer.close()

        with _bind("127.0.0.1", 0) as listener:
            async with await asyncio.start_server(look, sock=listener):
                with socket.create_connection(listener.getsockname()):
                    return await found

    assert asyncio.run(accepted()) != 0


def test_a_fault_of_the_service_s_own_says_that_its_connection_ends() -> None:
    assert "connection" not in error_answer(NotFoundError("none")).headers
    assert error_answer(IndexError("a fault of ours")).headers["connection"] == "close"


def test_an_answer_quotes_a_bounded_part_of_what_is_wrong() -> None:
    told = [json.loads(bytes(error_answer(NotFoundError(text)).body))["message"] for text in ("none", "x" * 5000)]
    assert told == ["none", "x" * MAX_MESSAGE_CHARACTERS]


@pytest.mark.parametrize(("seconds", "said"), [(0.2, "1"), (1.0, "1"), (59.1, "60")])
def test_whoever_is_to_come_later_is_never_told_to_come_too_early(seconds: float, said: str) -> None:
    assert error_answer(RateLimitedError("too many", retry_after=seconds)).headers["retry-after"] == said
