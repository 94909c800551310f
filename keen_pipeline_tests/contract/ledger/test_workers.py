"""Workers: who lives, who is gone, and what becomes of what they had claimed."""

from __future__ import annotations

import logging
import os
import signal
import threading
import time
from datetime import timedelta
from pathlib import Path

import pytest
import sqlalchemy as sa

from keen_pipeline.errors import LedgerUnavailableError
from keen_pipeline.extraction import Status
from keen_pipeline.ledger import SqlLedger, open_engine, workers
from keen_pipeline.ledger.workers import Worker, Workers, is_alive, this_host
from keen_pipeline.lifecycle import Limits
from keen_pipeline.testing import FakeClock
from keen_pipeline_tests.contract.database.host import Host
from keen_pipeline_tests.ledgers import SCOPE, asked, clock, day, landing, ledger, memory, one, url

__all__ = ["clock", "ledger", "memory", "url"]

LIMITS = Limits(lease_seconds=60)
# Long enough for any machine.
PATIENCE = 60.0


def until_true(condition: object) -> None:
    deadline = time.monotonic() + PATIENCE
    while not condition():  # type: ignore[operator]
        assert time.monotonic() < deadline
        time.sleep(0.02)


def elsewhere(ledger: SqlLedger, monkeypatch: pytest.MonkeyPatch) -> str:
    """A worker on another host."""
    with monkeypatch.context() as patched:
        patched.setattr(workers, "this_host", lambda: "another boot-1 pid:[1]")
        return ledger.workers.register("landing")


def test_a_worker_is_gone_once_its_heartbeat_is_older_than_the_lease(
    ledger: SqlLedger, clock: FakeClock, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    first, second = elsewhere(ledger, monkeypatch), elsewhere(ledger, monkeypatch)
    mine, theirs = asked(ledger, day(0), day(1))
    ledger.claim([mine], first)
    ledger.claim([theirs], second)
    clock.advance(60)
    assert ledger.workers.prune(60) == []
    assert ledger.workers.beat(second)
    clock.advance(0.001)
    with caplog.at_level(logging.INFO):
        assert [str(gone) for gone in ledger.workers.prune(60)] == [f"landing (process {os.getpid()} on another)"]
    assert caplog.messages == [f"taken over from a worker that is gone: landing (process {os.getpid()} on another)"]
    assert (one(ledger, mine).claimed_by, one(ledger, theirs).claimed_by) == (None, second)
    assert not ledger.workers.beat(first)
    assert ledger.claim([mine], first) == []  # it has to register anew
    assert [str(row) for row in ledger.workers.all()] == [f"landing (process {os.getpid()} on another)"]


def test_a_heartbeat_that_lies_ahead_is_of_a_clock_that_was_wrong(
    memory: SqlLedger, clock: FakeClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock.advance(86_400)
    worker = elsewhere(memory, monkeypatch)
    [entry_id] = asked(memory, day(0))
    memory.claim([entry_id], worker)
    clock.advance(-86_400)
    assert memory.workers.prune(60) != []
    assert one(memory, entry_id).claimed_by is None


def test_whoever_begins_to_work_takes_over_first_and_gives_all_back_at_the_end(
    ledger: SqlLedger, clock: FakeClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    gone, alive = elsewhere(ledger, monkeypatch), elsewhere(ledger, monkeypatch)
    ids = asked(ledger, day(0), day(1), day(2))
    ledger.claim(ids[:1], gone)
    clock.advance(61)
    ledger.workers.beat(alive)
    ledger.claim(ids[1:2], alive)
    with pytest.raises(ZeroDivisionError), ledger.working("landing", LIMITS) as worker:  # noqa: PT012
        assert {e.entry_id for e in ledger.claim(ids, worker.id)} == {ids[0], ids[2]}
        assert [row.doing for row in ledger.workers.all()] == ["landing", "landing"]
        raise ZeroDivisionError
    assert [e.claimed_by for e in ledger.entries(ids)] == [None, alive, None]
    assert [row.worker_id for row in ledger.workers.all()] == [alive]


def test_a_process_of_this_host_that_was_killed_is_gone_at_once(url: str) -> None:
    engine = open_engine(url)
    ledger = SqlLedger(engine, SCOPE)
    ids = asked(ledger, day(0), day(1))
    with Host(url, lease_seconds=3600) as first, Host(url, lease_seconds=3600) as second:
        assert first.ask("claim", ids[:1]) == ids[:1]
        assert second.ask("claim", ids) == ids[1:]
        assert ledger.workers.prune(3600) == []
        first.kill(wait=False)  # a zombie for as long as nobody waits for it
        until_true(lambda: ledger.workers.prune(3600))
        assert [e.claimed_by is None for e in ledger.entries(ids)] == [True, False]
        assert second.ask("claim", ids) == ids
        first.kill()
    engine.dispose()


def test_a_process_that_was_stopped_past_its_lease_changes_nothing_and_goes_on_under_a_new_id(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path / 'ledger.db'}"
    engine = open_engine(url)
    ledger = SqlLedger(engine, SCOPE)
    first_id, later_id = asked(ledger, day(0), day(1))
    with Host(url, lease_seconds=1.5) as host:
        old = host.ask("worker_id")
        assert host.ask("claim", [first_id]) == [first_id]
        assert host.ask("complete", first_id)
        host.send(signal.SIGSTOP)
        until_true(lambda: ledger.workers.prune(1.5))
        other = ledger.workers.register("another")
        assert ledger.claim([first_id], other)
        ledger.publishing(first_id, other)
        landed = ledger.landed(first_id, other, landing(sha256="0b" * 32))
        host.send(signal.SIGCONT)
        assert host.ask("land", first_id, old, "0a" * 32) is False
        until_true(lambda: host.ask("worker_id") != old)
        assert one(ledger, first_id) == landed
        assert host.ask("claim", [later_id]) == [later_id]
        assert host.ask("complete", later_id)
        assert host.ask("land", later_id, host.ask("worker_id"), "0c" * 32)
    assert one(ledger, later_id).status is Status.LANDED
    engine.dispose()


def test_heartbeats_outlive_every_error_of_the_database(
    memory: SqlLedger, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    errors: list[BaseException] = [
        sa.exc.OperationalError("UPDATE keen_workers", {}, RuntimeError("the database\nis away")),
        LedgerUnavailableError("it has not answered for 45 s"),
        OSError("no route to host"),
        ZeroDivisionError("a bug"),
    ]
    beaten = threading.Event()
    beat = Workers.beat

    def flaky(table: Workers, worker_id: str) -> bool:
        if errors:
            raise errors.pop(0)
        answer = beat(table, worker_id)
        beaten.set()
        return answer

    monkeypatch.setattr(Workers, "beat", flaky)
    with caplog.at_level(logging.WARNING), Worker(memory.workers, "landing", 0.03) as worker:
        assert beaten.wait(PATIENCE)
        assert [row.worker_id for row in memory.workers.all()] == [worker.id]
    told = [record.getMessage() for record in caplog.records]
    assert told[:4] == [
        "no heartbeat of landing: the database",
        "no heartbeat of landing: it has not answered for 45 s",
        "no heartbeat of landing: no route to host",
        "no heartbeat of landing",
    ]
    assert caplog.records[3].exc_info is not None
    assert memory.workers.all() == []


def test_a_worker_that_was_taken_for_gone_says_so_and_registers_anew(memory: SqlLedger, caplog: pytest.LogCaptureFixture) -> None:
    [entry_id] = asked(memory, day(0))
    with Worker(memory.workers, "landing", 0.03) as worker:
        old = worker.id
        memory.claim([entry_id], old)
        memory.workers.retire(old)
        until_true(lambda: worker.id != old)
        assert memory.claim([entry_id], worker.id) != []
        assert memory.claim([entry_id], old) == []
    assert caplog.messages[0] == "landing was taken for gone, others may have gone on with what it had claimed"
    assert one(memory, entry_id).claimed_by is None


def test_a_worker_with_a_long_lease_lives_for_those_with_the_default_one(
    memory: SqlLedger, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The lease may be raised while processes of before run."""
    pauses: list[float] = []

    class Watched(threading.Event):
        def wait(self, timeout: float | None = None) -> bool:
            pauses.append(timeout or 0.0)
            return super().wait(timeout)

    monkeypatch.setattr(workers, "Event", Watched)
    with Worker(memory.workers, "landing", 86_400.0):
        until_true(lambda: bool(pauses))
    assert 3 * pauses[0] <= LIMITS.lease_seconds


def test_a_worker_ends_without_its_ledger(memory: SqlLedger, monkeypatch: pytest.MonkeyPatch) -> None:
    def away(*_: object) -> None:
        raise LedgerUnavailableError("it has not answered")

    monkeypatch.setattr(Workers, "retire", away)
    with Worker(memory.workers, "landing", 60):
        pass
    assert len(memory.workers.all()) == 1  # its process ends, which is seen


def test_a_heartbeat_that_comes_while_the_others_look_keeps_a_worker(
    memory: SqlLedger, clock: FakeClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patched:
        patched.setattr(workers, "_process_started", lambda _: "another life")
        worker = memory.workers.register("landing")

    seen: list[sa.Connection] = []

    def beats_meanwhile(_pid: int, _started: str | None) -> bool:
        clock.advance(1)
        table = workers.workers
        seen[-1].execute(sa.update(table).where(table.c.id == worker).values(heartbeat_at=clock.now()))
        return False

    sa.event.listen(memory.engine, "begin", seen.append)
    monkeypatch.setattr(workers, "is_alive", beats_meanwhile)
    assert memory.workers.prune(60) == []
    assert [row.worker_id for row in memory.workers.all()] == [worker]


def test_whether_a_process_runs() -> None:
    started = workers._process_started(os.getpid())
    assert is_alive(os.getpid(), started)
    assert is_alive(os.getpid(), None)
    assert not is_alive(os.getpid(), "1")  # another process got its number
    child = os.fork()
    if child == 0:
        os._exit(0)
    until_true(lambda: not is_alive(child, None))  # it has ended, and nobody has asked for it
    os.waitpid(child, 0)
    assert not is_alive(child, None)
    assert len(this_host().split(" ", 1)) == 2


def test_what_a_worker_says_of_itself_is_bounded(memory: SqlLedger, clock: FakeClock) -> None:
    memory.workers.register("x" * 1000)
    [row] = memory.workers.all()
    assert (len(row.doing), row.started_at, row.heartbeat_at, row.pid) == (256, clock.now(), clock.now(), os.getpid())
    assert row.started_at - clock.now() == timedelta()
