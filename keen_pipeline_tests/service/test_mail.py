"""Mail on completion, received by a real SMTP server."""

from __future__ import annotations

import gzip
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager
from email import message_from_bytes
from email.message import Message
from pathlib import Path
from typing import Any

import pytest
from aiosmtpd.controller import Controller
from aiosmtpd.smtp import AuthResult
from prometheus_client import CollectorRegistry, Counter

from keen_pipeline.service import embedded
from keen_pipeline.service.extractions import mail
from keen_pipeline.service.extractions.records import COMPLETE, MAIL_GIVEN_UP, MAIL_PENDING, ExtractionRecords
from keen_pipeline.service.storage.state import SqliteDatabase
from keen_pipeline.settings import SmtpSettings
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


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


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
        SMTP_HOST="127.0.0.1", SMTP_PORT=str(port), SMTP_USER="reports", SMTP_PASSWORD="s3cret-word", SMTP_FROM="keen@example.com"
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
        deadline = time.monotonic() + 20
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


def test_a_mail_is_given_up_after_its_attempts_and_that_is_logged_and_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(mail, "FIRST_RETRY_SECONDS", 0.01)
    monkeypatch.setattr(mail, "MAX_ATTEMPTS", 3)
    records = ExtractionRecords(SqliteDatabase(tmp_path / "state.db"))
    asked = records.create("purchases", names="v2", filters=(), timeframe=None, email="a@example.com", now=0, delay=0, max_queue=10)
    records.finish(asked.id, COMPLETE, now=0, events=1, size=1, message=None)
    attempts = Counter("mails", "Mails", ["outcome"], registry=CollectorRegistry())
    smtp = SmtpSettings(host="127.0.0.1", port=free_port())
    mailer = mail.Mailer(smtp, records, lambda extraction: mail.completion_message(extraction, "http://localhost/"), attempts)
    try:
        deadline = time.monotonic() + 20
        while (kept := records.get(asked.id)) is not None and kept.mail_status == MAIL_PENDING:
            assert time.monotonic() < deadline, "the mail was never given up"
            time.sleep(0.02)
    finally:
        mailer.close()
    assert kept is not None
    assert (kept.status, kept.mail_status, kept.mail_attempts) == (COMPLETE, MAIL_GIVEN_UP, 3)
    assert attempts.labels("failed")._value.get() == 3
    assert [getattr(record, "next", "") for record in caplog.records] == [MAIL_PENDING, MAIL_PENDING, MAIL_GIVEN_UP]


def test_an_extraction_without_a_mail_address_sends_none_and_a_wrong_address_is_refused(http: Http, collection: str) -> None:
    http.add(collection, {"a": 1})
    for address in ("nobody", "a@b\r\nBcc: x@y.z", "@", "a@", 7, "a b@c.d", "a@b," * 2):
        answer = http.request("POST", f"{http.v2}/{collection}/_extract", body={"filters": [], "email": address})
        assert (answer.status, answer.json()["field"]) == (400, "email")
    assert http.json("GET", f"{http.v2}/{collection}/_extract") == {"results": []}
