"""Whatever happens in a ledger: a reader that has followed it, one that begins now, and a look at every row say the same."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import sqlalchemy as sa
from hypothesis import Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, rule

from keen_pipeline.extraction import Kind, Status
from keen_pipeline.ledger import SqlLedger, open_engine
from keen_pipeline.ledger.database.tables import entries
from keen_pipeline.ledger.ledger import Slice
from keen_pipeline.ledger.statistics import StatisticsReader
from keen_pipeline.lifecycle import Entry, Limits
from keen_pipeline.testing import FakeClock
from keen_pipeline_tests.ledgers import SCOPE, day, landing

LIMITS = Limits(max_attempts=2, retry_seconds=10)
REQUESTS = [day(n, collection=name) for name in ("purchases", "logins") for n in range(2)]
COUNTERS = [
    *("requested", "submitted", "failed", "abandoned", "cancelled"),
    *("landed", "landed_events", "landed_bytes", "landing_failures", "orphans"),
]
OPEN = [status for status in Status if not status.is_terminal]
DURATIONS = ("submitting", "waiting", "landing")
STEPS = ["ask", "submit", "lose", "complete", "land", "report", "not land", "fail", "cancel", "split", "join"]
# From which statuses a step leads on.
FROM = {
    "submit": [Status.REQUESTED],
    "lose": [Status.REQUESTED],
    "land": [Status.COMPLETE],
    "not land": [Status.COMPLETE],
    "fail": OPEN,
    "cancel": OPEN,
    "complete": [Status.SUBMITTED],
    "join": [Status.SPLIT],
    "split": [Status.REQUESTED, Status.COMPLETE],
}


def numbers(reader: StatisticsReader) -> dict[str, dict[str, Any]]:
    """What the reader says of each collection, in the form of `of_every_row`."""
    found = {}
    for name, one in reader.read().collections.items():
        t = one.totals
        durations = {kind: (getattr(t, kind).count, getattr(t, kind).milliseconds) for kind in DURATIONS}
        found[name] = {counter: getattr(t, counter) for counter in COUNTERS} | durations
        found[name] |= {
            "open": dict(one.open),
            "oldest": one.oldest_open_at,
            "unreported": one.unreported,
            "given_up": one.abandoned,
        }
        found[name] |= {"last": t.last_landed_at, "end": t.newest_end}
    return found


def of_every_row(rows: list[Entry], raw: dict[int, Any]) -> dict[str, dict[str, Any]]:
    """The same from the entries themselves, in Python."""
    found: dict[str, dict[str, Any]] = {}
    for name in {e.request.collection for e in rows}:
        mine = [e for e in rows if e.request.collection == name]
        files = [e for e in mine if e.landing is not None and e.parent_id is None]
        failed = [e for e in mine if e.status in (Status.FAILED, Status.ABANDONED)]
        given_up = [e for e in mine if e.status is Status.ABANDONED and e.parent_id is None]
        open_ = [e for e in mine if not e.status.is_terminal]
        waited = [e for e in mine if e.status.is_terminal and not e.slices and _waited(e) is not None]
        submitted = [e for e in mine if e.submitted_at is not None]
        newest = {e.request.partition_key: e.entry_id for e in sorted(mine, key=lambda e: e.entry_id)}
        found[name] = {
            "requested": len(mine),
            "submitted": len(submitted),
            "failed": len(failed),
            "abandoned": len(given_up),
            "cancelled": sum(e.status is Status.CANCELLED for e in mine),
            "landed": len(files),
            "landed_events": sum(e.landing.records for e in files if e.landing),
            "landed_bytes": sum(e.landing.bytes for e in files if e.landing),
            "landing_failures": sum(e.landing_tries for e in mine) + sum(e.completed_at is not None for e in failed),
            "orphans": sum(raw[e.entry_id].orphans for e in mine),
            "submitting": _durations(submitted, lambda e: (e.submitted_at - e.requested_at).total_seconds()),  # type: ignore[operator]
            "waiting": _durations(waited, lambda e: _waited(e) or 0.0),
            "landing": _durations(files, lambda e: e.landing.seconds if e.landing else 0.0),
            "open": {s: n for s in Status if not s.is_terminal and (n := sum(e.status is s for e in open_))},
            "oldest": min((e.requested_at for e in open_), default=None),
            "unreported": sum(e.status in (Status.LANDED, Status.ABANDONED) and e.reported_at is None for e in mine),
            "given_up": sum(newest[e.request.partition_key] == e.entry_id for e in given_up),
            "last": max((e.landed_at for e in files if e.landed_at), default=None),
            "end": max((e.request.timeframe.end for e in files), default=None),
        }
    return found


def _waited(e: Entry) -> float | None:
    return None if e.submitted_at is None or e.completed_at is None else (e.completed_at - e.submitted_at).total_seconds()


def _durations(chosen: list[Entry], seconds: Callable[[Entry], float]) -> tuple[int, int]:
    return len(chosen), sum(round(seconds(e) * 1000) for e in chosen)


class StatisticsMachine(RuleBasedStateMachine):
    """Entries live at random, and are counted in between."""

    def __init__(self) -> None:
        super().__init__()
        self.clock = FakeClock()
        self.ledger = SqlLedger(open_engine("sqlite://"), SCOPE, clock=self.clock)
        self.me = self.ledger.workers.register("me")
        self.reader = StatisticsReader(self.ledger)
        self.before: dict[str, dict[str, Any]] = {}

    @rule(steps=st.lists(st.tuples(st.sampled_from(STEPS), st.integers(0, 3)), min_size=1, max_size=12))
    def live(self, steps: list[tuple[str, int]]) -> None:
        for step, number in steps:
            self.take(step, number)

    @rule(number=st.integers(0, 3))
    def live_well(self, number: int) -> None:
        for step in ("ask", "submit", "complete", "land"):
            self.take(step, number)

    @rule(seconds=st.sampled_from([0.25, 3.0, 601.0]))
    def wait(self, seconds: float) -> None:
        self.clock.advance(seconds)
        self.count()

    def take(self, step: str, number: int) -> None:
        """Do one thing to one of the entries to which it can be done."""
        if step == "ask":
            self.ledger.request([REQUESTS[number]], keep=lambda _: number % 2 == 1)
            return
        if step == "report":
            self.ledger.reported([entry.entry_id for entry in self.ledger.outbox()])
            return
        ids = [entry.entry_id for entry in self.ledger.open_entries() if entry.status in FROM[step]]
        if not ids:
            return
        chosen = ids[number % len(ids)]
        [entry] = self.ledger.entries([chosen])
        assert self.ledger.claim([chosen], self.me)
        if step in ("submit", "lose"):
            self.ledger.posting(chosen, self.me)
        if step == "submit":
            self.ledger.submitted(chosen, self.me, f"x{chosen}")
        elif step == "complete":
            self.ledger.complete([chosen])
        elif step == "land":
            self.ledger.landed(chosen, self.me, landing())
        elif step == "not land":
            self.ledger.landing_failed(chosen, self.me, "broke", self.clock.now())
        elif step == "fail":
            self.ledger.fail(chosen, "broke", worker=self.me, limits=LIMITS)
        elif step == "cancel":
            self.ledger.cancel([chosen], "stopped")
        elif step == "split" and not entry.slices:
            halves = entry.request.timeframe.halves() or ()
            whole = replace(entry.request, kind=Kind.SLICE)
            parts = [
                replace(whole, timeframe=half, partition_key=f"{chosen}.{n}", path=f"_slices/{chosen}/{n}")
                for n, half in enumerate(halves)
            ]
            self.ledger.split(chosen, [Slice(part, 1, None) for part in parts], "too large", worker=self.me)
        elif step == "join":
            self.ledger.joined(chosen, 2, self.me)

    def count(self) -> None:
        """The three say the same, and nothing that was counted is taken back."""
        with self.ledger.engine.connect() as connection:
            raw = {row.id: row for row in connection.execute(sa.select(entries))}
        rows = self.ledger.entries(list(raw))
        followed = numbers(self.reader)
        true = of_every_row(rows, raw)
        assert set(followed) == set(true)
        for name, wanted in true.items():
            wrong = {key: (value, wanted[key]) for key, value in followed[name].items() if value != wanted[key]}
            assert wrong == {}, name
        assert numbers(StatisticsReader(self.ledger)) == followed
        for name, before in self.before.items():
            assert [counter for counter in COUNTERS if followed[name][counter] < before[counter]] == []
            assert [kind for kind in DURATIONS if followed[name][kind] < before[kind]] == []
        self.before = followed

    def teardown(self) -> None:
        self.count()
        self.ledger.engine.dispose()


StatisticsMachine.TestCase.settings = settings(max_examples=15, stateful_step_count=12, derandomize=True, phases=[Phase.generate])
TestStatistics = pytest.mark.slow(StatisticsMachine.TestCase)
