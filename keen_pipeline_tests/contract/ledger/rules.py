"""What each method of the ledger changes, as data: which statuses, whose claims, which columns; in every other case nothing."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import Any

from keen_pipeline.extraction import OPEN_STATUSES, ExtractionRequest, Status
from keen_pipeline.ledger import SqlLedger
from keen_pipeline.ledger.ledger import Slice
from keen_pipeline.lifecycle import Limits
from keen_pipeline_tests.ledgers import landing

ALL = frozenset(Status)
MINE, OTHERS, FREE, GONE = "mine", "another's", "free", "gone"
CLAIMS = (MINE, OTHERS, FREE, GONE)
LIMITS = Limits(max_attempts=3, retry_seconds=10)
LATER = timedelta(seconds=77)


@dataclass(frozen=True)
class Case:
    """One entry, and what the rules speak of: its row as typed values, my worker's id, the time."""

    entry_id: int
    row: Mapping[str, Any]
    request: ExtractionRequest
    me: str
    now: datetime


Values = dict[str, Any]


@dataclass(frozen=True)
class Rule:
    """`call` moves the entries in `statuses` with a claim in `claims` and changes `values`; `refused`: its answer in all others.

    `earlier`: what becomes of an earlier landing at the same path. `new`: columns of the rows that are made.
    `otherwise`, `earlier_otherwise`: what a refused call changes all the same, of the entry and of that landing.
    """

    name: str
    call: Callable[[SqlLedger, Case], Any]
    statuses: frozenset[Status]
    claims: tuple[str, ...]
    values: Callable[[Case], Values]
    refused: Any = None
    earlier: Callable[[Case], Values] = lambda _: {}
    new: Callable[[Case], list[Values]] = lambda _: []
    otherwise: Callable[[Case], Values] = lambda _: {}
    earlier_otherwise: Callable[[Case], Values] = lambda _: {}

    def allows(self, status: Status, claim: str) -> bool:
        return status in self.statuses and claim in self.claims


RAISES = "raises ClaimLostError"


def statuses(*these: Status) -> frozenset[Status]:
    return frozenset(these)


def halves(request: ExtractionRequest) -> list[Slice]:
    frames = request.timeframe.halves() or ()
    return [
        Slice(replace(request, timeframe=frame, partition_key=f"{request.partition_key}/{n}", path=f"{request.path}.{n}"), 1, 5 - n)
        for n, frame in enumerate(frames)
    ]


def next_attempt(case: Case, reason: str, claimed_by: str | None) -> list[Values]:
    row = case.row
    return [
        {
            "attempt": 3,
            "status": "requested",
            "series_id": row["series_id"],
            "partition_key": row["partition_key"],
            "fingerprint": row["fingerprint"],
            "path": row["path"],
            "run_id": row["run_id"],
            "kind": row["kind"],
            "due_at": case.now + timedelta(seconds=20),
            "requested_at": case.now,
            "error": reason,
            "claimed_by": claimed_by,
            "posted_at": None,
            "extraction_id": None,
            "orphans": 0,
            "post_tries": 0,
            "landing_tries": 0,
            "landed_at": None,
            "submitted_at": None,
            "completed_at": None,
            "unproven": False,
            "expected": None,
            "planned_at": None,
        }
    ]


def slice_rows(case: Case) -> list[Values]:
    claimed = case.row["claimed_by"]
    common = {"attempt": 1, "status": "requested", "kind": case.request.kind.value, "parent_id": case.entry_id, "depth": 1}
    common |= {"claimed_by": claimed, "planned_at": case.now, "count_check": "off", "run_id": case.row["run_id"]}
    return [{**common, "partition_key": p.request.partition_key, "expected": p.expected} for p in halves(case.request)]


PROOF = {"bytes": 10, "records": 2, "sha256": "ab" * 32, "stored_bytes": 10, "columns": '["a", "b,c"]', "landing_seconds": 0.5}
PROOF |= {"column_types": '["double", "string"]', "property_types": None, "masked": None}

HISTORY = "attempt 1: it broke before; attempt 2: it broke"
OPEN = frozenset(OPEN_STATUSES)

RULES = [
    Rule(
        "claim",
        lambda ledger, case: ledger.claim([case.entry_id], case.me),
        ALL,
        (MINE, FREE),
        lambda case: {"claimed_by": case.me},
        refused=[],
    ),
    Rule(
        "release",
        lambda ledger, case: ledger.release([case.entry_id], case.me),
        ALL,
        (MINE,),
        lambda _: {"claimed_by": None},
    ),
    Rule(
        "withdraw",  # never of a second attempt
        lambda ledger, case: ledger.withdraw([case.entry_id]),
        frozenset(),
        (),
        lambda _: {},
        refused=[],
    ),
    Rule(
        "posting",
        lambda ledger, case: ledger.posting(case.entry_id, case.me),
        statuses(Status.REQUESTED),
        (MINE,),
        lambda case: {"posted_at": case.now},
        refused=RAISES,
    ),
    Rule(
        "postpone",
        lambda ledger, case: ledger.postpone(case.entry_id, case.me, case.now + LATER, "429"),
        statuses(Status.REQUESTED),
        (MINE,),
        lambda case: {"due_at": case.now + LATER, "error": "429", "post_tries": 1, "posted_at": None},
        refused=RAISES,
    ),
    Rule(
        "submitted",
        lambda ledger, case: ledger.submitted(case.entry_id, case.me, "e-new"),
        statuses(Status.REQUESTED),
        (MINE,),
        lambda case: {
            "status": "submitted",
            "extraction_id": "e-new",
            "submitted_at": case.now,
            "error": None,
            "submitted_tick": 12.5,
        },
        refused=RAISES,
    ),
    Rule(
        "complete",
        lambda ledger, case: ledger.complete([case.entry_id], case.me),
        statuses(Status.SUBMITTED),
        (MINE, FREE),
        lambda case: {"status": "complete", "completed_at": case.now, "due_at": case.now, "error": None},
        refused=[],
    ),
    Rule(
        "complete, without a worker",
        lambda ledger, case: ledger.complete([case.entry_id]),
        statuses(Status.SUBMITTED),
        (FREE,),
        lambda case: {"status": "complete", "completed_at": case.now, "error": None},  # put off for a run that is to land it
        refused=[],
    ),
    Rule(
        "fail",
        lambda ledger, case: ledger.fail(case.entry_id, "it broke", limits=LIMITS, worker=case.me),
        OPEN,
        (MINE, FREE),
        lambda _: {"status": "failed", "error": "it broke", "claimed_by": None},
        new=lambda case: next_attempt(case, "it broke", case.row["claimed_by"]),
    ),
    Rule(
        "fail, without a worker",
        lambda ledger, case: ledger.fail(case.entry_id, "it broke", limits=LIMITS),
        OPEN,
        (FREE,),
        lambda _: {"status": "failed", "error": "it broke", "claimed_by": None},
        new=lambda case: next_attempt(case, "it broke", None),
    ),
    Rule(
        "fail, the last attempt",
        lambda ledger, case: ledger.fail(case.entry_id, "it broke", limits=replace(LIMITS, max_attempts=2), worker=case.me),
        OPEN,
        (MINE, FREE),
        lambda _: {"status": "abandoned", "error": HISTORY, "claimed_by": None},
    ),
    Rule(
        "fail, final",
        lambda ledger, case: ledger.fail(case.entry_id, "it broke", limits=LIMITS, worker=case.me, final=True),
        OPEN,
        (MINE, FREE),
        lambda _: {"status": "abandoned", "error": HISTORY, "claimed_by": None},
    ),
    Rule(
        "cancel",
        lambda ledger, case: ledger.cancel([case.entry_id], "not wanted"),
        OPEN,
        CLAIMS,
        lambda _: {"status": "cancelled", "error": "not wanted", "claimed_by": None},
        refused=[],
    ),
    Rule(
        "due_now",
        lambda ledger, case: ledger.due_now([case.entry_id]),
        OPEN,
        CLAIMS,
        lambda case: {"due_at": case.now},
        refused=[],
    ),
    Rule(
        "dispatch",
        lambda ledger, case: ledger.dispatch([case.entry_id], case.now + LATER),
        statuses(Status.SUBMITTED, Status.COMPLETE),
        (FREE,),
        lambda case: {"due_at": case.now + LATER, "error": None},
        refused=[],
    ),
    Rule(
        "landing_failed",
        lambda ledger, case: ledger.landing_failed(case.entry_id, case.me, "no space", case.now + LATER),
        statuses(Status.COMPLETE),
        (MINE,),
        lambda case: {"landing_tries": 2, "error": "no space", "due_at": case.now + LATER},
        refused=RAISES,
    ),
    Rule(
        "publishing",
        lambda ledger, case: ledger.publishing(case.entry_id, case.me),
        statuses(Status.COMPLETE),
        (MINE,),
        lambda case: {"unproven": False, "publisher": case.me},
        refused=RAISES,
        earlier=lambda _: {"unproven": True},
    ),
    Rule(
        "landed",
        lambda ledger, case: ledger.landed(case.entry_id, case.me, landing()),
        statuses(Status.COMPLETE),
        (MINE,),
        lambda case: {**PROOF, "status": "landed", "landed_at": case.now, "error": None, "reported_at": None},
        refused=RAISES,
        earlier=lambda case: {"status": "superseded", "claimed_by": None, "unproven": False, "removed_at": case.now},
    ),
    Rule(
        "mark_unproven",
        lambda ledger, case: ledger.mark_unproven(ledger.entries([case.entry_id])[0]),
        statuses(Status.COMPLETE, Status.LANDED),
        CLAIMS,
        lambda _: {"unproven": True},
        earlier=lambda _: {"unproven": True},
        earlier_otherwise=lambda _: {"unproven": True},
    ),
    Rule(
        "reject",
        lambda ledger, case: ledger.reject(case.entry_id, "too few"),
        statuses(Status.LANDED),
        CLAIMS,
        lambda _: {"status": "abandoned", "error": "too few", "claimed_by": None},
    ),
    Rule(
        "reported",
        lambda ledger, case: ledger.reported([case.entry_id]),
        ALL - OPEN,
        CLAIMS,
        lambda case: {"reported_at": case.now},
    ),
    Rule(
        "report_again",
        lambda ledger, case: ledger.report_again([case.entry_id]),
        statuses(Status.LANDED),
        CLAIMS,
        lambda _: {"reported_at": None},
    ),
    Rule(
        "counted",
        lambda ledger, case: ledger.counted({case.entry_id: 9}),
        statuses(Status.LANDED),
        CLAIMS,
        lambda case: {"counted": 9, "counted_at": case.now},
        refused=[],
    ),
    Rule(
        "ask_again",
        lambda ledger, case: ledger.ask_again(case.entry_id, "cut", limits=LIMITS, worker=case.me),
        statuses(Status.LANDED),
        CLAIMS,
        lambda _: {},
        new=lambda case: next_attempt(case, "cut", case.me),
    ),
    Rule(
        "ask_again, no attempt left",
        lambda ledger, case: ledger.ask_again(case.entry_id, "cut", limits=replace(LIMITS, max_attempts=2), worker=case.me),
        frozenset(),
        (),
        lambda _: {},
    ),
    Rule(
        "planned",
        lambda ledger, case: ledger.planned([case.entry_id], 12),
        statuses(Status.REQUESTED),
        CLAIMS,
        lambda case: {"planned_at": case.now, "expected": 12},
    ),
    Rule(
        "split",
        lambda ledger, case: ledger.split(case.entry_id, halves(case.request), "too large", worker=case.me, expected=9),
        statuses(Status.REQUESTED, Status.SUBMITTED, Status.COMPLETE),
        (MINE, FREE),
        lambda case: {"status": "split", "planned_at": case.now, "expected": 9, "due_at": case.now, "depth": 1},
        refused=[],
        new=slice_rows,
    ),
    Rule(
        "split, without a worker",
        lambda ledger, case: ledger.split(case.entry_id, halves(case.request), "too large"),
        statuses(Status.REQUESTED, Status.SUBMITTED, Status.COMPLETE),
        (FREE,),
        lambda case: {"status": "split", "planned_at": case.now, "expected": None, "due_at": case.now, "depth": 1},
        refused=[],
        new=slice_rows,
    ),
    Rule(
        "joined",
        lambda ledger, case: ledger.joined(case.entry_id, 4, case.me),
        statuses(Status.SPLIT),
        (MINE, FREE),
        lambda case: {"status": "complete", "completed_at": case.now, "due_at": case.now, "slices": 4},
    ),
    Rule(
        "joined, without a worker",
        lambda ledger, case: ledger.joined(case.entry_id, 4),
        statuses(Status.SPLIT),
        (FREE,),
        lambda case: {"status": "complete", "completed_at": case.now, "due_at": case.now, "slices": 4},
    ),
    Rule(
        "claim_stale",
        lambda ledger, case: ledger.claim_stale(case.entry_id, case.me),
        statuses(Status.SUPERSEDED),
        (FREE,),
        lambda case: {"claimed_by": case.me},
    ),
    Rule(
        "removed",
        lambda ledger, case: ledger.removed(ledger.entries([case.entry_id])[0], case.me),
        statuses(Status.SUPERSEDED),
        (MINE,),
        lambda case: {"removed_at": case.now, "claimed_by": None},
        refused=False,
        otherwise=lambda case: {"unproven": True} if case.row["status"] in ("complete", "landed") else {},
        earlier_otherwise=lambda _: {"unproven": True},
    ),
]
