"""A ledger as a database: many that open and ask at once, its migrations, a newer one, its indexes."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import pytest
import sqlalchemy as sa

from keen_pipeline.errors import LedgerVersionError
from keen_pipeline.ledger import SqlLedger, open_engine
from keen_pipeline.ledger.database.tables import entries, metadata
from keen_pipeline_tests.contract.database.releases import open_with, release
from keen_pipeline_tests.ledgers import SCOPE, asked, clock, day, everything, land, ledger, memory, url

__all__ = ["clock", "ledger", "memory", "url"]


def test_many_processes_asking_at_once_make_one_entry(url: str) -> None:
    engines = [open_engine(url) for _ in range(4)]
    barrier = threading.Barrier(4)

    def ask(engine: sa.Engine) -> list[bool]:
        barrier.wait()
        return [r.created for r in SqlLedger(engine, SCOPE).request([day(n) for n in range(20)])]

    with ThreadPoolExecutor(4) as pool:
        created = [one for answers in pool.map(ask, engines) for one in answers]
    assert (len(created), sum(created)) == (80, 20)
    assert len(SqlLedger(engines[0], SCOPE).open_entries()) == 20
    assert len(SqlLedger(engines[0], SCOPE).scopes()) == 2
    for engine in engines:
        engine.dispose()


@pytest.mark.slow
def test_connections_that_turn_new_sqlite_ledgers_to_wal_together_wait_for_each_other(tmp_path: Path) -> None:
    # Each file is a chance of its own: one in fifteen met "database is locked" before. All threads start each file at once.
    together = threading.Barrier(6)

    def start(_number: int) -> None:
        for file in range(10):
            together.wait(60)
            open_engine(f"sqlite:///{tmp_path / str(file)}.db").dispose()

    with ThreadPoolExecutor(6) as threads:
        list(threads.map(start, range(6)))


def test_the_replayed_migrations_equal_the_tables(url: str) -> None:
    from alembic.autogenerate import compare_metadata
    from alembic.migration import MigrationContext

    engine = open_engine(url)
    with engine.connect() as connection:
        context = MigrationContext.configure(connection, opts={"compare_type": True, "version_table": "keen_ledger_version"})
        assert compare_metadata(context, metadata) == []
        for table in metadata.tables.values():
            found = {i["name"] for i in sa.inspect(connection).get_indexes(table.name)}
            assert {i.name for i in table.indexes} <= found
    engine.dispose()


def test_the_number_of_an_entry_never_comes_again(ledger: SqlLedger, url: str) -> None:
    first = [r.entry.entry_id for r in ledger.request([day(0), day(1)])]
    assert ledger.withdraw(first) == first
    again = SqlLedger(open_engine(url), SCOPE)
    [second] = [r.entry.entry_id for r in again.request([day(0)])]
    assert second > max(first)
    again.engine.dispose()


def test_entries_of_before_keep_what_they_are_while_their_numbers_become_their_own(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path / 'ledger.db'}"
    old = open_with(release(tmp_path / "0010", until="0010"), url)
    older = SqlLedger(old, SCOPE)
    landed = land(older, asked(older, *(day(n) for n in range(3)))[-1])
    before = everything(old)
    rules = indexes(old)
    new = SqlLedger(open_engine(url), SCOPE)
    assert (everything(new.engine), indexes(new.engine)) == (before, rules)
    assert older.withdraw([1, 2]) == [1, 2]  # a process of before goes on
    assert older.entries([3]) == [landed]
    for engine in (old, new.engine):
        engine.dispose()


def indexes(engine: sa.Engine) -> list[str]:
    """Of the entries, as they were made."""
    with engine.connect() as connection:
        query = "SELECT sql FROM sqlite_master WHERE type = 'index' AND tbl_name = 'keen_entries' ORDER BY name"
        return list(connection.exec_driver_sql(query).scalars())


def test_a_newer_ledger_is_refused_and_left_alone(ledger: SqlLedger, url: str) -> None:
    with ledger.engine.begin() as connection:
        connection.exec_driver_sql("UPDATE keen_ledger_version SET version_num = '9999'")
        connection.exec_driver_sql("UPDATE keen_ledger_compatibility SET oldest_code = '9998'")
    before = everything(ledger.engine)
    with pytest.raises(LedgerVersionError, match="upgrade keen_pipeline"):
        open_engine(url)
    assert everything(ledger.engine) == before


def test_what_a_tick_reads_is_found_by_an_index(memory: SqlLedger) -> None:
    with memory.engine.connect() as connection:
        for query in (
            sa.select(entries).where(memory._mine, sa.text("status IN ('complete', 'requested', 'split', 'submitted')")),
            sa.select(entries).where(memory._mine, sa.text("status = 'superseded' AND removed_at IS NULL")),
        ):
            text = str(query.compile(memory.engine, compile_kwargs={"literal_binds": True}))
            plan = " ".join(row[3] for row in connection.exec_driver_sql(f"EXPLAIN QUERY PLAN {text}"))
            assert "USING INDEX" in plan


def test_years_of_hours_are_journalled_by_few_statements(ledger: SqlLedger) -> None:
    hours = [replace(day(0), partition_key=f"hour {n}", path=f"purchases/{n}.csv") for n in range(3000)]
    statements: list[str] = []

    @sa.event.listens_for(ledger.engine, "before_cursor_execute")
    def _executed(_connection: object, _cursor: object, statement: str, *_: object) -> None:
        statements.append(statement)

    answers = ledger.request(hours)
    # One for each of them took a minute for five years, in which no other process could write to a SQLite ledger.
    assert len(statements) < 30
    assert [answer.entry.request for answer in answers] == hours
    assert sorted({answer.entry.entry_id for answer in answers}) == [answer.entry.entry_id for answer in answers]
    assert not any(answer.created for answer in ledger.request(hours))
