"""The two channels. Neither an address, a webhook nor a password is in what they raise."""

from __future__ import annotations

import hashlib
import json
import smtplib
from collections.abc import Sequence
from dataclasses import dataclass, field
from email.message import EmailMessage
from email.utils import formatdate
from html import escape

from keen_pipeline.errors import ConfigurationError, ServiceUnavailableError
from keen_pipeline.extraction import SecretUrl
from keen_pipeline.mail import send_mail
from keen_pipeline.settings import SmtpSettings

MAIL, SLACK = "mail", "slack"
SLACK_SECONDS = 15.0
_ADDRESSES = 50


@dataclass(frozen=True)
class Attachment:
    """A file beside a mail. `media_type`: as `text/csv`."""

    name: str
    media_type: str
    data: bytes = field(repr=False)


@dataclass(frozen=True)
class Message:
    """One notice, written. `identity` is the same for every attempt to send it, so that a mailbox shows it once."""

    identity: str
    subject: str
    text: str
    html: str
    slack: Sequence[dict[str, object]]
    attachments: Sequence[Attachment] = ()


@dataclass(frozen=True)
class Channels:
    """Where notices go. `mail_to`: at most 50 addresses."""

    mail_to: tuple[str, ...] = ()
    smtp: SmtpSettings | None = None
    slack_webhook: SecretUrl | None = None

    @property
    def names(self) -> set[str]:
        """Those that are configured."""
        return ({MAIL} if self.mail_to else set()) | ({SLACK} if self.slack_webhook is not None else set())

    def send(self, channel: str, message: Message) -> str:
        """Answers who did not get it though it is out, empty if all did.

        Raises ConfigurationError (a person must change something) or ServiceUnavailableError (later it may go through).
        """
        return self._mail(message) if channel == MAIL else self._slack(message)

    def _mail(self, message: Message) -> str:
        if self.smtp is None:
            raise ConfigurationError("there are addresses for mail (KEEN_PIPELINE_DIGEST_TO), but no mail server: set SMTP_HOST")
        if len(self.mail_to) > _ADDRESSES:
            raise ConfigurationError(f"KEEN_PIPELINE_DIGEST_TO has more than {_ADDRESSES} addresses: use a mailing list")
        try:
            refused = send_mail(self.smtp, write_mail(message, self.mail_to))
        except (OSError, smtplib.SMTPException) as error:
            code = f" {error.smtp_code}" if isinstance(error, smtplib.SMTPResponseException) else ""
            raise ServiceUnavailableError(
                f"the mail server {self.smtp.host}:{self.smtp.port} did not accept it ({type(error).__name__}{code})"
            ) from None
        except ValueError:
            raise ConfigurationError("an address of KEEN_PIPELINE_DIGEST_TO or SMTP_FROM can't be written in a mail") from None
        return f"the mail server refuses {refused} of {len(self.mail_to)} addresses, the others have it" if refused else ""

    def _slack(self, message: Message) -> str:
        import urllib3  # a code location that sends nothing can spare it

        assert self.slack_webhook is not None
        body = json.dumps({"text": escape(message.subject, quote=False), "blocks": list(message.slack)}).encode()
        try:
            with urllib3.PoolManager(retries=False, timeout=urllib3.Timeout(total=SLACK_SECONDS)) as pool:
                answer = pool.request(
                    "POST", self.slack_webhook.reveal(), body=body, headers={"Content-Type": "application/json"}, redirect=False
                )
        except (urllib3.exceptions.HTTPError, ValueError) as error:
            raise ServiceUnavailableError(f"the Slack webhook could not be reached ({type(error).__name__})") from None
        if answer.status in (400, 403, 404, 410):
            raise ConfigurationError(
                f"the Slack webhook refuses it with HTTP {answer.status}: is KEEN_PIPELINE_SLACK_WEBHOOK right?"
            )
        if answer.status != 200:
            raise ServiceUnavailableError(f"the Slack webhook answers HTTP {answer.status}")
        return ""


def write_mail(message: Message, recipients: Sequence[str]) -> EmailMessage:
    """Text and HTML parts, then the attachments; without sender."""
    mail = EmailMessage()
    mail["Subject"] = message.subject
    mail["To"] = ", ".join(recipients)
    mail["Date"] = formatdate()
    identity = hashlib.sha256("\n".join([message.identity, *recipients]).encode()).hexdigest()[:32]
    mail["Message-ID"] = f"<{identity}@keen-pipeline.invalid>"
    mail["Auto-Submitted"] = "auto-generated"
    mail.set_content(message.text)
    mail.add_alternative(message.html, subtype="html")
    for attachment in message.attachments:
        kind, _, subtype = attachment.media_type.partition("/")
        mail.add_attachment(attachment.data, maintype=kind, subtype=subtype, filename=attachment.name)
    return mail
