"""Mail on completion, received by a real SMTP server."""

from __future__ import annotations

import gzip
import sqlite3
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from email import message_from_bytes
from email.message import EmailMessage, Message
from pathlib import Path
from smtplib import SMTPAuthenticationError
from typing import Any

import pytest
from aiosmtpd.controller import Controller
from aiosmtpd.smtp import AuthResult
from hypothesis import given
from hypothesis import strategies as st
from prometheus_client import CollectorRegistry, Counter

from keen_pipeline.errors import ConfigurationError, InvalidInputError
from keen_pipeline.mail import check_login, is_refused_for_good, send_mail
from keen_pipeline.service import embedded
from keen_pipeline.service.addresses import checked_email
from keen_pipeline.service.extractions import mail
from keen_pipeline.service.extractions.records import COMPLETE, MAIL_GIVEN_UP, MAIL_PENDING, MAIL_SENT, ExtractionRecords, Turn
from keen_pipeline.service.storage.folder.state import SqliteDatabase
from keen_pipeline.settings import SmtpSettings
from keen_pipeline_tests.servers.ports import free_port
from keen_pipeline_tests.service.environment import clean_environment
from keen_pipeline_tests.service.http_client import Http


class Mailbox:
    def __init__(self) -> None:
        self.mails: list[tuple[str, list[str], Message]] = []

    async def handle_DATA(self, server: Any, session: Any, envelope: Any) -> str:  # noqa: N802 - aiosmtpd's name
        self.mails.append((envelope.mail_from, envelope.rcpt_tos, message_from_bytes(envelope.content)))
        return "250 OK"

    def wait(self, seconds: float = 20) -> tuple[str, list[str], Message]:
        deadline = time.monotonic() + seconds
        while not self.mails:
            assert time.monotonic() < deadline, "no mail came"
            time.sleep(0.02)
        return self.mails[0]


@contextmanager
def mail_server(port: int, password: str) -> Iterator[Mailbox]:
    box = Mailbox()

    def check(server: Any, session: Any, envelope: Any, mechanism: str, data: Any) -> AuthResult:
        return AuthResult(success=data.login == b"reports" and data.password == password.encode())

    controller = Controller(box, hostname="127.0.0.1", port=port, authenticator=check, auth_required=True, auth_require_tls=False)
    controller.start()
    try:
        yield box
    finally:
        controller.stop()


def smtp_environment(port: int) -> dict[str, str]:
    return clean_environment(
        SMTP_HOST="127.0.0.1",
        SMTP_PORT=str(port),
        SMTP_USER="reports",
        SMTP_PASSWORD="s3cret-word",
        SMTP_FROM="keen@example.com",
        SMTP_INSECURE_LOGIN="true",
    )


def text_of(message: Message) -> str:
    payload = message.get_payload(decode=True)
    assert isinstance(payload, bytes)
    return payload.decode().replace("\r\n", "\n")


def test_the_mail_names_what_was_extracted_and_its_link_works(data: Path) -> None:
    port = free_port()
    with mail_server(port, "s3cret-word") as box, embedded.start(data, env=smtp_environment(port)) as service:
        http = Http(service.endpoint)
        http.add("purchases", {"a": 1, "keen": {"timestamp": "2026-01-01T10:00:00Z"}}, {"a": 2})
        body = {"filters": [], "timeframe": {"start": "2026-01-01", "end": "2026-01-02"}, "email": "nightly@example.com"}
        http.json("POST", f"{http.v2}/purchases/_extract", body=body)
        sender, recipients, message = box.wait()
        text = text_of(message)
        link = next(line for line in text.splitlines() if line.startswith("http"))
        assert (sender, recipients) == ("keen@example.com", ["nightly@example.com"])
        assert message["Subject"] == "Your extraction of purchases is complete"
        assert "Collection: purchases\n" in text
        assert "Timeframe: 2026-01-01T00:00:00Z to 2026-01-02T00:00:00Z\n" in text
        assert "Events: 1\n" in text
        assert http.request("GET", link, key=None).data == b"header:timestamp,body:a\n2026-01-01T10:00:00.000Z,1\n"


def test_a_dead_mail_server_fails_no_extraction_and_gets_the_mail_once_it_lives(data: Path) -> None:
    port = free_port()
    with embedded.start(data, env=smtp_environment(port)) as service:
        http = Http(service.endpoint)
        http.add("purchases", {"a": 1})
        asked = {"event_collection": "purchases", "email_address": "nightly@example.com"}
        assert "Processing" in http.json("GET", f"{http.v3}/queries/extraction", params=asked)["result"]
        (listed,) = http.json("GET", f"{http.v2}/purchases/_extract")["results"]
        http.wait("purchases", listed["_id"])
        deadline = time.monotonic() + 60
        while b'keen_mails_total{outcome="failed"}' not in http.request("GET", "/metrics", key=None).data:
            assert time.monotonic() < deadline, "the failed attempt was not counted"
            time.sleep(0.05)
        with mail_server(port, "s3cret-word") as box:
            assert "Events: 1\n" in text_of(box.wait()[2])


def test_a_mail_of_v3_links_the_newest_events_with_the_asked_properties_in_gzip(data: Path) -> None:
    port = free_port()
    with mail_server(port, "s3cret-word") as box, embedded.start(data, env=smtp_environment(port)) as service:
        http = Http(service.endpoint)
        http.add("purchases", *[{"a": n, "b": "x", "keen": {"timestamp": f"2026-01-0{n}T00:00:00Z"}} for n in (1, 2, 3)])
        asked = {"event_collection": "purchases", "email": "nightly@example.com", "latest": 2}
        wrong = http.request("GET", f"{http.v3}/queries/extraction", params=asked | {"content_type": "application/json"})
        assert (wrong.status, wrong.json()["field"]) == (400, "content_type")
        http.json("GET", f"{http.v3}/queries/extraction", params=asked | {"property_names": '["a"]', "content_encoding": "gzip"})
        text = text_of(box.wait()[2])
        link = next(line for line in text.splitlines() if line.startswith("http"))
        assert "Events: 2\n" in text
        assert ".csv.gz?" in link
        answer = http.request("GET", link, key=None)
        assert answer.headers["Content-Type"] == "application/gzip"
        assert sorted(gzip.decompress(answer.data).splitlines()) == [b"2", b"3", b"a"]
        assert http.request("HEAD", link, key=None).data == b""
        assert http.request("GET", link[:-1], key=None).status == 401


def test_a_mail_waits_for_a_server_as_long_as_its_record_is_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mail, "MAX_RETRY_SECONDS", 0.01)
    records = ExtractionRecords(SqliteDatabase(tmp_path / "state.db"))
    asked = records.create("purchases", names="v2", filters=(), timeframe=None, email="a@example.com", delay=0, max_queue=10)
    records.finish(Turn(asked.id), COMPLETE, events=1, size=1, message=None)
    attempts = Counter("mails", "Mails", ["outcome"], registry=CollectorRegistry())
    smtp = SmtpSettings("127.0.0.1", free_port(), user="reports", password="s3cret-word", insecure_login=True)
    mailer = mail.Mailer(smtp, records, lambda extraction: mail.completion_message(extraction, "http://localhost/"), attempts)
    try:
        deadline = time.monotonic() + 60
        while (kept := records.get(asked.id)) is not None and kept.mail_attempts < 25:
            assert time.monotonic() < deadline, "the mail is not tried any more"
            mailer.wake()
            time.sleep(0.02)
        with mail_server(smtp.port, "s3cret-word") as box:
            mailer.wake()
            box.wait()
    finally:
        mailer.close()
    assert attempts.labels("failed")._value.get() >= 25


def test_an_extraction_without_a_mail_address_sends_none_and_a_wrong_address_is_refused(http: Http, collection: str) -> None:
    http.add(collection, {"a": 1})
    for address in WRONG_ADDRESSES:
        answer = http.request("POST", f"{http.v2}/{collection}/_extract", body={"filters": [], "email": address})
        assert (answer.status, answer.json()["field"]) == (400, "email")
        asked = {"event_collection": collection, "email_address": address}
        assert http.request("POST", f"{http.v3}/queries/extraction", body=asked).json()["field"] == "email_address"
    two = {"email": "a@example.com", "email_address": "b@example.com"}
    assert http.request("POST", f"{http.v2}/{collection}/_extract", body=two).status == 400
    assert http.json("GET", f"{http.v2}/{collection}/_extract") == {"results": []}


WRONG_ADDRESSES = (
    "nobody",
    "a@b\r\nBcc: x@y.z",
    "@",
    "a@",
    "@b",
    7,
    ["a@b.c"],
    "a b@c.d",
    "a@b," * 2,
    "a@b,c@d",
    "a@[",
    "a@[1.2.3.4]",
)
WRONG_ADDRESSES += (
    "a@b@c",
    "<a@b.c>",
    "A <a@b.c>",
    '"a"@b.c',
    "a@-b.c",
    "a@b-.c",
    "a@b..c",
    "a..b@c.d",
    ".a@b.c",
    "a@b.c\n",
    "ä@b.c",
)
WRONG_ADDRESSES += ("=?utf-8?q?x=40evil.example=2C?=@b.c", "a=?b@b.c")  # RFC 2047: a header would show another address
WRONG_ADDRESSES += ("a" * 65 + "@b.c", "a@" + "b" * 64, "a@" + "b." * 130 + "c", "a;b@c.d", "a@b\0.c", "a@b.c ")


@pytest.mark.parametrize(
    "address", ["a@b.c", "Ada+keen@mail.example.com", "root@localhost", "o'neill_x@a-b.example", "a" * 64 + "@b.c"]
)
def test_addresses_that_are_some(address: str) -> None:
    assert checked_email({"email": address}) == address
    assert checked_email({"email": "", "email_address": address}) == address
    message = EmailMessage()
    message["To"] = address
    assert [one.addr_spec for one in message["To"].addresses] == [address]


@given(st.text(alphabet=st.sampled_from('ab.@[]<>,;:"\\ \r\n\0-_+é('), min_size=1, max_size=12))
def test_whatever_is_taken_as_an_address_is_one_recipient_of_a_message(text: str) -> None:
    try:
        address = checked_email({"email": text})
    except InvalidInputError:
        return
    message = EmailMessage()
    message["To"] = address
    assert ([one.addr_spec for one in message["To"].addresses], message["To"].defects) == ([address], ())


@pytest.mark.parametrize(
    ("allowed", "taken", "refused"),
    [
        (["@example.com"], ["a@example.com", "b@EXAMPLE.com"], ["a@sub.example.com", "a@badexample.com"]),
        (["example.com", "ada@other.example"], ["a@example.com", "Ada@other.example"], ["bob@other.example", "a@b.c"]),
    ],
)
def test_mail_goes_to_the_addresses_and_domains_of_the_configuration_alone(
    allowed: list[str], taken: list[str], refused: list[str]
) -> None:
    for address in taken:
        assert checked_email({"email": address}, allowed) == address
    for address in refused:
        with pytest.raises(InvalidInputError, match="KEEN_PIPELINE_SERVICE_MAIL_TO"):
            checked_email({"email": address}, allowed)


def test_the_environment_says_who_gets_mail_and_a_minute_has_a_limit(data: Path) -> None:
    env = clean_environment(KEEN_PIPELINE_SERVICE_MAIL_TO="example.com, ada@other.example")
    with embedded.start(data, env=env, options=["--mails-per-minute", "3"]) as service:
        http = Http(service.endpoint)
        http.add("purchases", {"a": 1})
        path = f"{http.v2}/purchases/_extract"
        assert http.request("POST", path, body={"email": "bob@other.example"}).status == 400
        asked = {"event_collection": "purchases", "email": "stranger@else.example"}
        assert http.request("POST", f"{http.v3}/queries/extraction", body=asked).status == 400
        statuses = [http.request("POST", path, body={"email": "a@example.com"}).status for _ in range(5)]
        assert statuses == [200, 200, 200, 429, 429]
        assert int(http.request("POST", path, body={"email": "a@example.com"}).headers["Retry-After"]) > 0
        assert http.request("POST", path, body={}).status == 200
        assert len(http.json("GET", path)["results"]) == 4


def test_a_password_is_not_sent_in_clear_unless_that_is_said(data: Path) -> None:
    env = clean_environment(SMTP_HOST="127.0.0.1", SMTP_USER="reports", SMTP_PASSWORD="s3cret-word")
    with pytest.raises(ConfigurationError, match="SMTP_STARTTLS"):
        embedded.start(data, env=env)
    assert not data.exists()
    clear = SmtpSettings(host="127.0.0.1", port=1, user="reports", password="s3cret-word")
    with pytest.raises(ConfigurationError, match="SMTP_INSECURE_LOGIN") as caught:
        send_mail(clear, EmailMessage())
    assert "s3cret" not in str(caught.value)
    for allowed in (replace(clear, starttls=True), replace(clear, insecure_login=True), replace(clear, user=None)):
        check_login(allowed)


class Queue:
    """Records of a few mails that are due, of which `broken` fails in one way or another."""

    def __init__(self, folder: Path, *first: str) -> None:
        self.records = ExtractionRecords(SqliteDatabase(folder / "state.db"))
        self.ids = [self.add(email) for email in (*first, *(f"user{n}@example.com" for n in range(3)))]

    def add(self, email: str) -> str:
        shape = {"names": "v2", "filters": (), "timeframe": None, "delay": 0, "max_queue": 10}
        asked = self.records.create("purchases", email=email, **shape)  # type: ignore[arg-type]
        self.records.finish(Turn(asked.id), COMPLETE, events=1, size=1, message=None)
        return asked.id

    def statuses(self) -> list[str | None]:
        return [found.mail_status for one in self.ids if (found := self.records.get(one)) is not None]


@pytest.mark.parametrize("fault", ["an address of an older release", "no message", "not noted", "no list"])
def test_the_mail_thread_outlives_any_mail(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, fault: str
) -> None:
    monkeypatch.setattr(mail, "_POLL_SECONDS", 0.01)
    queue = Queue(tmp_path, *(["a@["] if fault == "an address of an older release" else []))
    failures = iter(range(2))

    def failing(name: str) -> None:
        original = getattr(queue.records, name)

        def sometimes(*args: Any) -> Any:
            if (name == "claim_mail" or args[0] == queue.ids[0]) and next(failures, None) is not None:
                raise sqlite3.OperationalError("database is locked")
            return original(*args)

        monkeypatch.setattr(queue.records, name, sometimes)

    def message(extraction: Any) -> EmailMessage:
        if fault == "no message" and extraction.id == queue.ids[0]:
            raise IndexError("string index out of range")
        return mail.completion_message(extraction, "http://localhost/")

    if fault in ("not noted", "no list"):
        failing("mail_tried" if fault == "not noted" else "claim_mail")
    attempts = Counter("mails", "Mails", ["outcome"], registry=CollectorRegistry())
    port = free_port()
    with mail_server(port, "s3cret-word") as box:
        smtp = SmtpSettings(host="127.0.0.1", port=port, user="reports", password="s3cret-word", insecure_login=True)
        mailer = mail.Mailer(smtp, queue.records, message, attempts)
        try:
            deadline = time.monotonic() + 60
            while queue.statuses()[-2:] != [MAIL_SENT] * 2:
                assert time.monotonic() < deadline, queue.statuses()
                time.sleep(0.02)
            assert mailer._thread.is_alive()
            broken = queue.records.get(queue.ids[0])
            assert broken is not None
            if fault in ("an address of an older release", "no message"):
                assert broken.mail_attempts >= 1  # what fails is counted, so that it is given up one day
        finally:
            mailer.close()
    assert {to for _, recipients, _ in box.mails for to in recipients} >= {"user1@example.com", "user2@example.com"}
    assert any(record.levelname in ("WARNING", "ERROR") for record in caplog.records)


@pytest.mark.parametrize(
    ("at", "answer", "left"),
    [
        ("handle_RCPT", "550 5.1.1 no such user", MAIL_GIVEN_UP),
        ("handle_RCPT", "450 4.2.0 come again", MAIL_PENDING),
        ("handle_RCPT", "554 5.7.1 <a@b.c>: relay access denied", MAIL_PENDING),
        ("handle_RCPT", "550 Relay not permitted", MAIL_PENDING),
        ("handle_RCPT", "530 authentication required", MAIL_PENDING),
        ("handle_MAIL", "550 5.1.0 sender refused", MAIL_PENDING),
        ("handle_DATA", "552 5.3.4 too large", MAIL_GIVEN_UP),
        ("handle_DATA", "554 5.7.1 not from you", MAIL_PENDING),
    ],
)
def test_a_mail_that_is_refused_for_good_is_tried_once(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, at: str, answer: str, left: str
) -> None:
    queue, port = Queue(tmp_path), free_port()
    attempts = Counter("mails", "Mails", ["outcome"], registry=CollectorRegistry())
    smtp = SmtpSettings(host="127.0.0.1", port=port, user="reports", password="s3cret-word", insecure_login=True)

    async def refuse(*arguments: Any) -> str:
        return answer

    with mail_server(port, "s3cret-word") as box:
        setattr(box, at, refuse)
        mailer = mail.Mailer(smtp, queue.records, lambda one: mail.completion_message(one, "http://localhost/"), attempts)
        deadline = time.monotonic() + 20
        while not (tried := queue.records.get(queue.ids[0])) or not tried.mail_attempts:
            assert time.monotonic() < deadline, "the mail was never tried"
            time.sleep(0.02)
        mailer.close()
    assert (tried.mail_status, tried.mail_attempts) == (left, 1)
    assert ("mail refused for good" in caplog.messages, "user0" in caplog.text) == (left == MAIL_GIVEN_UP, False)
    assert not is_refused_for_good(SMTPAuthenticationError(550, b"5.1.1 wrong password"))


def test_a_mail_says_that_a_machine_wrote_it_and_its_subject_is_ours(tmp_path: Path) -> None:
    queue = Queue(tmp_path)
    extraction = queue.records.get(queue.ids[0])
    assert extraction is not None
    loud = replace(extraction, collection="You won! http://evil.example/?a=1 " + "x" * 64)
    message = mail.completion_message(loud, "http://localhost/")
    assert message["Auto-Submitted"] == "auto-generated"
    assert message["Subject"].startswith("Your extraction of You_won__http:__evil.example__a_1_xxx")
    assert len(message["Subject"]) <= len("Your extraction of  is complete") + 64
    assert "evil.example/" not in message.get_content()


def test_the_link_of_a_mail_works_as_long_as_its_result(data: Path) -> None:
    port, own = free_port(), free_port()
    options = ["--results-url-seconds", "1", "--retention-days", "7", "--public-url", f"http://localhost:{own}/"]
    with (
        mail_server(port, "s3cret-word") as box,
        embedded.start(data, port=own, env=smtp_environment(port), options=options) as service,
    ):
        http = Http(service.endpoint)
        http.add("purchases", {"a": 1})
        http.json("POST", f"{http.v2}/purchases/_extract", body={"email": "nightly@example.com"})
        link = next(line for line in text_of(box.wait()[2]).splitlines() if line.startswith("http"))
        assert link.startswith(f"http://localhost:{own}/results/")
        expires = int(link.split("expires=")[1].split("&")[0])
        assert 6.9 * 86400 < expires - time.time() <= 7 * 86400
        assert http.request("GET", link, key=None).status == 200
