"""The first ledger: entries, the budget of requests, pauses.

The types are the databases' own, not those of `tables.py`: a migration never changes with the code.
"""

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None


def upgrade() -> None:
    """Create the tables and their indexes."""
    op.create_table(
        "keen_api_pauses",
        sa.Column("name", sa.String(length=64), nullable=False),
        sa.Column("until", sa.DateTime(timezone=True), nullable=False),
        sa.PrimaryKeyConstraint("name", name=op.f("pk_keen_api_pauses")),
        comment="nobody sends before this instant: the service refused a request",
    )
    op.create_table(
        "keen_api_requests",
        sa.Column("id", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), nullable=False),
        sa.Column("sent_at", sa.DateTime(timezone=True), nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_keen_api_requests")),
        comment="the last minute's requests, for the requests-per-minute limit",
    )
    op.create_index("ix_keen_api_requests_sent_at", "keen_api_requests", ["sent_at"], unique=False)
    op.create_table(
        "keen_entries",
        sa.Column("id", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), nullable=False),
        sa.Column("series_id", sa.BigInteger(), nullable=True, comment="id of the first attempt of this request"),
        sa.Column("attempt", sa.Integer(), nullable=False, comment="1-based"),
        sa.Column("status", sa.String(length=16), nullable=False),
        sa.Column("collection", sa.String(length=256), nullable=False),
        sa.Column("partition_key", sa.String(length=128), nullable=False),
        sa.Column("window_start", sa.DateTime(timezone=True), nullable=False),
        sa.Column("window_end", sa.DateTime(timezone=True), nullable=False, comment="exclusive"),
        sa.Column("filters", sa.Text(), nullable=False, comment="JSON array as on the wire"),
        sa.Column("email", sa.String(length=320), nullable=True),
        sa.Column("fingerprint", sa.String(length=32), nullable=False),
        sa.Column("target", sa.String(length=2048), nullable=False, comment="URI of the file"),
        sa.Column("extraction_id", sa.String(length=256), nullable=True),
        sa.Column("run_id", sa.String(length=64), nullable=True, comment="Dagster run that asked"),
        sa.Column("requested_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("due_at", sa.DateTime(timezone=True), nullable=False, comment="not posted before"),
        sa.Column(
            "posted_at",
            sa.DateTime(timezone=True),
            nullable=True,
            comment="a POST left; without an extraction id its fate is unknown",
        ),
        sa.Column("submitted_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("completed_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("landed_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column(
            "reported_at", sa.DateTime(timezone=True), nullable=True, comment="outbox: when the materialization reached Dagster"
        ),
        sa.Column("bytes", sa.BigInteger(), nullable=True, comment="of Keen's CSV"),
        sa.Column("records", sa.BigInteger(), nullable=True, comment="header not counted"),
        sa.Column("sha256", sa.String(length=64), nullable=True, comment="of Keen's CSV"),
        sa.Column("columns", sa.Text(), nullable=True, comment="JSON array"),
        sa.Column("stored_bytes", sa.BigInteger(), nullable=True, comment="of the file at the destination"),
        sa.Column("landing_seconds", sa.Float(), nullable=True),
        sa.Column("landing_tries", sa.Integer(), server_default="0", nullable=False),
        sa.Column("orphans", sa.Integer(), server_default="0", nullable=False, comment="POSTs whose answer was lost, posted again"),
        sa.Column("error", sa.Text(), nullable=True),
        sa.Column("lease_owner", sa.String(length=64), nullable=True),
        sa.Column("lease_until", sa.DateTime(timezone=True), nullable=True),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_keen_entries")),
    )
    op.create_index(
        "ix_keen_entries_open",
        "keen_entries",
        ["collection", "status"],
        unique=False,
        sqlite_where=sa.text("status IN ('complete', 'requested', 'submitted')"),
        postgresql_where=sa.text("status IN ('complete', 'requested', 'submitted')"),
    )
    op.create_index(
        "ix_keen_entries_outbox",
        "keen_entries",
        ["id"],
        unique=False,
        sqlite_where=sa.text("status IN ('abandoned', 'landed') AND reported_at IS NULL"),
        postgresql_where=sa.text("status IN ('abandoned', 'landed') AND reported_at IS NULL"),
    )
    op.create_index("ix_keen_entries_series_id", "keen_entries", ["series_id"], unique=False)
    op.create_index("ix_keen_entries_target_id", "keen_entries", ["target", "id"], unique=False)
    op.create_index(
        "uq_keen_entries_open_target",
        "keen_entries",
        ["target"],
        unique=True,
        sqlite_where=sa.text("status IN ('complete', 'requested', 'submitted')"),
        postgresql_where=sa.text("status IN ('complete', 'requested', 'submitted')"),
    )
