"""What a ledger answers: requests and what they adopt, partitions, slices, histories, and what is forgotten; on every database."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta

import pytest

from keen_pipeline.collection import CountPolicy, Encoding, MaskMethod
from keen_pipeline.extraction import Kind, Status
from keen_pipeline.filters import Filter
from keen_pipeline.ledger import SqlLedger
from keen_pipeline.testing import FakeClock
from keen_pipeline_tests.contract.ledger.rules import halves
from keen_pipeline_tests.ledgers import LIMITS, SCOPE, asked, clock, complete, day, land, landing, ledger, memory, one, submit, url

__all__ = ["clock", "ledger", "memory", "url"]

FILTERED = day(0, filters=(Filter("body:amount", "gt", 3.5), Filter("body:tags", "in", ["a", "é"])))


def test_an_entry_comes_back_as_it_was_asked(ledger: SqlLedger, clock: FakeClock) -> None:
    request = replace(
        FILTERED,
        email="a@b.example",
        encoding=Encoding.CSV_GZ,
        mask={"body:é": MaskMethod.HASH},
        mask_key="ab12",
        count_check=CountPolicy.WARN,
    )
    [answer] = ledger.request([request], run_id="run-1")
    entry = one(ledger, answer.entry.entry_id)
    assert answer.created
    assert answer.entry == entry
    assert entry.request == request
    assert (entry.status, entry.attempt, entry.run_id, entry.claimed_by) == (Status.REQUESTED, 1, "run-1", None)
    assert (entry.requested_at, entry.due_at, entry.fingerprint) == (clock.now(), clock.now(), request.fingerprint(SCOPE))
    assert len({answer.entry.token, *(one(ledger, n).token for n in asked(ledger, day(1), day(2)))}) == 3


def test_what_landed_comes_back_with_its_proof(ledger: SqlLedger, clock: FakeClock) -> None:
    worker = ledger.workers.register("landing")
    [entry_id] = asked(ledger, day(0))
    clock.advance(30)
    complete(ledger, entry_id, worker)
    proof = replace(landing(), property_types=("num", ""), masked={"body:é": "absent"})
    entry = ledger.landed(entry_id, worker, proof)
    assert entry.landing == proof
    assert (entry.extraction_id, entry.landed_at, entry.reported_at, entry.claimed_by) == ("e1", clock.now(), None, worker)
    assert ledger.outbox() == []  # whoever landed it holds it, and reports it
    ledger.release([entry_id], worker)
    assert [e.entry_id for e in ledger.outbox()] == [entry_id]
    ledger.reported([entry_id])
    heard = clock.now()
    clock.advance(30)
    ledger.reported([entry_id])
    assert (ledger.outbox(), one(ledger, entry_id).reported_at) == ([], heard)


def test_open_and_landed_requests_are_adopted(memory: SqlLedger) -> None:
    [first] = memory.request([day(0)])
    assert memory.request([day(0)])[0] == replace(first, created=False)
    land(memory, first.entry.entry_id)
    [adopted] = memory.request([day(0)])
    assert (adopted.created, adopted.entry.status) == (False, Status.LANDED)
    [anew] = memory.request([day(0)], keep=lambda entry: entry.entry_id != first.entry.entry_id)
    assert anew.created
    assert one(memory, first.entry.entry_id).status is Status.LANDED  # valid until the new file lies there
    assert memory.current([day(0)]) == [anew.entry]
    land(memory, anew.entry.entry_id)
    assert [e.status for e in memory.entries([first.entry.entry_id, anew.entry.entry_id])] == [Status.SUPERSEDED, Status.LANDED]


def test_what_is_unproven_is_asked_for_again(memory: SqlLedger) -> None:
    [entry_id] = asked(memory, day(0))
    memory.mark_unproven(land(memory, entry_id))
    [answer] = memory.request([day(0)])
    assert answer.created
    assert one(memory, entry_id).status is Status.LANDED


@pytest.mark.parametrize(
    "other",
    [
        FILTERED,
        day(0, encoding=Encoding.CSV_GZ, path="purchases/2026-01-01.csv.gz"),
        day(0, mask={"body:a": MaskMethod.DROP}),
        day(0, mask_key="another"),
        replace(day(0), timeframe=day(1).timeframe),
        day(0, path="purchases/date=2026-01-01/events.csv"),
    ],
)
def test_another_question_for_the_partition_ends_the_older_one(memory: SqlLedger, other: object) -> None:
    [old] = asked(memory, day(0))
    memory.claim([old], memory.workers.register("a run"))
    [answer] = memory.request([other])  # type: ignore[list-item]
    assert answer.created
    ended = one(memory, old)
    assert (ended.status, ended.claimed_by) == (Status.CANCELLED, None)
    assert ended.error == "another extraction was asked for the same partition"
    land(memory, answer.entry.entry_id)
    assert memory.request([day(0)])[0].created  # configured back, the file is out of date again


def test_a_person_who_wants_a_day_now_wants_its_slices_too(memory: SqlLedger, clock: FakeClock) -> None:
    [whole, other] = asked(memory, day(0), day(1))
    first, _ = memory.split(whole, halves(replace(day(0), kind=Kind.SLICE)), "too large")
    [third, _] = memory.split(other, halves(replace(day(1), kind=Kind.SLICE)), "too large")
    for part in (first, third):
        assert memory.fail(part.entry_id, "refused", limits=LIMITS) is not None
    assert [e.request.timeframe for e in memory.due_now([whole])] == [first.request.timeframe]
    assert [e.due_at > clock.now() for e in memory.slices([whole])[whole]] == [False, False]
    assert [e.due_at > clock.now() for e in memory.slices([other])[other]] == [True, False]


def test_filters_in_another_order_and_another_policy_are_the_same_question(memory: SqlLedger) -> None:
    [entry_id] = asked(memory, FILTERED)
    swapped = replace(FILTERED, filters=FILTERED.filters[::-1], count_check=CountPolicy.WARN, email="a@b.example")
    [answer] = memory.request([swapped])
    assert not answer.created
    assert one(memory, entry_id).request.count_check is CountPolicy.WARN  # today's policy decides
    memory.request([replace(swapped, email="new@example.com")])
    assert one(memory, entry_id).request.email == "new@example.com"
    land(memory, entry_id)
    memory.request([replace(FILTERED, count_check=CountPolicy.OFF)])
    assert memory.uncounted() == []
    memory.request([replace(FILTERED, count_check=CountPolicy.FAIL)])
    assert [e.entry_id for e in memory.uncounted()] == [entry_id]


def test_a_partition_named_twice_in_one_request_is_one_entry(memory: SqlLedger) -> None:
    first, second = memory.request([day(0), day(0)])
    assert (first.created, second.created) == (True, False)
    assert first.entry == second.entry


def test_only_intents_that_were_never_posted_are_withdrawn(memory: SqlLedger) -> None:
    worker = memory.workers.register("a run")
    never, posted, done, retried = asked(memory, *(day(n) for n in range(4)))
    memory.claim([posted], worker)
    memory.posting(posted, worker)
    submit(memory, done, worker)
    second = memory.fail(retried, "it broke", limits=LIMITS)
    assert second is not None
    assert memory.withdraw([never, posted, done, retried, second.entry_id]) == [never]
    assert [e.entry_id for e in memory.entries(range(1, 100))] == [posted, done, retried, second.entry_id]
    assert memory.request([day(0)])[0].created


def test_an_intent_that_somebody_who_does_not_wait_asks_for_too_is_not_withdrawn_by_who_asked_first(memory: SqlLedger) -> None:
    requests = [day(n) for n in range(4)]
    ids = [one.entry.entry_id for one in memory.request(requests, run_id="a backfill")]
    submit(memory, ids[3], memory.workers.register("a backfill"))
    memory.request(requests[3:], run_id="a night", waits=False)
    memory.request(requests[:1], run_id="a wait")  # which notices, and asks anew
    memory.request(requests[1:2], run_id="a night", waits=False)
    memory.request(requests[2:], waits=False)  # the command line
    assert memory.withdraw(ids, run_id="a backfill") == ids[:1]
    assert [e.entry_id for e in memory.open_entries()] == ids[1:]
    assert [e.run_id for e in memory.open_entries()] == ["a night", None, "a backfill"]  # what is posted stays its own


def test_what_is_due_already_is_not_moved(memory: SqlLedger) -> None:
    assert memory.due_now(asked(memory, day(0))) == []


def test_a_lost_answer_is_counted_as_an_orphan_and_a_refusal_is_none(memory: SqlLedger, clock: FakeClock) -> None:
    worker = memory.workers.register("a run")
    lost, refused = asked(memory, day(0), day(1))
    memory.claim([lost, refused], worker)
    memory.posting(lost, worker)
    memory.postpone(lost, worker, clock.now(), "its answer was lost", ambiguous=True)
    memory.posting(lost, worker)
    memory.posting(refused, worker)
    memory.postpone(refused, worker, clock.now(), "HTTP 503")
    memory.posting(refused, worker)
    assert memory.orphans() == 1
    assert [e.post_tries for e in memory.entries([lost, refused])] == [1, 1]


def test_the_last_attempt_tells_all_of_them(ledger: SqlLedger, clock: FakeClock) -> None:
    worker = ledger.workers.register("a run")
    [first] = asked(ledger, day(0))
    submit(ledger, first, worker, "x1")
    second = ledger.fail(first, "it broke", limits=LIMITS, worker=worker, jitter=0.5)
    assert second is not None
    assert (second.attempt, second.claimed_by, second.due_at - clock.now()) == (2, worker, timedelta(seconds=7.5))
    assert not ledger.request([day(0)])[0].created
    submit(ledger, second.entry_id, worker, "x2")
    end = ledger.fail(second.entry_id, "it hung", limits=LIMITS, worker=worker)
    assert end is not None
    assert (end.status, end.error) == (Status.ABANDONED, "attempt 1: it broke; attempt 2: it hung")
    assert [e.entry_id for e in ledger.outbox()] == [second.entry_id]
    again = ledger.request([day(0)])[0]
    assert (again.created, again.entry.attempt) == (True, 1)


def test_a_file_that_is_not_whole_is_asked_for_again_once(memory: SqlLedger) -> None:
    [first] = asked(memory, day(0))
    land(memory, first)
    assert [e.counted for e in memory.counted({first: 5})] == [5]
    second = memory.ask_again(first, "cut", limits=LIMITS)
    assert second is not None
    again = memory.ask_again(first, "cut", limits=LIMITS)
    assert again is not None
    assert again.entry_id == second.entry_id  # it is asked for already
    [other] = memory.request([replace(day(0), filters=FILTERED.filters)])
    assert memory.ask_again(first, "cut", limits=LIMITS) is None  # another question is
    memory.cancel([other.entry.entry_id], "not wanted")
    second = memory.ask_again(first, "cut", limits=LIMITS)
    assert second is not None
    land(memory, second.entry_id)
    assert memory.ask_again(second.entry_id, "cut", limits=LIMITS) is None  # no attempt is left


def test_a_split_entry_goes_with_its_slices(ledger: SqlLedger) -> None:
    [whole] = asked(ledger, day(0))
    worker = ledger.workers.register("a run")
    ledger.claim([whole], worker)
    request = replace(day(0), kind=Kind.SLICE)
    first, second = ledger.split(whole, halves(request), "too large", worker=worker)
    assert [e.claimed_by for e in (first, second)] == [worker, worker]
    quarters = [
        replace(part, request=replace(part.request, partition_key=f"q{n}", path=f"q{n}"), expected=None)
        for n, part in enumerate(halves(first.request))
    ]
    third, fourth = ledger.split(first.entry_id, quarters, "still too large", worker=worker)
    assert one(ledger, first.entry_id).status is Status.FAILED
    assert [(e.parent_id, e.depth, e.planned_at) for e in (third, fourth)] == [(whole, 2, None)] * 2
    assert one(ledger, whole).depth == 2
    slices = ledger.slices([whole])[whole]
    assert [e.entry_id for e in slices] == [third.entry_id, fourth.entry_id, second.entry_id]
    for part in slices:
        landed = land(ledger, part.entry_id, worker)
        assert (landed.claimed_by, landed.reported_at is not None) == (None, True)
    assert ledger.stale_slices() == []
    assert ledger.joined(whole, 3, worker) is not None
    assert ledger.stale_slices() == []  # they are about to be joined
    ledger.publishing(whole, worker)
    ledger.landed(whole, worker, landing())
    assert {e.entry_id for e in ledger.stale_slices()} == {e.entry_id for e in slices}
    taken = ledger.claim_stale(second.entry_id, worker)
    assert taken is not None
    assert ledger.removed(taken, worker)
    assert len(ledger.stale_slices()) == 2
    assert ledger.prune(ledger.clock.now() + timedelta(seconds=1)) == 2  # the slice that was cut again, and the one without a file
    assert ([e.entry_id for e in ledger.landed_entries("purchases")], len(ledger.uncounted())) == ([whole], 0)


def test_a_slice_that_was_given_up_is_kept_while_what_it_is_part_of_is_open(memory: SqlLedger, clock: FakeClock) -> None:
    [whole] = asked(memory, day(0))
    first, second = memory.split(whole, halves(replace(day(0), kind=Kind.SLICE)), "too large")
    land(memory, first.entry_id)
    memory.fail(second.entry_id, "refused", limits=LIMITS, final=True)
    clock.advance(86_400)
    assert memory.prune(clock.now()) == 0
    # Without it the other slices would be joined to a file that lacks events.
    assert [part.status for part in memory.slices([whole])[whole]] == [Status.LANDED, Status.ABANDONED]
    memory.fail(whole, "a slice was given up", limits=LIMITS, final=True)
    assert memory.prune(clock.now()) == 1


@pytest.mark.parametrize("way", ["fail", "cancel"])
def test_what_ends_a_split_entry_ends_its_slices(memory: SqlLedger, way: str) -> None:
    [whole] = asked(memory, day(0))
    parts = memory.split(whole, halves(replace(day(0), kind=Kind.SLICE)), "too large")
    done = land(memory, parts[0].entry_id)
    if way == "fail":
        memory.fail(whole, "a slice was abandoned", limits=LIMITS, final=True)
    else:
        assert [e.entry_id for e in memory.cancel([whole], "not wanted")] == [whole]
    assert one(memory, parts[1].entry_id).status is Status.CANCELLED
    assert one(memory, done.entry_id).status is Status.LANDED
    assert [e.entry_id for e in memory.stale_slices()] == [done.entry_id]
    assert memory.open_entries() == []


def test_the_state_of_each_partition_is_that_of_what_counts(ledger: SqlLedger) -> None:
    fingerprints = [day(n).fingerprint(SCOPE) for n in range(7)]
    ids = asked(ledger, *(day(n) for n in range(6)))
    land(ledger, ids[0])
    ledger.request([day(0)], keep=lambda _: False)  # landed, and asked for again
    land(ledger, ids[1])
    [newer] = ledger.request([replace(day(1), filters=FILTERED.filters)])
    ledger.cancel([newer.entry.entry_id], "not wanted")  # landed, the newer question was cancelled
    ledger.mark_unproven(land(ledger, ids[2]))
    ledger.fail(ids[3], "refused", limits=LIMITS, final=True)
    ledger.cancel([ids[4]], "not wanted")
    ledger.fail(ids[5], "it broke", limits=LIMITS)
    states = {state.key[-2:]: state for state in ledger.partitions("purchases")}
    assert [(s.status, s.landed, s.unproven) for s in states.values()] == [
        (Status.REQUESTED, True, False),
        (Status.CANCELLED, True, False),
        (Status.LANDED, True, True),
        (Status.ABANDONED, False, False),
        (Status.CANCELLED, False, False),
        (Status.REQUESTED, False, False),
    ]
    assert [s.landed_fingerprint for s in states.values()] == [*fingerprints[:3], "", "", ""]
    assert states["02"].fingerprint != fingerprints[1]
    assert (states["04"].error, states["01"].start, states["01"].end) == (
        "refused",
        day(0).timeframe.start,
        day(0).timeframe.end,
    )
    assert ledger.partitions("logins") == []
    current = ledger.current([day(0), day(1), day(3), day(9)])
    assert [e and e.status for e in current] == [Status.REQUESTED, Status.LANDED, Status.ABANDONED, None]


def test_landings_are_found_by_the_beginning_of_their_timeframe(memory: SqlLedger) -> None:
    for number in (3, 1, 0, 2):
        land(memory, asked(memory, day(number))[0])
    first, last = day(1).timeframe.start, day(3).timeframe.start
    assert [e.request.partition_key for e in memory.landed_entries("purchases", start=first, end=last)] == [
        "2026-01-02",
        "2026-01-03",
    ]
    assert memory.landed_entries("logins", start=first, end=last) == []


def test_what_is_known_of_a_collection(ledger: SqlLedger, clock: FakeClock) -> None:
    assert ledger.collections() == {}
    ledger.listed("purchases", ["e2", "e1"])
    ledger.listed("logins", [])
    clock.advance(15)
    ledger.listed("purchases", ["e2"])
    state = ledger.collections()["purchases"]
    assert (state.tick, state.listed_at, state.pending, state.problem) == (15.0, clock.now(), {"e2"}, None)
    assert set(ledger.listed_within(15)) == {"purchases"}
    clock.advance(3600)  # nobody asked, or nobody answered: no second of it counts
    ledger.listed("purchases", [])
    assert ledger.collections()["purchases"].tick == 75.0
    clock.advance(-3600)  # a clock that was set back takes nothing away
    ledger.listed("purchases", [])
    assert ledger.collections()["purchases"].tick == 75.0
    since = clock.now()
    ledger.hindered("purchases", "HTTP 403", since + timedelta(seconds=60))
    clock.advance(5)
    ledger.hindered("purchases", "HTTP 404")
    state = ledger.collections()["purchases"]
    assert (state.problem, state.since, state.until) == ("HTTP 404", since, None)
    ledger.hindered("views", None)  # nothing was wrong
    assert set(ledger.collections()) == {"purchases", "logins"}
    ledger.hindered("purchases", None)
    state = ledger.collections()["purchases"]
    assert (state.problem, state.since, state.until, state.tick) == (None, None, None, 75.0)
    ledger.hindered("purchases", "HTTP 403")
    ledger.listed("purchases", [])
    assert ledger.collections()["purchases"].problem is None


def test_what_is_noted_of_a_list_call_has_a_bound(memory: SqlLedger) -> None:
    memory.listed("purchases", [f"e{number:06d}" for number in range(30_000)])
    pending = memory.collections()["purchases"].pending
    assert (len(pending), "e000000" in pending, "e029999" in pending) == (10_000, True, False)


def test_history_that_means_nothing_any_more_is_forgotten(ledger: SqlLedger, clock: FakeClock) -> None:
    worker = ledger.workers.register("a run")
    kept, gone = [], []
    [first] = asked(ledger, day(0))
    second = ledger.fail(first, "it broke", limits=LIMITS)
    assert second is not None
    land(ledger, second.entry_id)
    gone.append(first)
    kept.append(second.entry_id)  # landed
    old, *rest = asked(ledger, *(day(n) for n in range(1, 5)))
    land(ledger, old)
    land(ledger, asked(ledger, replace(day(1), path="purchases/2026-01-02.csv.gz", encoding=Encoding.CSV_GZ))[0])
    kept += [old, old + 4]  # superseded, and its file may still be there
    abandoned, cancelled, waiting = rest
    ledger.fail(abandoned, "refused", limits=LIMITS, final=True)
    ledger.cancel([cancelled], "not wanted")
    kept += [abandoned, cancelled, waiting]  # the newest of their partitions, and an open one
    [other] = asked(ledger, replace(day(3), filters=FILTERED.filters))
    gone.append(cancelled)
    kept.remove(cancelled)
    kept.append(other)
    before = clock.now() + timedelta(seconds=1)
    assert ledger.prune(clock.now()) == 0  # nothing is older
    assert ledger.prune(before) == len(gone)
    assert [e.entry_id for e in ledger.entries(range(1, 100))] == sorted(kept)
    assert ledger.removed(ledger.claim_stale(old, worker), worker)  # type: ignore[arg-type]
    assert ledger.prune(before) == 1


def test_an_abandoned_partition_that_was_asked_for_again_is_forgotten(memory: SqlLedger, clock: FakeClock) -> None:
    [first] = asked(memory, day(0))
    memory.fail(first, "refused", limits=LIMITS, final=True)
    [second] = asked(memory, day(0))
    clock.advance(1)
    assert memory.prune(clock.now()) == 1
    assert [e.entry_id for e in memory.entries(range(1, 100))] == [second]
