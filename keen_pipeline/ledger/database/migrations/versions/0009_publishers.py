"""Who is about to switch a file into place, so that whoever comes after one that stopped there doubts what lies at its path."""

import sqlalchemy as sa
from alembic import op

revision = "0009"
down_revision = "0008"
phase = "expand"


def upgrade() -> None:
    """Add the column; a process of before, which does not know it, goes on."""
    publisher = sa.Column("publisher", sa.String(32), comment="the worker that is about to switch its file into place")
    op.add_column("keen_entries", publisher)
    condition = sa.text("publisher IS NOT NULL")
    op.create_index("ix_keen_entries_publishing", "keen_entries", ["publisher"], sqlite_where=condition, postgresql_where=condition)
