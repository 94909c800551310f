"""What the tests ask of a ledger beyond what the product does."""

from __future__ import annotations

from collections import Counter

import sqlalchemy as sa

from keen_pipeline.extraction import Status
from keen_pipeline.ledger import SqlLedger
from keen_pipeline.ledger.database.tables import entries, in_outbox
from keen_pipeline.ledger.database.transactions import read_only


def counts(ledger: SqlLedger) -> Counter[Status]:
    """The number of the scope's attempts in each status."""
    query = sa.select(entries.c.status, sa.func.count()).where(entries.c.scope_id == ledger.scope_id).group_by(entries.c.status)
    with read_only(ledger.engine) as connection:
        return Counter({Status(status): number for status, number in connection.execute(query)})


def unreported(ledger: SqlLedger) -> int:
    """Ends that Dagster has not heard of, also those that somebody is about to report."""
    query = sa.select(sa.func.count()).where(entries.c.scope_id == ledger.scope_id, in_outbox)
    with read_only(ledger.engine) as connection:
        return int(connection.execute(query).scalar_one())
