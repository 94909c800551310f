"""Why something waits is told of the entry that waits, and since when of the one that has waited longest."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta

import pytest

from keen_pipeline.cli.backfill import _submit
from keen_pipeline.collection import Collection
from keen_pipeline.errors import AuthenticationError
from keen_pipeline.extraction import Status
from keen_pipeline.filters import Filter, Operator
from keen_pipeline.pipeline import Ended, Progress, extract
from keen_pipeline.pipeline.extractions.explain import Waiting, in_few_lines
from keen_pipeline.pipeline.told import summary
from keen_pipeline_tests.ledgers import asked, complete, land, landing, submit
from keen_pipeline_tests.pipeline.world import NOW, World

WELL = Collection("well", "2026-01-01")


def test_what_keeps_a_collection_at_its_service_keeps_no_finished_extraction(world: World) -> None:
    finished, open_ = requests = world.requests(WELL, 1, 2)
    first, second = asked(world.ledger, *requests)
    with world.pipeline.working("a test") as worker:
        complete(world.ledger, first, worker.id)
        submit(world.ledger, second, worker.id)
    world.ledger.hindered("well", "the list is away")
    told = world.reasons()
    assert told[str(open_)].startswith("the list is away (since ")
    assert told[str(finished)].startswith("its file is about to be fetched (since ")


def test_a_backfill_that_does_not_wait_says_what_keeps_its_intents(world: World, capsys: pytest.CaptureFixture[str]) -> None:
    world.api.fault = lambda call, collection, number: AuthenticationError("HTTP 401") if call == "submit" else None
    assert _submit(world.pipeline, world.requests(WELL, 1), force=False) == ([], [])
    said = ["0 submitted, 0 landed before; 1 are left to the status sensor", "well: HTTP 401"]
    assert capsys.readouterr().err.splitlines() == said


@pytest.mark.parametrize(
    ("name", "command"), [("keen", "keen-pipeline doctor"), ("shop", "KEEN_PIPELINE_NAME=shop keen-pipeline doctor")]
)
def test_what_stopped_comes_with_the_command_of_its_definitions(name: str, command: str) -> None:
    told = summary(0, [], [("well", "the key of well is refused"), ("sick", "the key of sick is refused")], name)
    assert told.splitlines() == ["2 collections stopped", "well, sick: the key is refused", f"  {command}"]
    assert summary(3, [], [], name) == ""


def test_equal_reasons_are_told_since_the_first_of_them_and_until_the_next(world: World) -> None:
    requests = world.requests(WELL, 1, 3)
    asked(world.ledger, *requests)
    entries = world.ledger.open_entries()
    hours = [timedelta(hours=number) for number in (1, 0, 2)]
    waiting = {e.entry_id: Waiting("it is away", NOW + hour, NOW + 2 * hour) for e, hour in zip(entries, hours, strict=True)}
    waiting[entries[1].entry_id] = Waiting("it is away", NOW)
    assert in_few_lines(entries, waiting) == ["3 of them: it is away (since 2026-01-04T01:00:00Z, until 2026-01-04T03:00:00Z)"]


def test_a_wait_takes_the_landing_of_another_definition_for_none_of_its_own(world: World) -> None:
    [request] = world.requests(WELL, 1)
    [waited] = asked(world.ledger, request)
    with world.pipeline.working("another landing") as another:
        submit(world.ledger, waited, another.id)
        events = extract(world.pipeline, [request], doing="a test")
        next(events)
        world.ledger.complete([waited], another.id)
        world.ledger.publishing(waited, another.id)
        world.ledger.landed(waited, another.id, landing())
    [others] = asked(world.ledger, *world.requests(replace(WELL, filters=(Filter("n", Operator.EQ, 7),)), 1))
    land(world.ledger, others)
    [ended] = [event for event in events if not isinstance(event, Progress)]
    assert isinstance(ended, Ended)
    assert ended.entry.status is Status.SUPERSEDED
