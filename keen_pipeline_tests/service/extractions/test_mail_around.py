"""What a mail needs around it: a server that speaks TLS from the start, as on port 465, and an address that a link can lead to."""

from __future__ import annotations

import ssl
from email.message import EmailMessage
from pathlib import Path

import pytest
from aiosmtpd.controller import Controller

from keen_pipeline import mail
from keen_pipeline.service.application import Service
from keen_pipeline.service.config import ServiceConfig
from keen_pipeline.settings import SmtpSettings
from keen_pipeline_tests.servers.ports import free_port
from keen_pipeline_tests.servers.tls import server_context, trust
from keen_pipeline_tests.service.extractions.test_mail import Mailbox


@pytest.mark.parametrize("starttls", [False, True])
def test_on_its_port_tls_is_spoken_from_the_start(starttls: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    box, port = Mailbox(), free_port()
    monkeypatch.setattr(mail, "TLS_PORT", port)
    smtp = SmtpSettings(host="127.0.0.1", port=port, starttls=starttls)
    message = EmailMessage()
    message["To"] = "nightly@example.com"
    # A controller of aiosmtpd proves its server by a client of its own, which has to trust it too.
    trust(tmp_path, monkeypatch)
    server = Controller(box, hostname="127.0.0.1", port=port, ssl_context=server_context())
    server.start()
    try:
        assert mail.send_mail(smtp, message) == 0
        assert box.wait()[1] == ["nightly@example.com"]
        monkeypatch.delenv("SSL_CERT_FILE")
        with pytest.raises(ssl.SSLCertVerificationError):
            mail.send_mail(smtp, EmailMessage())
    finally:
        server.stop()
    mail.check_login(SmtpSettings(host="127.0.0.1", port=port, user="reports", password="s3cret-word"))


def test_a_service_whose_mails_would_link_to_this_machine_alone_says_so(data: Path, caplog: pytest.LogCaptureFixture) -> None:
    data.mkdir()
    smtp = SmtpSettings(host="127.0.0.1", port=free_port())
    Service(ServiceConfig(data=data, smtp=smtp, public_url="https://keen.example"), "http://127.0.0.1:1").close()
    assert "--public-url" not in caplog.text
    Service(ServiceConfig(data=data, smtp=smtp), "http://127.0.0.1:1").close()
    assert "--public-url" in caplog.text
