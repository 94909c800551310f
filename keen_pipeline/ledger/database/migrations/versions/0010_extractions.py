"""An index of the extractions' ids, so that each POST's answer can be compared with what the ledger knows of them."""

from alembic import op

revision = "0010"
down_revision = "0009"
phase = "expand"


def upgrade() -> None:
    """Add the index; a process of before goes on."""
    op.create_index("ix_keen_entries_extraction", "keen_entries", ["scope_id", "extraction_id"])
