"""The ledger of release 0.1.

The types are the databases' own, not those of `tables.py`: a migration never changes with the code.
"""

import sqlalchemy as sa
from alembic import op

revision = "0007"
down_revision = None
phase = "expand"

_INSTANT = sa.DateTime(timezone=True)
_NUMBER = sa.BigInteger().with_variant(sa.Integer(), "sqlite")

_OPEN = "status IN ('complete', 'requested', 'split', 'submitted')"


def upgrade() -> None:
    """Create the tables and their indexes, and note the oldest code that it serves."""
    op.create_table(
        "keen_api_pauses",
        sa.Column("name", sa.String(64), primary_key=True),
        sa.Column("until", _INSTANT, nullable=False),
        sa.Column("refusals", sa.BigInteger, server_default="0", nullable=False, comment="how often the service refused, ever"),
        comment="nobody sends before this instant: the service refused a request",
    )
    op.create_table(
        "keen_api_requests",
        sa.Column("id", _NUMBER, primary_key=True),
        sa.Column("sent_at", _INSTANT, nullable=False),
        comment="the last minute's requests, for the requests-per-minute limit",
    )
    op.create_index("ix_keen_api_requests_sent_at", "keen_api_requests", ["sent_at"], unique=False)
    op.create_table(
        "keen_entries",
        sa.Column("id", _NUMBER, primary_key=True),
        sa.Column("series_id", sa.BigInteger, comment="id of the first attempt of this request"),
        sa.Column("attempt", sa.Integer, nullable=False, comment="1-based"),
        sa.Column("status", sa.String(16), nullable=False),
        sa.Column("collection", sa.String(256), nullable=False),
        sa.Column("partition_key", sa.String(128), nullable=False),
        sa.Column("window_start", _INSTANT, nullable=False),
        sa.Column("window_end", _INSTANT, nullable=False, comment="exclusive"),
        sa.Column("filters", sa.Text, nullable=False, comment="JSON array as on the wire"),
        sa.Column("email", sa.String(320)),
        sa.Column("fingerprint", sa.String(32), nullable=False),
        sa.Column("target", sa.String(2048), nullable=False, comment="URI of the file"),
        sa.Column("extraction_id", sa.String(256)),
        sa.Column("run_id", sa.String(64), comment="Dagster run that asked"),
        sa.Column("requested_at", _INSTANT, nullable=False),
        sa.Column("due_at", _INSTANT, nullable=False, comment="not posted before"),
        sa.Column("posted_at", _INSTANT, comment="a POST left; without an extraction id its fate is unknown"),
        sa.Column("submitted_at", _INSTANT),
        sa.Column("completed_at", _INSTANT),
        sa.Column("landed_at", _INSTANT),
        sa.Column("reported_at", _INSTANT, comment="outbox: when the materialization reached Dagster"),
        sa.Column("bytes", sa.BigInteger, comment="of Keen's CSV"),
        sa.Column("records", sa.BigInteger, comment="header not counted"),
        sa.Column("sha256", sa.String(64), comment="of Keen's CSV"),
        sa.Column("columns", sa.Text, comment="JSON array"),
        sa.Column("stored_bytes", sa.BigInteger, comment="of the file at the destination"),
        sa.Column("landing_seconds", sa.Float),
        sa.Column("landing_tries", sa.Integer, server_default="0", nullable=False),
        sa.Column("orphans", sa.Integer, server_default="0", nullable=False, comment="POSTs whose answer was lost, posted again"),
        sa.Column("error", sa.Text),
        sa.Column("lease_owner", sa.String(64)),
        sa.Column("lease_until", _INSTANT),
        sa.Column("count_check", sa.String(8), server_default="off", nullable=False, comment="fail, warn or off"),
        sa.Column("planned_at", _INSTANT, comment="the service's count allowed the POST, or slices were made"),
        sa.Column("expected", sa.BigInteger, comment="events counted before the POST"),
        sa.Column("counted", sa.BigInteger, comment="events counted after the landing"),
        sa.Column("counted_at", _INSTANT),
        sa.Column("parent_id", sa.BigInteger, comment="of a slice: the entry it is part of"),
        sa.Column("depth", sa.Integer, server_default="0", nullable=False, comment="how often the timeframe was halved"),
        sa.Column("slices", sa.Integer, server_default="0", nullable=False, comment="of an entry that was split"),
        sa.Column("column_types", sa.Text, comment="JSON array; of a parquet file"),
        sa.Column("mask", sa.Text, comment="JSON object; what shall be done to which column"),
        sa.Column("property_types", sa.Text, comment="JSON array; Keen's, empty where it has none or several"),
        sa.Column("masked", sa.Text, comment="JSON object; what was done to which column"),
    )
    _partial("ix_keen_entries_open", _OPEN, ["collection", "status"])
    _partial("ix_keen_entries_outbox", "status IN ('abandoned', 'landed') AND reported_at IS NULL", ["id"])
    _partial("ix_keen_entries_uncounted", "status = 'landed' AND counted_at IS NULL AND count_check != 'off'", ["id"])
    _partial("ix_keen_entries_landed", "status = 'landed' AND parent_id IS NULL", ["collection", "window_start"])
    _partial("uq_keen_entries_open_target", _OPEN, ["target"], unique=True)
    op.create_index("ix_keen_entries_parent_id", "keen_entries", ["parent_id"])
    op.create_index("ix_keen_entries_series_id", "keen_entries", ["series_id"])
    op.create_index("ix_keen_entries_target_id", "keen_entries", ["target", "id"])
    op.create_table(
        "keen_notices",
        sa.Column("id", _NUMBER, primary_key=True),
        sa.Column("name", sa.String(256), nullable=False, comment="what it is about, once for each channel"),
        sa.Column("channel", sa.String(16), nullable=False, comment="mail or slack"),
        sa.Column("body", sa.Text, comment="JSON object; null where it is written when it is sent"),
        sa.Column("created_at", _INSTANT, nullable=False),
        sa.Column("due_at", _INSTANT, nullable=False, comment="not tried before"),
        sa.Column("attempts", sa.Integer, server_default="0", nullable=False),
        sa.Column("ended_at", _INSTANT, comment="sent, or given up where there is an error"),
        sa.Column("error", sa.Text, comment="of the last attempt"),
    )
    op.create_index("uq_keen_notices_name_channel", "keen_notices", ["name", "channel"], unique=True)
    _partial("ix_keen_notices_waiting", "ended_at IS NULL", ["due_at"], table="keen_notices")
    table = op.create_table(
        "keen_ledger_compatibility",
        sa.Column("id", sa.Integer, autoincrement=False, primary_key=True),
        sa.Column("oldest_code", sa.String(32), nullable=False, comment="the oldest revision of code that can work on it"),
        comment="one row; raised by contract migrations",
    )
    op.bulk_insert(table, [{"id": 1, "oldest_code": "0005"}])
    op.create_table(
        "keen_listings",
        sa.Column("collection", sa.String(256), primary_key=True),
        sa.Column("listed_at", _INSTANT, nullable=False),
        sa.Column("pending", sa.Text, nullable=False, comment="JSON array; extractions that the service still works on"),
        comment="the last list call of each collection",
    )


def _partial(name: str, condition: str, columns: list[str], *, table: str = "keen_entries", unique: bool = False) -> None:
    where = sa.text(condition)
    op.create_index(name, table, columns, unique=unique, sqlite_where=where, postgresql_where=where)
