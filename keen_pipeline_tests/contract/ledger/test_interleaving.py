"""Two processes at one path, in every order of their steps: what the ledger says lies there lies there, or it says `unproven`."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from itertools import combinations, count

import pytest

from keen_pipeline.collection import Encoding
from keen_pipeline.errors import ClaimLostError
from keen_pipeline.extraction import ExtractionRequest, Status
from keen_pipeline.filters import Filter
from keen_pipeline.ledger import SqlLedger, open_engine
from keen_pipeline_tests.ledgers import SCOPE, asked, complete, day, land, landing, one

NUMBERS = count()
OLD, FROM_A, FROM_B = "01" * 32, "0a" * 32, "0b" * 32


@pytest.fixture(scope="module")
def shared() -> Iterator[SqlLedger]:
    engine = open_engine("sqlite://")
    yield SqlLedger(engine, SCOPE)
    engine.dispose()


def orders(first: int, second: int) -> list[str]:
    """Every way to put `first` steps of A and `second` steps of B one after the other."""
    places = combinations(range(first + second), first)
    return ["".join("A" if n in chosen else "B" for n in range(first + second)) for chosen in places]


@dataclass
class World:
    """One path, what lies there, and the ledger."""

    ledger: SqlLedger
    request: ExtractionRequest
    file: str | None = None

    def says(self) -> list[str]:
        """The hashes of files that by the ledger certainly lie at the path."""
        landed = self.ledger.landed_entries(self.request.collection)
        return [e.landing.sha256 for e in landed if e.landing and not e.unproven and e.request.path == self.request.path]

    def check(self, told: str) -> None:
        assert self.says() in ([], [self.file]), told


class Publisher:
    """What a landing does from its fence on."""

    def __init__(self, world: World, entry_id: int, sha256: str) -> None:
        self.world, self.sha256, self.entry_id = world, sha256, entry_id
        self.worker = world.ledger.workers.register("landing")
        self.is_publishing = self.is_over = False

    def publishing(self) -> None:
        try:
            self.world.ledger.publishing(self.entry_id, self.worker)
            self.is_publishing = True
        except ClaimLostError:
            self.is_over = True

    def switch(self) -> None:
        if self.is_publishing:
            self.world.file = self.sha256

    def landed(self) -> None:
        if self.is_over:
            return
        ledger = self.world.ledger
        try:
            ledger.landed(self.entry_id, self.worker, landing(sha256=self.sha256))
        except ClaimLostError:
            ledger.mark_unproven(one(ledger, self.entry_id))
            ledger.published(self.entry_id, self.worker)

    def steps(self) -> list[Callable[[], None]]:
        return [self.publishing, self.switch, self.landed]


def world_of(ledger: SqlLedger, *, earlier: bool) -> World:
    world = World(ledger, day(0, collection=f"c{next(NUMBERS)}"))
    if earlier:
        [entry_id] = asked(ledger, world.request)
        worker = ledger.workers.register("landing")
        complete(ledger, entry_id, worker)
        ledger.publishing(entry_id, worker)
        ledger.landed(entry_id, worker, landing(sha256=OLD))
        ledger.release([entry_id], worker)
        world.file = OLD
    return world


def asked_anew(world: World) -> int:
    [answer] = world.ledger.request([world.request], keep=lambda _: False)
    return answer.entry.entry_id


def play(world: World, a: list[Callable[[], None]], b: list[Callable[[], None]], order: str) -> None:
    left = {"A": iter(a), "B": iter(b)}
    for number, who in enumerate(order, start=1):
        next(left[who])()
        world.check(f"{order} after step {number}")  # also where somebody who lost the claim dies at this moment


@pytest.mark.parametrize("earlier", [False, True], ids=["first landing", "after a landing"])
@pytest.mark.parametrize("dies_after", [0, 1, 2, 3])
def test_an_entry_that_is_taken_over_while_it_is_published(shared: SqlLedger, earlier: bool, dies_after: int) -> None:
    for order in orders(dies_after, 4):
        world = world_of(shared, earlier=earlier)
        a = Publisher(world, asked_anew(world), FROM_A)
        complete(shared, a.entry_id, a.worker)
        b = Publisher(world, a.entry_id, FROM_B)

        def take_over(a: Publisher = a, b: Publisher = b) -> None:
            shared.workers.retire(a.worker)
            shared.claim([b.entry_id], b.worker)

        play(world, a.steps()[:dies_after], [take_over, *b.steps()], order)
        entry = one(shared, a.entry_id)
        assert entry.status is Status.LANDED
        assert entry.landing is not None
        assert entry.landing.sha256 in (FROM_A, FROM_B)
        shared.workers.retire(b.worker)


@pytest.mark.parametrize("earlier", [False, True], ids=["first landing", "after a landing"])
def test_another_question_lands_while_the_older_one_is_published(shared: SqlLedger, earlier: bool) -> None:
    unproven = 0
    for order in orders(3, 4):
        world = world_of(shared, earlier=earlier)
        a = Publisher(world, asked_anew(world), FROM_A)
        complete(shared, a.entry_id, a.worker)
        b = Publisher(world, 0, FROM_B)

        def ask(world: World = world, b: Publisher = b) -> None:
            [b.entry_id] = asked(shared, replace(world.request, filters=(Filter("body:a", "eq", 1),)))
            complete(shared, b.entry_id, b.worker)

        play(world, a.steps(), [ask, *b.steps()], order)
        newest = one(shared, b.entry_id)
        assert newest.status is Status.LANDED
        assert [e.entry_id for e in shared.landed_entries(world.request.collection)] == [b.entry_id]
        unproven += newest.unproven
        if newest.unproven:  # it is asked for again, and valid until then
            assert shared.request([newest.request])[0].created
        else:
            assert world.file == FROM_B
            assert not shared.request([newest.request])[0].created
        for worker in (a.worker, b.worker):
            shared.workers.retire(worker)
    assert 0 < unproven < len(orders(3, 4))


def test_the_word_of_one_who_switched_late_counts_while_a_third_is_publishing(shared: SqlLedger) -> None:
    world = world_of(shared, earlier=False)
    a = Publisher(world, asked_anew(world), FROM_A)
    complete(shared, a.entry_id, a.worker)
    a.publishing()
    shared.workers.retire(a.worker)
    b = Publisher(world, a.entry_id, FROM_B)
    shared.claim([b.entry_id], b.worker)
    for step in b.steps():
        step()
    c = Publisher(world, asked_anew(world), OLD)
    complete(shared, c.entry_id, c.worker)
    for step in (c.publishing, c.switch, a.switch, a.landed, c.landed):
        step()
    world.check("the last file is a's")
    assert one(shared, c.entry_id).status is Status.LANDED
    for worker in (b.worker, c.worker):
        shared.workers.retire(worker)


def test_a_file_is_swept_while_its_path_comes_into_use_again(shared: SqlLedger) -> None:
    """csv, csv.gz, and csv again: whoever removes the first file never takes the third for it."""
    for order in orders(3, 4):
        world = world_of(shared, earlier=True)
        [stale] = [e.entry_id for e in shared.landed_entries(world.request.collection)]
        path = f"{world.request.path}.gz"
        land(shared, asked(shared, replace(world.request, path=path, encoding=Encoding.CSV_GZ))[0])
        assert stale in [e.entry_id for e in shared.stale_files()]
        remover = shared.workers.register("sweep")
        b = Publisher(world, 0, FROM_B)
        taken: list[bool] = []

        def claim(stale: int = stale, taken: list[bool] = taken, remover: str = remover) -> None:
            taken.append(shared.claim_stale(stale, remover) is not None)

        def remove(world: World = world, taken: list[bool] = taken) -> None:
            if taken[0]:
                world.file = None

        def removed(stale: int = stale, taken: list[bool] = taken, remover: str = remover) -> None:
            if taken[0]:
                shared.removed(one(shared, stale), remover)

        def ask(world: World = world, b: Publisher = b) -> None:
            [b.entry_id] = asked(shared, world.request)
            complete(shared, b.entry_id, b.worker)

        play(world, [claim, remove, removed], [ask, *b.steps()], order)
        newest = one(shared, b.entry_id)
        assert newest.status is Status.LANDED
        assert newest.unproven or world.file == FROM_B, order
        for worker in (remover, b.worker):
            shared.workers.retire(worker)


def test_a_path_in_use_is_never_swept(shared: SqlLedger) -> None:
    world = world_of(shared, earlier=True)
    [first] = [e.entry_id for e in shared.landed_entries(world.request.collection)]
    worker = shared.workers.register("sweep")
    assert shared.claim_stale(first, worker) is None  # it is valid
    gz = replace(world.request, path=f"{world.request.path}.gz", encoding=Encoding.CSV_GZ)
    land(shared, asked(shared, gz)[0])
    [again] = asked(shared, world.request)
    assert shared.claim_stale(first, worker) is None  # a new one is under way to its path
    shared.cancel([again], "not wanted")
    taken = shared.claim_stale(first, worker)
    assert taken is not None
    assert shared.claim_stale(first, shared.workers.register("another")) is None
    assert shared.removed(taken, worker)
    assert [e.entry_id for e in shared.stale_files() if e.request.collection == world.request.collection] == []


def test_a_landing_in_its_place_leaves_no_stale_file_and_one_elsewhere_does(shared: SqlLedger) -> None:
    world = world_of(shared, earlier=True)
    land(shared, asked_anew(world))
    mine = world.request.collection
    assert [e for e in shared.stale_files() if e.request.collection == mine] == []
    hive = replace(world.request, path=f"{mine}/date=2026-01-01/events.csv")
    land(shared, asked(shared, hive)[0])
    assert [e.request.path for e in shared.stale_files() if e.request.collection == mine] == [world.request.path]
