"""A ledger that can't be used ends in one clear line, and whatever a service says can be written down."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path

import pytest
import sqlalchemy as sa

from keen_pipeline.errors import ConfigurationError, LedgerUnavailableError
from keen_pipeline.ledger import LedgerRateLimiter, SqlLedger, open_engine
from keen_pipeline.ledger.database import engine as database
from keen_pipeline.ledger.notices import SqlNotices
from keen_pipeline.testing import FakeClock
from keen_pipeline_tests.ledgers import LIMITS, SCOPE, asked, clock, complete, day, everything, land, ledger, one, url

__all__ = ["clock", "ledger", "url"]

NASTY = "broke\0: \ud800 é " + "x" * 5000
CLEAN = "broke: ? é "


def test_a_ledger_that_is_locked_for_too_long_says_who_can_help(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(database, "_BUSY_SECONDS", 0.1)
    file = tmp_path / "ledger.db"
    engine = open_engine(f"sqlite:///{file}")
    ledger = SqlLedger(engine, SCOPE)
    stranger = sqlite3.connect(file, isolation_level=None)
    stranger.execute("BEGIN IMMEDIATE")
    for change in (
        lambda: ledger.request([day(0)]),
        lambda: ledger.workers.register("landing"),
        lambda: LedgerRateLimiter(engine, 5, budget="b").acquire(timeout=0),
        lambda: SqlNotices(engine).plan("digest", "mail"),
    ):
        with pytest.raises(LedgerUnavailableError) as told:
            change()
        assert str(told.value) == (
            f"the ledger {file} can't be used: database is locked; another process has held it for too long; end that one, or use "
            "PostgreSQL for many processes. What is open stays open"
        )
        assert told.value.__cause__ is None
        assert told.value.__suppress_context__
    assert ledger.open_entries() == []  # who reads does not wait for who writes
    stranger.rollback()
    stranger.close()
    assert ledger.request([day(0)])[0].created
    engine.dispose()


def test_a_ledger_that_somebody_is_still_creating_is_unavailable_and_not_misconfigured(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(database, "_BUSY_SECONDS", 0.1)
    file = tmp_path / "ledger.db"
    stranger = sqlite3.connect(file, isolation_level=None)
    stranger.execute("PRAGMA journal_mode=WAL")
    stranger.execute("BEGIN IMMEDIATE")
    with pytest.raises(LedgerUnavailableError, match="database is locked; another process has held it for too long"):
        open_engine(f"sqlite:///{file}")
    stranger.rollback()
    open_engine(f"sqlite:///{file}").dispose()
    stranger.close()


def test_what_a_signal_interrupts_holds_no_lock_while_its_exception_is_handled(tmp_path: Path) -> None:
    ledger = SqlLedger(open_engine(f"sqlite:///{tmp_path / 'ledger.db'}"), SCOPE)
    rows = []

    @sa.event.listens_for(ledger.engine, "after_cursor_execute")
    def _interrupt(_connection: object, cursor: sqlite3.Cursor, statement: str, *_: object) -> None:
        if statement.startswith("INSERT INTO keen_entries"):
            rows.append(cursor.fetchone())
            raise KeyboardInterrupt

    try:
        asked(ledger, day(0), day(1))
    except KeyboardInterrupt:  # as in the `finally` of whoever gives back claims
        with closing(sqlite3.connect(tmp_path / "ledger.db", timeout=0)) as another:
            another.execute("BEGIN IMMEDIATE")
    assert len(rows) == 1
    assert ledger.open_entries() == []
    ledger.engine.dispose()


def test_a_full_disk_is_told_in_one_line(tmp_path: Path) -> None:
    file = tmp_path / "ledger.db"
    engine = open_engine(f"sqlite:///{file}")

    @sa.event.listens_for(engine, "connect")
    def _connect(connection: sqlite3.Connection, _record: object) -> None:
        [pages] = connection.execute("PRAGMA page_count").fetchone()
        connection.execute(f"PRAGMA max_page_count = {pages + 2}")

    ledger = SqlLedger(engine, SCOPE)
    engine.dispose()
    before = everything(engine)
    with pytest.raises(LedgerUnavailableError) as told:
        ledger.request([day(n) for n in range(200)])
    assert str(told.value) == (
        f"the ledger {file} can't be used: database or disk is full; make room on its disk. What is open stays open"
    )
    assert everything(engine) == before
    engine.dispose()


def test_what_a_database_refuses_is_told_in_one_line(postgres_url: str) -> None:
    url = sa.make_url(postgres_url)
    admin = sa.create_engine(url, isolation_level="AUTOCOMMIT")
    engine = open_engine(postgres_url)
    ledger = SqlLedger(engine, SCOPE)

    def refused(told: str) -> None:
        engine.dispose()
        with pytest.raises(LedgerUnavailableError) as caught:
            ledger.request([day(0)])
        said = f"the ledger's database refuses: {told}; a person has to fix that. What is open stays open"
        assert str(caught.value) == said

    with admin.connect() as connection, sa.create_engine(url).connect() as other:
        # As a provider does whose disk is nearly full, or where a standby answers.
        connection.exec_driver_sql(f'ALTER DATABASE "{url.database}" SET default_transaction_read_only = on')
        refused("cannot execute INSERT in a read-only transaction")
        connection.exec_driver_sql("SET default_transaction_read_only = off")
        connection.exec_driver_sql(f'ALTER DATABASE "{url.database}" RESET default_transaction_read_only')
        connection.exec_driver_sql(f"ALTER DATABASE \"{url.database}\" SET statement_timeout = '100ms'")
        other.exec_driver_sql("LOCK TABLE keen_entries IN ACCESS EXCLUSIVE MODE")
        refused("canceling statement due to statement timeout")
        other.rollback()
        connection.exec_driver_sql(f'ALTER DATABASE "{url.database}" RESET statement_timeout')
    engine.dispose()
    assert ledger.request([day(0)])[0].created
    engine.dispose()


def test_a_damaged_file_is_told_in_one_line(tmp_path: Path) -> None:
    file = tmp_path / "ledger.db"
    engine = open_engine(f"sqlite:///{file}")
    ledger = SqlLedger(engine, SCOPE)
    engine.dispose()
    with file.open("r+b") as damaged:
        damaged.seek(4096)
        damaged.write(b"\xff" * (file.stat().st_size - 4096))
    with pytest.raises(LedgerUnavailableError, match=r"^the ledger .* malformed; put a backup there, without -wal .* rebuild`"):
        ledger.open_entries()
    engine.dispose()


def test_a_folder_that_can_not_be_written_is_told_in_one_line(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigurationError) as told:
        open_engine(f"sqlite:///{tmp_path / 'file' / 'ledger.db'}")
    assert "\n" not in str(told.value)
    assert str(tmp_path / "file") in str(told.value)


def test_a_url_that_can_not_be_used_is_one_line_without_its_password() -> None:
    with pytest.raises(ConfigurationError) as refused:
        open_engine("postgresql://keen:s3cret@127.0.0.1:1/nothing")
    assert "s3cret" not in str(refused.value)
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize(
    "url",
    [
        "sqlite://data/ledger.db",
        "sqlite://u:s3cret@h/x.db",
        "postgresql://u:p@h:s3cret@h/d",
        "postgresql://u:p@s3cret@h/d",
        "postgresql://u@[::1/d",
        "nonsense",
    ],
)
def test_what_is_no_url_is_told_with_one_that_is(url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ConfigurationError, match=r"is not a SQLAlchemy URL, for example sqlite:///\./data/ledger\.db") as refused:
        open_engine(url)
    assert "s3cret" not in str(refused.value)
    assert refused.value.__suppress_context__
    assert list(tmp_path.iterdir()) == []


def test_every_reason_is_stored_clean_and_bounded(ledger: SqlLedger, clock: FakeClock) -> None:
    worker = ledger.workers.register("landing")
    ids = asked(ledger, *(day(n) for n in range(8)))
    ledger.claim(ids, worker)
    ledger.postpone(ids[0], worker, clock.now(), NASTY)
    ledger.fail(ids[1], NASTY, limits=LIMITS, worker=worker)
    ledger.fail(ids[2], NASTY, limits=LIMITS, worker=worker, final=True)
    ledger.cancel([ids[3]], NASTY)
    complete(ledger, ids[4], worker)
    ledger.landing_failed(ids[4], worker, NASTY, clock.now())
    land(ledger, ids[5], worker)
    ledger.reject(ids[5], NASTY)
    land(ledger, ids[6], worker)
    following = ledger.ask_again(ids[6], NASTY, limits=LIMITS)
    assert following is not None
    ledger.hindered("purchases", NASTY)
    stored = [one(ledger, n).error or "" for n in (*ids[:6], following.entry_id)]
    stored.append(ledger.collections()["purchases"].problem or "")
    for text in stored:
        assert text.startswith(CLEAN)
        assert len(text) == 4000
        assert text.endswith("x…")


def test_an_extraction_id_of_a_service_is_stored_as_it_is(ledger: SqlLedger) -> None:
    worker = ledger.workers.register("landing")
    [entry_id] = asked(ledger, day(0))
    ledger.claim([entry_id], worker)
    ledger.posting(entry_id, worker)
    assert ledger.submitted(entry_id, worker, "é" * 256).extraction_id == "é" * 256


def test_a_home_folder_in_a_url_is_refused_instead_of_made_here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ConfigurationError, match=r"^the ledger sqlite:///~/keen/ledger.db: `~` is no home folder in a URL; write"):
        open_engine("sqlite:///~/keen/ledger.db")
    assert list(tmp_path.iterdir()) == []


def test_postgres_may_be_called_as_its_hosts_call_it() -> None:
    """SQLAlchemy doesn't know that name, and a driver that was there had been called missing."""
    with pytest.raises(ConfigurationError, match=r"^the ledger postgresql://u:\*\*\*@127.0.0.1:1/x can't be opened"):
        open_engine("postgres://u:s3cret@127.0.0.1:1/x")


def test_a_new_ledger_is_its_owners_alone_and_an_old_one_keeps_its_rights(tmp_path: Path) -> None:
    """It holds addresses and filters; a group that shares it was given the right to by somebody."""
    file = tmp_path / "new" / "ledger.db"
    engine = open_engine(f"sqlite:///{file}")
    with engine.connect():
        assert {path.name: path.stat().st_mode & 0o777 for path in file.parent.iterdir()} == {
            "ledger.db": 0o600,
            "ledger.db-shm": 0o600,
            "ledger.db-wal": 0o600,
        }
    engine.dispose()
    file.chmod(0o660)
    open_engine(f"sqlite:///{file}").dispose()
    assert file.stat().st_mode & 0o777 == 0o660
