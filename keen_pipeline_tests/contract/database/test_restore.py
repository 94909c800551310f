"""Landings of a lost ledger, taken over from their manifests: valid once, told never, and never over what is known better."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta

import pytest

from keen_pipeline.extraction import Status
from keen_pipeline.ledger import SqlLedger
from keen_pipeline.lifecycle import Entry
from keen_pipeline.testing import FakeClock
from keen_pipeline_tests.ledgers import LIMITS, day, landing
from keen_pipeline_tests.ledgers import clock as clock
from keen_pipeline_tests.ledgers import ledger as ledger
from keen_pipeline_tests.ledgers import url as url


def lost(ledger: SqlLedger, clock: FakeClock, number: int = 0, token: str = "a" * 16, hours: int = 1) -> Entry:
    """A landing as a manifest tells it, `hours` old."""
    request, then = day(number), clock.now() - timedelta(hours=hours)
    fingerprint = request.fingerprint(ledger.scope)
    proof = landing(f"/x/{request.path}")
    return Entry(
        0, token, request, fingerprint, 2, Status.LANDED, then, then, landed_at=then, landing=proof, counted=2, counted_at=then
    )


def test_a_landing_is_taken_over_with_all_of_it_and_told_to_nobody(ledger: SqlLedger, clock: FakeClock) -> None:
    told = lost(ledger, clock)
    [restored] = ledger.restore([told])
    assert replace(restored, entry_id=0, reported_at=None) == replace(told, landing=restored.landing)
    assert restored.landing == replace(told.landing, column_types=restored.landing.column_types)  # type: ignore[type-var,union-attr]
    assert (ledger.outbox(), ledger.uncounted(), ledger.open_entries(), ledger.stale_files()) == ([], [], [], [])
    [asked] = ledger.request([told.request])
    assert (asked.created, asked.entry.entry_id) == (False, restored.entry_id)
    assert ledger.restore([told]) == []
    assert len(ledger.landed_entries("purchases")) == 1


def test_of_several_the_last_is_valid_and_the_files_of_the_others_may_go(ledger: SqlLedger, clock: FakeClock) -> None:
    old, new = lost(ledger, clock, token="b" * 16, hours=9), lost(ledger, clock, token="c" * 16, hours=2)
    old = replace(old, request=replace(old.request, path="purchases/2026-01-01.csv.gz"))
    assert [entry.token for entry in ledger.restore([new, old])] == [new.token]
    assert [entry.token for entry in ledger.landed_entries("purchases")] == [new.token]
    assert [entry.token for entry in ledger.stale_files()] == [old.token]


@pytest.mark.parametrize("again", [False, True])
def test_what_the_ledger_has_landed_itself_stays(ledger: SqlLedger, clock: FakeClock, again: bool) -> None:
    [asked] = ledger.request([lost(ledger, clock).request])
    with ledger.working("test", LIMITS) as worker:
        [entry] = ledger.claim([asked.entry.entry_id], worker.id)
        ledger.posting(entry.entry_id, worker.id)
        ledger.submitted(entry.entry_id, worker.id, "e1")
        ledger.complete([entry.entry_id], worker.id)
        ledger.publishing(entry.entry_id, worker.id)
        mine = ledger.landed(entry.entry_id, worker.id, landing())
    if again:  # an open attempt beside it changes nothing about that
        ledger.request([mine.request], keep=lambda _: False)
    assert ledger.restore([lost(ledger, clock)]) == []
    assert [entry.token for entry in ledger.landed_entries("purchases")] == [mine.token]


@pytest.mark.parametrize("encoding", ["csv", "csv.gz"])
def test_a_restored_backup_takes_over_what_has_landed_since(ledger: SqlLedger, clock: FakeClock, encoding: str) -> None:
    [mine] = ledger.restore([lost(ledger, clock, hours=9)])
    since = lost(ledger, clock, token="d" * 16, hours=2)
    since = replace(since, request=replace(since.request, path=f"purchases/2026-01-01.{encoding}"))
    assert [entry.token for entry in ledger.restore([since])] == [since.token]
    assert [entry.token for entry in ledger.landed_entries("purchases")] == [since.token]
    assert [entry.token for entry in ledger.stale_files()] == [mine.token][: encoding != "csv"]
    assert ledger.outbox() == ledger.restore([since]) == []


def test_an_open_attempt_goes_on_beside_what_was_taken_over(ledger: SqlLedger, clock: FakeClock) -> None:
    [asked] = ledger.request([lost(ledger, clock).request])
    [restored] = ledger.restore([lost(ledger, clock)])
    assert [entry.entry_id for entry in ledger.open_entries()] == [asked.entry.entry_id]
    assert [entry.entry_id for entry in ledger.landed_entries("purchases")] == [restored.entry_id]


def test_tokens_are_known_to_their_own_scope(ledger: SqlLedger, clock: FakeClock) -> None:
    ledger.restore([lost(ledger, clock)])
    assert ledger.known_tokens(["a" * 16, "d" * 16]) == {"a" * 16}
    moved = SqlLedger(ledger.engine, replace(ledger.scope, destination="/moved"), clock=clock)
    assert moved.known_tokens(["a" * 16]) == set()
    assert ledger.landed_collections() == ["purchases"]
