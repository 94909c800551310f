"""Masks of personal data, Keen's types of properties, an index of what has landed, and the notices that are to be sent to people."""

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0003"


def upgrade() -> None:
    """Add the columns and the table."""
    for column in (
        sa.Column("mask", sa.Text(), nullable=True, comment="JSON object; what shall be done to which column"),
        sa.Column("property_types", sa.Text(), nullable=True, comment="JSON array; Keen's, empty where it has none or several"),
        sa.Column("masked", sa.Text(), nullable=True, comment="JSON object; what was done to which column"),
    ):
        op.add_column("keen_entries", column)
    landed = sa.text("status = 'landed' AND parent_id IS NULL")
    op.create_index(
        "ix_keen_entries_landed",
        "keen_entries",
        ["collection", "window_start"],
        sqlite_where=landed,
        postgresql_where=landed,
    )
    op.create_table(
        "keen_notices",
        sa.Column("id", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), nullable=False),
        sa.Column("name", sa.String(length=256), nullable=False, comment="what it is about, once for each channel"),
        sa.Column("channel", sa.String(length=16), nullable=False, comment="mail or slack"),
        sa.Column("body", sa.Text(), nullable=True, comment="JSON object; null where it is written when it is sent"),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("due_at", sa.DateTime(timezone=True), nullable=False, comment="not tried before"),
        sa.Column("attempts", sa.Integer(), server_default="0", nullable=False),
        sa.Column("ended_at", sa.DateTime(timezone=True), nullable=True, comment="sent, or given up where there is an error"),
        sa.Column("error", sa.Text(), nullable=True, comment="of the last attempt"),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_keen_notices")),
    )
    op.create_index("uq_keen_notices_name_channel", "keen_notices", ["name", "channel"], unique=True)
    waiting = sa.text("ended_at IS NULL")
    op.create_index("ix_keen_notices_waiting", "keen_notices", ["due_at"], sqlite_where=waiting, postgresql_where=waiting)
