"""Whose an entry is: two scopes on one ledger, and the ledgers of before, which did not know."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor, wait
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from threading import Event

import pytest
import sqlalchemy as sa

from keen_pipeline.collection import Encoding, MaskMethod
from keen_pipeline.errors import LedgerVersionError
from keen_pipeline.extraction import ExtractionRequest, Kind, Status
from keen_pipeline.filters import Filter
from keen_pipeline.landing.layout import ad_hoc_key
from keen_pipeline.ledger import SqlLedger, open_engine
from keen_pipeline.ledger.database.migrate import OURS
from keen_pipeline.ledger.scopes import ScopeSummary
from keen_pipeline.lifecycle import Entry
from keen_pipeline.scope import Scope, source_of
from keen_pipeline.testing import FakeClock
from keen_pipeline.timeframe import Timeframe
from keen_pipeline_tests.contract.database.releases import open_with, release
from keen_pipeline_tests.ledgers import OTHER_SCOPE, SCOPE, asked, clock, complete, day, everything, land, ledger, one, submit, url

__all__ = ["clock", "ledger", "url"]

LANDING = Scope("projects/p1", "/landing")
ELSEWHERE = Scope("projects/p1", "s3://elsewhere/x")
ROWS = Path(__file__).with_name("ledger_0007.sql")


def test_the_same_partition_of_two_projects_is_two_entries(ledger: SqlLedger, clock: FakeClock) -> None:
    other = SqlLedger(ledger.engine, OTHER_SCOPE, clock=clock)
    assert (ledger.scope_id, other.scope_id) == (2, 3)  # the first is for entries from before there were scopes
    assert SqlLedger(ledger.engine, SCOPE, clock=clock).scope_id == ledger.scope_id
    [mine], [theirs] = asked(ledger, day(0)), asked(other, day(0))
    assert mine != theirs
    assert day(0).fingerprint(SCOPE) != day(0).fingerprint(OTHER_SCOPE)
    assert day(0).fingerprint(SCOPE) != day(0).fingerprint(replace(SCOPE, destination="/y"))
    assert day(0).fingerprint(SCOPE) == day(0).fingerprint(replace(SCOPE, name="another"))
    land(ledger, mine)
    worker = other.workers.register("landing")
    submit(other, theirs, worker, "e2")
    assert [e.entry_id for e in other.open_entries()] == [theirs]
    assert (ledger.open_entries(), other.landed_entries("purchases")) == ([], [])
    assert [e.entry_id for e in ledger.landed_entries("purchases")] == [mine]
    assert (ledger.entries([theirs]), other.entries([mine])) == ([], [])
    assert ([e.entry_id for e in ledger.outbox()], other.outbox()) == ([mine], [])
    assert ([e.entry_id for e in ledger.uncounted()], other.uncounted()) == ([mine], [])
    assert ([s.landed for s in ledger.partitions("purchases")], [s.landed for s in other.partitions("purchases")]) == (
        [True],
        [False],
    )
    assert (ledger.known("purchases", ["e1", "e2"]), other.known("purchases", ["e1", "e2"])) == ({"e1"}, {"e2"})
    ledger.listed("purchases", ["e1"])
    ledger.hindered("purchases", "HTTP 403")
    assert other.collections() == {}
    unclaimed = ScopeSummary(Scope("", "", ""), 0, 0)
    assert ledger.scopes() == [unclaimed, ScopeSummary(SCOPE, 1, 0), ScopeSummary(OTHER_SCOPE, 0, 1)]


def test_a_landing_of_one_scope_leaves_those_of_other_places_valid(ledger: SqlLedger, clock: FakeClock) -> None:
    other = SqlLedger(ledger.engine, replace(OTHER_SCOPE, destination="/y"), clock=clock)
    [theirs] = asked(other, day(0))
    before = land(other, theirs)
    land(ledger, asked(ledger, day(0))[0])
    assert one(other, theirs) == before


def publish(ledger: SqlLedger, entry_id: int) -> None:
    worker = ledger.workers.register("landing")
    complete(ledger, entry_id, worker)
    ledger.publishing(entry_id, worker)


def test_what_another_project_publishes_at_the_same_path_is_doubted(ledger: SqlLedger, clock: FakeClock) -> None:
    """The last one's file lies there, and both ledgers' shares say so."""
    other = SqlLedger(ledger.engine, OTHER_SCOPE, clock=clock)
    away = SqlLedger(ledger.engine, replace(SCOPE, destination="/y"), clock=clock)
    first, theirs, elsewhere = asked(ledger, day(0))[0], asked(other, day(0))[0], asked(away, day(0))[0]
    land(ledger, first)
    land(away, elsewhere)
    publish(other, theirs)
    assert (one(ledger, first).unproven, one(ledger, first).status) == (True, Status.LANDED)
    assert not one(away, elsewhere).unproven
    assert ledger.request([day(0)])[0].created


def test_two_projects_that_come_to_one_path_at_the_same_moment_are_in_doubt(url: str, ledger: SqlLedger, clock: FakeClock) -> None:
    """The fence of one has looked for the other, and is not committed yet."""
    engine = open_engine(url)
    other = SqlLedger(engine, OTHER_SCOPE, clock=clock)
    mine, theirs = asked(ledger, day(0))[0], asked(other, day(0))[0]
    workers = {one_of: one_of.workers.register("landing") for one_of in (ledger, other)}
    complete(ledger, mine, workers[ledger])
    complete(other, theirs, workers[other])
    is_to_commit, go_on = Event(), Event()

    def hesitate(_: sa.Connection) -> None:
        is_to_commit.set()
        assert go_on.wait(60)

    sa.event.listen(engine, "commit", hesitate)
    with ThreadPoolExecutor() as pool:
        first = pool.submit(other.publishing, theirs, workers[other])
        assert is_to_commit.wait(60)
        second = pool.submit(ledger.publishing, mine, workers[ledger])
        wait([second], timeout=1)  # it may be over by now, which is what must not be
        go_on.set()
        first.result()
        second.result()
    assert [one(ledger, mine).unproven, one(other, theirs).unproven] == [True, True]
    engine.dispose()


def test_a_sweep_leaves_the_file_of_another_project_at_the_same_path(ledger: SqlLedger, clock: FakeClock) -> None:
    other = SqlLedger(ledger.engine, OTHER_SCOPE, clock=clock)
    first = asked(ledger, day(0))[0]
    land(ledger, first)
    theirs = asked(other, day(0))[0]
    land(other, theirs)  # over the first one's file
    land(ledger, asked(ledger, wanted(0, "csv.gz"))[0])
    assert [e.entry_id for e in ledger.stale_files()] == [first]
    worker = ledger.workers.register("sweep")
    assert ledger.claim_stale(first, worker) is None
    land(other, asked(other, wanted(0, "csv.gz"))[0])
    stale = ledger.claim_stale(first, worker)
    assert stale is not None
    again = asked(other, day(0))[0]
    publish(other, again)  # while the first one's sweep is about to remove
    assert not ledger.removed(stale, worker)
    assert one(other, again).unproven


def test_the_files_of_others_are_those_that_they_ask_for_have_landed_or_have_yet_to_remove(
    ledger: SqlLedger, clock: FakeClock
) -> None:
    other, worker = SqlLedger(ledger.engine, OTHER_SCOPE, clock=clock), ledger.workers.register("sweep")
    older = asked(other, day(0))[0]
    land(other, older)
    newer = wanted(0, "csv.gz")
    land(other, asked(other, newer)[0])
    asked(other, day(1))
    land(ledger, asked(ledger, day(2))[0])
    paths = {day(0).path, newer.path, day(1).path}
    assert ledger.others_paths({*paths, day(2).path, day(3).path}) == paths
    stale = other.claim_stale(older, worker)
    assert stale is not None
    assert other.removed(stale, worker)
    assert ledger.others_paths(paths) == {newer.path, day(1).path}
    assert SqlLedger(ledger.engine, replace(SCOPE, destination="/y"), clock=clock).others_paths(paths) == set()


def test_the_others_at_a_path_are_those_whose_file_may_lie_there(ledger: SqlLedger, clock: FakeClock) -> None:
    other = SqlLedger(ledger.engine, replace(SCOPE, name="eu"), clock=clock)
    land(other, asked(other, day(0))[0])
    assert (ledger.others_at([day(0).path, day(1).path]), other.others_at([day(0).path])) == ({"eu"}, set())
    land(ledger, asked(ledger, day(0))[0])
    assert (ledger.others_at([day(0).path]), other.others_at([day(0).path])) == (set(), {SCOPE.name})


@pytest.mark.parametrize(
    ("first", "second", "same"),
    [
        ("https://api.keen.io", "https://API.keen.io/", True),
        ("https://api.keen.io", "https://user:s3cret@api.keen.io", True),
        ("http://127.0.0.1:4001", "http://localhost:4002/", True),  # its port changes with each start
        ("http://[::1]:4001", "http://127.8.0.1", True),
        ("https://api.keen.io", "http://127.0.0.1:4001", False),
        ("https://api.keen.io", "https://eu.keen.io", False),
        ("http://10.0.0.7:4001", "http://10.0.0.7:4002", False),
        ("http://localhost.example", "http://127.0.0.1", False),
    ],
)
def test_a_source_is_the_service_and_the_project(first: str, second: str, same: bool) -> None:
    assert (source_of(first, "p") == source_of(second, "p")) is same
    assert source_of(first, "p") != source_of(first, "q")
    assert "s3cret" not in source_of(second, "p")


@pytest.fixture
def old_engine(url: str, tmp_path: Path) -> Iterator[sa.Engine]:
    """A ledger of revision 0007, opened by today's code."""
    old = open_with(release(tmp_path / "0007", until="0007"), url)
    with old.begin() as connection:
        for line in ROWS.read_text().splitlines()[1:]:
            connection.exec_driver_sql(line.replace("%", "%%") if connection.dialect.name == "postgresql" else line)
        if connection.dialect.name == "postgresql":
            connection.exec_driver_sql("SELECT setval('keen_entries_id_seq', 1000)")
    old.dispose()
    engine = open_engine(url)
    yield engine
    engine.dispose()


def by_place(ledger: SqlLedger) -> dict[str, Entry]:
    """The newest of each partition."""
    return {f"{e.request.collection} {e.request.partition_key}": e for e in ledger.entries(range(1, 100))}


def wanted(number: int, suffix: str = "csv", **more: object) -> ExtractionRequest:
    request = day(number, **more)  # type: ignore[arg-type]
    path = f"{request.collection}/{request.partition_key}.{suffix}"
    return replace(request, path=path, encoding=Encoding(suffix))


def test_a_ledger_of_before_belongs_to_the_first_scope_that_opens_it(
    old_engine: sa.Engine, clock: FakeClock, caplog: pytest.LogCaptureFixture
) -> None:
    before = everything(old_engine)["keen_entries"]
    with caplog.at_level(logging.WARNING):
        ledger = SqlLedger(old_engine, LANDING, clock=clock)
    [told] = caplog.messages
    assert (
        told == "18 entries of the ledger are from before it knew whose they are; they belong to keen: projects/p1 to /landing now"
    )
    after = everything(old_engine)["keen_entries"]
    left_alone = ("scope_id", "path", "encoding", "kind", "fingerprint")
    assert [{k: v for k, v in r.items() if k not in left_alone} for r in after] == [
        {k: v for k, v in r.items() if k not in left_alone} for r in before
    ]
    assert {r["path"] for r in after if r["scope_id"] == 1} == {
        "s3://elsewhere/x/purchases/2026-01-12.csv",
        "s3://elsewhere/x/purchases/2026-01-13.csv",
    }
    caplog.clear()
    with caplog.at_level(logging.WARNING):
        SqlLedger(old_engine, LANDING, clock=clock)
        assert SqlLedger(old_engine, OTHER_SCOPE, clock=clock).entries(range(1, 100)) == []
    assert caplog.messages == []  # said once
    there = SqlLedger(old_engine, ELSEWHERE, clock=clock)
    assert [(e.request.path, e.status) for e in there.landed_entries("purchases")] == [("purchases/2026-01-12.csv", Status.LANDED)]
    assert len(ledger.entries(range(1, 100))) == 18


def test_what_had_landed_before_is_landed_and_up_to_date(old_engine: sa.Engine, clock: FakeClock) -> None:
    ledger = SqlLedger(old_engine, LANDING, clock=clock)
    requests = [
        wanted(0),
        wanted(1, "csv.gz"),
        wanted(2, "parquet", filters=(Filter("body:amount", "gt", 3.5),)),
    ]
    answers = ledger.request(requests)
    assert [(a.created, a.entry.status) for a in answers] == [(False, Status.LANDED)] * 3
    assert [a.entry.fingerprint for a in answers] == [r.fingerprint(LANDING) for r in requests]
    assert answers[0].entry.landing is not None
    assert answers[0].entry.landing.uri == "/landing/purchases/2026-01-01.csv"
    assert answers[0].entry.landing.sha256 == "ab" * 32
    assert ledger.request([wanted(0, filters=(Filter("body:a", "eq", 1),))])[0].created
    hashed = by_place(ledger)["logins 2026-01-04"]
    assert (hashed.status, hashed.request.mask, hashed.request.mask_key) == (
        Status.LANDED,
        {"body:email": MaskMethod.HASH},
        None,
    )
    assert hashed.request == wanted(3, collection="logins", mask={"body:email": MaskMethod.HASH})


def test_what_was_open_before_goes_on(old_engine: sa.Engine, clock: FakeClock) -> None:
    ledger = SqlLedger(old_engine, LANDING, clock=clock)
    found = by_place(ledger)
    statuses = {key.partition(" 2026-01-")[2]: entry.status for key, entry in found.items() if key.startswith("purchases 2026")}
    assert statuses["05"] is Status.REQUESTED
    assert [e.status for e in found.values() if e.claimed_by is not None] == []
    assert (statuses["06"], found["purchases 2026-01-06"].extraction_id) == (Status.SUBMITTED, "x6")
    assert statuses["07"] is Status.COMPLETE
    assert (found["purchases 2026-01-08"].attempt, statuses["08"]) == (2, Status.REQUESTED)
    assert (statuses["09"], statuses["10"], statuses["11"]) == (Status.ABANDONED, Status.CANCELLED, Status.SPLIT)
    assert [a.created for a in ledger.request([wanted(4), wanted(5), wanted(6), wanted(7)])] == [False] * 4
    parent = found["purchases 2026-01-11"]
    slices = ledger.slices([parent.entry_id])[parent.entry_id]
    assert [(e.request.kind, e.status, e.expected) for e in slices] == [
        (Kind.SLICE, Status.LANDED, 5),
        (Kind.SLICE, Status.REQUESTED, 5),
    ]
    assert all(e.request.path.startswith("_slices/purchases/2026-01-11.") for e in slices)
    long = ad_hoc_key(Timeframe(day(0).timeframe.start, day(3).timeframe.start))
    assert found[f"purchases {long}"].request.kind is Kind.AD_HOC
    assert {e.request.kind for key, e in found.items() if long not in key and e.parent_id is None} == {Kind.PARTITION}
    assert ledger.stale_files() == []  # what was superseded then was replaced in its place
    worker = ledger.workers.register("landing")
    assert len(ledger.claim([e.entry_id for e in ledger.open_entries()], worker)) == len(ledger.open_entries()) == 6


def test_of_several_open_ones_of_a_partition_the_newest_goes_on(old_engine: sa.Engine, clock: FakeClock) -> None:
    """The ledger of before told them apart by their files: another encoding, another destination."""
    ledger = SqlLedger(old_engine, LANDING, clock=clock)
    older = [e for e in ledger.entries(range(1, 100)) if e.request.partition_key == "2026-01-13"]
    assert [(e.request.encoding, e.status) for e in older] == [
        (Encoding.CSV, Status.FAILED),
        (Encoding.CSV_GZ, Status.FAILED),
    ]
    assert ledger.request([wanted(12)])[0].created  # the nightly job asks for it anew
    assert {e.error for e in older} == {"another extraction was asked for the same partition"}
    assert [e.status for e in SqlLedger(old_engine, ELSEWHERE, clock=clock).open_entries()] == [Status.REQUESTED]


def test_code_from_before_scopes_refuses_the_ledger(ledger: SqlLedger, url: str, tmp_path: Path) -> None:
    before = everything(ledger.engine)
    with pytest.raises(
        LedgerVersionError, match=rf"is at revision {OURS.head}.*serves code from revision 0008 on; upgrade keen_pipeline"
    ):
        open_with(release(tmp_path / "0007", until="0007"), url)
    assert everything(ledger.engine) == before


def test_ad_hoc_windows_of_two_days_are_no_partition(ledger: SqlLedger) -> None:
    key = "20260101T000000Z_20260103T000000Z"
    long = Timeframe(day(0).timeframe.start, day(0).timeframe.end + timedelta(days=1))
    request = replace(day(0), timeframe=long, partition_key=key, path=f"purchases/{key}.csv", kind=Kind.AD_HOC)
    entry = land(ledger, asked(ledger, request)[0])
    assert not entry.is_partition
    assert (ledger.outbox(), ledger.partitions("purchases")) == ([], [])
