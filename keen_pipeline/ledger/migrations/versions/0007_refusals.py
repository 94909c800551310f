"""How often the service refused a request (HTTP 429)."""

import sqlalchemy as sa
from alembic import op

revision = "0007"
down_revision = "0006"
phase = "expand"


def upgrade() -> None:
    """Add the column; a process of before, which does not know it, goes on."""
    refusals = sa.Column(
        "refusals", sa.BigInteger(), server_default="0", nullable=False, comment="how often the service refused, ever"
    )
    op.add_column("keen_api_pauses", refusals)
