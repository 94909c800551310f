"""What a results URL may lead to, and over which connection: addresses, TLS, the key, the range."""

from __future__ import annotations

import socket
import ssl
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from keen_pipeline.client import KeenClient, RenewingResults, address
from keen_pipeline.client.address import check_results_address, is_public
from keen_pipeline.client.results import strong_validator
from keen_pipeline.errors import (
    ConfigurationError,
    ExtractionFailedError,
    ProtocolError,
    ResultsExpiredError,
    ServiceUnavailableError,
)
from keen_pipeline.extraction import SecretUrl
from keen_pipeline_tests import faults
from keen_pipeline_tests.faults import FaultServer, document

# Self-signed, for localhost, of use for nothing but this test.
CERTIFICATE = """\
-----BEGIN CERTIFICATE-----
MIIBnDCCAUGgAwIBAgIUZ4EhnERSN43PMrV+dW3Dl79AqcUwCgYIKoZIzj0EAwIw
FDESMBAGA1UEAwwJbG9jYWxob3N0MCAXDTI2MTEyMzIyMTUxN1oYDzIxMjYxMDMw
MjIxNTE3WjAUMRIwEAYDVQQDDAlsb2NhbGhvc3QwWTATBgcqhkjOPQIBBggqhkjO
PQMBBwNCAATUC8lNa0PnBFEmAXWa3xIsPBQu6wSf8ODYi+IfP/GZBVUT/NOFxJi0
n8ckMJE1n1azeP9LCXEEMoudOo/bqUzqo28wbTAdBgNVHQ4EFgQUJe+xDnYvvM/c
LIhbl3NLxDNHmdkwHwYDVR0jBBgwFoAUJe+xDnYvvM/cLIhbl3NLxDNHmdkwDwYD
VR0TAQH/BAUwAwEB/zAaBgNVHREEEzARgglsb2NhbGhvc3SHBH8AAAEwCgYIKoZI
zj0EAwIDSQAwRgIhAK4GroY9umCp9ytnqR/Z8JG1aqmdle8pfhimtSRGEIOmAiEA
ll4JmcKgALkbZ4l7l8jOdbM0/5pt67dpUXFBeltuGaw=
-----END CERTIFICATE-----
"""
PRIVATE_KEY = """\
-----BEGIN PRIVATE KEY-----
MIGHAgEAMBMGByqGSM49AgEGCCqGSM49AwEHBG0wawIBAQQgcqaqfck9M+LirWCw
eNqEoYzQqo/OTNoBUGSzqWw+JM+hRANCAATUC8lNa0PnBFEmAXWa3xIsPBQu6wSf
8ODYi+IfP/GZBVUT/NOFxJi0n8ckMJE1n1azeP9LCXEEMoudOo/bqUzq
-----END PRIVATE KEY-----
"""


@pytest.fixture
def server() -> Iterator[FaultServer]:
    with FaultServer(results=[faults.whole()], body=b"a,b\n1,2\n") as running:
        yield running


def client(server: FaultServer, **options: bool) -> KeenClient:
    return KeenClient(server.url, "P1", read_key="read-key-77aa", **options)  # type: ignore[arg-type]


def read(made: KeenClient, url: str, offset: int = 0, validator: str | None = None) -> bytes:
    buffer = bytearray(1000)
    got = b""
    with made.open_results(SecretUrl(url), offset=offset, validator=validator) as stream, memoryview(buffer) as view:
        while number := stream.readinto(view):
            got += bytes(view[:number])
    return got


@pytest.mark.parametrize(
    ("ip", "public"),
    [
        ("8.8.8.8", True),
        ("2606:4700::1111", True),
        ("127.0.0.1", False),
        ("10.1.2.3", False),
        ("172.16.0.1", False),
        ("192.168.1.1", False),
        ("169.254.169.254", False),
        ("100.64.0.1", False),
        ("0.0.0.0", False),
        ("224.0.0.1", False),
        ("255.255.255.255", False),
        ("::1", False),
        ("::", False),
        ("fe80::1%eth0", False),
        ("fd00::1", False),
        ("::ffff:127.0.0.1", False),
        ("::ffff:8.8.8.8", True),
        ("64:ff9b::a9fe:a9fe", False),
        ("2002:7f00:1::", False),
        ("ff02::1", False),
    ],
)
def test_which_addresses_are_public(ip: str, public: bool) -> None:
    assert is_public(ip) is public


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "[::1]", "169.254.169.254", "2130706433", "0x7f.1", "10.0.0.7:8080"])
def test_private_address_in_any_spelling_is_refused(host: str) -> None:
    with pytest.raises((ConfigurationError, ServiceUnavailableError)) as raised:
        check_results_address(f"http://{host}/f?signature=s3cr3t", allow_private=False)
    assert "s3cr3t" not in str(raised.value)


@pytest.mark.parametrize(
    "url",
    [
        "file:///etc/passwd",
        "ftp://8.8.8.8/x",
        "//8.8.8.8/x",
        "x",
        "http://",
        "http://8.8.8.8:99999/",
        "http://8.8.8.8/a\nb",
        "gopher://x",
    ],
)
def test_only_http_is_followed(url: str) -> None:
    with pytest.raises(ProtocolError):
        check_results_address(url, allow_private=True)


def test_loopback_is_allowed_for_a_service_on_loopback(server: FaultServer) -> None:
    assert read(client(server), server.results_url) == server.body


def test_loopback_is_refused_for_a_public_service(server: FaultServer) -> None:
    public = KeenClient("https://93.184.216.34", "P1", read_key="k")
    with pytest.raises(ConfigurationError, match="private address"):
        read(public, server.results_url)
    assert server.requests == []


def test_redirect_to_a_private_address_is_refused_too(server: FaultServer, monkeypatch: pytest.MonkeyPatch) -> None:
    # The name passes for a public one; only its redirect does not.
    monkeypatch.setattr(address, "is_public", lambda ip: ip != "10.9.9.9")
    monkeypatch.setattr(address, "resolve", lambda host, port: ("10.9.9.9",) if host == "inner.example" else ("127.0.0.1",))
    server.results = [faults.redirect("http://inner.example/secret")]
    with pytest.raises(ConfigurationError, match=r"inner\.example"):
        read(client(server, allow_private_results=False), f"http://outer.example:{server.port}/results/f")


def test_connection_goes_to_the_checked_address(server: FaultServer, monkeypatch: pytest.MonkeyPatch) -> None:
    """The name is resolved once; a second answer of the name server has no say."""
    answers = iter([("127.0.0.1",)])
    monkeypatch.setattr(address, "resolve", lambda host, port: next(answers))
    made = client(server, allow_private_results=True)
    assert read(made, f"http://results.example:{server.port}/results/f") == server.body
    assert server.requests[0].headers["host"] == f"results.example:{server.port}"


def test_key_goes_only_to_the_services_own_origin(server: FaultServer) -> None:
    read(client(server), server.results_url)
    read(client(server), server.results_url.replace("127.0.0.1", "localhost"))
    own, other = server.requests
    assert own.headers["authorization"] == "read-key-77aa"
    assert "authorization" not in other.headers


def test_range_is_asked_for_with_the_validator(server: FaultServer) -> None:
    assert read(client(server), server.results_url, offset=4, validator='"one"') == server.body[4:]
    assert read(client(server), server.results_url, offset=4, validator='"older"') == server.body
    assert read(client(server), server.results_url, offset=4) == server.body
    assert [request.headers.get("if-range") for request in server.requests] == ['"one"', '"older"', None]


@pytest.mark.parametrize(
    ("headers", "validator"),
    [
        ({"ETag": '"x"'}, '"x"'),
        ({"ETag": 'W/"x"'}, None),
        ({"ETag": "x"}, None),
        ({}, None),
        (
            {"Last-Modified": "Thu, 01 Jan 2026 00:00:00 GMT", "Date": "Thu, 01 Jan 2026 00:00:02 GMT"},
            "Thu, 01 Jan 2026 00:00:00 GMT",
        ),
        ({"Last-Modified": "Thu, 01 Jan 2026 00:00:00 GMT", "Date": "Thu, 01 Jan 2026 00:00:00 GMT"}, None),
        ({"Last-Modified": "Thu, 01 Jan 2026 00:00:00 GMT"}, None),
        ({"Last-Modified": "yesterday", "Date": "today"}, None),
    ],
)
def test_only_a_strong_validator_is_used(headers: dict[str, str], validator: str | None) -> None:
    from http.client import HTTPMessage

    message = HTTPMessage()
    for name, value in headers.items():
        message[name] = value
    assert strong_validator(message) == validator


@pytest.fixture
def tls_port(tmp_path: Path) -> Iterator[int]:
    """A TLS server on loopback with the self-signed certificate; it answers `ok` to anything."""
    (tmp_path / "pair.pem").write_text(CERTIFICATE + PRIVATE_KEY)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(tmp_path / "pair.pem")
    listener = socket.create_server(("127.0.0.1", 0))

    def serve() -> None:
        while True:
            try:
                plain, _ = listener.accept()
            except OSError:
                return
            try:
                with context.wrap_socket(plain, server_side=True) as sock:
                    sock.recv(65536)
                    sock.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nConnection: close\r\n\r\nok")
            except (OSError, ssl.SSLError):
                plain.close()

    thread = threading.Thread(target=serve, daemon=True)
    thread.start()
    yield int(listener.getsockname()[1])
    listener.shutdown(socket.SHUT_RDWR)
    listener.close()
    thread.join(10)


def test_untrusted_certificate_is_refused(tls_port: int) -> None:
    made = KeenClient(f"https://localhost:{tls_port}", "P1", read_key="k")
    with pytest.raises(ConfigurationError, match=r"certificate of localhost.* is not trusted"):
        made.ping()
    with pytest.raises(ConfigurationError, match="certificate of localhost is not trusted"):
        read(made, f"https://localhost:{tls_port}/f")


def test_trusted_certificate_is_checked_against_the_name(tls_port: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "trusted.pem").write_text(CERTIFICATE)
    monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "trusted.pem"))
    made = KeenClient(f"https://localhost:{tls_port}", "P1", read_key="k")
    assert read(made, f"https://localhost:{tls_port}/f") == b"ok"
    monkeypatch.setattr(address, "resolve", lambda host, port: ("127.0.0.1",))
    with pytest.raises(ConfigurationError, match=r"certificate of other\.example is not trusted"):
        read(made, f"https://other.example:{tls_port}/f")


def test_fresh_url_is_asked_for_once_it_is_needed(server: FaultServer) -> None:
    server.api = [document({"_id": "e1", "status": "complete", "results_url": server.results_url})]
    results = RenewingResults(client(server), "purchases", "e1")
    for _ in range(2):
        with results.open() as stream:
            assert stream.total == len(server.body)
    assert [request.target for request in server.asked("/2.0")] == ["/2.0/projects/P1/purchases/_extract/e1"]


def test_url_that_stays_expired_is_renewed_a_few_times_only(server: FaultServer) -> None:
    server.api = [document({"_id": "e1", "status": "complete", "results_url": server.results_url})]
    server.results = [faults.status(403)]
    with pytest.raises(ResultsExpiredError):
        RenewingResults(client(server), "purchases", "e1", SecretUrl(server.results_url)).open()
    assert (len(server.asked("/results")), len(server.asked("/2.0"))) == (3, 2)


def test_results_of_an_extraction_that_failed_or_is_not_ready(server: FaultServer) -> None:
    server.api = [
        document({"_id": "e1", "status": "failed", "message": "out of disk"}),
        document({"_id": "e1", "status": "not started"}),
    ]
    results = RenewingResults(client(server), "purchases", "e1")
    with pytest.raises(ExtractionFailedError, match="out of disk"):
        results.open()
    with pytest.raises(ServiceUnavailableError, match="not complete yet"):
        results.open()
