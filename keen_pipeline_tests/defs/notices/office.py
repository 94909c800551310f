"""The sensors of notifications under a clock of the test's, and what stands for Slack."""

import json
import re
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import datetime, timezone
from email.message import EmailMessage
from email.parser import BytesParser
from email.policy import default
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import dagster as dg

from keen_pipeline import Collection
from keen_pipeline.defs.names import Names
from keen_pipeline.defs.sensors.notifications import KeenNotifications, notification_sensors
from keen_pipeline.ledger.notices import SqlNotices
from keen_pipeline.testing import FakeClock
from keen_pipeline_tests.defs.conftest import DAYS, MakePlace, Place
from keen_pipeline_tests.service.extractions.test_mail import Mailbox

COLLECTIONS = [Collection("purchases", DAYS[0], lookback_days=3), Collection("logins", DAYS[0], lookback_days=3)]
MORNING = datetime(2026, 1, 5, 6, 1, tzinfo=timezone.utc)


@contextmanager
def webhook() -> Iterator[tuple[str, list[dict[str, Any]], list[int]]]:
    """Its secret URL, what it received, and the statuses it answers with before 200."""
    received: list[dict[str, Any]] = []
    statuses: list[int] = []

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            status = statuses.pop(0) if statuses else 200
            if status == 200:
                received.append(body)
            self.send_response(status)
            self.end_headers()

        def log_message(self, *args: object) -> None:
            """Quiet."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}/services/T0/s3cret-hook", received, statuses
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


class Office:
    """The sensors of a place under a clock of the test's. `cursor`: when the one that sends began, None: it begins now."""

    def __init__(
        self,
        place: Place,
        notifications: KeenNotifications,
        now: datetime = MORNING,
        cursor: str | None = "2026-01-01",
        collections: Sequence[Collection] = COLLECTIONS,
    ) -> None:
        self.place, self.clock, self.cursor, self.taken_up = place, FakeClock(now), cursor, "0"
        names = Names("keen")
        keys = {c.name: names.asset_key(c.name) for c in collections}
        self.notifications, self.failures = notification_sensors(names, collections, keys, timezone=None, clock=self.clock)
        resources = place.defs.resources or {}
        self.resources = {names.notifications: notifications} | {name: resources[name] for name in names.resources}

    def tick(self) -> str:
        with dg.build_sensor_context(instance=self.place.instance, resources=self.resources, cursor=self.cursor) as context:
            told = self.notifications.evaluate_tick(context)
            self.cursor = told.cursor
            return without_scope(told.skip_message or "")

    def take_up(self, since: str | None = "0") -> str:
        """A tick of the sensor of failed runs, which has seen those up to an event of Dagster's log, or begins now."""
        place = {"instance": self.place.instance, "resources": self.resources}
        with dg.build_sensor_context(**place, cursor=since) as context:  # type: ignore[arg-type]
            told = self.failures.evaluate_tick(context)
        self.taken_up = told.cursor
        return told.skip_message or ""

    def waiting(self) -> list[tuple[str, str, int, str | None]]:
        return [(without_scope(name), *others) for name, *others in SqlNotices(self.place.ledger.engine).waiting()]


def without_scope(said: str) -> str:
    """Without what tells the pipelines of one ledger apart."""
    return re.sub("keen/[0-9a-f]{8}/", "keen/", said)


def mail_of(box: Mailbox) -> EmailMessage:
    [(_, _, raw)] = box.mails
    mail = BytesParser(EmailMessage, policy=default).parsebytes(raw.as_bytes())
    assert isinstance(mail, EmailMessage)
    return mail


def part(mail: EmailMessage, kind: str) -> str:
    body = mail.get_body((kind,))
    assert body is not None
    return str(body.get_content())


def landed(make_place: MakePlace) -> Place:
    place = make_place(collections=COLLECTIONS, options=["--fail-extraction", "logins@2026-01-04=3"])
    assert place.backfill(["keen/purchases"], DAYS[0], DAYS[3]).success
    assert not place.backfill(["keen/logins"], DAYS[1], DAYS[3]).success
    return place
