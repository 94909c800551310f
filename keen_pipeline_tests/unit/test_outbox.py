"""The digest as it is gathered, what is attached to it, and when what can't be sent is tried again or given up."""

from __future__ import annotations

from datetime import datetime, timedelta, timezone
from pathlib import Path

import pytest

from keen_pipeline.collection import Collection
from keen_pipeline.errors import ConfigurationError, ServiceUnavailableError
from keen_pipeline.extraction import SecretUrl
from keen_pipeline.ledger.notices import SqlNotices
from keen_pipeline.notifications import outbox
from keen_pipeline.notifications.digest import Digest, Line, gather
from keen_pipeline.notifications.outbox import MOST_ATTEMPTS, attach, deliver
from keen_pipeline.notifications.render import digest_message, failure_message
from keen_pipeline.notifications.send import Channels, Message
from keen_pipeline.pipeline.told import Group
from keen_pipeline.settings import SmtpSettings
from keen_pipeline.testing import FakeClock, KeenLanding, memory_ledger


class Dead(Channels):
    """Channels that nobody listens to."""

    def send(self, channel: str, message: Message) -> str:
        raise ServiceUnavailableError("nobody listens")


def test_what_can_not_be_sent_is_tried_for_a_day_ever_more_rarely_and_then_given_up() -> None:
    clock = FakeClock()
    notices = SqlNotices(memory_ledger(clock=clock).engine, clock=clock)
    assert notices.plan("digest/2026-01-10", "slack")
    channels, begun, told = Dead(slack_webhook=SecretUrl("http://127.0.0.1:9/")), clock.now(), []
    while notices.waiting():
        sent, problems = deliver(notices, channels, lambda _: Message("", "", "", "", []), clock, seconds=60)
        assert not sent
        told += problems
        clock.advance(30)
    pauses = [one.rpartition("; it is ")[2] for one in told]
    assert pauses[:8] == [f"tried again in {minutes} min" for minutes in (1, 2, 4, 8, 16, 32, 60, 60)]
    assert (len(told), pauses[-1]) == (MOST_ATTEMPTS, "given up")
    assert timedelta(hours=22) < clock.now() - begun < timedelta(hours=26)
    assert "attempt 28: nobody listens" in told[-1]


def test_a_digest_names_what_landed_lately_and_attaches_what_fits(tmp_path: Path) -> None:
    place, now = KeenLanding(tmp_path), datetime.now(timezone.utc)
    newest, before = (f"{now - timedelta(days=ago):%Y-%m-%d}" for ago in (1, 2))
    landed = place.land("visits", {newest: [{"n": 1}, {"n": 2}], before: [{"n": 1}]})
    visits = Collection("visits", "2026-01-01")
    digest = gather(place.ledger, [visits], newest, now)
    [line] = digest.lines
    assert (line.partition_key, line.events, line.also_landed) == (newest, 2, (before,))
    size = landed[newest].stored_bytes
    assert [len(attach(place.destination, digest, most)) for most in (size - 1, size)] == [0, 1]
    [later] = gather(place.ledger, [Collection("visits", newest)], newest, now + timedelta(days=3)).lines
    assert later.also_landed == ()


def test_nothing_is_begun_when_the_time_is_over() -> None:
    clock = FakeClock()
    notices = SqlNotices(memory_ledger(clock=clock).engine, clock=clock)
    notices.plan("digest/2026-01-10", "slack")
    channels = Dead(slack_webhook=SecretUrl("http://127.0.0.1:9/"))
    assert deliver(notices, channels, lambda _: Message("", "", "", "", []), clock, seconds=0) == ([], [])


@pytest.mark.parametrize(("events", "unusual"), [(100, False), (300, True), (10, True)])
def test_a_number_of_events_far_from_the_usual_is_marked(tmp_path: Path, events: int, unusual: bool) -> None:
    place, now = KeenLanding(tmp_path), datetime(2026, 3, 11, 6, tzinfo=timezone.utc)
    weeks = {f"{now - timedelta(days=1, weeks=ago):%Y-%m-%d}": 100 for ago in range(1, 6)} | {"2026-03-10": events}
    place.land("visits", {key: [{"n": 1}] * number for key, number in weeks.items()})
    [line] = gather(place.ledger, [Collection("visits", "2026-01-01")], "2026-03-11", now).lines
    assert (line.events, line.usual, line.unusual) == (events, 100, unusual)
    assert [number for _, number in line.bars if number is not None] == [100, 100, 100, events]


def test_a_digest_and_a_failure_say_whose_they_are(tmp_path: Path) -> None:
    place, now = KeenLanding(tmp_path, name="shop"), datetime(2026, 3, 11, 6, tzinfo=timezone.utc)
    digest = digest_message("one", gather(place.ledger, [Collection("visits", "2026-01-01")], "2026-03-11", now))
    assert digest.subject == "Keen shop 2026-03-11: 0 of 1 landed, 0 events, 3 failed"
    assert "Keen shop extractions, 2026-03-11" in digest.html
    failure = failure_message("two", {"title": "Keen shop: landing failed: it is full", "story": "it is full", "run": "1"}, None)
    assert "*Keen shop: it is full*" in str(failure.slack)


def test_a_digest_of_many_collections_is_no_longer_than_mail_programs_show(tmp_path: Path) -> None:
    days = [f"2026-02-{day:02d}" for day in range(1, 29)]
    bars = tuple((key, number * 1000) for number, key in enumerate(days))
    lines = tuple(Line(f"collection_{n}", days[-1], None, None, False, bars, ()) for n in range(300))
    missing = tuple(Group(line.collection, tuple(days), "too many words " * 200, "retry") for line in lines)
    written = digest_message("one", Digest("2026-03-01", lines, missing), ui_url="https://dagster.example.com")
    assert len(written.html.encode()) < 102_000
    assert (written.text.count("not landed"), written.text.count("FAILED")) == (100, 20)
    assert "... and 200 more" in written.text
    assert "... and 280 more" in written.text
    shown = written.html.count(">not landed<"), written.html.count(">failed<")
    assert (shown[0] > 50, shown[1] > 10) == (True, True)
    assert f"... and {300 - shown[1]} more ... and {300 - shown[0]} more" in written.html
    assert written.html.count('bgcolor="') >= 28 * 4
    assert len(written.slack) <= 50
    assert [more for block in written.slack if "... and" in (more := str(block["text"]))] == [
        str({"type": "mrkdwn", "text": f"... and {more} more"}) for more in (290, 270)
    ]
    assert all(len(str(block["text"])) < 3100 for block in written.slack)


def test_without_an_outbox_a_cause_is_sent_once_a_day_and_no_day_before_is_remembered() -> None:
    sent, told = set[str](), []

    class Taken(Channels):
        def send(self, channel: str, message: Message) -> str:
            told.append(message.identity)
            return ""

    body = {"run": "r1", "title": "a run failed", "story": "it broke"}
    for cause in ("failure/2026-01-10/a", "failure/2026-01-10/b", "failure/2026-01-10/a", "failure/2026-01-11/a"):
        outbox.send_once(sent, Taken(), ["slack"], [cause], body, None)
    assert told == ["failure/2026-01-10/a/r1", "failure/2026-01-10/b/r1", "failure/2026-01-11/a/r1"]
    assert sent == {"failure/2026-01-11/a slack"}


def test_an_address_that_no_mail_can_have_is_told_with_its_variables() -> None:
    channels = Channels(("ada@example.com\nBcc: all@example.com",), SmtpSettings("127.0.0.1"))
    with pytest.raises(ConfigurationError, match="an address of KEEN_PIPELINE_DIGEST_TO or SMTP_FROM can't be written in a mail"):
        channels.send("mail", Message("", "", "", "", []))


def test_a_long_story_keeps_the_link_to_its_run() -> None:
    body = {"run": "r1", "title": "a run failed", "story": "it broke\n" + "y" * 5000}
    [block] = failure_message("one", body, "http://dagster.test/").slack
    told = str(block["text"])
    assert "<http://dagster.test/runs/r1|" in told
    assert 2500 < len(told) < 3000


def test_words_of_others_are_no_html() -> None:
    body = {"run": "r1", "title": "a run failed", "story": "<b>it</b> & broke\n<i>here</i>\n  <u>mend</u>"}
    written = failure_message("one", body, None)
    assert [f"&lt;{tag}&gt;" in written.html for tag in "biu"] == [True] * 3
    assert [tag for tag in ("<b>", "<i>", "<u>", "& broke") if tag in written.html] == []
    assert "<b>it</b> & broke" in written.text
