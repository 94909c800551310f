"""The digest and failures, received by a real SMTP server and a webhook on loopback; from a ledger of a live service's landings."""

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
from pathlib import Path
from typing import Any

import dagster as dg
import pytest
import sqlalchemy as sa

from keen_pipeline import Collection, ExtractionLedger
from keen_pipeline.defs.names import Names
from keen_pipeline.defs.sensors.notifications import KeenNotifications, _title, channels_of, notification_sensors
from keen_pipeline.errors import ConfigurationError
from keen_pipeline.extraction import SecretUrl
from keen_pipeline.landing import FileDestination
from keen_pipeline.ledger.notices import SqlNotices
from keen_pipeline.ledger.tables import notices
from keen_pipeline.notifications import outbox
from keen_pipeline.notifications.send import SLACK, Channels, Message
from keen_pipeline.testing import FakeClock
from keen_pipeline_tests.defs.conftest import DAYS, MakePlace, Place
from keen_pipeline_tests.ports import free_port
from keen_pipeline_tests.service.test_mail import Mailbox, mail_server

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


@pytest.fixture
def mail_port(monkeypatch: pytest.MonkeyPatch) -> int:
    port = free_port()
    values = {"HOST": "127.0.0.1", "PORT": str(port), "USER": "reports", "PASSWORD": "s3cret-word", "INSECURE_LOGIN": "true"}
    for name, value in values.items():
        monkeypatch.setenv(f"SMTP_{name}", value)
    return port


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
        self.place, self.clock, self.cursor = place, FakeClock(now), cursor
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


def test_the_digest_says_what_landed_what_failed_and_has_the_files(make_place: MakePlace, mail_port: int) -> None:
    place = landed(make_place)
    with mail_server(mail_port, "s3cret-word") as box, webhook() as (url, posted, _):
        office = Office(place, KeenNotifications(mail_to=["data@example.com"], slack_webhook=url, ui_url="http://dagster.test/"))
        assert office.tick() == "sent keen/digest/2026-01-05 by mail, keen/digest/2026-01-05 by slack"
        office.clock.advance(60)
        assert office.tick() == "nothing to send"
        mail, [slack] = mail_of(box), posted
    assert mail["Subject"] == slack["text"] == "Keen 2026-01-05: 1 of 2 landed, 6 events, 1 failed"
    assert mail["To"] == "data@example.com"
    text, html = part(mail, "plain"), part(mail, "html")
    assert "purchases 2026-01-04  ▄▆▇█\n  6 events" in text
    assert "FAILED  logins 2026-01-04: the service reports the extraction as failed" in text
    assert "\n  keen-pipeline retry logins 2026-01-04\n" in text
    assert 'href="http://dagster.test/assets/keen/purchases?view=partitions&amp;partition=2026-01-04"' in html
    assert [html.count(word) for word in ("<script", "<img", "src=", "url(")] == [0, 0, 0, 0]
    assert html.count('bgcolor="') == 8
    assert "color:#b26a00" not in html  # too few weeks to call anything unusual, or to have a usual at all
    assert "A bar is one partition.</div>" in html
    [attached] = mail.iter_attachments()
    assert attached.get_filename() == "purchases-2026-01-04.csv"
    assert attached.get_payload(decode=True) == (place.root / "purchases" / "2026-01-04.csv").read_bytes()
    blocks = json.dumps(slack["blocks"])
    assert "this extraction was told to fail (3 attempts since 20" in blocks
    assert "<http://dagster.test/assets/keen/purchases?view=partitions&partition=2026-01-04|purchases 2026-01-04>" in blocks


def test_partitions_that_are_missing_for_one_reason_are_one_line_of_the_digest(make_place: MakePlace, mail_port: int) -> None:
    with mail_server(mail_port, "s3cret-word") as box:
        Office(make_place(collections=COLLECTIONS), KeenNotifications(mail_to=["data@example.com"])).tick()
        mail = mail_of(box)
    assert mail["Subject"] == "Keen 2026-01-05: 0 of 2 landed, 0 events, 6 failed"
    lines = part(mail, "plain").splitlines()
    [told] = [line for line in lines if line.startswith("FAILED  purchases")]
    assert told.startswith("FAILED  purchases 2026-01-02 2026-01-03 2026-01-04: never asked for: is the nightly schedule on")
    mend = "keen-pipeline backfill purchases --from 2026-01-02 --to 2026-01-04"
    assert lines[lines.index(told) + 1] == f"  {mend}"
    assert part(mail, "html").count(mend) == 1


def test_the_day_of_an_installation_has_no_digest_of_what_no_night_has_asked_for(make_place: MakePlace, mail_port: int) -> None:
    place = make_place(collections=COLLECTIONS)
    office = Office(place, KeenNotifications(mail_to=["data@example.com"]), cursor=None)
    with mail_server(mail_port, "s3cret-word") as box:
        assert office.tick() == office.tick() == "nothing to send"
        office.clock.advance(86_400)  # the nightly schedule is off
        assert office.tick() == "sent keen/digest/2026-01-06 by mail"
        assert mail_of(box)["Subject"] == "Keen 2026-01-06: 0 of 2 landed, 0 events, 6 failed"
    office = Office(place, KeenNotifications(mail_to=["data@example.com"]), MORNING.replace(day=7), cursor=None)
    assert place.backfill(["keen/purchases"], DAYS[0], DAYS[0]).success
    with mail_server(mail_port, "s3cret-word"):
        assert office.tick() == "sent keen/digest/2026-01-07 by mail"


def test_files_beyond_the_limit_are_named_and_not_attached(make_place: MakePlace, mail_port: int) -> None:
    place = landed(make_place)
    with mail_server(mail_port, "s3cret-word") as box:
        Office(place, KeenNotifications(mail_to=["data@example.com"], attachment_bytes=10)).tick()
        mail = mail_of(box)
    assert list(mail.iter_attachments()) == []
    assert str(place.root / "purchases" / "2026-01-04.csv") in part(mail, "plain")


def test_nothing_is_sent_before_its_hour_and_once_a_night_by_any_number_of_processes(make_place: MakePlace, mail_port: int) -> None:
    place = landed(make_place)
    to = KeenNotifications(mail_to=["data@example.com"])
    with mail_server(mail_port, "s3cret-word") as box:
        assert Office(place, to, MORNING.replace(hour=5)).tick() == "nothing to send"
        ticks = [threading.Thread(target=Office(place, to).tick) for _ in range(4)]
        for tick in ticks:
            tick.start()
        for tick in ticks:
            tick.join()
        assert len(box.mails) == 1
        assert Office(place, to, MORNING.replace(day=6)).tick() == "sent keen/digest/2026-01-06 by mail"
        assert [mail["Subject"][:15] for _, _, mail in box.mails] == ["Keen 2026-01-05", "Keen 2026-01-06"]
        assert len({mail["Message-ID"] for _, _, mail in box.mails}) == 2


def test_two_projects_on_one_ledger_have_a_digest_each(make_place: MakePlace, mail_port: int) -> None:
    to = KeenNotifications(mail_to=["data@example.com"])
    one, other = (Office(make_place(collections=COLLECTIONS), to) for _ in range(2))
    assert one.place.endpoint.project_id != other.place.endpoint.project_id
    with pytest.raises(Exception, match="it is tried again in 1 min"):
        one.tick()
    one.clock.advance(61)
    other.clock.advance(61)
    with mail_server(mail_port, "s3cret-word") as box:
        assert other.tick() == one.tick() == "sent keen/digest/2026-01-05 by mail"
        assert len({mail["Message-ID"] for _, _, mail in box.mails}) == 2


def test_a_dead_server_holds_up_nothing_and_gets_it_once_it_lives(make_place: MakePlace, mail_port: int) -> None:
    place = landed(make_place)
    with webhook() as (url, posted, statuses):
        statuses += [500]
        office = Office(place, KeenNotifications(mail_to=["data@example.com"], slack_webhook=url))
        with pytest.raises(Exception, match=r"ConnectionRefusedError.*it is tried again in 1 min.*HTTP 500") as failed:
            office.tick()
        assert "s3cret" not in str(failed.getrepr(chain=True, showlocals=False))
        assert [(name, channel, attempts) for name, channel, attempts, _ in office.waiting()] == [
            ("keen/digest/2026-01-05", "mail", 1),
            ("keen/digest/2026-01-05", "slack", 1),
        ]
        assert "s3cret" not in str(office.waiting())
        assert office.tick() == "nothing to send"  # not yet
        assert place.backfill(["keen/purchases"], DAYS[0], DAYS[3]).success
        office.clock.advance(61)
        with mail_server(mail_port, "s3cret-word") as box:
            assert office.tick() == "sent keen/digest/2026-01-05 by mail, keen/digest/2026-01-05 by slack"
            assert len(box.mails) == len(posted) == 1
    assert office.waiting() == []


def test_a_process_that_dies_while_it_sends_is_followed_by_another(
    make_place: MakePlace, mail_port: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    place = landed(make_place)
    office = Office(place, KeenNotifications(mail_to=["data@example.com"]))

    def dies(*_: object) -> None:
        raise SystemExit("killed")

    with monkeypatch.context() as patch:
        patch.setattr("keen_pipeline.notifications.send.send_mail", dies)
        with pytest.raises(SystemExit):
            office.tick()
    with mail_server(mail_port, "s3cret-word") as box:
        assert office.tick() == "nothing to send"
        office.clock.advance(301)
        assert office.tick() == "sent keen/digest/2026-01-05 by mail"
        assert len(box.mails) == 1


def failed_run(office: Office, result: dg.ExecuteInProcessResult) -> dg.RunStatusSensorContext:
    """What Dagster's daemon tells the sensor of a run that failed."""
    [event] = [e for e in result.all_events if e.event_type_value in ("RUN_FAILURE", "PIPELINE_FAILURE")]
    run = office.place.instance.get_run_by_id(result.run_id)
    assert run is not None
    return dg.build_run_status_sensor_context(
        sensor_name="keen_extraction_failures",
        dagster_event=event,
        dagster_instance=office.place.instance,
        dagster_run=run,
        resources=office.resources,
    )


def test_one_cause_is_told_once_a_day_and_another_cause_as_well(make_place: MakePlace, mail_port: int) -> None:
    failing = ("purchases@2026-01-02", "purchases@2026-01-03", "logins@2026-01-02")
    options = [word for one in failing for word in ("--fail-extraction", f"{one}=9")]
    place = make_place(collections=COLLECTIONS, options=options)
    office = Office(place, KeenNotifications(mail_to=["data@example.com"]), MORNING.replace(hour=2))
    both = ["keen/purchases", "keen/logins"]
    asked = (both[:1], 1, 1), (both[:1], 2, 2), (both[:1], 1, 2), (both[1:], 1, 1), (both, 1, 2)
    results = [place.backfill(keys, DAYS[first], DAYS[last]) for keys, first, last in asked]
    with mail_server(mail_port, "s3cret-word") as box:
        for result, told in zip(results, (1, 1, 1, 2, 2), strict=True):
            office.failures(failed_run(office, result))
            office.tick()
            assert len(box.mails) == told
        office.clock.advance(86_400)
        office.failures(failed_run(office, results[0]))
        assert "keen/failure/2026-01-06/" in office.tick()


def test_a_failed_run_is_told_at_once(make_place: MakePlace, mail_port: int) -> None:
    place = make_place(collections=COLLECTIONS, options=["--fail-extraction", "purchases@2026-01-02=3"])
    result = place.backfill(["keen/purchases"], DAYS[0], DAYS[1])
    with mail_server(mail_port, "s3cret-word") as box:
        office = Office(
            place, KeenNotifications(mail_to=["data@example.com"], ui_url="http://dagster.test"), MORNING.replace(hour=2)
        )
        context = failed_run(office, result)
        office.failures(context)
        office.failures(context)
        assert office.tick().startswith("sent keen/failure/2026-01-05/")
        mail = mail_of(box)
    assert mail["Subject"].startswith(
        "Keen: 1 of 2 partitions failed: purchases 2026-01-02: the service reports the extraction as failed"
    )
    assert "purchases 2026-01-02: the service reports the extraction as failed" in part(mail, "plain")
    assert part(mail, "plain").startswith("1 of 2 partitions failed\n")
    assert "\n  keen-pipeline retry purchases 2026-01-02\n" in part(mail, "plain")
    assert "<code>  keen-pipeline retry purchases 2026-01-02</code>" in part(mail, "html")
    assert f"http://dagster.test/runs/{result.run_id}" in part(mail, "html")


def test_a_failure_is_told_once_while_the_ledger_is_down(make_place: MakePlace, mail_port: int) -> None:
    place = make_place(collections=COLLECTIONS, options=["--fail-extraction", "purchases@2026-01-02=3"])
    result = place.backfill(["keen/purchases"], DAYS[1], DAYS[1])
    with mail_server(mail_port, "s3cret-word") as box, webhook() as (url, posted, statuses):
        statuses += [500]
        office = Office(place, KeenNotifications(mail_to=["data@example.com"], slack_webhook=url, ui_url="http://dagster.test"))
        office.resources = office.resources | {"keen_ledger": ExtractionLedger(url="sqlite:////dev/null/ledger.db")}
        with pytest.raises(Exception, match=r"not sent: keen/failure/2026-01-05/.* by slack: the Slack webhook answers HTTP 500"):
            office.failures(failed_run(office, result))
        for _ in range(2):
            office.failures(failed_run(office, result))
        mail, [slack] = mail_of(box), posted
        office.clock.advance(86_400)
        office.failures(failed_run(office, result))
        assert (len(box.mails), len(posted)) == (2, 2)
    assert mail["Subject"] == slack["text"]
    assert "\n  keen-pipeline retry purchases 2026-01-02\nTold without the ledger: " in part(mail, "plain")
    assert f"http://dagster.test/runs/{result.run_id}" in part(mail, "plain")
    assert office.waiting() == []


def test_who_gets_no_mail_is_told_and_the_others_get_it_once(
    make_place: MakePlace, mail_port: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def rcpt(box: Mailbox, server: Any, session: Any, envelope: Any, address: str, options: Any) -> str:
        if address == "gone@example.com":
            return "550 no such user"
        envelope.rcpt_tos.append(address)
        return "250 OK"

    monkeypatch.setattr(Mailbox, "handle_RCPT", rcpt, raising=False)
    office = Office(make_place(collections=COLLECTIONS), KeenNotifications(mail_to=["gone@example.com", "data@example.com"]))
    with mail_server(mail_port, "s3cret-word") as box:
        with pytest.raises(Exception, match="by mail: the mail server refuses 1 of 2 addresses, the others have it"):
            office.tick()
        office.clock.advance(3600)
        assert office.tick() == "nothing to send"
        assert [to for _, to, _ in box.mails] == [["data@example.com"]]


def test_the_digests_hour_is_that_of_the_collections(make_place: MakePlace, mail_port: int) -> None:
    tokyo = [Collection("purchases", DAYS[0], timezone="Asia/Tokyo"), Collection("logins", DAYS[0], timezone="Asia/Tokyo")]
    place = make_place(collections=tokyo)
    office = Office(place, KeenNotifications(mail_to=["data@example.com"]), MORNING.replace(hour=20, minute=59), collections=tokyo)
    with mail_server(mail_port, "s3cret-word"):
        assert office.tick() == "nothing to send"
        office.clock.advance(60)
        assert office.tick() == "sent keen/digest/2026-01-06 by mail"


def test_words_of_others_address_nobody_in_slack() -> None:
    with webhook() as (url, posted, _):
        message = Message("one", "Keen: purchases: <!channel> & co", "", "", [])
        assert Channels(slack_webhook=SecretUrl(url)).send(SLACK, message) == ""
        assert posted[0]["text"] == "Keen: purchases: &lt;!channel&gt; &amp; co"


def test_a_destination_that_hangs_holds_up_no_digest(
    make_place: MakePlace, mail_port: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    place, hangs = landed(make_place), threading.Event()
    monkeypatch.setattr(outbox, "ATTACHING_SECONDS", 0.1)

    def opened(*_: object) -> None:
        hangs.wait()
        raise OSError

    monkeypatch.setattr(FileDestination, "open", opened)
    with mail_server(mail_port, "s3cret-word") as box:
        assert Office(place, KeenNotifications(mail_to=["data@example.com"])).tick() == "sent keen/digest/2026-01-05 by mail"
        hangs.set()
        assert list(mail_of(box).iter_attachments()) == []


def test_a_run_is_told_for_what_failed_of_ours_and_not_for_somebody_elses_step(make_place: MakePlace) -> None:
    @dg.asset(partitions_def=dg.DailyPartitionsDefinition(DAYS[0]))
    def theirs() -> None:
        raise KeyError("a password of theirs")

    place = make_place(collections=COLLECTIONS, options=["--fail-extraction", "purchases@2026-01-02=3"])
    office = Office(place, KeenNotifications(mail_to=["data@example.com"]))
    job = dg.define_asset_job("theirs_and_ours", ["theirs", "keen/purchases"], executor_def=dg.in_process_executor)
    both = dg.Definitions.merge(place.defs, dg.Definitions(assets=[theirs], jobs=[job])).resolve_job_def(job.name)
    for day, told in ((DAYS[0], 0), (DAYS[1], 1)):
        result = both.execute_in_process(instance=place.instance, partition_key=day, raise_on_error=False)
        assert not result.success
        office.failures(failed_run(office, result))
        assert len(office.waiting()) == told
    with place.ledger.engine.connect() as connection:
        [body] = connection.execute(sa.select(notices.c.body)).scalars()
    assert "purchases 2026-01-02: the service reports the extraction as failed" in body
    assert "password" not in body


@pytest.mark.parametrize("told", ["extraction ca8f3c13c2c189e4c2d81ce9: ", "extraction refused: ", ""])
def test_a_subject_has_the_reason_and_no_extractions_id(told: str) -> None:
    full = "destination /srv/events/landing/signups/2026-01-02.csv is full"
    story = f"1 of 1 partitions failed\nsignups 2026-01-02: {told}{full}"
    subject = _title(dg.DagsterRun(job_name="keen_materialize_csvs"), Names("keen"), story)
    kept = told if "refused" in told else ""
    assert subject == f"Keen: 1 of 1 partitions failed: signups 2026-01-02: {kept}{full}"


def test_definitions_have_the_sensors_where_somebody_is_to_be_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from keen_pipeline import build_keen_definitions

    def sensors(**arguments: Any) -> set[str]:
        return {sensor.name for sensor in build_keen_definitions(COLLECTIONS, **arguments).sensors or ()}

    both = {"keen_notifications", "keen_extraction_failures"}
    assert not both & sensors()
    assert both <= sensors(notifications=KeenNotifications(mail_to=["a@b.example"]))
    monkeypatch.setenv("KEEN_PIPELINE_SLACK_WEBHOOK", "http://127.0.0.1:9/s3cret-hook")
    assert both <= sensors()
    assert "s3cret" not in repr(channels_of(KeenNotifications().settings()))
    for wrong, said in (
        ({"digest_at": "25:00"}, "digest_at must be"),
        ({"attachment_bytes": -1}, "digest_attachment_bytes must lie"),
    ):
        with pytest.raises(ConfigurationError, match=said):
            KeenNotifications(**wrong).settings()


@pytest.mark.parametrize(
    ("given", "host", "warns"),
    [
        ({"mail_to": ["a@b.example"]}, "", True),
        ({"mail_to": ["a@b.example"]}, "mail.test", False),
        ({"slack_webhook": "http://127.0.0.1:9/hook"}, "", False),
    ],
)
def test_mail_without_a_mail_server_is_warned_of_when_the_definitions_are_made(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, given: dict[str, Any], host: str, warns: bool
) -> None:
    from keen_pipeline import build_keen_definitions

    monkeypatch.setenv("SMTP_HOST", host)
    build_keen_definitions(COLLECTIONS, notifications=KeenNotifications(**given))
    assert ("no mail server: set SMTP_HOST" in caplog.text) is warns
