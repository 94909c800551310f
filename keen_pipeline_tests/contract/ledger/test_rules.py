"""The rules of the ledger, each against every status and every kind of claim: the exact new rows, or not a byte is changed.

Rows are made by plain SQL and read by plain SQL. Beside each entry stands its twin of another scope, which nothing may touch.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import pytest
import sqlalchemy as sa

from keen_pipeline.errors import ClaimLostError
from keen_pipeline.extraction import Status
from keen_pipeline.ledger import SqlLedger, open_engine
from keen_pipeline.ledger.database.tables import collections, entries, workers
from keen_pipeline.ledger.rows import landing_values, new_row
from keen_pipeline.lifecycle import Entry
from keen_pipeline.testing import FakeClock
from keen_pipeline_tests.contract.ledger.rules import CLAIMS, FREE, GONE, MINE, OTHERS, RAISES, RULES, Case, Rule
from keen_pipeline_tests.ledgers import ELSEWHERE, SCOPE, at_rest, day, entry_rows, everything, landing

ME, OTHER, DEAD = "a" * 32, "b" * 32, "c" * 32
HOLDER = {MINE: ME, OTHERS: OTHER, FREE: None, GONE: DEAD}
LEASE_SECONDS = 60.0
# The last of each kind that an entry in a status has behind it.
_SUBMITTED = (Status.SUBMITTED, Status.COMPLETE, Status.LANDED, Status.SUPERSEDED)
ISOLATION = ["read committed", "repeatable read", "serializable"]


@dataclass
class Stage:
    """A ledger with one entry for each status and claim, and its twins."""

    ledger: SqlLedger
    foreign: SqlLedger
    clock: FakeClock

    def row(self, ledger: SqlLedger, number: int, status: Status, holder: str | None, **more: Any) -> dict[str, Any]:
        now = self.clock.now()
        before = now - timedelta(hours=1)
        row = new_row(day(number), ledger.scope_id, ledger.scope, before, run_id="run-1")
        row |= {"status": status.value, "claimed_by": holder, "due_at": now + timedelta(seconds=100), "token": f"{number:032d}"}
        row |= {
            "extraction_id": None,
            "submitted_at": None,
            "submitted_tick": 0.0,
            "landed_at": None,
            "error": "an older one",
            "landing_tries": 1,
        }
        row |= dict.fromkeys(landing_values(landing()))
        if status in _SUBMITTED:
            row |= {"extraction_id": f"e{number}", "submitted_at": before, "submitted_tick": 3.5}
        if status in (Status.LANDED, Status.SUPERSEDED):
            row |= {**landing_values(landing(sha256="cd" * 32, records=7)), "landed_at": before}
        return {"series_id": None, "unproven": status is Status.COMPLETE, **row, **more}

    def prepare(self, *, earlier: bool, twins: bool = False) -> list[tuple[Status, str, int]]:
        """Begin anew; each entry is the second attempt of its request, `earlier` with a landing at its path before.

        `twins`: the same once more in another scope, all claimed by this worker: it is the scope alone that keeps them apart.
        """
        with self.ledger.engine.begin() as connection:
            for table in (entries, workers, collections):
                connection.execute(sa.delete(table))
            heard = {ME: 0.0, OTHER: 10.0, DEAD: LEASE_SECONDS + 1}
            now = self.clock.now()
            process = {"host": "elsewhere", "pid": 1, "process_started": None, "doing": "landing", "started_at": now}
            beats = [{**process, "id": name, "heartbeat_at": now - timedelta(seconds=ago)} for name, ago in heard.items()]
            connection.execute(sa.insert(workers), beats)
            state = {"collection": "purchases", "answered_seconds": 12.5, "listed_at": now, "pending": "[]"}
            connection.execute(sa.insert(collections), [{**state, "scope_id": self.ledger.scope_id}])
            return self._insert(connection, earlier, twins)

    def _insert(self, connection: sa.Connection, earlier: bool, twins: bool) -> list[tuple[Status, str, int]]:
        cases = [(status, claim) for status in Status for claim in CLAIMS]
        rows: list[dict[str, Any]] = []
        found = []
        for ledger, first_id in ((self.ledger, 1000), (self.foreign, 5000))[: 1 + twins]:
            for number, (status, claim) in enumerate(cases):
                entry_id = first_id + 10 * number
                if earlier:
                    rows.append(self.row(ledger, number, Status.LANDED, None, id=entry_id - 2))
                failed = {"error": "it broke before", "token": "first"}
                rows.append(self.row(ledger, number, Status.FAILED, None, id=entry_id - 1, **failed))
                second = {"attempt": 2, "series_id": entry_id - 1, "id": entry_id}
                holder = HOLDER[claim] if ledger is self.ledger else ME
                rows.append(self.row(ledger, number, status, holder, **second))
                if ledger is self.ledger:
                    found.append((status, claim, entry_id))
        connection.execute(sa.insert(entries), rows)
        if connection.dialect.name == "postgresql":
            connection.exec_driver_sql("SELECT setval('keen_entries_id_seq', 10000)")
        return found

    def case(self, entry_id: int) -> Case:
        with self.ledger.engine.connect() as connection:
            row: Mapping[str, Any] = connection.execute(sa.select(entries).where(entries.c.id == entry_id)).one()._mapping
        ledger = self.ledger if row["scope_id"] == self.ledger.scope_id else self.foreign
        return Case(entry_id, row, ledger.entries([entry_id])[0].request, ME, self.clock.now())


def stage_of(url: str) -> Iterator[Stage]:
    clock = FakeClock()
    engine = open_engine(url)
    if engine.dialect.name == "postgresql":  # what is asked here is not whether a commit outlives a power cut

        @sa.event.listens_for(engine, "connect")
        def _connect(connection: Any, _record: Any) -> None:
            connection.execute("SET synchronous_commit = off")
            connection.commit()

    yield Stage(SqlLedger(engine, SCOPE, clock=clock), SqlLedger(engine, ELSEWHERE, clock=clock), clock)
    engine.dispose()


@pytest.fixture(scope="module")
def stage() -> Iterator[Stage]:
    yield from stage_of("sqlite://")


@pytest.fixture
def postgres_stage(postgres_url: str) -> Iterator[Stage]:
    yield from stage_of(postgres_url)


def expected(before: list[dict[str, Any]], engine: sa.Engine, changes: Mapping[int, Mapping[str, Any]]) -> list[dict[str, Any]]:
    """The entries as they were but for these columns."""
    return [{**row, **{name: at_rest(engine, value) for name, value in changes.get(row["id"], {}).items()}} for row in before]


def call(rule: Rule, ledger: SqlLedger, case: Case) -> Any:
    try:
        return rule.call(ledger, case)
    except ClaimLostError as error:
        return RAISES if "nothing was changed" in str(error) else error


def check(stage: Stage, rule: Rule, *, earlier: bool, claims: tuple[str, ...] = CLAIMS) -> None:
    engine = stage.ledger.engine
    cases, all_before = stage.prepare(earlier=earlier), everything(engine)
    after = all_before[entries.name]
    for status, claim, entry_id in cases:
        if claim not in claims:
            continue
        told = f"{rule.name} of an entry that is {status.value} and {claim}"
        case, before = stage.case(entry_id), after
        allowed = rule.allows(status, claim) and not (earlier and rule.name == "claim_stale")
        answer = call(rule, stage.ledger, case)
        after = entry_rows(engine)
        values, beside = (rule.values, rule.earlier) if allowed else (rule.otherwise, rule.earlier_otherwise)
        changes = {entry_id: values(case), entry_id - 2: beside(case)}
        new = rule.new(case) if allowed else []
        known = {row["id"] for row in before}
        assert [row for row in after if row["id"] in known] == expected(before, engine, changes), told
        made = [row for row in after if row["id"] not in known]
        wanted = [{name: at_rest(engine, value) for name, value in columns.items()} for columns in new]
        assert len(made) == len(wanted), told
        assert [{name: row[name] for name in columns} for row, columns in zip(made, wanted, strict=True)] == wanted, told
        if not allowed:
            assert answer == rule.refused, told
        else:
            check_answer(stage, answer, told)
    assert {**everything(engine), entries.name: after} == {**all_before, entries.name: after}


def check_answer(stage: Stage, answer: Any, told: str) -> None:
    """What a method says is what lies in the ledger."""
    said = answer if isinstance(answer, list) else [answer]
    for entry in said:
        if isinstance(entry, Entry):
            assert stage.ledger.entries([entry.entry_id]) == [entry], told
    assert answer is not RAISES, told
    assert answer != [], told


@pytest.mark.parametrize("earlier", [False, True], ids=["alone", "after a landing"])
@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.name)
def test_a_rule_holds_for_every_status_and_claim(stage: Stage, rule: Rule, earlier: bool) -> None:
    check(stage, rule, earlier=earlier)


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.name)
def test_nothing_touches_another_scope(stage: Stage, rule: Rule) -> None:
    """Its entries are claimed by this very worker, and lie at the same paths of another destination."""
    twins = [entry_id + 4000 for _, _, entry_id in stage.prepare(earlier=True, twins=True)]
    before = everything(stage.ledger.engine)
    for entry_id in twins:
        if rule.name in ("mark_unproven", "removed"):  # they take an entry, which is of this scope
            assert stage.ledger.entries([entry_id]) == []
            continue
        assert call(rule, stage.ledger, stage.case(entry_id)) == rule.refused
    assert everything(stage.ledger.engine) == before
    own = [entry_id - 4000 for entry_id in twins]
    for entry_id in own:
        call(rule, stage.ledger, stage.case(entry_id))
    foreign = [
        [r for r in rows[entries.name] if r["scope_id"] == stage.foreign.scope_id]
        for rows in (before, everything(stage.ledger.engine))
    ]
    assert foreign[0] == foreign[1]


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.name)
def test_an_entry_that_is_no_more_is_refused_like_any_other(stage: Stage, rule: Rule) -> None:
    [(_, _, entry_id), *_] = stage.prepare(earlier=False)
    case = stage.case(entry_id)
    with stage.ledger.engine.begin() as connection:
        connection.execute(sa.delete(entries).where(entries.c.id == entry_id))
    before = everything(stage.ledger.engine)
    if rule.name not in ("mark_unproven", "removed"):
        assert call(rule, stage.ledger, case) == rule.refused
    assert everything(stage.ledger.engine) == before


def test_the_claims_of_a_worker_that_is_gone_are_free_and_those_of_the_living_stay(stage: Stage) -> None:
    stage.prepare(earlier=False)
    before = everything(stage.ledger.engine)
    assert [str(gone) for gone in stage.ledger.workers.prune(LEASE_SECONDS)] == ["landing (process 1 on elsewhere)"]
    after = everything(stage.ledger.engine)
    freed = {r["id"]: {"claimed_by": None} for r in before[entries.name] if r["claimed_by"] == DEAD}
    assert len(freed) == len(Status)
    assert after[entries.name] == expected(before[entries.name], stage.ledger.engine, freed)
    assert [r["id"] for r in after[workers.name]] == [ME, OTHER]


@pytest.mark.slow
@pytest.mark.parametrize("earlier", [False, True], ids=["alone", "after a landing"])
def test_the_rules_hold_on_postgresql(postgres_stage: Stage, earlier: bool) -> None:
    for rule in RULES:
        if not earlier or rule.name in ("publishing", "landed", "mark_unproven", "claim_stale", "removed"):
            check(postgres_stage, rule, earlier=earlier, claims=(MINE, OTHERS, FREE))


@pytest.mark.parametrize("level", ISOLATION)
def test_whatever_isolation_a_database_has_by_default(postgres_url: str, level: str) -> None:
    admin = sa.create_engine(postgres_url, isolation_level="AUTOCOMMIT")
    name = sa.make_url(postgres_url).database
    with admin.connect() as connection:
        connection.exec_driver_sql(f"ALTER DATABASE {name} SET default_transaction_isolation = '{level}'")
    admin.dispose()
    for stage in stage_of(postgres_url):
        with stage.ledger.engine.connect() as connection:
            assert connection.exec_driver_sql("SHOW transaction_isolation").scalar() == "read committed"
        for rule in RULES:
            if rule.name in ("claim", "submitted", "complete", "fail", "landed", "split"):
                check(stage, rule, earlier=False, claims=(MINE, OTHERS))
