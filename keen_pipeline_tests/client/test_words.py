"""What others write goes through one scrubber: no control characters, no secrets, not much of it."""

from __future__ import annotations

import unicodedata
from collections.abc import Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from keen_pipeline.client import KeenClient, RenewingResults
from keen_pipeline.client.scrub import LONGEST_TEXT, Scrubber, clean
from keen_pipeline.errors import ExtractionFailedError, KeenPipelineError, RequestRejectedError, UnreadableAnswerError
from keen_pipeline.extraction import SecretUrl
from keen_pipeline_tests.servers.faults import FaultServer, document, redirect, status

READ, WRITE, MASTER = "read-key-77aa", "write/key+88bb", "read-key-77aa-and-more"
SCRUB = Scrubber((READ, WRITE, MASTER, "wrong", None, ""))
URL = "https://results.example/f.csv?signature=s3cr3t"
HOSTILE = f"\x1b[31mred\x1b[0m \x1b]0;title\x07 \u202enigol\u202c \x00 \ud800 {READ} {URL} \r\nnext " + "x" * 5000


@pytest.fixture
def server() -> Iterator[FaultServer]:
    with FaultServer() as running:
        yield running


def client(server: FaultServer) -> KeenClient:
    return KeenClient(server.url, "P1", read_key=READ, write_key=WRITE, master_key=MASTER)


def is_clean(text: str) -> bool:
    hidden = [c for c in text if unicodedata.category(c) in ("Cc", "Cf", "Cs") or c in "\u2028\u2029"]
    return not hidden and READ not in text and WRITE not in text and "s3cr3t" not in text and "title" not in text


@pytest.mark.parametrize(
    ("text", "cleaned"),
    [
        ("the API key is wrong", "the API key is wrong"),
        (f"key {READ}", "key ***"),
        (f"key {MASTER}!", "key ***!"),
        ("key write%2Fkey%2B88bb", "key ***"),
        ("write/key%2B88bb %77rite%252Fkey%252b88bb write/\nkey+88bb", "*** *** ***"),
        (f"what an excerpt cut off {WRITE[:10]}", "what an excerpt cut off ***"),
        (f"re\x00ad-k\u200bey-77aa {READ[:4]}\x1b[1m{READ[4:]}", "*** ***"),
        (f"see {URL} and more", "see <url> and more"),
        ("see https:\\/\\/x.example\\/f?signature=s3cr3t.", "see <url>"),
        ("see https:\\u002F\\u002fx.example\\u002fs3cr3t", "see <url>"),
        ("see https&#58;&#x2F;/x.example/s3cr3t &lt;b&gt;", "see <url> <b>"),
        (f'"\\u0072{READ[1:]}" {READ.upper()}', '"***" ***'),
        ("write%2fkey%2b88bb write\\/key+88bb write/key&#43;88bb", "*** *** ***"),
        ("a&#27;[31m &#8238;b \\u00e9 \\u001b", "a[31m b \\u00e9 \\u001b"),
        ("https%3A%2F%2Fx.example%2Ff%3Fsignature%3Ds3cr3t", "<url>"),
        ("s3://key:s3cr3t@bucket postgresql://u:s3cr3t@h/db", "<url> <url>"),
        ("/results/f?signature=s3cr3t&x=1", "/results/f?signature=***&x=1"),
        (
            "/f?X-Amz-Signature=s3cr3t&X-Amz-Credential=AK%2Fs3cr3t&sig=s3cr3t",
            "/f?X-Amz-Signature=***&X-Amz-Credential=***&sig=***",
        ),
        ("?api_key=s3cr3t", "?api_key=***"),
        ('{"api_key": "0123456789abcdef", "a": 1}', '{"api_key": "***", "a": 1}'),
        ("Authorization: Bearer s3cr3t", "Authorization: ***"),
        ("authorization: 0123456789", "authorization: ***"),
        ("token: expired", "token: expired"),
        ("password=s3cr3t;", "password=***;"),
        ("signature design=1", "signature design=1"),
        ("a\tb\r\n c\x85d\u2028e", "a b c d e"),
        ("\x1b[1;31mred\x1b[0m\x9b2Jx\x1b]8;;http://x\x1b\\y\x1bcz", "redxyz"),
        ("\u202eevil\u2066\u200f\ufeff \ud800 \U000e0001", "evil"),
        ("Straße, 東京, 🎉", "Straße, 東京, 🎉"),
    ],
)
def test_words_are_cleaned_of_what_is_not_for_readers(text: str, cleaned: str) -> None:
    assert SCRUB(text) == cleaned


def test_words_have_a_bound() -> None:
    assert len(SCRUB("y" * 10_000_000)) == LONGEST_TEXT
    assert SCRUB("y" * LONGEST_TEXT) == "y" * LONGEST_TEXT
    assert SCRUB("y" * (LONGEST_TEXT - 5) + f" {READ}").endswith(" ***")
    assert READ[:6] not in SCRUB("y" * (LONGEST_TEXT - 10) + f" {READ} and more")


@pytest.mark.timeout(20)
@pytest.mark.parametrize("piece", ["a.", "a", "https:/", "key-", "\x9d", "\x1b[", "token:", "\\\"'"])
def test_text_that_repeats_itself_is_cleaned_in_linear_time(piece: str) -> None:
    assert len(SCRUB(piece * 100_000)) <= LONGEST_TEXT


@given(st.text(st.characters(), max_size=60), st.sampled_from([READ, WRITE, MASTER, URL, "\x1b[0m"]), st.text(st.characters()))
def test_no_text_gets_a_secret_or_a_control_character_through(before: str, secret: str, after: str) -> None:
    said = SCRUB(f"{before} {secret} {after}")
    assert is_clean(said)
    assert SCRUB(said) == said
    assert "\n" not in said
    assert len(said) <= LONGEST_TEXT
    said.encode()


@given(st.text(st.characters(categories=["L", "N", "P", "S"]), max_size=40))
def test_ordinary_text_stays(text: str) -> None:
    assert clean(text) == text


def test_messages_of_extractions_are_cleaned(server: FaultServer) -> None:
    entry = {"_id": "e1", "status": "failed", "message": HOSTILE}
    server.api = [document([entry, {"_id": "e2", "status": HOSTILE}]), document(entry), document(entry)]
    made = client(server)
    found = made.list_extractions("purchases")
    with pytest.raises(ExtractionFailedError) as raised:
        RenewingResults(made, "purchases", "e1").open()
    for said in (found["e1"].message, made.get_extraction("purchases", "e1").message, str(raised.value)):
        assert said is not None
        assert "red nigol" in said
        assert is_clean(said)
        assert len(said) < LONGEST_TEXT + 100


@pytest.mark.parametrize("code", [400, 401, 402, 404, 413, 429, 500])
@pytest.mark.parametrize("keens", [True, False], ids=["Keen's JSON", "text"])
def test_words_of_refusals_are_cleaned(code: int, keens: bool, server: FaultServer) -> None:
    body = {"message": HOSTILE, "error_code": HOSTILE}
    text = HOSTILE.encode("utf-8", "surrogatepass")
    server.api = server.results = [document(body, code) if keens else status(code, text)]
    made = client(server)
    for call in (
        lambda: made.add_events({"a": [{}]}),
        lambda: made.open_results(SecretUrl(server.results_url)),
    ):
        with pytest.raises(KeenPipelineError) as raised:
            call()
        assert is_clean(str(raised.value))
        assert len(str(raised.value)) < 2 * LONGEST_TEXT


def test_names_and_reasons_are_cleaned(server: FaultServer) -> None:
    made = client(server)
    server.api = [document({"collections": [{"name": "a\x00b\x1b[1m" + "c" * 999}]})]
    assert made.collections() == ["ab" + "c" * 251 + "..."]
    server.api = [document({"inferred_property_types": {"body:\ud800a\x1b[1m": "num\x00"}})]
    assert made.property_types("a") == {"body:a": "num"}
    server.api = [document({"a": [{"success": False, "error": {"name": HOSTILE, "description": HOSTILE}}, {"error": HOSTILE}]})]
    [first, second] = made.add_events({"a": [{}, {}]})["a"]
    assert first is not None
    assert second is not None
    assert is_clean(first + second)


def test_excerpt_of_an_unreadable_answer_is_cleaned(server: FaultServer) -> None:
    made = client(server)
    server.api = server.results = [status(200, b"<p>" + HOSTILE.encode("utf-8", "surrogatepass"))]
    for call in (made.collections, lambda: made.open_results(SecretUrl(server.results_url))):
        with pytest.raises(KeenPipelineError, match="nigol") as raised:
            call()
        assert is_clean(str(raised.value))


@pytest.mark.parametrize("identity", [READ, URL, "e\u202e1", "e\x9b31m1", "e" * 300, " e1", ".."])
def test_id_that_no_message_can_hold_is_no_id(identity: str, server: FaultServer) -> None:
    server.api = [document([{"_id": identity, "status": "not started"}])]
    with pytest.raises(UnreadableAnswerError, match="whose `_id` has") as raised:
        client(server).list_extractions("purchases")
    assert is_clean(str(raised.value))


@pytest.mark.parametrize("host", ["\x9b31mevil.example", "\u202eevil", "a" * 5000, f"{READ}.example", "[fe80::1%\x9b2J]"])
def test_host_that_no_message_can_hold_is_not_followed(host: str, server: FaultServer) -> None:
    server.results = [redirect(f"http://{host}/x".encode().decode("latin-1"))]
    for url in (f"http://{host}/x", server.results_url):
        with pytest.raises(UnreadableAnswerError, match="host") as raised:
            client(server).open_results(SecretUrl(url))
        assert is_clean(str(raised.value))
        assert len(str(raised.value)) < LONGEST_TEXT


def test_name_in_a_reason_is_cleaned(server: FaultServer) -> None:
    server.api = [document({"inferred_property_types": {f"{READ} {URL}": 5}})]
    with pytest.raises(UnreadableAnswerError) as raised:
        client(server).property_types("purchases")
    assert is_clean(str(raised.value))


def test_headers_are_others_words_too(server: FaultServer) -> None:
    made = client(server)
    server.api = server.results = [status(200, b"x", Content_Encoding="\x1b[31m" + "e" * 3000, Content_Type="\x1b[31m")]
    for call in (made.collections, lambda: made.open_results(SecretUrl(server.results_url))):
        with pytest.raises(KeenPipelineError, match="Content-Encoding") as raised:
            call()
        assert is_clean(str(raised.value))
        assert len(str(raised.value)) < 2 * LONGEST_TEXT
    server.results = [status(200, b"x", Content_Type="text/html\x1b[31m; " + "e" * 3000)]
    with pytest.raises(KeenPipelineError, match="text/html") as raised:
        made.open_results(SecretUrl(server.results_url))
    assert is_clean(str(raised.value))
    assert len(str(raised.value)) < LONGEST_TEXT


def test_a_key_of_few_letters_takes_no_words_out(server: FaultServer) -> None:
    server.api = [document({"message": "the API key is wrong", "error_code": "wrong"}, 400)]
    with pytest.raises(RequestRejectedError, match="the API key is wrong"):
        KeenClient(server.url, "P1", read_key="wrong").collections()
    assert server.requests[0].headers["authorization"] == "wrong"
