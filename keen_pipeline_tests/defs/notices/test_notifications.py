"""The digest, received by a real SMTP server and a webhook on loopback; from a ledger of a live service's landings."""

import json
import threading
from pathlib import Path
from typing import Any

import pytest

from keen_pipeline import Collection, KeenResource
from keen_pipeline.collection import Encoding, Granularity, Layout
from keen_pipeline.defs.sensors.notifications import KeenNotifications, channels_of
from keen_pipeline.errors import ConfigurationError, ServiceUnavailableError
from keen_pipeline.extraction import SecretUrl
from keen_pipeline.landing import FileDestination
from keen_pipeline.notifications import digest, outbox
from keen_pipeline.notifications.send import SLACK, Channels, Message
from keen_pipeline.service.credentials import Credentials
from keen_pipeline.testing import KeenLanding
from keen_pipeline_tests.defs.conftest import DAYS, MakePlace
from keen_pipeline_tests.defs.notices.office import COLLECTIONS, MORNING, Office, landed, mail_of, part, webhook
from keen_pipeline_tests.ledgers import day
from keen_pipeline_tests.service.extractions.test_mail import Mailbox, mail_server


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
    [open_] = place.ledger.request([day(0, collection="logins")])
    for when in (7, 8):  # something is open, and something has landed
        office = Office(place, KeenNotifications(mail_to=["data@example.com"]), MORNING.replace(day=when), cursor=None)
        with mail_server(mail_port, "s3cret-word"):
            assert office.tick() == f"sent keen/digest/2026-01-0{when} by mail"
        if when == 7:
            place.ledger.cancel([open_.entry.entry_id], "by a person")
            assert place.backfill(["keen/purchases"], DAYS[0], DAYS[0]).success


def test_what_no_schedule_has_asked_for_yet_is_not_missing_in_the_digest(make_place: MakePlace, mail_port: int) -> None:
    others = [
        Collection("hours", DAYS[0], granularity=Granularity.HOURLY, lookback_days=1),  # asked for five minutes past
        Collection("noon", DAYS[0], cron="0 12 * * *", lookback_days=1),
        Collection("east", DAYS[0], timezone="America/New_York", cron="@daily", lookback_days=1),  # at five by this clock
        Collection("york", DAYS[0], timezone="America/New_York", lookback_days=1),  # at six, a minute ago
        Collection("purchases", DAYS[0], cron="0 12 * * *", lookback_days=1),  # asked for by a person
    ]
    place = make_place(collections=others)
    assert place.backfill(["keen/purchases"], DAYS[3], DAYS[3]).success
    with mail_server(mail_port, "s3cret-word") as box:
        Office(place, KeenNotifications(mail_to=["data@example.com"]), collections=others).tick()
        lines = part(mail_of(box), "plain").splitlines()
    newest = [line.split("  ")[0] for line in lines if line and line[0].islower()]
    assert newest == ["east 2026-01-04", "hours 2026-01-05-04:00", "noon 2026-01-03", "york 2026-01-03", "purchases 2026-01-04"]
    assert "  keen-pipeline backfill noon --from 2026-01-03 --to 2026-01-03" in lines
    assert "  keen-pipeline backfill hours --from 2026-01-04-05:00 --to 2026-01-05-04:00" in lines


def test_an_attachment_is_named_by_its_partition_in_every_layout(tmp_path: Path) -> None:
    place, named = KeenLanding(tmp_path), []
    for name, key, more in (
        ("Sign/Ups", "2026-01-04", {"layout": Layout.HIVE, "encoding": Encoding.CSV_GZ}),
        ("hours", "2026-01-05-04:00", {"granularity": Granularity.HOURLY}),
    ):
        collection = Collection(name, DAYS[0], lookback_days=1, **more)  # type: ignore[arg-type]
        place.land(collection, {key: [{"amount": 5}]})
        gathered = digest.gather(place.ledger, [collection], "2026-01-05", MORNING.replace(hour=5))
        named += [attached.name for attached in outbox.attach(place.destination, gathered, 10_000)]
    assert named == ["Sign_Ups-2026-01-04.csv.gz", "hours-2026-01-05-0400.csv"]


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
    with webhook() as (url, posted, statuses):
        message = Message("one", "Keen: purchases: <!channel> & co", "", "", [])
        assert Channels(slack_webhook=SecretUrl(url)).send(SLACK, message) == ""
        assert posted[0]["text"] == "Keen: purchases: &lt;!channel&gt; &amp; co"
        for status, error in ((404, ConfigurationError), (500, ServiceUnavailableError)):
            statuses.append(status)
            with pytest.raises(error, match=f"HTTP {status}"):
                Channels(slack_webhook=SecretUrl(url)).send(SLACK, message)


def test_a_slow_ledger_holds_up_no_digest(make_place: MakePlace, mail_port: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(digest, "GATHERING_SECONDS", -1)
    with mail_server(mail_port, "s3cret-word") as box:
        Office(make_place(collections=COLLECTIONS), KeenNotifications(mail_to=["data@example.com"])).tick()
        text = part(mail_of(box), "plain")
    assert "purchases 2026-01-04: not looked at, as the ledger answers too slowly\n  keen-pipeline status purchases\n" in text


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


def test_a_digest_needs_no_service_and_starts_none(
    make_place: MakePlace, mail_port: int, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    place, data = make_place(collections=COLLECTIONS), tmp_path / "service"
    data.mkdir()
    (data / "credentials.json").write_text(json.dumps({key: f"s3cret {key}" for key in Credentials.__annotations__}))
    monkeypatch.setenv("KEEN_PIPELINE_SERVICE_DATA", str(data))
    with mail_server(mail_port, "s3cret-word") as box:
        office = Office(place, KeenNotifications(mail_to=["data@example.com"]))
        office.resources |= {"keen": KeenResource()}
        assert office.tick() == "sent keen/digest/2026-01-05 by mail"
        assert mail_of(box)["Subject"] == "Keen 2026-01-05: 0 of 2 landed, 0 events, 6 failed"
    assert [path.name for path in data.rglob("*")] == ["credentials.json"]


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
    monkeypatch.setenv("KEEN_PIPELINE_DIGEST_TO", "a@b.example")
    assert channels_of(KeenNotifications(mail_to=[]).settings()).names == {"slack"}
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
