"""Counts of the service beside the landed records; entries that were split into slices of time.

Rows from before are not counted afterwards: their `count_check` is `off`.
"""

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"

_OPEN = "status IN ('complete', 'requested', 'split', 'submitted')"
_UNCOUNTED = "status = 'landed' AND counted_at IS NULL AND count_check != 'off'"


def upgrade() -> None:
    """Add the columns and make the indexes of open entries know the new status."""
    for column in (
        sa.Column("count_check", sa.String(length=8), server_default="off", nullable=False, comment="fail, warn or off"),
        sa.Column(
            "planned_at",
            sa.DateTime(timezone=True),
            nullable=True,
            comment="the service's count allowed the POST, or slices were made",
        ),
        sa.Column("expected", sa.BigInteger(), nullable=True, comment="events counted before the POST"),
        sa.Column("counted", sa.BigInteger(), nullable=True, comment="events counted after the landing"),
        sa.Column("counted_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("parent_id", sa.BigInteger(), nullable=True, comment="of a slice: the entry it is part of"),
        sa.Column("depth", sa.Integer(), server_default="0", nullable=False, comment="how often the timeframe was halved"),
        sa.Column("slices", sa.Integer(), server_default="0", nullable=False, comment="of an entry that was split"),
    ):
        op.add_column("keen_entries", column)
    op.drop_index("ix_keen_entries_open", "keen_entries")
    op.drop_index("uq_keen_entries_open_target", "keen_entries")
    _partial("ix_keen_entries_open", _OPEN, ["collection", "status"])
    _partial("uq_keen_entries_open_target", _OPEN, ["target"], unique=True)
    _partial("ix_keen_entries_uncounted", _UNCOUNTED, ["id"])
    op.create_index("ix_keen_entries_parent_id", "keen_entries", ["parent_id"], unique=False)


def _partial(name: str, condition: str, columns: list[str], *, unique: bool = False) -> None:
    where = sa.text(condition)
    op.create_index(name, "keen_entries", columns, unique=unique, sqlite_where=where, postgresql_where=where)
