"""The outbox of notices; on every database."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta

from keen_pipeline.ledger import SqlLedger
from keen_pipeline.ledger.notices import SqlNotices
from keen_pipeline.testing import FakeClock
from keen_pipeline_tests.ledgers import clock, ledger, url

__all__ = ["clock", "ledger", "url"]


def test_a_notice_is_planned_once_and_taken_by_one(ledger: SqlLedger, clock: FakeClock) -> None:
    notices = SqlNotices(ledger.engine, clock=clock)
    with ThreadPoolExecutor(4) as pool:
        planned = list(pool.map(lambda _: notices.plan("digest/2026-01-10", "mail"), range(8)))
        assert planned.count(True) == 1
        taken = [notice for notice in pool.map(lambda _: notices.claim({"mail"}, 300), range(8)) if notice is not None]
    [notice] = taken
    assert (notice.name, notice.attempts, notice.body, notice.created_at) == ("digest/2026-01-10", 1, None, clock.now())
    assert notices.claim({"mail"}, 300) is None
    clock.advance(301)  # whoever took it died
    again = notices.claim({"mail", "slack"}, 300)
    assert again is not None
    assert again.attempts == 2
    notices.failed(again.notice_id, "a reason", clock.now() + timedelta(seconds=60))
    assert notices.waiting() == [("digest/2026-01-10", "mail", 2, "a reason")]
    assert notices.claim({"mail"}, 300) is None
    clock.advance(60)
    last = notices.claim({"mail"}, 300)
    assert last is not None
    notices.end(last.notice_id)
    clock.advance(1000)
    assert notices.claim({"mail"}, 300) is None
    assert notices.waiting() == []
    assert not notices.plan("digest/2026-01-10", "mail")
    assert notices.plan("run/1", "slack", {"title": "é"})
    assert notices.claim({"mail"}, 300) is None


def test_notices_that_ended_long_ago_are_forgotten(ledger: SqlLedger, clock: FakeClock) -> None:
    notices = SqlNotices(ledger.engine, clock=clock)
    for name in ("sent", "given up", "newer", "waiting"):
        notices.plan(name, "mail")
        if name != "waiting":
            notice = notices.claim({"mail"}, 300)
            assert notice is not None
            notices.end(notice.notice_id, error="refused" if name == "given up" else None)
        clock.advance(10)
    assert notices.prune(clock.now() - timedelta(seconds=25)) == 2
    with ledger.engine.connect() as connection:
        left = connection.exec_driver_sql("SELECT name FROM keen_notices ORDER BY id").scalars().all()
    assert left == ["newer", "waiting"]
    assert notices.waiting() == [("waiting", "mail", 0, None)]


def test_a_notice_that_a_clock_put_off_that_was_ahead_is_due(ledger: SqlLedger, clock: FakeClock) -> None:
    notices = SqlNotices(ledger.engine, clock=clock)
    notices.plan("digest/2026-01-10", "mail")
    clock.advance(365 * 86400)
    notice = notices.claim({"mail"}, 300)
    assert notice is not None
    notices.failed(notice.notice_id, "a reason", clock.now() + timedelta(hours=1))
    assert notices.claim({"mail"}, 300) is None
    clock.advance(-365 * 86400)
    again = notices.claim({"mail"}, 300)
    assert again is not None
    assert again.attempts == 2
    assert notices.claim({"mail"}, 300) is None
