"""The note which code a ledger serves, so that two releases can run on it at once."""

import sqlalchemy as sa
from alembic import op

revision = "0005"
down_revision = "0004"
phase = "expand"


def upgrade() -> None:
    """Add the table with its one row: code before this revision can't read it, and refuses every newer ledger."""
    table = op.create_table(
        "keen_ledger_compatibility",
        sa.Column("id", sa.Integer(), autoincrement=False, nullable=False),
        sa.Column("oldest_code", sa.String(length=32), nullable=False, comment="the oldest revision of code that can work on it"),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_keen_ledger_compatibility")),
        comment="one row; raised by contract migrations",
    )
    op.bulk_insert(table, [{"id": 1, "oldest_code": "0005"}])
