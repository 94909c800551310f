"""Whose an entry is, who works on it, and what it is, in columns of their own.

Code before this revision neither knows scopes nor respects workers' claims: it refuses the ledger from here on. Its processes have
to end before; what they had under way is taken up by the first that opens the ledger.
"""

import sqlalchemy as sa
from alembic import op

revision = "0008"
down_revision = "0007"
phase = "expand"

_INSTANT = sa.DateTime(timezone=True)
_NUMBER = sa.BigInteger().with_variant(sa.Integer(), "sqlite")
_OPEN = "status IN ('complete', 'requested', 'split', 'submitted')"
_COMMENTS = {
    "fingerprint": "of all that decides the file",
    "path": "of the file, below the destination's root",
    "run_id": "Dagster's root run or backfill that asked",
    "due_at": "not posted, or landed, before",
    "reported_at": "outbox: when Dagster heard of it",
}


def upgrade() -> None:
    """Add, rename and drop columns; entries from before wait in scope 1 for the pipeline that opens the ledger first."""
    _make_tables()
    for index in (
        *("ix_keen_entries_open", "ix_keen_entries_outbox", "ix_keen_entries_uncounted", "ix_keen_entries_landed"),
        *("ix_keen_entries_target_id", "uq_keen_entries_open_target"),
    ):
        op.drop_index(index, "keen_entries")
    with op.batch_alter_table("keen_entries") as table:
        for column in _new_columns():
            table.add_column(column)
        table.alter_column("target", new_column_name="path", existing_type=sa.String(2048), server_default="")
        table.drop_column("lease_owner")
        table.drop_column("lease_until")
    if op.get_bind().dialect.name != "sqlite":  # which has no comments
        for name, comment in _COMMENTS.items():
            op.alter_column("keen_entries", name, comment=comment)
    op.execute("UPDATE keen_entries SET token = 'entry-' || id")
    op.execute("UPDATE keen_entries SET removed_at = landed_at WHERE status = 'superseded'")
    op.execute("UPDATE keen_entries SET kind = 'slice' WHERE parent_id IS NOT NULL")
    op.execute("UPDATE keen_ledger_compatibility SET oldest_code = '0008'")
    _end_doubles()
    _make_indexes()


def _end_doubles() -> None:
    """Of several open attempts of a partition, for other files or destinations, the newest goes on; not `cancelled`, a person's word."""
    newer = "newer.collection = keen_entries.collection AND newer.partition_key = keen_entries.partition_key"
    op.execute(
        "UPDATE keen_entries SET status = 'failed', error = 'another extraction was asked for the same partition' "  # noqa: S608
        f"WHERE {_OPEN} AND EXISTS (SELECT 1 FROM keen_entries AS newer WHERE {newer} AND newer.id > keen_entries.id "
        f"AND newer.{_OPEN})"
    )
    op.execute(
        "UPDATE keen_entries SET status = 'failed', error = 'the extraction it is part of has failed' "  # noqa: S608
        f"WHERE {_OPEN} AND parent_id IN (SELECT id FROM keen_entries AS parents WHERE parents.status = 'failed')"
    )


def _new_columns() -> list[sa.Column[object]]:
    return [
        sa.Column("scope_id", sa.Integer, server_default="1", nullable=False),
        sa.Column("token", sa.String(32), server_default="", nullable=False, comment="names the attempt outside of this ledger"),
        sa.Column("kind", sa.String(16), server_default="partition", nullable=False, comment="partition, ad_hoc or slice"),
        sa.Column("encoding", sa.String(16), server_default="csv", nullable=False),
        sa.Column("mask_key", sa.String(32), comment="digest of the key of its hashes"),
        sa.Column(
            "post_tries", sa.Integer, server_default="0", nullable=False, comment="POSTs that made nothing as far as is known"
        ),
        sa.Column(
            "submitted_tick", sa.Float, server_default="0", nullable=False, comment="keen_collections.answered_seconds by then"
        ),
        sa.Column("removed_at", _INSTANT, comment="of a superseded landing: its file is gone or replaced"),
        sa.Column("unproven", sa.Boolean, server_default=sa.false(), nullable=False, comment="the file may be another's"),
        sa.Column("claimed_by", sa.String(32), comment="the worker that is at it"),
    ]


def _make_tables() -> None:
    table = op.create_table(
        "keen_scopes",
        sa.Column("id", sa.Integer, primary_key=True),
        sa.Column("source", sa.String(512), nullable=False, comment="service and project"),
        sa.Column("destination", sa.String(1024), nullable=False, comment="root URI of the files"),
        sa.Column("name", sa.String(128), nullable=False, comment="of the definitions"),
        sa.Column("created_at", _INSTANT, nullable=False),
        sa.UniqueConstraint("source", "destination", "name", name="uq_keen_scopes"),
        comment="whose entries there are; an empty source waits for the first pipeline that opens the ledger",
    )
    made = sa.insert(table).values(source="", destination="", name="", created_at=sa.func.now())
    op.execute(made)
    op.create_table(
        "keen_workers",
        sa.Column("id", sa.String(32), primary_key=True),
        sa.Column("host", sa.String(256), nullable=False, comment="name, boot and process namespace of the machine"),
        sa.Column("pid", sa.BigInteger, nullable=False),
        sa.Column("process_started", sa.String(64), comment="tells it from a later process with the same id; null where unknown"),
        sa.Column("doing", sa.String(256), nullable=False),
        sa.Column("started_at", _INSTANT, nullable=False),
        sa.Column("heartbeat_at", _INSTANT, nullable=False),
        comment="the processes that have claimed entries",
    )
    op.drop_table("keen_listings")
    op.create_table(
        "keen_collections",
        sa.Column("scope_id", sa.Integer, autoincrement=False, primary_key=True),
        sa.Column("collection", sa.String(256), primary_key=True),
        sa.Column("listed_at", _INSTANT, comment="the last list call that was answered"),
        sa.Column(
            "answered_seconds", sa.Float, server_default="0", nullable=False, comment="how long list calls were answered, ever"
        ),
        sa.Column("pending", sa.Text, server_default="[]", nullable=False, comment="JSON array; extractions it found unfinished"),
        sa.Column("problem", sa.Text, comment="why nothing of the collection goes on; null once it does"),
        sa.Column("problem_since", _INSTANT),
        sa.Column("problem_until", _INSTANT, comment="not tried before, where that is known"),
        comment="what is known of a collection at its service",
    )
    # What they hold is a minute old at most.
    op.drop_table("keen_api_requests")
    op.create_table(
        "keen_api_requests",
        sa.Column("id", _NUMBER, primary_key=True),
        sa.Column("budget", sa.String(512), server_default="", nullable=False, comment="whose limit they count for"),
        sa.Column("sent_at", _INSTANT, nullable=False),
        comment="the last minute's requests, for the requests-per-minute limits",
    )
    op.create_index("ix_keen_api_requests_budget", "keen_api_requests", ["budget", "sent_at"])
    op.drop_table("keen_api_pauses")
    op.create_table(
        "keen_api_pauses",
        sa.Column("name", sa.String(512), primary_key=True, comment="the budget"),
        sa.Column("until", _INSTANT, nullable=False),
        sa.Column("refusals", sa.BigInteger, server_default="0", nullable=False, comment="how often the service refused, ever"),
        comment="nobody sends before this instant: the service refused a request",
    )


def _make_indexes() -> None:
    _partial("uq_keen_entries_open", _OPEN, ["scope_id", "collection", "partition_key"], unique=True)
    _partial("ix_keen_entries_live", _OPEN, ["scope_id", "status"])
    _partial(
        "ix_keen_entries_outbox",
        "kind = 'partition' AND status IN ('abandoned', 'landed') AND reported_at IS NULL",
        ["scope_id", "id"],
    )
    _partial(
        "ix_keen_entries_uncounted",
        "status = 'landed' AND counted_at IS NULL AND kind != 'slice' AND count_check != 'off'",
        ["scope_id", "id"],
    )
    _partial("ix_keen_entries_stale", "status = 'superseded' AND removed_at IS NULL", ["scope_id", "id"])
    _partial("ix_keen_entries_slices", "status = 'landed' AND kind = 'slice'", ["scope_id", "id"])
    _partial("ix_keen_entries_claimed", "claimed_by IS NOT NULL", ["claimed_by"])
    _partial("ix_keen_entries_landed", "status = 'landed' AND kind != 'slice'", ["scope_id", "collection", "window_start"])
    op.create_index("ix_keen_entries_place", "keen_entries", ["scope_id", "collection", "partition_key", "id"])
    op.create_index("ix_keen_entries_path", "keen_entries", ["path"])


def _partial(name: str, condition: str, columns: list[str], *, unique: bool = False) -> None:
    where = sa.text(condition)
    op.create_index(name, "keen_entries", columns, unique=unique, sqlite_where=where, postgresql_where=where)
