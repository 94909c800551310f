"""Every fault of a transfer ends in a whole file, equal byte by byte, or in a named error that leaves the older file alone."""

from __future__ import annotations

import gzip
import hashlib
from collections.abc import Sequence
from datetime import datetime, timedelta, timezone
from email.utils import format_datetime
from pathlib import Path

import pytest

from keen_pipeline.collection import Encoding
from keen_pipeline.errors import (
    ConfigurationError,
    KeenPipelineError,
    RateLimitedError,
    RequestRejectedError,
    ResultsExpiredError,
    ServiceUnavailableError,
    TransferError,
    UnreadableAnswerError,
    VerificationError,
)
from keen_pipeline.landing.transfer import download
from keen_pipeline_tests.landing.conftest import KEY, Lander, example
from keen_pipeline_tests.servers import faults, wire_faults
from keen_pipeline_tests.servers.faults import Behaviour, FaultServer

WHOLE = faults.whole()
OLD = b"a,b\n1,2\n"


def _in_a_second() -> str:
    return format_datetime(datetime.now(timezone.utc) + timedelta(seconds=1), usegmt=True)


def _only_whole(rest: Behaviour) -> Behaviour:
    """A server that can't send the rest of a file, though it does when it is asked for it."""
    return lambda to: (rest if to.wanted() else WHOLE)(to)


def _after(data: bytes) -> Behaviour:
    def answer(to: faults.Exchange) -> None:
        to.sock.sendall(data)
        WHOLE(to)

    return answer


def _cut_at_a_record(framing: str) -> Behaviour:
    """Whole records of the file, and the end of the connection."""
    head = f"HTTP/1.1 200 OK\r\n{framing}\r\n\r\n"
    return wire_faults.raw(head.encode() + example(7))


_TWO_ENCODINGS = b"HTTP/1.1 200 OK\r\nContent-Encoding: identity\r\nContent-Encoding: br\r\n\r\n" + example(7)

RECOVERED: dict[str, Sequence[Behaviour]] = {
    "nothing wrong": [WHOLE],
    "chunked": [faults.chunked()],
    "undelimited, whole": [faults.undelimited()],
    "gzip": [faults.gzipped()],
    "gzip of three members": [faults.gzipped(members=3)],
    "cut at the first byte": [faults.cut(0), WHOLE],
    "cut in the middle": [faults.cut(100_001), WHOLE],
    "cut at the last byte": [faults.cut(len(example()) - 1), WHOLE],
    "cut again and again": [faults.cut(50_000), faults.cut(1), faults.cut(50_000), faults.cut(0), WHOLE],
    "cut, and no validator to resume with": [faults.cut_without_validator(100_000), faults.no_ranges()],
    "cut, and ranges not honoured": [faults.cut(100_000), faults.no_ranges()],
    "cut, and another range than asked for": [faults.cut(100_000), faults.wrong_range(), WHOLE],
    "cut, and the range refused": [faults.cut(100_000), faults.status(416), WHOLE],
    "reset in the middle": [faults.reset(100_000), WHOLE],
    "reset at once": [faults.reset_at_once(), WHOLE],
    "stalled in the middle": [faults.stall(100_000), WHOLE],
    "stalled before the headers": [faults.stall_before_headers(), WHOLE],
    "slow drip, cut by the time limit": [faults.drip(0.05), WHOLE],
    "500": [faults.status(500), WHOLE],
    "503 with seconds": [faults.status(503, Retry_After="1"), WHOLE],
    "429 with seconds": [faults.status(429, Retry_After="1"), WHOLE],
    "chunked, cut": [faults.chunked(stop_after=100), WHOLE],
    "chunked, a broken size line": [faults.chunked(size_line=b"zz"), WHOLE],
    "Content-Length too long": [faults.announced(+10), WHOLE],
    "Content-Length too short": [faults.announced(-10), WHOLE],
    "gzip cut and resumed": [faults.gzipped(after=3000), faults.gzipped()],
    "gzip damaged": [faults.gzipped(damage=5000), faults.gzipped()],
    "gzip with a wrong check sum": [faults.gzipped(damage=-6), faults.gzipped()],
    "gzip without its trailer": [faults.gzipped(lost=4), faults.gzipped()],
    "gzip cut, then plain": [faults.gzipped(after=3000), WHOLE],
    "expired with 403": [faults.status(403), WHOLE],
    "expired with 410 in the middle": [faults.cut(100_000), faults.status(410), WHOLE],
    "a web page once": [faults.page(), WHOLE],
    "an error document in the middle": [faults.cut(100_000), faults.document({"message": "busy"}), WHOLE],
    "cut, and the rest of a changed file": [faults.cut(100_000), wire_faults.rest_of_another(100_000), WHOLE],
    "redirected once": [faults.redirect("/results/other"), WHOLE],
    "early hints": [_after(b"HTTP/1.1 103 Early Hints\r\nLink: </x>\r\n\r\n")],
    "gzip of 500 members": [faults.gzipped(members=500)],
    "cut, and always another range than asked for": [faults.cut(100_000), _only_whole(faults.wrong_range())],
    "cut, and the range always refused": [faults.cut(100_000), _only_whole(faults.status(416))],
    "cut, and always the rest of a changed file": [faults.cut(100_000), _only_whole(wire_faults.rest_of_another(100_000))],
    "chunked, cut, and a part of the rest": [faults.chunked(stop_after=100), _only_whole(wire_faults.part_of_rest("*"))],
    "cut, and a part of the rest": [faults.cut(100_000), _only_whole(wire_faults.part_of_rest())],
}

REFUSED: dict[str, tuple[Sequence[Behaviour], type[KeenPipelineError]]] = {
    "always cut at the first byte": ([faults.cut(0)], TransferError),
    "always stalled": ([faults.stall_before_headers()], TransferError),
    "always a drip": ([faults.drip(0.05)], TransferError),
    "always 500": ([faults.status(500)], ServiceUnavailableError),
    "always 503": ([faults.status(503)], ServiceUnavailableError),
    "429 for an hour": ([faults.status(429, Retry_After="3600")], RateLimitedError),
    "always too long a Content-Length": ([faults.announced(+10)], TransferError),
    "always too short a Content-Length": ([faults.announced(-10)], TransferError),
    "always a cut chunk": ([faults.chunked(stop_after=3)], TransferError),
    "always damaged gzip": ([faults.gzipped(damage=5000)], TransferError),
    "always truncated gzip": ([faults.gzipped(lost=4)], TransferError),
    "always expired": ([faults.status(404)], ResultsExpiredError),
    "a web page": ([faults.page()], UnreadableAnswerError),
    "undelimited, cut in a quoted field": ([faults.undelimited(example().index(b'"two') + 3)], VerificationError),
    "undelimited, cut in a record": ([faults.undelimited(example().index(b"\n7,") + 2)], VerificationError),
    "a redirect loop": ([faults.redirect("/results/again")], UnreadableAnswerError),
    "a redirect to a file": ([faults.redirect("file:///etc/passwd")], UnreadableAnswerError),
    "400": ([faults.document({"message": "no"}, 400)], RequestRejectedError),
    "400 of nobody": ([faults.status(400, b"no")], UnreadableAnswerError),
    "an encoding nobody asked for": ([faults.status(200, b"x", Content_Encoding="br")], UnreadableAnswerError),
    "a length of no number": ([_cut_at_a_record("Content-Length: 1_0")], TransferError),
    "two lengths": ([_cut_at_a_record("Content-Length: 9\r\nContent-Length: 10")], TransferError),
    "the same length twice, cut": ([_cut_at_a_record("Content-Length: 900000, 900000")], TransferError),
    "a line that is no header before the length": ([_cut_at_a_record("X Bad: 1\r\nContent-Length: 900000")], TransferError),
    "a name that is no ASCII before the length": ([_cut_at_a_record("Größe: 1\r\nContent-Length: 900000")], TransferError),
    "undelimited, cut before its first byte": ([faults.undelimited(0)], TransferError),
    "an encoding within another": (
        [faults.status(200, gzip.compress(gzip.compress(example(7))), Content_Encoding="gzip, gzip")],
        UnreadableAnswerError,
    ),
    "two lines of encodings": ([wire_faults.raw(_TWO_ENCODINGS)], UnreadableAnswerError),
    "two codings of the transfer": ([_cut_at_a_record("Transfer-Encoding: identity, chunked")], TransferError),
    "a part that nobody asked for": ([wire_faults.part_of_rest("*")], TransferError),
    "an error document in a gzip's second member": (
        [faults.status(200, gzip.compress(b"") + gzip.compress(b'{"message": "x"}'), Content_Encoding="gzip")],
        UnreadableAnswerError,
    ),
    "a picture": ([faults.status(200, b"\x89PNG\r\n\x1a\n", Content_Type="text/csv")], UnreadableAnswerError),
    "a bomb": ([faults.gzip_bomb(30_000_000)], VerificationError),
    "an error document": ([faults.document({"message": "the disk is full"})], UnreadableAnswerError),
    "plain words": ([faults.status(200, b"the disk is full")], UnreadableAnswerError),
    "a paragraph": ([faults.status(200, b"<p>the disk is full</p>")], UnreadableAnswerError),
    "a redirect to what is no URL": ([faults.redirect("http://[::1")], UnreadableAnswerError),
    "a redirect to credentials": ([faults.redirect("http://169.254.169.254/latest")], ConfigurationError),
    "a head without an end": ([wire_faults.head_drip(0.05)], TransferError),
    "100 Continue without an end": ([wire_faults.endless_continue()], TransferError),
    "no HTTP": ([wire_faults.raw(b"SSH-2.0-OpenSSH\r\n")], TransferError),
    "a chunk's length in letters": (
        [wire_faults.raw(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz")],
        TransferError,
    ),
}


@pytest.fixture
def quick(lander: Lander, monkeypatch: pytest.MonkeyPatch) -> Lander:
    """Time limits short enough for a test of each; an older file lies at the target."""
    lander.read_timeout = 0.3
    lander.transfer_timeout = 0.6
    monkeypatch.setattr(download, "MOST_CONNECTIONS", 6)
    monkeypatch.setattr(download, "MOST_FAILURES", 3)
    (lander.root / "purchases").mkdir(parents=True)
    target(lander).write_bytes(OLD)
    return lander


def target(lander: Lander) -> Path:
    return lander.root / "purchases" / "2026-01-01.csv"


@pytest.mark.parametrize("name", RECOVERED)
def test_recovered_transfer_lands_the_whole_file(name: str, quick: Lander) -> None:
    body = quick.server.body
    landing = quick.land(RECOVERED[name])
    assert target(quick).read_bytes() == body
    assert (landing.bytes, landing.stored_bytes, landing.records) == (len(body), len(body), 8000)
    assert landing.sha256 == hashlib.sha256(body).hexdigest()
    assert landing.columns == ("keen.id", "user.address", "amount", "note")
    assert [path.name for path in quick.root.rglob("*") if path.is_file()] == ["2026-01-01.csv"]


@pytest.mark.parametrize("name", REFUSED)
def test_refused_transfer_names_the_error_and_leaves_the_older_file(name: str, quick: Lander) -> None:
    behaviours, error = REFUSED[name]
    with pytest.raises(error) as raised:
        quick.land(behaviours)
    assert target(quick).read_bytes() == OLD
    assert [path.name for path in (quick.root / "purchases").iterdir()] == ["2026-01-01.csv"]
    text = str(raised.value)
    assert "purchases[2026-01-01]" in text
    assert "extraction e1" in text
    assert KEY not in text
    assert "s3cr3t" not in text


def test_retry_after_as_a_date_is_waited_for(quick: Lander) -> None:
    quick.land([faults.status(429, Retry_After=_in_a_second()), WHOLE])
    assert target(quick).read_bytes() == quick.server.body


def test_a_long_retry_after_is_the_callers_to_wait_for(quick: Lander) -> None:
    with pytest.raises(RateLimitedError) as raised:
        quick.land([faults.status(429, Retry_After="3600")])
    assert raised.value.retry_after == 3600
    assert len(quick.server.asked("/results")) == 1


def test_file_that_changed_between_two_connections_is_landed_from_its_beginning(quick: Lander) -> None:
    new = example(3000)
    landing = quick.land([faults.cut(100_000), faults.changed(new)])
    assert target(quick).read_bytes() == new
    assert landing.records == 3000
    assert quick.server.asked("/results")[1].headers["if-range"] == '"one"'


def test_resume_asks_only_for_what_is_missing(quick: Lander) -> None:
    quick.land([faults.cut(100_001), WHOLE])
    assert [request.headers.get("range") for request in quick.server.asked("/results")] == [None, "bytes=100001-"]


def test_half_an_undelimited_body_that_ends_with_a_record_can_only_be_found_by_the_count(quick: Lander) -> None:
    half = quick.server.body.index(b"\n4000,") + 1
    landing = quick.land([faults.undelimited(half)])
    assert target(quick).read_bytes() == quick.server.body[:half]
    assert landing.records == 4000


def test_redirect_to_another_host_goes_without_the_key(quick: Lander) -> None:
    with FaultServer(results=[WHOLE], body=quick.server.body) as other:
        quick.land([faults.redirect(other.results_url)])
        assert target(quick).read_bytes() == quick.server.body
        assert "authorization" not in other.requests[0].headers
    assert quick.server.asked("/results")[0].headers["authorization"] == KEY


def test_private_address_is_refused_where_the_configuration_says_so(quick: Lander) -> None:
    quick.allow_private = False
    with pytest.raises(ConfigurationError, match="private address"):
        quick.land([WHOLE])
    assert quick.server.requests == []
    assert target(quick).read_bytes() == OLD


@pytest.mark.parametrize(
    ("body", "columns"), [(b"", ()), (b"a,b\n", ("a", "b")), (b"a,b", ("a", "b")), (b"\xef\xbb\xbfa,b\r\n", ("a", "b"))]
)
def test_no_events_is_a_file_of_zero_records(quick: Lander, body: bytes, columns: tuple[str, ...]) -> None:
    quick.server.body = body
    landing = quick.land([WHOLE])
    assert (landing.records, landing.columns, landing.bytes) == (0, columns, len(body))
    assert target(quick).read_bytes() == body


def test_what_is_refused_is_kept_aside_with_its_reason(quick: Lander) -> None:
    quick.server.body = b"a,b\n1,2\n1,2,3\n1,2\n"
    with pytest.raises(VerificationError, match=r"record 2 has 3 columns, the header has 2") as raised:
        quick.land([WHOLE])
    kept = quick.root / "_quarantine" / "purchases" / "2026-01-01.e1.csv"
    assert raised.value.quarantined == str(kept)
    assert kept.read_bytes() == quick.server.body
    reason = kept.with_name(kept.name + ".reason.txt").read_text()
    assert "record 2 has 3 columns" in reason
    assert hashlib.sha256(quick.server.body).hexdigest() in reason
    assert "s3cr3t" not in reason
    assert KEY not in reason


@pytest.mark.parametrize("encoding", [Encoding.CSV_GZ, Encoding.CSV_ZST])
def test_interrupted_landing_gives_the_same_compressed_bytes(quick: Lander, encoding: Encoding) -> None:
    first = quick.land([WHOLE], encoding)
    bytes_first = Path(first.uri).read_bytes()
    second = quick.land([faults.cut(100_000), WHOLE], encoding)
    third = quick.land([faults.cut(100_000), faults.no_ranges()], encoding)
    assert Path(second.uri).read_bytes() == bytes_first == Path(third.uri).read_bytes()
    assert first.sha256 == second.sha256 == hashlib.sha256(quick.server.body).hexdigest()
