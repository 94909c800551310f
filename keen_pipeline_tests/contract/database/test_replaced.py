"""A SQLite ledger whose file is removed or replaced under a running process, as by a restored backup or `rm`."""

from __future__ import annotations

import shutil
import sqlite3
from contextlib import closing
from pathlib import Path

import pytest

from keen_pipeline.errors import LedgerUnavailableError
from keen_pipeline.ledger import open_engine
from keen_pipeline.ledger.database.engine import is_replaced
from keen_pipeline.scope import Scope
from keen_pipeline.wiring import open_ledger
from keen_pipeline_tests.ledgers import LIMITS, SCOPE, day

FIRST = Scope("projects/first", "/x")


@pytest.mark.parametrize("how", ["removed", "replaced", "restored"])
def test_nobody_goes_on_with_a_file_that_is_no_longer_the_ledgers(tmp_path: Path, how: str) -> None:
    file = tmp_path / "ledger.db"
    url = f"sqlite:///{file}"
    old = open_ledger(url, SCOPE)
    old.request([day(0)])
    old.engine.dispose()  # what is in its log goes to the file
    backup = shutil.copy(file, tmp_path / "backup.db")
    with old.working("a run", LIMITS):
        for name in ("ledger.db", "ledger.db-wal", "ledger.db-shm"):
            (tmp_path / name).unlink(missing_ok=True)
        if how == "replaced":  # by a ledger in which the number of our scope is another's
            other = open_ledger(f"sqlite:///{tmp_path / 'other.db'}", FIRST)
            other.request([day(5)])
            other.engine.dispose()
            (tmp_path / "other.db").rename(file)
        elif how == "restored":
            shutil.copy(backup, file)
        for _ in range(2):
            with pytest.raises(LedgerUnavailableError, match="was removed or replaced while this process used it"):
                old.open_entries()
        with pytest.raises(LedgerUnavailableError):
            old.request([day(1)])
    new = open_ledger(url, SCOPE)
    assert new.engine is not old.engine
    [answer] = new.request([day(1)])
    assert answer.created
    keys = [entry.request.partition_key for entry in new.open_entries()]
    assert keys == (["2026-01-01", "2026-01-02"] if how == "restored" else ["2026-01-02"])
    assert open_ledger(url, SCOPE).engine is new.engine


def test_a_ledger_that_stays_is_the_same_to_all(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path / 'ledger.db'}"
    one, two = open_engine(url), open_engine(url)
    with closing(sqlite3.connect(tmp_path / "ledger.db")) as connection:
        connection.execute("VACUUM")
    two.dispose()
    assert not is_replaced(one)
    assert not is_replaced(open_engine("sqlite://"))
