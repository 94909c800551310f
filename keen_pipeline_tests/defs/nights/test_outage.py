"""A run whose ledger's PostgreSQL restarts, or is away for some seconds."""

from __future__ import annotations

import time

import pytest

from keen_pipeline_tests.defs.backfills.test_many_backfills import DAYS, PATIENCE, assert_all_landed_once, backfills, landed
from keen_pipeline_tests.defs.backfills.test_many_backfills import place as place
from keen_pipeline_tests.defs.nights.test_many_processes import NAMES, Place
from keen_pipeline_tests.defs.nights.test_many_processes import make_place as make_place
from keen_pipeline_tests.servers.postgres import away


@pytest.mark.slow
@pytest.mark.parametrize("seconds", [0.0, 3.0, 15.0])
def test_a_run_waits_for_its_ledgers_database_and_lands_all_once(place: Place, seconds: float) -> None:
    with backfills(place, [(0, DAYS - 1)]) as [run]:
        deadline = time.monotonic() + PATIENCE
        while not 5 < landed(place) < DAYS * len(NAMES):
            assert run.poll() is None, place.trouble("backfill")
            assert time.monotonic() < deadline
            time.sleep(0.02)
        with away(place.ledger.engine.url):
            time.sleep(seconds)
        assert run.wait(PATIENCE) == 0, place.trouble("backfill")
    assert_all_landed_once(place, DAYS)
