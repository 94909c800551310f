"""The outbox of notices, and what the ledger keeps of masks and types; on every database."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import timedelta

from keen_pipeline.collection import MaskMethod
from keen_pipeline.extraction import Status
from keen_pipeline.ledger import SqlLedger
from keen_pipeline.ledger.notices import SqlNotices
from keen_pipeline.testing import FakeClock
from keen_pipeline_tests.contract.test_ledger import clock, day, land, landing, ledger, submit, url

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
    notices.sent(last.notice_id)
    clock.advance(1000)
    assert notices.claim({"mail"}, 300) is None
    assert notices.waiting() == []
    assert not notices.plan("digest/2026-01-10", "mail")
    assert notices.plan("run/1", "slack", {"title": "é"})
    assert notices.claim({"mail"}, 300) is None


def test_masks_and_types_come_back_and_a_failed_attempt_hands_its_mask_on(ledger: SqlLedger) -> None:
    masked = replace(day(0), mask={"body:é": MaskMethod.HASH})
    [asked] = ledger.request([masked])
    assert asked.entry.request == masked
    assert ledger.request([day(0)])[0].created  # without the mask it is another file
    [asked] = ledger.request([masked])
    submit(ledger, asked.entry.entry_id)
    assert ledger.complete([asked.entry.entry_id])
    ledger.claim([asked.entry.entry_id], Status.COMPLETE, "me", 60)
    proof = replace(landing("/x/2026-01-01.csv"), property_types=("num", ""), masked={"body:é": "absent"})
    entry = ledger.landed(asked.entry.entry_id, "me", proof)
    assert entry.landing == proof


def test_landings_are_found_by_the_beginning_of_their_timeframe(ledger: SqlLedger) -> None:
    for number in (3, 1, 0, 2):
        [asked] = ledger.request([day(number)])
        land(ledger, asked.entry.entry_id)
    first, last = day(1).timeframe.start, day(3).timeframe.start
    found = [entry.request.partition_key for entry in ledger.landed_between("purchases", first, last)]
    assert found == ["2026-01-02", "2026-01-03"]
    assert ledger.landed_between("logins", first, last) == []
