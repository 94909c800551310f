"""Who lost his claim publishes nothing, or what he published is known to be unproven and is asked for again."""

from __future__ import annotations

import hashlib
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from datetime import timedelta
from types import SimpleNamespace
from typing import Any

import pytest
import sqlalchemy as sa

from keen_pipeline.collection import Collection
from keen_pipeline.extraction import ExtractionRequest, Status
from keen_pipeline.filters import Filter
from keen_pipeline.landing import FileDestination
from keen_pipeline.landing.storages.storage import no_fence
from keen_pipeline.ledger import SqlLedger
from keen_pipeline.ledger.database.tables import workers
from keen_pipeline.pipeline import NotLanded, Pipeline, count_landed, extract, land, poll, post_due
from keen_pipeline.pipeline.extractions.explain import explain_all
from keen_pipeline.pipeline.files import manifests
from keen_pipeline_tests.pipeline.scripted import COMPLETE, PENDING
from keen_pipeline_tests.pipeline.world import World, day

WELL = Collection("well", "2026-01-01")
FILTERED = replace(WELL, filters=(Filter("body:n", "gt", 0),))


class KilledError(BaseException):
    """The process is no more: nothing it would have said is said."""


def killed(*_: object, **__: object) -> None:
    raise KilledError


def slowed(world: World, *, before: Callable[[], None] | None = None, after: Callable[[], None] | None = None) -> Pipeline:
    """The pipeline of a process that is slow: something happens once before its file is switched into place, or after it."""
    destination = FileDestination(world.pipeline.destination.uri)
    publish, done = destination._storage.publish, []

    def slow(stage: Any, target: str, *, fence: Callable[[], None] = no_fence, **options: Any) -> None:
        first = not done
        done.append(target)

        def fenced() -> None:
            fence()
            if first and before is not None:
                before()

        publish(stage, target, fence=fenced, **options)
        if first and after is not None:
            after()

    destination._storage.publish = slow  # type: ignore[method-assign]
    return replace(world.pipeline, destination=destination)


def finished(world: World, requests: list[ExtractionRequest]) -> list[int]:
    """Ids of finished extractions of the requests."""
    world.api.answer = lambda made: COMPLETE
    world.ledger.request(requests)
    with world.pipeline.working("the sensor") as worker:
        post_due(world.pipeline, world.ledger.open_entries(), worker.id)
        poll(world.pipeline, world.ledger.open_entries(), worker=worker.id)
    return [entry.entry_id for entry in world.ledger.open_entries(status=Status.COMPLETE)]


def gone(world: World) -> None:
    """Everybody else is taken for gone: the process was paused for longer than its lease."""
    world.clock.advance(3600)
    world.ledger.workers.prune(60)


def registered(pipeline: Pipeline, doing: str) -> Any:
    """A worker that sends no heartbeats and gives nothing back."""
    return SimpleNamespace(id=pipeline.ledger.workers.register(doing))


def says_what_lies_there(world: World, request: ExtractionRequest) -> bool:
    """Whether the ledger's proof is of the bytes at rest."""
    data = world.file(request)
    [entry] = [e for e in world.ledger.landed_entries("well") if e.request.partition_key == request.partition_key]
    assert data is not None
    assert entry.landing is not None
    return entry.landing.sha256 == hashlib.sha256(data).hexdigest()


def test_a_slow_landing_under_old_filters_publishes_nothing_over_the_new(world: World) -> None:
    [old], [new] = world.requests(WELL, 1), world.requests(FILTERED, 1)
    ids = finished(world, [old])
    slow = FileDestination(world.pipeline.destination.uri)
    open_results = world.api.open_results
    asked: list[str] = []

    def opened(url: Any, **options: Any) -> Any:
        asked.append("")
        if len(asked) == 1:  # while the first one transfers, the filters change and everything lands anew
            world.extract([new])
        return open_results(url, **options)

    world.api.open_results = opened  # type: ignore[method-assign]
    with world.pipeline.working("slow") as worker:
        outcomes = list(land(replace(world.pipeline, destination=slow), ids, worker))
    assert [type(o) for o in outcomes] == [NotLanded]
    assert outcomes[0].is_lost  # type: ignore[union-attr]
    assert world.is_right(new)
    assert says_what_lies_there(world, new)
    assert world.entry(new).unproven is False
    assert world.night(FILTERED)
    assert world.ledger.open_entries() == [e for e in world.ledger.open_entries() if e.request.partition_key != "2026-01-01"]


@pytest.mark.parametrize("with_filters", [False, True])
def test_a_process_paused_inside_the_switch_leaves_an_unproven_file_that_is_asked_for_again(
    world: World, with_filters: bool
) -> None:
    """The one moment that no fence can guard: the claim is lost between its last proof and the switch."""
    [old] = world.requests(WELL, 1)
    [new] = world.requests(FILTERED if with_filters else WELL, 1)
    ids = finished(world, [old])

    def meanwhile() -> None:
        gone(world)
        world.extract([new], keep=lambda _: False)
        assert world.is_right(new)

    slow = slowed(world, before=meanwhile)
    with slow.working("paused") as worker:
        outcomes = list(land(slow, ids, worker))
    assert [type(o) for o in outcomes] == [NotLanded]
    # Its file lies there now: the ledger's word is no proof, and it knows.
    assert world.file(new) == world.api.csv(old)
    assert world.entry(new).unproven is True
    world.night(FILTERED if with_filters else WELL)
    world.ticks()
    assert world.is_right(new)
    assert says_what_lies_there(world, new)
    assert world.entry(new).unproven is False


def test_a_process_that_dies_between_the_switch_and_its_word_leaves_nothing_proven(world: World) -> None:
    [request] = world.requests(WELL, 1)
    world.extract([request])
    assert says_what_lies_there(world, request)
    world.api.events["well"].append((world.api.events["well"][0][0], 77))
    world.ledger.request([request], keep=lambda _: False)
    world.api.answer = lambda made: COMPLETE
    with world.pipeline.working("the sensor") as worker:
        post_due(world.pipeline, world.ledger.open_entries(), worker.id)
        poll(world.pipeline, world.ledger.open_entries(), worker=worker.id)

    dying = slowed(world, after=killed)
    with pytest.raises(KilledError), dying.working("dies") as worker:
        list(land(dying, [e.entry_id for e in world.ledger.open_entries(status=Status.COMPLETE)], worker))
    assert not says_what_lies_there(world, request)
    [landed] = world.ledger.landed_entries("well")
    assert landed.unproven is True
    # Whoever comes next lands the finished extraction; no new POST.
    world.clock.advance(400)
    world.ticks()
    assert world.is_right(request)
    assert says_what_lies_there(world, request)
    assert world.api.posts[request.place] == 2


def test_a_process_paused_inside_the_switch_for_so_long_that_all_was_mended_says_what_it_has_done(world: World) -> None:
    """What landed in doubt has been extracted again and is proven, when the old file comes after all."""
    [old], [new] = world.requests(WELL, 1), world.requests(FILTERED, 1)
    ids = finished(world, [old])

    def meanwhile() -> None:
        gone(world)
        world.extract([new])
        assert world.entry(new).unproven
        world.extract([new])
        assert not world.entry(new).unproven
        assert world.is_right(new)

    slow = slowed(world, before=meanwhile)
    with slow.working("paused") as worker:
        list(land(slow, ids, worker))
    assert world.file(new) == world.api.csv(old)
    assert world.entry(new).unproven


@pytest.mark.parametrize("with_filters", [False, True])
def test_a_process_that_switches_its_file_in_late_and_dies_before_its_word_leaves_nothing_proven(
    world: World, with_filters: bool
) -> None:
    """Frozen inside the switch for longer than its lease, while another landed the partition."""
    [old] = world.requests(WELL, 1)
    [new] = world.requests(FILTERED if with_filters else WELL, 1)
    ids = finished(world, [old])
    other = world.beside()
    before = world.api.posts[new.place]

    def meanwhile() -> None:
        gone(world)
        other.extract([new])
        assert other.is_right(new)

    slow = slowed(world, before=meanwhile, after=killed)
    dying = replace(slow, ledger=SqlLedger(world.ledger.engine, world.ledger.scope, clock=world.clock))
    dying.ledger.published = dying.ledger.mark_unproven = killed  # type: ignore[method-assign]
    with pytest.raises(KilledError):
        list(land(dying, ids, registered(dying, "frozen")))
    assert world.api.posts[new.place] == before + with_filters
    assert says_what_lies_there(other, new) is not with_filters  # the same extraction has the same bytes
    assert other.entry(new).unproven is True
    # Nobody has to look at the file: the next night asks for it again, once.
    for _ in range(2):
        other.night(FILTERED if with_filters else WELL)
        other.ticks()
    assert other.is_right(new)
    assert says_what_lies_there(other, new)
    assert other.entry(new).unproven is False
    assert world.api.posts[new.place] == before + with_filters + 1


@pytest.mark.parametrize("is_known_dead", [True, False])
def test_what_was_about_to_be_published_by_a_process_that_is_known_to_be_dead_never_comes(
    world: World, is_known_dead: bool
) -> None:
    """One that died on this host costs no extraction; of one that is only late the file may still come."""
    [request] = world.requests(WELL, 1)
    ids = finished(world, [request])
    dying = replace(slowed(world, after=killed), ledger=SqlLedger(world.ledger.engine, world.ledger.scope, clock=world.clock))
    dying.ledger.published = killed  # type: ignore[method-assign]
    worker = registered(dying, "dies")
    with pytest.raises(KilledError):
        list(land(dying, ids, worker))
    if is_known_dead:
        ended = subprocess.Popen([sys.executable, "-c", ""])
        ended.wait()
        with world.ledger.engine.begin() as connection:  # it was this process all the time
            connection.execute(sa.update(workers).where(workers.c.id == worker.id).values(pid=ended.pid))
    else:
        gone(world)
    world.clock.advance(400)
    world.ticks()
    assert world.is_right(request)
    assert world.api.posts[request.place] == 1
    assert world.entry(request).unproven is not is_known_dead
    world.night(WELL)
    world.ticks()
    assert world.api.posts[request.place] == (1 if is_known_dead else 2)
    assert world.entry(request).unproven is False


@pytest.mark.parametrize("ends", ["landed", "landed twice", "abandoned", "cancelled"])
def test_a_wait_whose_entries_were_taken_over_hears_how_they_ended(world: World, ends: str) -> None:
    [request] = world.requests(WELL, 1)
    world.api.answer = lambda made: PENDING
    other = world.beside()
    events: list[Any] = []
    for number, event in enumerate(extract(world.pipeline, [request], doing="paused")):
        assert number < 100, "it waits for ever"
        events.append(event)
        if number == 2:  # submitted; the process is paused, and another goes on
            gone(world)
            if ends.startswith("landed"):
                world.api.answer = lambda made: COMPLETE
                other.extract([request])
            if ends == "landed twice":
                other.extract([request], keep=lambda _: False)
            if ends == "cancelled":
                other.ledger.cancel([world.entry(request).entry_id], "cancelled by a person")
            if ends == "abandoned":
                other.ledger.fail(world.entry(request).entry_id, "broken", limits=world.pipeline.limits, final=True)
    last = [(type(e).__name__, getattr(e, "adopted", None)) for e in events if type(e).__name__ not in ("Progress", "Counted")]
    assert last == ([("Landed", True)] if ends.startswith("landed") else [("Ended", None)])
    assert world.api.posts[request.place] == (2 if ends == "landed twice" else 1)
    assert not ends.startswith("landed") or (events[-1].landed, world.is_right(request)) == (1, True)


def test_a_wait_goes_on_with_what_a_dead_process_had_claimed(world: World) -> None:
    """Its heartbeat is old; it had adopted the same days before."""
    requests = world.requests(WELL, 1, 3)
    entries = [r.entry for r in world.ledger.request(requests)]
    dead = world.ledger.workers.register("dead")
    assert len(world.ledger.claim([e.entry_id for e in entries], dead)) == 3
    world.clock.advance(61)
    world.extract(requests)
    assert all(world.is_right(request) for request in requests)
    assert [world.api.posts[request.place] for request in requests] == [1, 1, 1]


def test_a_wait_takes_over_from_a_process_that_dies_while_it_waits(world: World) -> None:
    requests = world.requests(WELL, 1, 2)
    entries = [r.entry for r in world.ledger.request(requests)]
    other = world.ledger.workers.register("the other")
    world.ledger.claim([entries[0].entry_id], other)
    ended = subprocess.Popen([sys.executable, "-c", ""])
    ended.wait()
    for number, event in enumerate(extract(world.pipeline, requests, doing="a test")):
        assert number < 600, "it waits for ever"
        if number == 5:
            assert world.api.posts[requests[0].place] == 0
            with world.ledger.engine.begin() as connection:  # it was this process all the time
                connection.execute(sa.update(workers).where(workers.c.id == other).values(pid=ended.pid))
        del event
    assert all(world.is_right(request) for request in requests)
    assert [world.api.posts[request.place] for request in requests] == [1, 1]


def test_a_wait_leaves_to_a_living_process_what_it_works_on(world: World) -> None:
    requests = world.requests(WELL, 1, 2)
    entries = [r.entry for r in world.ledger.request(requests)]
    told: list[str] = []
    with world.pipeline.working("the other") as other:
        world.ledger.claim([entries[0].entry_id], other.id)
        for number, event in enumerate(extract(world.pipeline, requests, doing="a test")):
            if type(event).__name__ == "Progress" and number > 20 and not told:
                told += event.reasons()  # type: ignore[union-attr]
                [row] = [row for row in world.ledger.workers.all() if row.worker_id == other.id]
                waiting = explain_all(world.ledger, world.ledger.open_entries(), world.pipeline.limits)
                assert waiting[entries[0].entry_id].until == row.heartbeat_at + timedelta(seconds=60)
                assert world.api.posts[requests[0].place] == 0
                world.ledger.release([entries[0].entry_id], other.id)
            assert number < 300
    assert "the other (process" in told[0]
    assert "has claimed it" in told[0]
    assert all(world.is_right(request) for request in requests)
    assert [world.api.posts[request.place] for request in requests] == [1, 1]


@pytest.mark.parametrize("resumable", [False, True])
def test_a_stopped_wait_gives_back_what_it_adopted_and_forgets_what_was_never_posted(world: World, resumable: bool) -> None:
    adopted, own = world.requests(WELL, 1, 2), world.requests(WELL, 3, 4)
    before = [r.entry for r in world.ledger.request(adopted)]
    events = extract(world.pipeline, [*adopted, *own], doing="a test", resumable=resumable)
    next(events)  # journalled, nothing posted
    events.close()
    left = world.ledger.open_entries()
    assert [e.entry_id for e in left][:2] == [e.entry_id for e in before]
    assert len(left) == (4 if resumable else 2)
    assert {e.claimed_by for e in left} == {None}
    assert world.ledger.workers.all() == []
    events = extract(world.pipeline, [*adopted, *own], doing="a test", resumable=resumable)
    for _event in events:
        if world.api.posts:
            break
    events.close()
    # What the service works on stays open, for whoever comes next.
    assert [e.status for e in world.ledger.open_entries()] == [Status.SUBMITTED] * 4
    assert {e.claimed_by for e in world.ledger.open_entries()} == {None}
    world.ticks()
    assert [world.api.posts[request.place] for request in (*adopted, *own)] == [1, 1, 1, 1]


def test_a_count_noted_while_another_landing_is_published_leaves_no_older_manifest_in_force(world: World) -> None:
    """The manifest of the older landing was read, and is written back once the newer one has written its own."""
    world.api.answer = lambda made: COMPLETE
    [request] = world.requests(WELL, 1)
    world.extract([request])
    world.api.add("well", day(1, 20), 7)
    destination = world.pipeline.destination
    meddled = FileDestination(destination.uri)

    def written(path: str, data: bytes) -> None:
        world.extract([request], keep=lambda _: False)
        destination.write(path, data)

    meddled.write = written  # type: ignore[method-assign]
    list(count_landed(replace(world.pipeline, destination=meddled), [world.entry(request)]))
    assert world.is_right(request)
    # An older manifest lies beside the newer file, and the ledger knows that something is wrong there.
    assert world.entry(request).unproven is True
    world.night(WELL)
    world.ticks()
    assert world.is_right(request)
    known = manifests.find(destination, request.path)
    assert known is not None
    assert (known.entry.token, world.entry(request).unproven) == (world.entry(request).token, False)


def test_a_count_noted_with_nobody_else_at_work_leaves_the_landing_proven(world: World) -> None:
    world.api.answer = lambda made: COMPLETE
    [request] = world.requests(WELL, 1)
    world.extract([request])
    world.api.add("well", day(1, 20), 7)
    list(count_landed(world.pipeline, [world.entry(request)]))
    known = manifests.find(world.pipeline.destination, request.path)
    assert known is not None
    assert (known.entry.counted, world.entry(request).counted, world.entry(request).unproven) == (3, 3, False)
    # A lost one is written again as it was, but for the count.
    manifests.remove(world.pipeline.destination, request.path)
    world.api.add("well", day(1, 21), 8)
    world.clock.advance(60)
    list(count_landed(world.pipeline, [world.entry(request)]))
    known = manifests.find(world.pipeline.destination, request.path)
    assert known is not None
    assert (known.entry.counted, known.entry.landed_at) == (4, world.entry(request).landed_at)
