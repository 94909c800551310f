"""What a results URL may lead to, and over which connection: addresses, TLS, the key, the range."""

from __future__ import annotations

import bz2
import gzip
import lzma
from collections.abc import Iterator
from pathlib import Path

import pytest

from keen_pipeline.client import RenewingResults
from keen_pipeline.client.results import opening as results
from keen_pipeline.client.results.opening import strong_validator
from keen_pipeline.errors import (
    ConfigurationError,
    ExtractionFailedError,
    ResultsExpiredError,
    ServiceUnavailableError,
    TransferError,
    UnreadableAnswerError,
)
from keen_pipeline.extraction import SecretUrl
from keen_pipeline_tests.client.calls import answers_of, client_of, read
from keen_pipeline_tests.servers import faults, tls, wire_faults
from keen_pipeline_tests.servers.faults import FaultServer, document


@pytest.fixture
def server() -> Iterator[FaultServer]:
    with FaultServer(results=[faults.whole()], body=b"a,b\n1,2\n") as running:
        yield running


def test_key_goes_only_to_the_services_own_origin(server: FaultServer) -> None:
    read(client_of(server), server.results_url)
    read(client_of(server), server.results_url.replace("127.0.0.1", "localhost"))
    own, other = server.requests
    assert own.headers["authorization"] == "read-key-77aa"
    assert "authorization" not in other.headers


def test_range_is_asked_for_with_the_validator(server: FaultServer) -> None:
    assert read(client_of(server), server.results_url, offset=4, validator='"one"') == server.body[4:]
    assert read(client_of(server), server.results_url, offset=4, validator='"older"') == server.body
    assert read(client_of(server), server.results_url, offset=4) == server.body
    assert [request.headers.get("if-range") for request in server.requests] == ['"one"', '"older"', None]


@pytest.mark.parametrize(
    ("headers", "validator"),
    [
        ({"ETag": '"x"'}, '"x"'),
        ({"ETag": 'W/"x"'}, None),
        ({"ETag": "x"}, None),
        ({}, None),
        ({"ETag": '"\x1b"'}, None),
        ({"Last-Modified": "Thu, 01 Jan 2026 00:00:00 GMT", "Date": "Thu, 01 Jan 2026 00:00:02 GMT"}, None),
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
        made = client_of(server)
        with pytest.raises(ConfigurationError, match=r"certificate of 127\.0\.0\.1.* is not trusted"):
            made.ping()
        with pytest.raises(ConfigurationError, match=r"certificate of 127\.0\.0\.1 is not trusted"):
            read(made, server.results_url)
        tls.trust(tmp_path, monkeypatch)
        made = client_of(server)
        made.ping()
        assert read(made, server.results_url) == b"a,b\n"
        answers_of({"other.example": "127.0.0.1"}, monkeypatch)
        with pytest.raises(ConfigurationError, match=r"certificate of other\.example is not trusted"):
            read(made, f"https://other.example:{server.port}/results/f")


def test_redirect_from_https_to_http_is_not_followed(server: FaultServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tls.trust(tmp_path, monkeypatch)
    with FaultServer(results=[faults.redirect(server.results_url)], tls=tls.server_context()) as secure:
        with pytest.raises(UnreadableAnswerError, match="https to an insecure"):
            read(client_of(secure), secure.results_url)
        secure.results = [faults.redirect("/results/two"), faults.whole()]
        secure.body = b"a,b\n"
        assert read(client_of(secure), secure.results_url) == b"a,b\n"
    assert server.requests == []


@pytest.mark.parametrize("location", ["http://[::1", "http://127.0.0.1:99999/", "file:///etc/passwd", "http://", "//["])
def test_bad_location_is_an_error_of_ours(location: str, server: FaultServer) -> None:
    server.results = [faults.redirect(location)]
    with pytest.raises(UnreadableAnswerError, match="URL"):
        read(client_of(server), server.results_url)


def test_redirects_have_a_bound(server: FaultServer) -> None:
    server.results = [faults.redirect("/results/again")]
    with pytest.raises(UnreadableAnswerError, match="redirects more than"):
        read(client_of(server), server.results_url)
    assert len(server.requests) == results.MOST_REDIRECTS + 1


def test_url_with_letters_beyond_ascii_is_sent_quoted(server: FaultServer) -> None:
    server.results = [faults.redirect("/results/ö?x=%20&y=é"), faults.whole()]
    assert read(client_of(server), f"{server.url}/results/straße?signature=a%2Fb+c") == server.body
    assert [one.target for one in server.requests] == ["/results/stra%C3%9Fe?signature=a%2Fb+c", "/results/%C3%B6?x=%20&y=%C3%A9"]


def part(content_range: str, body: bytes, **headers: str) -> faults.Behaviour:
    """A 206 that says it is this part."""
    return faults.status(206, body, Content_Range=content_range, **headers)


@pytest.mark.parametrize(
    ("answer", "why"),
    [
        (part("bytes 1-7/8", b",b\n1,2\n", ETag='"one"'), "a different range"),
        (part("bytes 4-5/8", b"1,", ETag='"one"'), "only a part of"),
        (part("bytes 4-7/*", b"1,2\n", ETag='"one"'), "only a part of"),
        (part("bytes 4-7/8", b"1,2\n", ETag='"two"'), "the file changed"),
        (part("items 4-7/8", b"1,2\n", ETag='"one"'), "a different range"),
        (part("", b"1,2\n", ETag='"one"'), "a different range"),
        (faults.status(416), "fewer bytes"),
    ],
)
def test_part_that_is_not_the_rest_of_the_same_file_is_refused_by_itself(
    answer: faults.Behaviour, why: str, server: FaultServer
) -> None:
    server.results = [answer]
    with pytest.raises(TransferError, match=why):
        client_of(server).open_results(SecretUrl(server.results_url), offset=4, validator='"one"')


def test_part_that_is_the_rest_is_taken_with_its_validator_or_without(server: FaultServer) -> None:
    server.results = [part("bytes 4-7/8", b"1,2\n"), part("bytes 4-7/8", b"1,2\n", ETag='"one"')]
    for _ in range(2):
        with client_of(server).open_results(SecretUrl(server.results_url), offset=4, validator='"one"') as stream:
            assert (stream.start, stream.total, stream.validator) == (4, 8, '"one"')


def answered(head: str, body: bytes = b"a,b\n1,2\n") -> faults.Behaviour:
    """An answer with these lines of a head, and nothing added to them."""
    return wire_faults.raw(f"{head}\r\n\r\n".encode() + body)


@pytest.mark.parametrize(
    "framing",
    [
        "Content-Length: 8\r\nContent-Length: 16",
        "Content-Length: 8, 16",
        "Content-Length: x16",
        "Content-Length: -1",
        "Content-Length: 1_6",
        "Content-Length:",
        "Transfer-Encoding: gzip, chunked",
        "Transfer-Encoding: identity\r\nTransfer-Encoding: chunked",
        "Transfer-Encoding: chunked\r\nTransfer-Encoding: gzip",
        "Transfer-Encoding: chunked, chunked",
        "X Bad: 1\r\nContent-Length: 16",
        "Content-Length : 16",
        "X: 1\r\r\nContent-Length: 16",
    ],
)
def test_answer_whose_end_nobody_can_tell_is_not_taken_for_whole(framing: str, server: FaultServer) -> None:
    server.results = [answered(f"HTTP/1.1 200 OK\r\n{framing}")]
    with pytest.raises(TransferError, match="can't be read"):
        read(client_of(server), server.results_url)


def test_length_that_is_said_twice_is_one(server: FaultServer) -> None:
    server.results = [answered("HTTP/1.1 200 OK\r\nContent-Length: 8, 8"), answered("HTTP/1.1 200 OK\r\nContent-Length: 9, 9")]
    assert read(client_of(server), server.results_url) == server.body
    with pytest.raises(TransferError, match="before their announced length"):
        read(client_of(server), server.results_url)


def test_informational_answers_go_before_the_final_one(server: FaultServer) -> None:
    server.results = [
        answered("HTTP/1.1 103 Early Hints\r\nLink: </x>\r\nContent-Length: x", b"HTTP/1.1 100 C\r\n\r\n" * 2 + WHOLE)
    ]
    assert read(client_of(server), server.results_url) == server.body
    server.results = [answered("HTTP/1.1 101 Switching Protocols\r\nUpgrade: x", WHOLE)]
    with pytest.raises(UnreadableAnswerError, match="101"):
        read(client_of(server), server.results_url)


WHOLE = b"HTTP/1.1 200 OK\r\nContent-Length: 8\r\n\r\na,b\n1,2\n"


@pytest.mark.parametrize("members", [[b"", b'{"message": "x"}'], [b" ", b"<p>x</p>"], [b'{"mess', b'age": 1}']])
def test_document_in_later_members_of_a_gzip_is_seen(members: list[bytes], server: FaultServer) -> None:
    server.results = [faults.status(200, b"".join(map(gzip.compress, members)), Content_Encoding="gzip")]
    with pytest.raises(UnreadableAnswerError, match="instead of a CSV"):
        read(client_of(server), server.results_url)


@pytest.mark.parametrize(
    ("answer", "why"),
    [
        (faults.announced(+10), "before their announced length"),
        (faults.announced(-3), "more bytes than it announced"),
        (faults.chunked(chunk=3, stop_after=2), "before the last one"),
        (faults.chunked(size_line=b"zz"), "not well-formed"),
        (wire_faults.raw(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n4\r\na,b\nXX\r\n0\r\n\r\n"), "not well-formed"),
        (
            wire_faults.raw(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n4\r\na,b\n\r\n0\r\n" + b"X: y\r\n" * 200),
            "no end",
        ),
        (wire_faults.raw(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n4\r\na,b\n\r\n0\r\n"), "before the last one"),
        (faults.reset(5), "broke in the middle"),
    ],
)
def test_body_that_is_not_whole_is_refused_by_itself(answer: faults.Behaviour, why: str, server: FaultServer) -> None:
    server.results = [answer]
    with pytest.raises(TransferError, match=why):
        read(client_of(server), server.results_url)


NOT_CSV: dict[str, tuple[bytes, str]] = {
    "an error document": (b'{"message": "the disk is full", "error_code": "X"}', "application/octet-stream"),
    "and with white space": (b' \r\n{\n  "message": "the disk is full"}', ""),
    "a long document": (b'{"message": "the disk is full, and more", "x": "' + b"y,y" * 1000 + b'"}', ""),
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
    "blanks, then a page": (b" " * 2000 + b"<p>the page", "text/csv"),
    "words after a colon": (b"Error: timeout\nRetry: later\n", "text/csv"),
    "YAML": (b"---\nmessage: x\n", "text/csv"),
    "a CSV called a page": (b"header:timestamp,body:who\n2026-01-01T00:00:00.000Z,ann@example.com\n", "text/html"),
    "events as JSON": (b'{"result": [{"keen": {"id": "1"}, "who": "ann@example.com"}]}', "application/json"),
    "a CSV in UTF-16": ("header:timestamp,body:who\n2026-01-01T00:00:00.000Z,ann@example.com\n".encode("utf-16"), "text/csv"),
    "a picture": (b"\x89PNG\r\n\x1a\n" + bytes(50), "text/csv"),
    "packed by bzip2": (bz2.compress(b"a,b\n1,2\n"), "text/csv"),
    "packed by xz": (lzma.compress(b"a,b\n1,2\n"), "text/csv"),
    "a page in UTF-16 without a mark": ("<p>the page".encode("utf-16-le"), ""),
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
        read(client_of(server), server.results_url)
    if b"full" in body:
        assert "the disk is full" in str(raised.value)
    assert "ann@" not in str(raised.value)


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
        b"\xef\xbb\xbf",
        "größe\n1\n".encode(),
        b"a" * 1023 + "ö\n1\n".encode(),  # a letter at the end of the head
        b"header:timestamp,body:\x01\xff\n",
    ],
)
@pytest.mark.parametrize("kind", ["text/csv; charset=utf-8", "application/octet-stream", "text/plain"])
def test_what_may_be_a_csv_is_taken(body: bytes, kind: str, server: FaultServer) -> None:
    server.results = [faults.status(200, body, Content_Type=kind)]
    assert read(client_of(server), server.results_url) == body


def test_fresh_url_is_asked_for_once_it_is_needed(server: FaultServer) -> None:
    server.api = [document({"_id": "e1", "status": "complete", "results_url": server.results_url})]
    renewing = RenewingResults(client_of(server), "purchases", "e1")
    for _ in range(2):
        with renewing.open() as stream:
            assert stream.total == len(server.body)
    assert [request.target for request in server.asked("/2.0")] == ["/2.0/projects/P1/purchases/_extract/e1"]


def test_url_that_stays_expired_is_renewed_a_few_times_only(server: FaultServer) -> None:
    server.api = [document({"_id": "e1", "status": "complete", "results_url": server.results_url})]
    server.results = [faults.status(403)]
    with pytest.raises(ResultsExpiredError):
        RenewingResults(client_of(server), "purchases", "e1", SecretUrl(server.results_url)).open()
    assert (len(server.asked("/results")), len(server.asked("/2.0"))) == (3, 2)


def test_results_of_an_extraction_that_failed_or_is_not_ready(server: FaultServer) -> None:
    server.api = [
        document({"_id": "e1", "status": "failed", "message": "out of disk"}),
        document({"_id": "e1", "status": "not started"}),
    ]
    renewing = RenewingResults(client_of(server), "purchases", "e1")
    with pytest.raises(ExtractionFailedError, match="out of disk"):
        renewing.open()
    with pytest.raises(ServiceUnavailableError, match="not complete yet"):
        renewing.open()
