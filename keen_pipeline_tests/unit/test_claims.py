"""What a holder of claims does while its ledger is away."""

from __future__ import annotations

import time
from dataclasses import replace
from threading import Event
from typing import Any

import pytest
from sqlalchemy.exc import OperationalError

from keen_pipeline.errors import LedgerUnavailableError
from keen_pipeline.extraction import Status
from keen_pipeline.lifecycle import Entry
from keen_pipeline.pipeline import extract
from keen_pipeline_tests.unit.test_pipeline import World
from keen_pipeline_tests.unit.test_pipeline import world as world


def test_a_claim_is_kept_over_a_ledger_that_is_away_for_a_moment(
    world: World, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    pipeline = replace(world.pipeline, limits=replace(world.pipeline.limits, lease_seconds=0.1))
    [entry] = [r.entry for r in world.ledger.request(world.requests()[:1])]
    world.ledger.claim([entry.entry_id], Status.REQUESTED, "me", 0.1)
    away, claim = Event(), world.ledger.claim

    def renew(*args: Any) -> list[Entry]:
        if not away.is_set():
            away.set()
            raise OperationalError("UPDATE keen_entries", {}, RuntimeError("the database\nis away"))
        return claim(*args)

    monkeypatch.setattr(world.ledger, "claim", renew)
    world.clock.advance(60)
    with pipeline.keeping([entry.entry_id], "me"):
        deadline = time.monotonic() + 30
        while (until := world.ledger.entries([entry.entry_id])[0].lease_until) is None or until < world.clock.now():
            assert time.monotonic() < deadline
            time.sleep(0.02)
    assert away.is_set()
    assert [r.getMessage() for r in caplog.records if r.name == "keen_pipeline.pipeline.context"] == [
        "claims on 1 extractions are not renewed: OperationalError: (builtins.RuntimeError) the database"
    ]


def test_a_wait_that_lost_its_ledger_leaves_its_extractions_to_the_next(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    def lost(*_: Any) -> list[Entry]:
        raise LedgerUnavailableError("it has not answered")

    with monkeypatch.context() as patched:
        patched.setattr(world.ledger, "complete", lost)
        with pytest.raises(LedgerUnavailableError):
            list(extract(world.pipeline, world.requests()))
    assert [(e.status, e.lease_owner) for e in world.ledger.open_entries()] == [(Status.SUBMITTED, None)] * 3
    list(extract(world.pipeline, world.requests()))
    assert world.statuses() == {Status.LANDED: 3}
    assert world.api.calls["submit"] == 3
