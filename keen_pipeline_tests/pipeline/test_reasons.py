"""Why something waits or has failed is told, of what it is about alone, and since when of what has waited longest."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta
from types import SimpleNamespace
from typing import Any
from unittest.mock import MagicMock, Mock

import dagster as dg
import pytest

from keen_pipeline.cli.backfill import _submit
from keen_pipeline.cli.common import _View
from keen_pipeline.collection import Collection
from keen_pipeline.collections_file import collection_to_wire
from keen_pipeline.defs import ops
from keen_pipeline.defs.names import Names
from keen_pipeline.defs.ops import MaterializeCsvConfig, SubmitExtractionConfig, _LandingRun, _Night
from keen_pipeline.defs.reports.reporter import Reporter
from keen_pipeline.defs.sensors.status import _Tick
from keen_pipeline.errors import AuthenticationError, KeenPipelineError, RequestRejectedError, ServiceUnavailableError
from keen_pipeline.extraction import Kind, Status
from keen_pipeline.filters import Filter, Operator
from keen_pipeline.pipeline import Counted, Ended, Hindered, NotLanded, Progress, extract
from keen_pipeline.pipeline import submit as submit_all
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


def test_a_night_fails_by_what_the_service_refuses_for_good(world: World) -> None:
    world.api.fault = lambda call, name, _: (
        RequestRejectedError("HTTP 400: no", status=400) if (call, name) == ("submit", "sick") else None
    )
    both = [collection_to_wire(replace(WELL, name=name)) for name in ("sick", "well")]
    world.pipeline = replace(world.pipeline, limits=replace(world.pipeline.limits, max_attempts=1))
    context = MagicMock()
    context.run.run_id = "one"
    with pytest.raises(dg.Failure) as failed:
        _Night(context, world.pipeline, SubmitExtractionConfig(collections=both, partition_keys=["2026-01-01"])).run()
    assert "HTTP 400: no" in str(failed.value.description)
    assert [entry.request.collection for entry in world.ledger.open_entries()] == ["well"]


@pytest.mark.parametrize(("problem", "warned"), [(ServiceUnavailableError("HTTP 503"), 1), (None, 0)])
def test_a_count_that_could_not_be_had_is_in_the_log_of_its_run(
    world: World, problem: KeenPipelineError | None, warned: int
) -> None:
    [request] = world.requests(WELL, 1)
    world.extract([request])
    entry = world.entry(request)
    assert entry.landing is not None
    entry = replace(entry, request=replace(request, kind=Kind.AD_HOC), counted=None if problem else entry.landing.records)
    context = MagicMock()
    assert list(Reporter(context, world.pipeline, {}).counted(Counted(entry, problem=problem))) == []
    assert context.log.warning.call_count == warned


@pytest.mark.parametrize(("at", "log"), [("submit", ["sick goes on at the next tick: HTTP 403"]), ("never", [])])
def test_a_tick_logs_what_keeps_it_from_posting(world: World, at: str, log: list[str]) -> None:
    world.api.fault = lambda call, *_: AuthenticationError("HTTP 403") if call == at else None
    submit_all(world.pipeline, world.requests(replace(WELL, name="sick"), 1))
    context, names = MagicMock(), Names("one")
    _Tick(context, world.pipeline, names, MagicMock(), {}, {}).run(10)
    assert [said.args[0] % said.args[1:] for said in context.log.warning.call_args_list] == log


@pytest.mark.parametrize(("kind", "failed"), [(Kind.SLICE, 0), (Kind.AD_HOC, 1)])
def test_the_end_of_a_slice_is_told_by_what_it_is_part_of(world: World, kind: Kind, failed: int) -> None:
    [request] = world.requests(WELL, 1)
    world.extract([request])
    entry = replace(world.entry(request), status=Status.ABANDONED, request=replace(request, kind=kind))
    run: Any = SimpleNamespace(context=MagicMock(), reporter=Reporter(MagicMock(), world.pipeline, {}))
    assert list(_LandingRun._not_landed(run, NotLanded(entry, AuthenticationError("HTTP 403")))) == []
    assert (len(run.reporter.failed), run.context.log.warning.call_count) == (failed, 1 - failed)


@pytest.mark.parametrize("error", [ServiceUnavailableError("HTTP 503"), OSError("no space"), None])
def test_leftovers_that_can_not_be_looked_for_keep_no_night(
    world: World, monkeypatch: pytest.MonkeyPatch, error: Exception | None
) -> None:
    monkeypatch.setattr(ops, "tidy_up", Mock(side_effect=error, return_value=["3 leftovers removed"]))
    context = MagicMock()
    context.run.run_id = "one"
    _Night(
        context, world.pipeline, SubmitExtractionConfig(collections=[collection_to_wire(WELL)], partition_keys=["2026-01-01"])
    ).run()
    warned = [said.args[0] % said.args[1:] for said in context.log.warning.call_args_list]
    assert warned == ([f"what dead landings left could not be looked for: {error}"] if error else [])
    assert [entry.status for entry in world.ledger.open_entries()] == [Status.SUBMITTED]


def test_a_run_tells_no_end_that_was_told_before(world: World) -> None:
    told, untold, waiting = asked(world.ledger, *world.requests(WELL, 1, 3))
    for entry_id in (told, untold):
        world.ledger.fail(entry_id, "refused", limits=world.pipeline.limits, final=True)
    world.ledger.reported([told])
    run: Any = SimpleNamespace(ledger=world.ledger, config=MaterializeCsvConfig(entry_ids=[told, untold, waiting]))
    assert [entry.entry_id for entry in _LandingRun._wanted(run)] == [untold]


def test_a_command_tells_once_why_what_has_landed_can_not_be_counted() -> None:
    view, away = _View("landing"), ServiceUnavailableError("HTTP 503")
    told = [len(list(view.told(Hindered(name, away)))) for name in ("purchases", "purchases", "logins")]
    assert told == [1, 0, 1]
