"""Two releases on one ledger: the new one expands it and the old one goes on; what the old one needs is taken away by a person."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import sqlalchemy as sa
from alembic.config import Config
from alembic.script import ScriptDirectory
from click.testing import CliRunner

from keen_pipeline.cli.common import as_called
from keen_pipeline.errors import LedgerVersionError
from keen_pipeline.extraction import Kind, Status
from keen_pipeline.ledger import LedgerRateLimiter, SqlLedger, open_engine
from keen_pipeline.ledger.database import migrate
from keen_pipeline.ledger.database.migrate import (
    CONTRACT,
    CONTRACT_COMMAND,
    EXPAND,
    OURS,
    VERSION_TABLE,
    LedgerVersion,
    Migrations,
    ledger_version,
)
from keen_pipeline.ledger.database.tables import entries
from keen_pipeline.ledger.notices import SqlNotices
from keen_pipeline_tests.contract.database.releases import WIDER, Step, Tables, drop, next_revision, open_with, release, running
from keen_pipeline_tests.contract.ledger.rules import halves
from keen_pipeline_tests.ledgers import LIMITS, SCOPE, asked, day, land, one, url

__all__ = ["url"]

FIRST, SECOND, THIRD = (next_revision(number) for number in (1, 2, 3))


def version(url: str, migrations: Migrations = OURS) -> LedgerVersion:
    engine = sa.create_engine(url)
    try:
        with running(migrations):
            return ledger_version(engine)
    finally:
        engine.dispose()


def opened(url: str, migrations: Migrations = OURS, *, contract: bool = False) -> LedgerVersion:
    """What a ledger is once a release has opened it."""
    open_with(migrations, url, contract=contract).dispose()
    return version(url, migrations)


def everything(url: str) -> dict[str, list[tuple[object, ...]]]:
    """Every table's every row."""
    engine = sa.create_engine(url)
    with engine.connect() as connection:
        names = sorted(sa.inspect(connection).get_table_names())
        rows = {name: [tuple(row) for row in connection.exec_driver_sql(f"SELECT * FROM {name}")] for name in names}
    engine.dispose()
    return rows


def work(ledger: SqlLedger, first: int) -> None:
    """All that a release writes: intents, claims, submissions, a failure with its next attempt, one that is given up, landings,
    counts, reports, what is known of a collection, the budget, notices; of three days from `first` on."""
    with ledger.working("a release", LIMITS) as worker:
        good, bad, large = asked(ledger, *(day(first + n) for n in range(3)))
        landed = land(ledger, good, worker.id)
        ledger.counted({good: 2})
        assert ledger.fail(bad, "it broke", limits=LIMITS) is not None
        [second] = [e.entry_id for e in ledger.open_entries() if e.attempt == 2]
        assert ledger.fail(second, "it broke again", limits=LIMITS) is not None
        ledger.reported([good, second])
        parts = ledger.split(large, halves(replace(day(first + 2), kind=Kind.SLICE)), "too large")
        ledger.cancel([large], "not wanted")
        assert one(ledger, parts[0].entry_id).status is Status.CANCELLED
    assert landed.landing is not None
    ledger.listed("purchases", ["e1"])
    ledger.hindered("purchases", "HTTP 403")
    assert ledger.open_entries() == ledger.outbox() == []
    limiter = LedgerRateLimiter(ledger.engine, 5, budget="b")
    limiter.acquire(timeout=0)
    limiter.refuse_until(0)
    notices = SqlNotices(ledger.engine)
    assert notices.plan(f"run/{first}", "mail", {"title": "t"})
    notice = notices.claim({"mail"}, 60)
    assert notice is not None
    notices.end(notice.notice_id)


def test_the_files_are_the_chain_and_say_what_they_are() -> None:
    config = Config()
    config.set_main_option("script_location", str(OURS.folder))
    scripts = list(ScriptDirectory.from_config(config).walk_revisions())[::-1]
    assert [script.revision for script in scripts] == OURS.known
    for script in scripts:
        assert script.module.phase in (EXPAND, CONTRACT)
        if script.module.phase == CONTRACT:
            assert script.module.oldest_code in OURS.known[: OURS.known.index(script.revision)]
        else:
            assert not hasattr(script.module, "oldest_code")


@pytest.mark.parametrize("revision", OURS.known[1:])
def test_what_says_that_it_expands_breaks_no_statement_of_the_release_before(url: str, tmp_path: Path, revision: str) -> None:
    before = OURS.known[OURS.known.index(revision) - 1]
    tables = []
    for number, until in enumerate((before, revision)):
        engine = open_with(release(tmp_path / str(number), until=until), url)
        with engine.connect() as connection:
            tables.append(Tables.of(connection))
        engine.dispose()
    text = next((OURS.folder / "versions").glob(f"{revision}_*.py")).read_text()
    if "SET oldest_code" in text:  # code before it refuses the ledger from then on
        assert tables[0].broken_by(tables[1]) != []
    elif f'phase = "{EXPAND}"' in text:
        assert tables[0].broken_by(tables[1]) == []
    assert tables[0] != tables[1] or "sqlite_autoincrement" in text  # which is no column's


@pytest.mark.parametrize(
    ("lines", "says"),
    [
        ('op.drop_column("keen_entries", "email")', "keen_entries.email is gone"),
        ('op.drop_table("keen_notices")', "keen_notices is gone"),
        ('op.execute("ALTER TABLE keen_entries RENAME COLUMN email TO mail")', "keen_entries.email is gone"),
        ('op.create_index("new", "keen_entries", ["email"], unique=True)', "is new"),
        (
            'with op.batch_alter_table("keen_entries") as b: b.alter_column("email", existing_type=sa.String(320), nullable=False)',
            "keen_entries.email takes no null any more",
        ),
        (
            'with op.batch_alter_table("keen_notices") as b: b.add_column(sa.Column("rank", sa.Integer(), nullable=False))',
            "keen_notices.rank is new and an INSERT without it fails",
        ),
        (
            'with op.batch_alter_table("keen_notices") as b: b.alter_column("attempts", server_default="1")',
            "keen_notices.attempts has another default",
        ),
    ],
)
def test_that_test_sees_what_would_break_them(tmp_path: Path, lines: str, says: str) -> None:
    url = f"sqlite:///{tmp_path / 'ledger.db'}"
    tables = []
    for number, steps in enumerate(([], [Step(lines)])):
        engine = open_with(release(tmp_path / str(number), steps), url)
        with engine.connect() as connection:
            tables.append(Tables.of(connection))
        engine.dispose()
    assert [problem for problem in tables[0].broken_by(tables[1]) if says in problem]


def test_an_older_release_goes_on_while_and_after_a_newer_one_expands(url: str, tmp_path: Path) -> None:
    living, served = SqlLedger(open_engine(url), SCOPE), version(url).oldest_code
    work(living, 0)
    newer = release(tmp_path / "newer", [WIDER])
    assert opened(url, newer) == LedgerVersion(FIRST, served, ())
    work(living, 3)
    living.engine.dispose()
    starting = SqlLedger(open_engine(url), SCOPE)  # of the older release too: it does not know the revision, and is served
    work(starting, 6)
    with starting.engine.connect() as connection:
        priorities = connection.exec_driver_sql("SELECT DISTINCT priority FROM keen_entries").scalars().all()
    starting.engine.dispose()
    assert priorities == [5]
    assert opened(url, newer) == LedgerVersion(FIRST, served, ())


@pytest.mark.parametrize(
    ("column", "value"),
    [
        ("encoding", "csv.br"),
        ("kind", "stream"),
        ("status", "paused"),
        ("count_check", "later"),
        ("mask", '{"a": "noise"}'),
        ("filters", '[{"property_name": "a", "operator": "like", "property_value": 1}]'),
    ],
)
def test_an_entry_with_a_newer_releases_words_is_named_in_one_line(url: str, column: str, value: str) -> None:
    ledger = SqlLedger(open_engine(url), SCOPE)
    [entry_id] = asked(ledger, day(1))
    with ledger.engine.begin() as connection:
        connection.execute(sa.update(entries).values({column: value}))
    with pytest.raises(LedgerVersionError, match=rf"^entry {entry_id} of the ledger, .* by a newer .*upgrade") as told:
        ledger.entries([entry_id])
    assert "\n" not in str(told.value)
    if column == "status":
        with pytest.raises(LedgerVersionError, match=rf"^{re.escape(str(told.value))}$"):
            ledger.partitions("purchases")
    ledger.engine.dispose()


def test_a_ledger_from_before_the_first_release_is_not_taken_for_a_newer_one(url: str) -> None:
    open_engine(url).dispose()
    engine = sa.create_engine(url)
    with engine.begin() as connection:
        connection.execute(sa.text(f"UPDATE {VERSION_TABLE} SET version_num = '0004'"))
    engine.dispose()
    with pytest.raises(LedgerVersionError, match=r"at revision 0004, from before release 0\.1"):
        open_engine(url)


def test_what_older_releases_need_stays_until_a_person_says_that_they_are_gone(url: str, tmp_path: Path) -> None:
    old, served = SqlLedger(open_engine(url), SCOPE), version(url).oldest_code
    work(old, 0)
    newer = release(tmp_path / "newer", [WIDER, drop("email", FIRST)])
    assert opened(url, newer) == LedgerVersion(FIRST, served, (SECOND,))
    assert opened(url, newer) == LedgerVersion(FIRST, served, (SECOND,))  # not at the next start either
    work(old, 3)
    old.engine.dispose()
    assert opened(url, newer, contract=True) == LedgerVersion(SECOND, FIRST, ())
    before = everything(url)
    with pytest.raises(LedgerVersionError) as refused:
        open_engine(url)
    told = f"the ledger is at revision {SECOND}, which this keen_pipeline (revision {OURS.head}) does not know"
    assert str(refused.value).startswith(told)
    assert f"it was written by a newer version and serves code from revision {FIRST} on" in str(refused.value)
    assert everything(url) == before
    between = release(tmp_path / "between", [WIDER])  # the release between the two goes on
    assert version(url, between) == LedgerVersion(SECOND, FIRST, ())
    open_with(between, url).dispose()


def test_a_release_that_needs_more_than_a_contract_that_waits_says_what_to_do(url: str, tmp_path: Path) -> None:
    open_engine(url).dispose()
    newer = release(tmp_path / "newer", [drop("email", OURS.head), WIDER])
    before = everything(url)
    with pytest.raises(LedgerVersionError) as refused:
        open_with(newer, url)
    assert f"this keen_pipeline needs {SECOND}, but {FIRST}, {SECOND} wait for a person" in str(refused.value)
    assert CONTRACT_COMMAND in str(refused.value)
    assert everything(url) == before
    assert opened(url, newer, contract=True) == LedgerVersion(SECOND, OURS.head, ())
    open_engine(url).dispose()  # this release knows the code that the contract asks for: it is that code


def test_a_new_ledger_has_it_all(url: str, tmp_path: Path) -> None:
    newer = release(tmp_path / "newer", [WIDER, drop("email", FIRST), Step("pass")])
    assert opened(url, newer) == LedgerVersion(THIRD, FIRST, ())


def test_a_migration_that_fails_leaves_everything_as_it_was(url: str, tmp_path: Path) -> None:
    open_engine(url).dispose()
    before = everything(url)
    broken = release(tmp_path / "newer", [WIDER, Step('op.execute("SELECT missing FROM nowhere")')])
    with pytest.raises(Exception, match="nowhere"):
        open_with(broken, url)
    assert everything(url) == before


@pytest.fixture
def run(url: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., str]]:
    monkeypatch.setenv("KEEN_PIPELINE_LEDGER_URL", url)

    def run(*words: str) -> str:
        from keen_pipeline.cli import cli

        done = CliRunner().invoke(cli, words, catch_exceptions=False)
        assert done.exit_code == 0, done.output
        return " ".join(done.output.split())

    return run


def test_the_command_tells_and_takes_away(
    url: str, tmp_path: Path, run: Callable[..., str], monkeypatch: pytest.MonkeyPatch
) -> None:
    here = f"ledger: revision {OURS.head}, serves keen_pipeline from revision {opened(url).oldest_code} on"
    assert run("ledger", "upgrade") == run("ledger", "upgrade", "--contract") == here
    newer = release(tmp_path / "newer", [drop("email", OURS.head)])
    monkeypatch.setattr(migrate, "OURS", newer)
    assert run("ledger", "upgrade") == f"{here} revision {FIRST} waits until no older release runs: {as_called(CONTRACT_COMMAND)}"
    assert run("ledger", "upgrade", "--contract") == f"ledger: revision {FIRST}, serves keen_pipeline from revision {OURS.head} on"
