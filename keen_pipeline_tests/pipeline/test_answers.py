"""Every answer of the service to every caller: how many POSTs, what lies at rest, who was told, and who else was stopped.

The collection `sick` meets the answer, `well` never does and always lands. A row that says nothing about an extraction costs no
partition a second POST.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import timedelta
from typing import Any

import pytest

from keen_pipeline.collection import Collection
from keen_pipeline.errors import (
    AuthenticationError,
    KeenPipelineError,
    NotFoundError,
    PaymentRequiredError,
    RateLimitedError,
    RequestRejectedError,
    ServiceUnavailableError,
    UnreachableError,
    UnreadableAnswerError,
)
from keen_pipeline.extraction import Kind, Status
from keen_pipeline.ledger import Slice
from keen_pipeline.lifecycle import Split
from keen_pipeline.pipeline import Counted, Pipeline, poll, post_due, submit
from keen_pipeline.pipeline.extractions.poll import Polled, _end
from keen_pipeline.pipeline.extractions.slices import split
from keen_pipeline_tests.pipeline.scripted import ABSENT, COMPLETE, PENDING, Answer, Made, ScriptedKeen
from keen_pipeline_tests.pipeline.world import World

SICK, WELL = Collection("sick", "2026-01-01"), Collection("well", "2026-01-01")
KEYS = ["2026-01-01", "2026-01-02", "2026-01-03"]
FOREVER = 10**9
CALLERS = ("night", "sensor", "backfill", "command line")


def unreadable() -> KeenPipelineError:
    return UnreadableAnswerError("HTTP 200, <html>maintenance</html>")


def foreign() -> KeenPipelineError:
    return UnreadableAnswerError("HTTP 200, something else")


def denied() -> KeenPipelineError:
    return AuthenticationError("HTTP 403: the key is refused")


def unpaid() -> KeenPipelineError:
    return PaymentRequiredError("HTTP 402: pay first")


def unknown() -> KeenPipelineError:
    return NotFoundError("HTTP 404: no such collection")


def away() -> KeenPipelineError:
    return ServiceUnavailableError("HTTP 503")


def unreachable() -> KeenPipelineError:
    return UnreachableError("connection refused")


def slow_down() -> KeenPipelineError:
    return RateLimitedError("HTTP 429", retry_after=20.0)


def rejected() -> KeenPipelineError:
    return RequestRejectedError("HTTP 400: bad filter", status=400)


@dataclass(frozen=True)
class Row:
    """The first `times` calls of `call` about `sick` end in `error`; its list says `answer` of an extraction.

    `posts`: of each partition of it, `status`: of each at the end, `tells`: what a backfill hears of them beside `Landed` and
    `Counted`. `orphans`: POSTs that may have made what nobody knows. `prepare`: more of the script.
    """

    call: str = ""
    error: Callable[[], KeenPipelineError] = unreadable
    times: int = FOREVER
    posts: int = 1
    status: Status = Status.LANDED
    tells: str = ""
    answer: Callable[[Made], Answer] = lambda made: COMPLETE if made.polls > 1 else PENDING
    prepare: Callable[[ScriptedKeen], None] = lambda api: None
    orphans: int = 0
    says: str = ""


def answers(first: str, message: str | None = None, *, until: int = FOREVER) -> Callable[[Made], Answer]:
    """The first `until` POSTs of a partition end like that."""
    return lambda made: Answer(first, message) if made.number <= until else COMPLETE


def made_anyway(api: ScriptedKeen) -> None:
    api.made_anyway = True


def made_untold(api: ScriptedKeen) -> None:
    api.made_anyway, api.tells = True, False


ROWS = {
    # What says nothing about an extraction.
    "the list can't be read for a while": Row("list", unreadable, 5),
    "the list is of another protocol for a while": Row("list", foreign, 5),
    "the list is away for a while": Row("list", away, 5),
    "the list is refused for a moment": Row("list", slow_down, 2),
    "the service can't be reached by a list": Row("list", unreachable, 5),
    "the list is denied": Row("list", denied, status=Status.SUBMITTED, tells="Stopped", says="403"),
    "the list wants to be paid": Row("list", unpaid, status=Status.SUBMITTED, tells="Stopped", says="402"),
    "the list is unknown": Row("list", unknown, status=Status.SUBMITTED, tells="Stopped", says="404"),
    "a new extraction is not listed at once": Row(answer=lambda made: COMPLETE if made.polls > 3 else ABSENT),
    "the count is unknown": Row("count", unknown),
    "the count is away once": Row("count", away, 1),
    "the count is always away": Row("count", away),
    "the count is denied": Row("count", denied),
    "the count can't be read": Row("count", unreadable),
    "the count is refused for a moment": Row("count", slow_down, 2),
    "the schema is denied": Row("types", denied),
    "the schema can't be read": Row("types", unreadable),
    "a result is away once": Row("open", away, 1),
    # A POST that nobody knows the fate of: looked for, and found if it was made.
    "each POST's answer can't be read, it was made": Row("submit", unreadable, FOREVER, prepare=made_anyway),
    "each POST's answer is 500, it was made": Row("submit", away, FOREVER, prepare=made_anyway),
    "each POST's answer is of another protocol, it was made": Row("submit", foreign, FOREVER, prepare=made_anyway),
    "each first POST's answer is 500, not made": Row("submit", away, 3, posts=2, orphans=1),
    "each first POST's answer can't be read, made, the list tells nothing": Row(
        "submit", unreadable, 3, posts=2, orphans=1, prepare=made_untold
    ),
    # A POST that made nothing.
    "a POST reaches nobody once": Row("submit", unreachable, 1),
    "a POST is denied": Row("submit", denied, status=Status.REQUESTED, tells="Stopped", says="403"),
    "a POST wants to be paid": Row("submit", unpaid, status=Status.REQUESTED, tells="Stopped", says="402"),
    "a POST names an unknown collection": Row("submit", unknown, status=Status.ABANDONED, tells="Ended", says="404"),
    "a POST is rejected": Row("submit", rejected, status=Status.ABANDONED, tells="Ended", says="400"),
    # What the service says of the extraction itself.
    "an extraction fails once": Row(answer=answers("failed", "out of memory", until=1), posts=2, tells="Retrying"),
    "an extraction always fails": Row(
        answer=answers("failed", "out of memory"),
        posts=3,
        status=Status.ABANDONED,
        tells="Retrying Retrying Ended",
        says="out of memory",
    ),
    "an extraction is forgotten": Row(answer=answers("absent", until=1), posts=2, tells="Retrying"),
    "every extraction is forgotten": Row(
        answer=answers("absent"), posts=3, status=Status.ABANDONED, tells="Retrying Retrying Ended", says="no longer knows"
    ),
}
# At most once for the collection: the others would hear the same.
ONE_FOR_ALL = {"a POST is denied", "a POST wants to be paid"}
AMBIGUOUS_ONCE = {"a POST reaches nobody once"}


def scripted(world: World, row: Row) -> None:
    row.prepare(world.api)

    def fault(call: str, collection: str, number: int) -> KeenPipelineError | None:
        if (call, collection) == (row.call, "sick") and number <= row.times:
            return row.error()
        return None

    world.api.fault = fault
    world.api.answer = lambda made: row.answer(made) if made.request.collection == "sick" else COMPLETE


def called(world: World, caller: str, most: int = 40) -> list[Any]:
    """The three days of both collections, by one of the callers; what it heard."""
    requests = [*world.requests(SICK, 1, 3), *world.requests(WELL, 1, 3)]
    if caller in ("backfill", "command line"):
        return world.extract(requests, resumable=caller == "command line", run_id="run-1" if caller == "backfill" else None)
    if caller == "night":
        world.night(SICK, WELL)
    else:  # somebody asked and went away before anything was posted
        world.ledger.request(requests)
    world.ticks(most)
    return []


@pytest.mark.parametrize("caller", CALLERS)
@pytest.mark.parametrize("name", ROWS)
def test_an_answer(world: World, name: str, caller: str) -> None:
    row = ROWS[name]
    scripted(world, row)
    events = called(world, caller, 40 if row.status.is_terminal else 10)
    sick, well = world.requests(SICK, 1, 3), world.requests(WELL, 1, 3)
    # Who else was stopped: nobody.
    assert all(world.is_right(request) for request in well)
    assert [world.api.posts[request.place] for request in well] == [1, 1, 1]
    # What lies at rest.
    assert [world.entry(request).status for request in sick] == [row.status] * 3
    assert [world.is_right(request) for request in sick] == [row.status is Status.LANDED] * 3
    # How many POSTs.
    posts = [world.api.posts[request.place] for request in sick]
    waits = caller in ("backfill", "command line")
    if name in ONE_FOR_ALL:
        assert not waits or sum(posts) <= world.pipeline.posting_threads
    elif name in AMBIGUOUS_ONCE:
        assert sum(posts) == 4
    else:
        assert posts == [row.posts] * 3
    assert world.ledger.orphans() == row.orphans * 3
    # Who was told.
    told_well = {f"well[{key}]" for key in KEYS}
    told_sick = {f"sick[{key}]" for key in KEYS} if row.status is Status.LANDED else set()
    if waits:
        landed = [str(e.entry.request) for e in events if type(e).__name__ == "Landed"]
        assert (set(landed), len(landed)) == (told_well | told_sick, len(told_well | told_sick))
        heard = Counter(type(e).__name__ for e in events)
        expected = Counter(row.tells.split() * 3)
        assert {k: n for k, n in heard.items() if k not in ("Landed", "Counted")} == dict(expected)
    else:
        assert Counter(world.told) == Counter(told_well | told_sick)
        assert [e.status for e in world.ended] == ([Status.ABANDONED] * 3 if row.status is Status.ABANDONED else [])
    # Whoever waits can be asked why.
    if row.status is Status.ABANDONED:
        assert all(row.says in (world.entry(request).error or "") for request in sick)
    elif not row.status.is_terminal:
        assert sorted(world.reasons()) == [f"sick[{key}]" for key in KEYS]
        assert all(row.says in reason for reason in world.reasons().values())


@pytest.mark.parametrize("caller", CALLERS)
@pytest.mark.parametrize("how", ["refused at the POST", "failed as too large"])
def test_too_large_an_extraction_is_cut_and_counted(world: World, how: str, caller: str) -> None:
    message = "too many events in the extraction"

    def too_large(made: Made) -> Answer:
        timeframe = made.request.timeframe
        many = len(world.api.rows("sick", timeframe, ())) > 1
        return Answer("failed", message) if many and made.request.collection == "sick" else COMPLETE

    if how == "refused at the POST":
        world.api.limit = 1
    else:
        world.api.answer = too_large
    world.api.events["well"] = [row for row in world.api.events["well"] if row[1] == 0]
    called(world, caller)
    sick = world.requests(SICK, 1, 3)
    assert all(world.is_right(request) for request in (*sick, *world.requests(WELL, 1, 3)))
    assert [world.entry(request).attempt for request in sick] == [1, 1, 1]
    # Each of its events once: as many extractions as events, and the whole day before its cut.
    assert [world.entry(request).slices for request in sick] == [2, 3, 0]
    assert world.files() == sorted(request.path for request in (*sick, *world.requests(WELL, 1, 3)))
    assert not [path for path in (world.root / "_slices").rglob("*") if path.is_file()]


def test_429_in_the_middle_of_a_round_ends_it_for_all(world: World) -> None:
    """Nobody sends the next POST into a service that has just asked for a rest."""
    pipeline = replace(world.pipeline, posting_threads=1)
    world.api.fault = lambda call, collection, number: slow_down() if (call, collection, number) == ("submit", "sick", 2) else None
    requests = [*world.requests(SICK, 1, 3), *world.requests(WELL, 1, 3)]
    world.ledger.planned([entry.entry_id for entry in submit(pipeline, requests).created], None)
    with pipeline.working("a test") as worker:
        posted = post_due(pipeline, world.ledger.open_entries(), worker.id)
    assert (len(posted.submitted), sum(world.api.posts.values())) == (1, 2)
    assert {name: type(problem) for name, problem in posted.problems.items()} == {
        "sick": RateLimitedError,
        "well": RateLimitedError,
    }
    refused = world.entry(requests[1])
    assert (refused.due_at - world.clock.now()).total_seconds() == 20
    assert refused.posted_at is None  # it made nothing
    world.ticks()
    assert all(world.is_right(request) for request in requests)
    assert {world.entry(request).attempt for request in requests} == {1}
    assert world.ledger.orphans() == 0


@pytest.mark.parametrize(("asked_for", "waited"), [(500.0, 500), (0.0, 30)])
def test_a_post_that_the_service_could_not_take_is_sent_again_when_it_asks_for_it(
    world: World, monkeypatch: pytest.MonkeyPatch, asked_for: float, waited: int
) -> None:
    monkeypatch.setattr(Pipeline, "jitter", lambda _: 1.0)
    world.api.fault = lambda call, *_: ServiceUnavailableError("HTTP 503", retry_after=asked_for) if call == "submit" else None
    [created] = submit(world.pipeline, world.requests(SICK, 1)).created
    with world.pipeline.working("a test") as worker:
        post_due(world.pipeline, [created], worker.id)
    [entry] = world.ledger.open_entries()
    assert (entry.due_at - world.clock.now()).total_seconds() == waited


def test_what_a_person_cancels_while_its_landing_fails_is_lost_and_no_failure(world: World) -> None:
    def fault(call: str, collection: str, number: int) -> KeenPipelineError | None:
        if call != "open":
            return None
        world.ledger.cancel([e.entry_id for e in world.ledger.open_entries()], "a person's word")
        return NotFoundError("no such resource")

    world.night(WELL)
    world.api.fault = fault
    world.ticks()
    assert {(refused.entry.status, refused.is_lost) for refused in world.refused} == {(Status.COMPLETE, True)}
    assert world.ledger.open_entries() == []


def test_what_a_run_was_asked_to_land_again_tells_how_often_that_failed(world: World) -> None:
    [request] = world.requests(WELL, 1)
    world.ledger.request([request])
    world.api.fault = lambda call, collection, number: ServiceUnavailableError("HTTP 503") if call == "open" else None
    for _ in range(3):
        world.tick()
    assert "HTTP 503" in world.reasons()[str(request)]
    assert "landings that failed" not in world.reasons()[str(request)]
    world.ledger.dispatch([world.entry(request).entry_id], world.clock.now() + timedelta(seconds=300))
    assert "its landing run has been asked for after 1 landings that failed" in world.reasons()[str(request)]


def test_no_post_begins_when_the_time_for_posts_is_over(world: World) -> None:
    def slow(call: str, collection: str, number: int) -> None:
        world.clock.advance(8 if call == "submit" else 0)

    world.api.fault = slow
    created = submit(world.pipeline, world.requests(WELL, 1, 5)).created
    with world.pipeline.working("a test") as worker:
        posted = post_due(replace(world.pipeline, posting_threads=1), created, worker.id, seconds=20)
    assert (len(posted.submitted), len(world.ledger.open_entries(status=Status.REQUESTED))) == (3, 2)


def test_of_days_that_were_counted_together_only_empty_ones_have_a_number_of_their_own(world: World) -> None:
    requests = [*world.requests(Collection("empty", "2026-01-01"), 1, 3), *world.requests(WELL, 1, 2), *world.requests(SICK, 3)]
    created = submit(world.pipeline, requests).created
    with world.pipeline.working("a test") as worker:
        post_due(world.pipeline, created, worker.id)
    assert [world.entry(request).expected for request in requests] == [0, 0, 0, None, None, 1]


def test_what_is_too_large_and_can_not_be_counted_for_now_is_told_and_stays_as_it_is(world: World) -> None:
    away = ServiceUnavailableError("HTTP 503")
    world.api.fault = lambda call, *_: away if call == "count" else None
    [entry] = submit(world.pipeline, world.requests(SICK, 1)).created
    outcome = Polled()
    _end(world.pipeline, entry, Split("too large"), None, outcome)
    assert (outcome.problems, outcome.ended, world.ledger.open_entries()) == ({"sick": away}, [], [entry])


def second_post_refused(call: str, collection: str, number: int) -> KeenPipelineError | None:
    return denied() if (call, number) == ("submit", 2) else None


def test_a_key_that_is_refused_stops_no_wait_for_what_has_finished(world: World) -> None:
    finished, refused = requests = world.requests(WELL, 1, 2)
    with world.pipeline.working("a test") as worker:
        post_due(world.pipeline, submit(world.pipeline, [finished]).created, worker.id)
    while world.ledger.open_entries(status=Status.SUBMITTED):
        poll(world.pipeline, world.ledger.open_entries())
        world.clock.advance(60)
    world.api.fault = second_post_refused
    told = [(type(event).__name__, event.entry.request) for event in world.extract(requests) if not isinstance(event, Counted)]
    assert told == [("Stopped", refused), ("Landed", finished)]
    assert (world.file(refused), world.is_right(finished)) == (None, True)


def test_what_keeps_a_collection_is_known_until_nothing_does(world: World) -> None:
    world.api.fault = second_post_refused
    world.pipeline = replace(world.pipeline, posting_threads=1)
    created = submit(world.pipeline, world.requests(WELL, 1, 2)).created
    with world.pipeline.working("a test") as worker:
        assert len(post_due(world.pipeline, created, worker.id).submitted) == 1
        assert "HTTP 403" in str(world.ledger.collections()["well"].problem)
        world.clock.advance(3600)
        left = world.ledger.open_entries(status=Status.REQUESTED)
        assert len(post_due(world.pipeline, left, worker.id).submitted) == 1
    assert world.ledger.collections()["well"].problem is None


@pytest.mark.parametrize(("most", "given_up"), [(10_000, True), (1000, False)])
def test_a_part_is_small_in_proportion_to_what_one_extraction_may_hold(world: World, most: int, given_up: bool) -> None:
    world.with_limits(max_events=most)
    [request] = world.requests(SICK, 2)
    [whole] = submit(world.pipeline, [request]).created
    half = replace(request, kind=Kind.SLICE, partition_key="a part", path="_slices/1.csv")
    [part] = world.ledger.split(whole.entry_id, [Slice(half, 1, 10_000)], "too large", expected=10_000)
    split(world.pipeline, part, "too large", None)
    parts = world.ledger.slices([whole.entry_id])[whole.entry_id]
    assert (Status.ABANDONED in {one.status for one in parts}) is given_up
