"""Numbers of entries never come again on SQLite either, which gives the highest one that was removed to the next entry."""

from alembic import op

revision = "0011"
down_revision = "0010"
phase = "expand"


def upgrade() -> None:
    """Rebuild the table, which is the only way there; a process of before goes on."""
    if op.get_bind().dialect.name == "sqlite":
        with op.batch_alter_table("keen_entries", recreate="always", table_kwargs={"sqlite_autoincrement": True}):
            pass
