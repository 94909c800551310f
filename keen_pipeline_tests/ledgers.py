"""Ledgers for tests: the ways to an entry in any status, and every row at rest, read by plain SQL."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa

from keen_pipeline.extraction import ExtractionRequest, Landing
from keen_pipeline.filters import Filter
from keen_pipeline.ledger import SqlLedger, open_engine
from keen_pipeline.ledger.database.tables import entries, metadata
from keen_pipeline.lifecycle import Entry, Limits
from keen_pipeline.scope import Scope
from keen_pipeline.testing import FakeClock
from keen_pipeline.timeframe import Timeframe

SCOPE = Scope("projects/p1", "/x")
OTHER_SCOPE = Scope("projects/p2", "/x")
ELSEWHERE = Scope("projects/p1", "/y")
LIMITS = Limits(max_attempts=2, retry_seconds=10, lease_seconds=60)
Rows = dict[str, list[dict[str, Any]]]


@pytest.fixture(params=["sqlite", "postgres"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """An empty database of each kind."""
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path / 'ledger.db'}"
    found: str = request.getfixturevalue("postgres_url")
    return found


@pytest.fixture
def clock() -> FakeClock:
    """A clock of the test's own."""
    return FakeClock()


@pytest.fixture
def ledger(url: str, clock: FakeClock) -> Iterator[SqlLedger]:
    """The share of SCOPE in it."""
    engine = open_engine(url)
    yield SqlLedger(engine, SCOPE, clock=clock)
    engine.dispose()


@pytest.fixture
def memory(clock: FakeClock) -> Iterator[SqlLedger]:
    """The same in memory alone."""
    engine = open_engine("sqlite://")
    yield SqlLedger(engine, SCOPE, clock=clock)
    engine.dispose()


def day(number: int, *, collection: str = "purchases", filters: tuple[Filter, ...] = (), **more: Any) -> ExtractionRequest:
    """The request for the partition `number` days after 2026-01-01."""
    start = datetime(2026, 1, 1, tzinfo=timezone.utc) + timedelta(days=number)
    key = f"{start:%Y-%m-%d}"
    values = {"path": f"{collection}/{key}.csv", "filters": filters, **more}
    return ExtractionRequest(collection, Timeframe(start, start + timedelta(days=1)), key, **values)


def landing(uri: str = "/x/purchases/2026-01-01.csv", *, records: int = 2, sha256: str = "ab" * 32) -> Landing:
    """The proof of a small file."""
    return Landing(
        uri,
        bytes=10,
        records=records,
        sha256=sha256,
        columns=("a", "b,c"),
        stored_bytes=10,
        seconds=0.5,
        column_types=("double", "string"),
    )


def asked(ledger: SqlLedger, *requests: ExtractionRequest) -> list[int]:
    """Ids of the entries of these requests."""
    return [answer.entry.entry_id for answer in ledger.request(requests)]


def submit(ledger: SqlLedger, entry_id: int, worker: str, extraction_id: str = "") -> Entry:
    """requested ▶ submitted, claimed by `worker`; `extraction_id`: the entry's own, such as e7, if it is none."""
    assert ledger.claim([entry_id], worker)
    ledger.posting(entry_id, worker)
    return ledger.submitted(entry_id, worker, extraction_id or f"e{entry_id}")


def complete(ledger: SqlLedger, entry_id: int, worker: str) -> Entry:
    """requested ▶ complete, claimed by `worker`."""
    submit(ledger, entry_id, worker)
    [entry] = ledger.complete([entry_id], worker)
    return entry


def land(ledger: SqlLedger, entry_id: int, worker: str | None = None) -> Entry:
    """requested ▶ landed; claimed by nobody afterwards."""
    mine = worker or ledger.workers.register("landing")
    complete(ledger, entry_id, mine)
    ledger.publishing(entry_id, mine)
    ledger.landed(entry_id, mine, landing())
    ledger.release([entry_id], mine)
    if worker is None:
        ledger.workers.retire(mine)
    return one(ledger, entry_id)


def one(ledger: SqlLedger, entry_id: int) -> Entry:
    """The entry as it is now."""
    [entry] = ledger.entries([entry_id])
    return entry


def everything(engine: sa.Engine) -> Rows:
    """Every row of every table of the ledger, in the database's own values."""
    with engine.connect() as connection:
        return {name: _rows(connection, table) for name, table in metadata.tables.items()}


def entry_rows(engine: sa.Engine) -> list[dict[str, Any]]:
    """Every row of the entries, in the database's own values."""
    with engine.connect() as connection:
        return _rows(connection, entries)


def _rows(connection: sa.Connection, table: sa.Table) -> list[dict[str, Any]]:
    query = f"SELECT * FROM {table.name} ORDER BY {_first_column(table)}"
    return [dict(row._mapping) for row in connection.exec_driver_sql(query)]


def _first_column(table: sa.Table) -> str:
    return ", ".join(column.name for column in table.primary_key)


def at_rest(engine: sa.Engine, value: Any) -> Any:
    """A Python value as `everything` reads it back."""
    if isinstance(value, datetime) and engine.dialect.name == "sqlite":
        return value.astimezone(timezone.utc).replace(tzinfo=None).isoformat(" ", "microseconds")
    return value
