"""The id that the service answers a POST with: an extraction of other events is never taken for this one's."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import pytest

from keen_pipeline.errors import UnreadableAnswerError
from keen_pipeline.extraction import ExtractionRequest, Status
from keen_pipeline.filters import Filter
from keen_pipeline.ledger import SqlLedger, open_engine
from keen_pipeline_tests.ledgers import LIMITS, SCOPE, asked, clock, day, land, ledger, one, submit, url

__all__ = ["clock", "ledger", "url"]
FILTERED = (Filter("n", "eq", 1),)


@pytest.mark.parametrize(
    "second",
    [day(2), day(1, collection="signups"), replace(day(1, filters=FILTERED), partition_key="adhoc")],
    ids=["another day", "another collection", "other filters"],
)
@pytest.mark.parametrize("has_landed", [False, True])
def test_an_id_of_other_events_is_not_taken(ledger: SqlLedger, second: ExtractionRequest, has_landed: bool) -> None:
    first, other = asked(ledger, day(1), second)
    me = ledger.workers.register("posting")
    if has_landed:
        land(ledger, first)
        taken = one(ledger, first).extraction_id
    else:
        taken = submit(ledger, first, me).extraction_id
    assert taken is not None
    with pytest.raises(UnreadableAnswerError, match=rf"extraction {taken}, which it made for purchases\[2026-01-02\]"):
        submit(ledger, other, me, taken)
    kept = one(ledger, other)
    assert (kept.status, kept.extraction_id, kept.claimed_by) == (Status.REQUESTED, None, me)
    assert one(ledger, first).extraction_id == taken


def test_an_id_of_the_same_events_is(ledger: SqlLedger) -> None:
    # A service that gives equal requests one extraction: the next attempt, and somebody's own file of the same day.
    first, other = asked(ledger, day(1), replace(day(1), partition_key="adhoc", path="purchases/adhoc.csv"))
    me = ledger.workers.register("posting")
    submit(ledger, first, me, "x1")
    assert submit(ledger, other, me, "x1").status is Status.SUBMITTED
    again = ledger.fail(first, "it broke", limits=LIMITS, worker=me)
    assert again is not None
    assert submit(ledger, again.entry_id, me, "x1").attempt == 2


def test_of_two_answers_at_once_with_one_id_only_one_is_taken(url: str) -> None:
    ledgers = [SqlLedger(open_engine(url), SCOPE) for _ in range(4)]
    entries = asked(ledgers[0], *(day(n) for n in range(1, 5)))
    me = ledgers[0].workers.register("posting")

    def take(number: int) -> str | None:
        try:
            return submit(ledgers[number], entries[number], me, "x1").extraction_id
        except UnreadableAnswerError:
            return None

    with ThreadPoolExecutor(4) as pool:
        assert sorted(pool.map(take, range(4)), key=str) == [None, None, None, "x1"]
    assert [one(ledgers[0], entry).extraction_id for entry in entries].count("x1") == 1
    for one_of_them in ledgers:
        one_of_them.engine.dispose()
