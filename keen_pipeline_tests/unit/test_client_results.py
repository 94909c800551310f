"""What a results URL may lead to, and over which connection: addresses, TLS, the key, the range."""

from __future__ import annotations

import gzip
import ipaddress
import socket
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from keen_pipeline.client import KeenClient, RenewingResults, address, results
from keen_pipeline.client.address import Address, checked, is_never_followed, is_public, split_url
from keen_pipeline.client.results import strong_validator
from keen_pipeline.errors import (
    ConfigurationError,
    ExtractionFailedError,
    ResultsExpiredError,
    ServiceUnavailableError,
    TransferError,
    UnreachableError,
    UnreadableAnswerError,
)
from keen_pipeline.extraction import SecretUrl
from keen_pipeline_tests import faults, tls
from keen_pipeline_tests.faults import FaultServer, document


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


PUBLIC = ["8.8.8.8", "2606:4700::1111", "::ffff:8.8.8.8", "64:ff9b::808:808", "2002:808:808::"]
PRIVATE = (  # noqa: SIM905 - a table
    "127.0.0.1 10.1.2.3 172.16.0.1 192.168.1.1 100.64.0.1 0.0.0.0 192.0.0.8 192.88.99.1 198.18.0.1 224.0.0.1 255.255.255.255 "
    "::1 :: ::7f00:1 ::8.8.8.8 fd00::1 fec0::1 ff02::1 100::1 2001:db8::1 3fff::1 5f00::1 ::ffff:127.0.0.1 ::ffff:0:127.0.0.1 "
    "64:ff9b::7f00:1 64:ff9b:1::808:808 2002:7f00:1:: 2001:0:808:808::"
).split()
NEVER = (  # noqa: SIM905 - a table
    "169.254.169.254 169.254.1.1 fe80::1 fe80::1%1 fd00:ec2::254 fd20:ce::254 100.100.100.200 168.63.129.16 "
    "::ffff:169.254.169.254 ::169.254.169.254 ::ffff:0:169.254.169.254 64:ff9b::a9fe:a9fe 64:ff9b:1::a9fe:a9fe "
    "64:ff9b:1:a9fe:a9:fe00:: 64:ff9b:1:1:a9:fea9:fe00:0 64:ff9b:1:a9:fe:a9fe:: 2002:a9fe:a9fe:: 2001:0:a9fe:a9fe:: "
    "2001:0:808:808:0:0:5601:5601"
).split()


@pytest.mark.parametrize("ip", PUBLIC + PRIVATE + NEVER)
def test_which_addresses_are_public_and_which_are_never_followed(ip: str) -> None:
    address = ipaddress.ip_address(ip.partition("%")[0])
    assert is_public(address) is (ip in PUBLIC)
    assert is_never_followed(address) is (ip in NEVER)


def test_an_own_list_stands_beside_pythons(monkeypatch: pytest.MonkeyPatch) -> None:
    """Older patch releases take more for global."""
    monkeypatch.setattr(ipaddress.IPv6Address, "is_global", True)
    monkeypatch.setattr(ipaddress.IPv4Address, "is_global", True)
    assert [ip for ip in PRIVATE + NEVER if is_public(ipaddress.ip_address(ip.partition("%")[0]))] == []


def url_of(ip: str) -> str:
    return f"http://[{ip}]/f?signature=s3cr3t" if ":" in ip else f"http://{ip}/f?signature=s3cr3t"


def check(url: str, *, allow_private: bool, by_proxy: bool = False) -> Address:
    return checked(split_url(url)[1], allow_private=allow_private, by_proxy=by_proxy)


@pytest.mark.parametrize("by_proxy", [False, True], ids=["direct", "by a proxy"])
@pytest.mark.parametrize("host", [*NEVER, "2852039166", "0xa9.0xfea9fe", "0251.0376.0251.0376"])
def test_addresses_of_credentials_are_never_followed(host: str, by_proxy: bool) -> None:
    with pytest.raises(ConfigurationError, match="credentials") as raised:
        check(url_of(host), allow_private=True, by_proxy=by_proxy)
    assert "s3cr3t" not in str(raised.value)


@pytest.mark.parametrize("by_proxy", [False, True], ids=["direct", "by a proxy"])
@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "localhost.", "::1", "2130706433", "0x7f.1", "127.1", "10.0.0.7"])
def test_private_address_in_any_spelling_is_refused(host: str, by_proxy: bool) -> None:
    with pytest.raises(ConfigurationError, match="private address") as raised:
        check(url_of(host), allow_private=False, by_proxy=by_proxy)
    assert "s3cr3t" not in str(raised.value)
    assert host == "localhost." or check(url_of(host), allow_private=True, by_proxy=by_proxy).port == 80


@pytest.mark.parametrize("host", ["metadata.google.internal", "keen-service", "files.localhost", "x.svc"])
def test_private_name_is_refused_though_a_proxy_resolves_it(host: str) -> None:
    with pytest.raises(ConfigurationError, match="private address"):
        check(url_of(host), allow_private=False, by_proxy=True)


def test_name_is_left_to_the_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(socket, "getaddrinfo", None)
    assert check("https://results.example/f", allow_private=False, by_proxy=True) == Address(True, "results.example", 443)


@pytest.mark.parametrize(
    "url",
    [
        "file:///etc/passwd",
        "ftp://8.8.8.8/x",
        "//8.8.8.8/x",
        "x",
        "http://",
        "http://8.8.8.8:99999/",
        "http://8.8.8.8:0/",
        "http://8.8.8.8/a\nb",
        "gopher://x",
        "http://[::1",
    ],
)
def test_only_http_is_followed(url: str) -> None:
    with pytest.raises(UnreadableAnswerError):
        split_url(url)


def test_loopback_is_allowed_for_a_service_on_loopback(server: FaultServer) -> None:
    assert read(client(server), server.results_url) == server.body


def answers_of(names: Mapping[str, str], monkeypatch: pytest.MonkeyPatch) -> None:
    """What the resolver says; the rest as ever."""
    real = socket.getaddrinfo
    monkeypatch.setattr(socket, "getaddrinfo", lambda host, *rest, **more: real(names.get(host, host), *rest, **more))


@pytest.mark.parametrize("url", ["https://93.184.216.34", "http://keen.example", "https://127.0.0.1.example", "http://[2606::1]"])
def test_loopback_is_refused_for_a_public_service_whatever_its_name_resolves_to(
    url: str, server: FaultServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    answers_of(dict.fromkeys(["keen.example", "127.0.0.1.example"], "127.0.0.1"), monkeypatch)
    public = KeenClient(url, "P1", read_key="k")
    with pytest.raises(ConfigurationError, match="private address"):
        read(public, server.results_url)
    with pytest.raises(ConfigurationError, match="private address"):
        read(public, f"http://keen.example:{server.port}/results/f")
    assert server.requests == []


@pytest.mark.parametrize(
    "url", ["http://10.0.0.7", "http://localhost:8765", "http://keen-service:8765", "http://[::1]:9", "http://a.svc"]
)
def test_private_results_are_allowed_where_the_service_is_called_so(url: str, server: FaultServer) -> None:
    assert read(KeenClient(url, "P1", read_key="k"), server.results_url) == server.body


def test_redirect_to_a_private_address_is_refused_too(server: FaultServer, monkeypatch: pytest.MonkeyPatch) -> None:
    # The first address passes for a public one; only its redirect does not.
    monkeypatch.setattr(address, "is_public", lambda ip: str(ip) != "127.0.0.2")
    server.results = [faults.redirect("http://127.0.0.2:9/secret")]
    with pytest.raises(ConfigurationError, match=r"private address of 127\.0\.0\.2"):
        read(client(server, allow_private_results=False), server.results_url)


def test_redirect_to_credentials_is_refused_even_where_private_ones_are_allowed(server: FaultServer) -> None:
    server.results = [faults.redirect("http://169.254.169.254/latest/meta-data/")]
    with pytest.raises(ConfigurationError, match="credentials"):
        read(client(server, allow_private_results=True), server.results_url)


def test_connection_goes_to_the_checked_address(server: FaultServer, monkeypatch: pytest.MonkeyPatch) -> None:
    """The name is resolved once; a second answer of the name server has no say."""
    real, asked = socket.getaddrinfo, list[str]()

    def once(host: str, *rest: Any, **more: Any) -> Any:
        asked.append(host)
        return real("127.0.0.1" if asked.count("results.example") < 2 else "127.0.0.9", *rest, **more)

    monkeypatch.setattr(socket, "getaddrinfo", once)
    made = client(server, allow_private_results=True)
    assert read(made, f"http://results.example:{server.port}/results/f") == server.body
    assert asked.count("results.example") == 1
    assert server.requests[0].headers["host"] == f"results.example:{server.port}"


def test_name_without_an_address_is_not_asked_for_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: [])
    with pytest.raises(UnreachableError, match="has no address"):
        check("http://results.example/f", allow_private=False)


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


def test_certificate_is_trusted_and_checked_against_the_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with FaultServer(results=[faults.whole()], api=[document([])], body=b"a,b\n", tls=tls.server_context()) as server:
        made = client(server)
        with pytest.raises(ConfigurationError, match=r"certificate of 127\.0\.0\.1.* is not trusted"):
            made.ping()
        with pytest.raises(ConfigurationError, match=r"certificate of 127\.0\.0\.1 is not trusted"):
            read(made, server.results_url)
        tls.trust(tmp_path, monkeypatch)
        made = client(server)
        made.ping()
        assert read(made, server.results_url) == b"a,b\n"
        answers_of({"other.example": "127.0.0.1"}, monkeypatch)
        with pytest.raises(ConfigurationError, match=r"certificate of other\.example is not trusted"):
            read(made, f"https://other.example:{server.port}/results/f")


def test_redirect_from_https_to_http_is_not_followed(server: FaultServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tls.trust(tmp_path, monkeypatch)
    with FaultServer(results=[faults.redirect(server.results_url)], tls=tls.server_context()) as secure:
        with pytest.raises(UnreadableAnswerError, match="https to an insecure"):
            read(client(secure), secure.results_url)
        secure.results = [faults.redirect("/results/two"), faults.whole()]
        secure.body = b"a,b\n"
        assert read(client(secure), secure.results_url) == b"a,b\n"
    assert server.requests == []


@pytest.mark.parametrize("location", ["http://[::1", "http://127.0.0.1:99999/", "file:///etc/passwd", "http://", "//["])
def test_bad_location_is_an_error_of_ours(location: str, server: FaultServer) -> None:
    server.results = [faults.redirect(location)]
    with pytest.raises(UnreadableAnswerError, match="URL"):
        read(client(server), server.results_url)


def test_redirects_have_a_bound(server: FaultServer) -> None:
    server.results = [faults.redirect("/results/again")]
    with pytest.raises(UnreadableAnswerError, match="redirects more than"):
        read(client(server), server.results_url)
    assert len(server.requests) == results.MOST_REDIRECTS + 1


def test_url_with_letters_beyond_ascii_is_sent_quoted(server: FaultServer) -> None:
    server.results = [faults.redirect("/results/ö?x=%20&y=é"), faults.whole()]
    assert read(client(server), f"{server.url}/results/straße?signature=a%2Fb+c") == server.body
    assert [one.target for one in server.requests] == ["/results/stra%C3%9Fe?signature=a%2Fb+c", "/results/%C3%B6?x=%20&y=%C3%A9"]


def part(content_range: str, body: bytes, **headers: str) -> faults.Behaviour:
    """A 206 that says it is this part."""
    return faults.status(206, body, Content_Range=content_range, **headers)


@pytest.mark.parametrize(
    ("answer", "why"),
    [
        (part("bytes 1-7/8", b",b\n1,2\n", ETag='"one"'), "another range"),
        (part("bytes 4-5/8", b"1,", ETag='"one"'), "a part of the range"),
        (part("bytes 4-7/8", b"1,2\n", ETag='"two"'), "the file changed"),
        (part("items 4-7/8", b"1,2\n", ETag='"one"'), "another range"),
        (part("", b"1,2\n", ETag='"one"'), "another range"),
        (faults.status(416), "fewer bytes"),
    ],
)
def test_part_that_is_not_the_rest_of_the_same_file_is_refused_by_itself(
    answer: faults.Behaviour, why: str, server: FaultServer
) -> None:
    server.results = [answer]
    with pytest.raises(TransferError, match=why):
        client(server).open_results(SecretUrl(server.results_url), offset=4, validator='"one"')


def test_part_that_is_the_rest_is_taken_with_its_validator_or_without(server: FaultServer) -> None:
    server.results = [part("bytes 4-7/8", b"1,2\n"), part("bytes 4-7/*", b"1,2\n", ETag='"one"')]
    for total in (8, None):
        with client(server).open_results(SecretUrl(server.results_url), offset=4, validator='"one"') as stream:
            assert (stream.start, stream.total, stream.validator) == (4, total, '"one"')


@pytest.mark.parametrize(
    ("answer", "why"),
    [
        (faults.announced(+10), "before their announced length"),
        (faults.announced(-3), "more bytes than it announced"),
        (faults.chunked(chunk=3, stop_after=2), "before the last one"),
        (faults.chunked(size_line=b"zz"), "not well-formed"),
        (faults.raw(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n4\r\na,b\nXX\r\n0\r\n\r\n"), "not well-formed"),
        (faults.raw(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n4\r\na,b\n\r\n0\r\n" + b"X: y\r\n" * 200), "no end"),
        (faults.raw(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n4\r\na,b\n\r\n0\r\n"), "before the last one"),
        (faults.reset(5), "broke in the middle"),
    ],
)
def test_body_that_is_not_whole_is_refused_by_itself(answer: faults.Behaviour, why: str, server: FaultServer) -> None:
    server.results = [answer]
    with pytest.raises(TransferError, match=why):
        read(client(server), server.results_url)


NOT_CSV: dict[str, tuple[bytes, str]] = {
    "an error document": (b'{"message": "the disk is full", "error_code": "X"}', "application/octet-stream"),
    "and with white space": (b' \r\n{\n  "message": "the disk is full"}', ""),
    "an empty object": (b"{}", "text/csv"),
    "a list": (b'[{"message": "the disk is full"}]', ""),
    "a list of numbers": (b"[1, 2]", ""),
    "null": (b"null\n", "text/csv"),
    "its type alone": (b"a,b\n1,2\n", "application/json; charset=utf-8"),
    "problem details": (b"a,b\n1,2\n", "application/problem+json"),
    "a page by its type": (b"a,b\n1,2\n", "text/html"),
    "XML by its type": (b"a,b\n1,2\n", "application/xml"),
    "a page": (b"\xef\xbb\xbf\n<!DOCTYPE html><html><body>the disk is full", ""),
    "a paragraph": (b"<p>the disk is full</p>", "text/csv"),
    "an XML document": (b"<Error><Message>the disk is full</Message></Error>", "application/octet-stream"),
    "plain words": (b"the disk is full", "text/plain"),
    "plain words as CSV": (b"the disk is full\n", "text/csv"),
    "words with a comma": (b"Sorry, the disk is full", "text/plain"),
    "words over lines": (b"upstream connect error\nreset reason: overflow\n", "text/plain"),
    "a packed file": (gzip.compress(b"a,b\n1,2\n"), "text/csv"),
    "a page in UTF-16": ("<p>the disk".encode("utf-16"), ""),
    "one word": (b"Forbidden", "text/plain"),
}


@pytest.mark.parametrize("zipped", [False, True], ids=["plain", "gzip"])
@pytest.mark.parametrize("name", NOT_CSV)
def test_what_is_no_csv_is_refused_with_its_words(name: str, zipped: bool, server: FaultServer) -> None:
    body, kind = NOT_CSV[name]
    headers = {"Content_Type": kind} if kind else {}
    if zipped:
        headers["Content_Encoding"] = "gzip"
    server.results = [faults.status(200, gzip.compress(body) if zipped else body, **headers)]
    with pytest.raises(UnreadableAnswerError, match="instead of a CSV") as raised:
        read(client(server), server.results_url)
    if b"full" in body:
        assert "the disk is full" in str(raised.value)


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"header:timestamp\r\n",
        b"header:timestamp,body:first name\r\n",
        b"keen.id,keen.timestamp",
        b'"keen.id",first name\n',
        b"\xef\xbb\xbfkeen.id,a b\n",
        b"a,b\n",
        b"first name,last name\n1,2\n",
        b"note\na b\n",
        b'"{a}",b\n1,2\n',
        b"1\n2\n",
    ],
)
@pytest.mark.parametrize("kind", ["text/csv; charset=utf-8", "application/octet-stream", "text/plain"])
def test_what_may_be_a_csv_is_taken(body: bytes, kind: str, server: FaultServer) -> None:
    server.results = [faults.status(200, body, Content_Type=kind)]
    assert read(client(server), server.results_url) == body


def test_fresh_url_is_asked_for_once_it_is_needed(server: FaultServer) -> None:
    server.api = [document({"_id": "e1", "status": "complete", "results_url": server.results_url})]
    renewing = RenewingResults(client(server), "purchases", "e1")
    for _ in range(2):
        with renewing.open() as stream:
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
    renewing = RenewingResults(client(server), "purchases", "e1")
    with pytest.raises(ExtractionFailedError, match="out of disk"):
        renewing.open()
    with pytest.raises(ServiceUnavailableError, match="not complete yet"):
        renewing.open()
