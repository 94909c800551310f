"""Mail on completion: written from the record, sent beside everything else, tried again, never in an extraction's way."""

from __future__ import annotations

import logging
import re
import threading
from collections.abc import Callable
from datetime import datetime
from email.message import EmailMessage
from email.utils import formatdate, make_msgid

from prometheus_client import Counter

from keen_pipeline.mail import TIMEOUT_SECONDS, is_refused_for_good, send_mail
from keen_pipeline.service.extractions.records import MAIL_GIVEN_UP, MAIL_PENDING, MAIL_SENT, Extraction, ExtractionRecords
from keen_pipeline.service.names import MAX_NAME_CHARACTERS
from keen_pipeline.settings import SmtpSettings
from keen_pipeline.timeframe import UTC, format_instant

FIRST_RETRY_SECONDS = 2.0
MAX_RETRY_SECONDS = 3600.0
_POLL_SECONDS = 1.0

_log = logging.getLogger(__name__)


def completion_message(extraction: Extraction, url: str) -> EmailMessage:
    """Subject, collection, timeframe, number of events, link; without sender, which the mailer knows."""
    window = extraction.timeframe
    when = f"{format_instant(window.start)} to {format_instant(window.end)}" if window is not None else "all events"
    finished = format_instant(datetime.fromtimestamp(int(extraction.finished or 0), UTC))
    message = EmailMessage()
    message["Subject"] = f"Your extraction of {subject_name(extraction.collection)} is complete"
    message["Auto-Submitted"] = "auto-generated"  # RFC 3834: no out-of-office note comes back
    message["To"] = extraction.email
    message["Date"] = formatdate()
    message["Message-ID"] = make_msgid(extraction.id, domain="keen-pipeline.invalid")
    message.set_content(
        f"Collection: {subject_name(extraction.collection)}\nTimeframe: {when}\n"
        f"Events: {extraction.events}\nSize: {extraction.bytes} bytes\n"
        f"Finished: {finished}\nExtraction: {extraction.id}\n\nThe CSV file, while the link lasts:\n{url}\n",
    )
    return message


def subject_name(collection: str) -> str:
    """A collection's name for a subject: whoever has the write key chooses the name, and must not write a headline with it."""
    return re.sub(r"[^A-Za-z0-9_.:-]", "_", collection)[:MAX_NAME_CHARACTERS]


class Mailer:
    """Sends the mails that are due, on one thread. Without `smtp` they wait for a start that has it.

    A failed attempt is logged, counted, and repeated after 2 s, doubling up to an hour, as long as the result is kept; given up at
    once if the server refuses the recipient or the content for good.
    """

    def __init__(
        self,
        smtp: SmtpSettings | None,
        records: ExtractionRecords,
        message: Callable[[Extraction], EmailMessage],
        attempts: Counter,
    ) -> None:
        self._records = records
        self._message = message
        self._attempts = attempts
        self._wake = threading.Event()
        self._stopping = False
        self._thread = threading.Thread(target=self._run, args=[smtp], name="mail", daemon=True)
        if smtp is not None:
            self._thread.start()

    def wake(self) -> None:
        self._wake.set()

    def close(self) -> None:
        """Stop after the mail that is being sent."""
        self._stopping = True
        self._wake.set()
        if self._thread.is_alive():
            self._thread.join(TIMEOUT_SECONDS + 1)

    def _run(self, smtp: SmtpSettings) -> None:
        while not self._stopping:
            try:
                due = self._records.claim_mail(self._records.now())
                if due is not None:
                    self._try(smtp, due)
                    continue
            except Exception:  # noqa: BLE001 - the database may be away or locked; whatever it is, mails are tried again
                _log.exception("mails are held up")
            self._wake.wait(_POLL_SECONDS)
            self._wake.clear()

    def _try(self, smtp: SmtpSettings, extraction: Extraction) -> None:
        attempt = extraction.mail_attempts + 1
        fields: dict[str, object] = {"extraction": extraction.id, "attempt": attempt}
        try:
            send_mail(smtp, self._message(extraction))
        except Exception as error:  # noqa: BLE001 - an address, a server, a library: one mail must not hold up the others
            refused = is_refused_for_good(error)
            status = MAIL_GIVEN_UP if refused else MAIL_PENDING
            pause = min(FIRST_RETRY_SECONDS * 2 ** min(attempt - 1, 20), MAX_RETRY_SECONDS)
            self._records.mail_tried(extraction.id, status, self._records.now() + pause)
            self._attempts.labels("failed").inc()
            # The class alone: a server's words may quote the address and the message.
            _log.warning(
                "mail refused for good" if refused else "mail not sent",
                extra={**fields, "error": type(error).__name__, "next": status},
            )
            return
        self._records.mail_tried(extraction.id, MAIL_SENT, self._records.now())
        self._attempts.labels("sent").inc()
        _log.info("mail sent", extra=fields)
