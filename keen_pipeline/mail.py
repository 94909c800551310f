"""Mail goes out here: one message, one connection."""

from __future__ import annotations

import re
import smtplib
import ssl
from collections.abc import Iterator
from contextlib import contextmanager
from email.message import EmailMessage
from functools import partial

from keen_pipeline.errors import ConfigurationError
from keen_pipeline.settings import SmtpSettings

TIMEOUT_SECONDS = 20.0
"""Of each step of the conversation with the server."""
TLS_PORT = 465
"""There TLS begins with the connection (RFC 8314): a server says nothing before it."""

_WHO_MAY_SEND = re.compile(r"\b5\.7\.\d|relay", re.IGNORECASE).search


def check_login(smtp: SmtpSettings) -> None:
    """Raises ConfigurationError when the password would cross the network in clear and no setting says that it may."""
    if smtp.user is not None and smtp.port != TLS_PORT and not smtp.starttls and not smtp.insecure_login:
        raise ConfigurationError(
            "SMTP_USER is set without SMTP_STARTTLS, so the password would be sent in the clear: set SMTP_STARTTLS=true,"
            " or SMTP_INSECURE_LOGIN=true if the network in between is trusted"
        )


def send_mail(smtp: SmtpSettings, message: EmailMessage) -> int:
    """Send `message` to the addresses in its own fields; its sender is the settings'. Answers how many of them the server refused.

    Raises OSError, smtplib.SMTPException (all of them are refused, for one) or ValueError (an address or field that can't be
    written). Their words may quote the address and the message: a log gets their class alone. Raises ConfigurationError as
    `check_login` does.
    """
    message["From"] = smtp.sender
    with connected(smtp) as server:
        return len(server.send_message(message))


def is_refused_for_good(error: Exception) -> bool:
    """Whether the server will never take this message: it refused its recipient or its content with a 55x.

    Not if it refused a login, a sender, or by a rule about who may send (5.7.x of RFC 3463, relaying): those are the settings' or
    the server's, and a person will put them right.
    """
    answers: list[tuple[int, object]] = []
    if isinstance(error, smtplib.SMTPRecipientsRefused):
        answers += error.recipients.values()
    elif isinstance(error, smtplib.SMTPDataError):
        answers.append((error.smtp_code, error.smtp_error))
    return bool(answers) and all(550 <= code < 560 and not _WHO_MAY_SEND(str(text)) for code, text in answers)


@contextmanager
def connected(smtp: SmtpSettings) -> Iterator[smtplib.SMTP]:
    """The mail server, by TLS and logged in as the settings say. Raises as `send_mail` does."""
    check_login(smtp)
    is_tls = smtp.port == TLS_PORT
    dial = partial(smtplib.SMTP_SSL, context=ssl.create_default_context()) if is_tls else smtplib.SMTP
    with dial(smtp.host, smtp.port, timeout=TIMEOUT_SECONDS) as server:
        if smtp.starttls and not is_tls:
            server.starttls(context=ssl.create_default_context())
        if smtp.user is not None:
            server.login(smtp.user, smtp.password or "")
        yield server
