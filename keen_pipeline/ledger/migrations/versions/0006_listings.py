"""What the last list call of each collection found at work, so that runs which wait at the same time need not all ask."""

import sqlalchemy as sa
from alembic import op

revision = "0006"
down_revision = "0005"
phase = "expand"


def upgrade() -> None:
    """Add the table."""
    op.create_table(
        "keen_listings",
        sa.Column("collection", sa.String(length=256), nullable=False),
        sa.Column("listed_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("pending", sa.Text(), nullable=False, comment="JSON array; extractions that the service still works on"),
        sa.PrimaryKeyConstraint("collection", name=op.f("pk_keen_listings")),
        comment="the last list call of each collection",
    )
