"""The types of a landed file's columns, if they have types."""

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"


def upgrade() -> None:
    """Add the column."""
    op.add_column("keen_entries", sa.Column("column_types", sa.Text(), nullable=True, comment="JSON array; of a parquet file"))
