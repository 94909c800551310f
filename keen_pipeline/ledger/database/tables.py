"""The ledger's tables. The migrations under `migrations/` are replayed against these in the tests."""

from __future__ import annotations

from datetime import datetime, timezone
from typing import Any

import sqlalchemy as sa

from keen_pipeline.collection import CountPolicy
from keen_pipeline.extraction import OPEN_STATUSES, Kind, Status


class UtcDateTime(sa.types.TypeDecorator[datetime]):
    """Aware UTC in Python; `timestamp with time zone` if the database has it, naive UTC if it hasn't (SQLite)."""

    impl = sa.DateTime(timezone=True)
    cache_ok = True

    def process_bind_param(self, value: datetime | None, dialect: Any) -> datetime | None:
        """To the database: only aware instants, as UTC."""
        if value is None:
            return None
        if value.utcoffset() is None:
            raise ValueError(f"the ledger takes aware datetimes only, not {value!r}")
        return value.astimezone(timezone.utc)

    def process_result_value(self, value: datetime | None, dialect: Any) -> datetime | None:
        """From the database: aware UTC."""
        if value is None:
            return None
        return value.replace(tzinfo=timezone.utc) if value.tzinfo is None else value.astimezone(timezone.utc)


_OPEN = sorted(s.value for s in OPEN_STATUSES)

metadata = sa.MetaData(naming_convention={"ix": "ix_%(table_name)s_%(column_0_N_name)s", "pk": "pk_%(table_name)s"})

# Of every text that comes from elsewhere: the wire has bounded it already, the rest is bounded here.
MOST_CHARACTERS = 4000

scopes = sa.Table(
    "keen_scopes",
    metadata,
    sa.Column("id", sa.Integer, primary_key=True),
    sa.Column("source", sa.String(512), nullable=False, comment="service and project"),
    sa.Column("destination", sa.String(1024), nullable=False, comment="root URI of the files"),
    sa.Column("name", sa.String(128), nullable=False, comment="of the definitions"),
    sa.Column("created_at", UtcDateTime, nullable=False),
    sa.UniqueConstraint("source", "destination", "name", name="uq_keen_scopes"),
    comment="whose entries there are; an empty source waits for the first pipeline that opens the ledger",
)

workers = sa.Table(
    "keen_workers",
    metadata,
    sa.Column("id", sa.String(32), primary_key=True),
    sa.Column("host", sa.String(256), nullable=False, comment="name, boot and process namespace of the machine"),
    sa.Column("pid", sa.BigInteger, nullable=False),
    sa.Column("process_started", sa.String(64), comment="tells it from a later process with the same id; null where unknown"),
    sa.Column("doing", sa.String(256), nullable=False),
    sa.Column("started_at", UtcDateTime, nullable=False),
    sa.Column("heartbeat_at", UtcDateTime, nullable=False),
    comment="the processes that have claimed entries",
)

entries = sa.Table(
    "keen_entries",
    metadata,
    sa.Column("id", sa.BigInteger().with_variant(sa.Integer, "sqlite"), primary_key=True),
    sa.Column("scope_id", sa.Integer, nullable=False, server_default="1"),
    sa.Column("token", sa.String(32), nullable=False, server_default="", comment="names the attempt outside of this ledger"),
    sa.Column("series_id", sa.BigInteger, comment="id of the first attempt of this request"),
    sa.Column("attempt", sa.Integer, nullable=False, comment="1-based"),
    sa.Column("status", sa.String(16), nullable=False),
    sa.Column("kind", sa.String(16), nullable=False, server_default="partition", comment="partition, ad_hoc or slice"),
    sa.Column("collection", sa.String(256), nullable=False),
    sa.Column("partition_key", sa.String(128), nullable=False),
    sa.Column("window_start", UtcDateTime, nullable=False),
    sa.Column("window_end", UtcDateTime, nullable=False, comment="exclusive"),
    sa.Column("filters", sa.Text, nullable=False, comment="JSON array as on the wire"),
    sa.Column("email", sa.String(320)),
    sa.Column("encoding", sa.String(16), nullable=False, server_default="csv"),
    sa.Column("mask", sa.Text, comment="JSON object; what shall be done to which column"),
    sa.Column("mask_key", sa.String(32), comment="digest of the key of its hashes"),
    sa.Column("fingerprint", sa.String(32), nullable=False, comment="of all that decides the file"),
    sa.Column("path", sa.String(2048), nullable=False, server_default="", comment="of the file, below the destination's root"),
    sa.Column("extraction_id", sa.String(256)),
    sa.Column("run_id", sa.String(64), comment="Dagster's root run or backfill that asked"),
    sa.Column("requested_at", UtcDateTime, nullable=False),
    sa.Column("due_at", UtcDateTime, nullable=False, comment="not posted, or landed, before"),
    sa.Column("posted_at", UtcDateTime, comment="a POST left; without an extraction id its fate is unknown"),
    sa.Column("post_tries", sa.Integer, nullable=False, server_default="0", comment="POSTs that made nothing as far as is known"),
    sa.Column("submitted_at", UtcDateTime),
    sa.Column("submitted_tick", sa.Float, nullable=False, server_default="0", comment="keen_collections.answered_seconds by then"),
    sa.Column("completed_at", UtcDateTime),
    sa.Column("landed_at", UtcDateTime),
    sa.Column("reported_at", UtcDateTime, comment="outbox: when Dagster heard of it"),
    sa.Column("removed_at", UtcDateTime, comment="of a superseded landing: its file is gone or replaced"),
    sa.Column("unproven", sa.Boolean, nullable=False, server_default=sa.false(), comment="the file may be another's"),
    sa.Column("bytes", sa.BigInteger, comment="of Keen's CSV"),
    sa.Column("records", sa.BigInteger, comment="header not counted"),
    sa.Column("sha256", sa.String(64), comment="of Keen's CSV"),
    sa.Column("columns", sa.Text, comment="JSON array"),
    sa.Column("column_types", sa.Text, comment="JSON array; of a parquet file"),
    sa.Column("property_types", sa.Text, comment="JSON array; Keen's, empty where it has none or several"),
    sa.Column("masked", sa.Text, comment="JSON object; what was done to which column"),
    sa.Column("stored_bytes", sa.BigInteger, comment="of the file at the destination"),
    sa.Column("landing_seconds", sa.Float),
    sa.Column("landing_tries", sa.Integer, nullable=False, server_default="0"),
    sa.Column("orphans", sa.Integer, nullable=False, server_default="0", comment="POSTs whose answer was lost, posted again"),
    sa.Column("count_check", sa.String(8), nullable=False, server_default="off", comment="fail, warn or off"),
    sa.Column("planned_at", UtcDateTime, comment="the service's count allowed the POST, or slices were made"),
    sa.Column("expected", sa.BigInteger, comment="events counted before the POST"),
    sa.Column("counted", sa.BigInteger, comment="events counted after the landing"),
    sa.Column("counted_at", UtcDateTime),
    sa.Column("parent_id", sa.BigInteger, comment="of a slice: the entry it is part of"),
    sa.Column("depth", sa.Integer, nullable=False, server_default="0", comment="how often the timeframe was halved"),
    sa.Column("slices", sa.Integer, nullable=False, server_default="0", comment="of an entry that was split"),
    sa.Column("error", sa.Text),
    sa.Column("claimed_by", sa.String(32), comment="the worker that is at it"),
    sa.Column("publisher", sa.String(32), comment="the worker that is about to switch its file into place"),
    sqlite_autoincrement=True,
)


def _word(text: str) -> sa.ColumnElement[str]:
    # A literal, not a bound parameter: SQLite uses a partial index only if the query repeats its condition word for word.
    return sa.literal_column(f"'{text}'", sa.String)


is_open = entries.c.status.in_([_word(status) for status in _OPEN])
# At the service, or finished there: what a run can be asked to land.
is_to_land = entries.c.status.in_([_word(status.value) for status in (Status.SUBMITTED, Status.COMPLETE)])
# Ends that Dagster has to hear of: of partitions only, a slice or an ad hoc file is nobody's asset.
in_outbox = sa.and_(
    entries.c.kind == _word(Kind.PARTITION.value),
    entries.c.status.in_([_word(Status.ABANDONED.value), _word(Status.LANDED.value)]),
    entries.c.reported_at.is_(None),
)
# Landed, and not yet held against the service's count.
is_uncounted = sa.and_(
    entries.c.status == _word(Status.LANDED.value),
    entries.c.counted_at.is_(None),
    entries.c.kind != _word(Kind.SLICE.value),
    entries.c.count_check != _word(CountPolicy.OFF.value),
)
# The valid landings, slices aside.
is_landed = sa.and_(entries.c.status == _word(Status.LANDED.value), entries.c.kind != _word(Kind.SLICE.value))
# Files that nobody needs any more and that may still be there.
is_stale = sa.and_(entries.c.status == _word(Status.SUPERSEDED.value), entries.c.removed_at.is_(None))
is_claimed = entries.c.claimed_by.is_not(None)
# A file is about to be switched into place, as far as is known.
is_publishing = entries.c.publisher.is_not(None)
# Parts that wait to be put together, or to be removed.
is_landed_slice = sa.and_(entries.c.status == _word(Status.LANDED.value), entries.c.kind == _word(Kind.SLICE.value))


def _partial(name: str, condition: sa.ColumnElement[bool], *columns: sa.Column[Any], unique: bool = False) -> None:
    sa.Index(name, *columns, unique=unique, sqlite_where=condition, postgresql_where=condition)


# At most one open attempt for a partition: two submitters can't both win.
_partial("uq_keen_entries_open", is_open, entries.c.scope_id, entries.c.collection, entries.c.partition_key, unique=True)
# What a tick reads: the few among millions of landed ones.
_partial("ix_keen_entries_live", is_open, entries.c.scope_id, entries.c.status)
_partial("ix_keen_entries_outbox", in_outbox, entries.c.scope_id, entries.c.id)
_partial("ix_keen_entries_uncounted", is_uncounted, entries.c.scope_id, entries.c.id)
_partial("ix_keen_entries_stale", is_stale, entries.c.scope_id, entries.c.id)
_partial("ix_keen_entries_slices", is_landed_slice, entries.c.scope_id, entries.c.id)
_partial("ix_keen_entries_claimed", is_claimed, entries.c.claimed_by)
_partial("ix_keen_entries_publishing", is_publishing, entries.c.publisher)
_partial("ix_keen_entries_landed", is_landed, entries.c.scope_id, entries.c.collection, entries.c.window_start)
sa.Index("ix_keen_entries_place", entries.c.scope_id, entries.c.collection, entries.c.partition_key, entries.c.id)
# Whose file is switched, or removed: every landing asks what else is at its path, of other scopes too.
sa.Index("ix_keen_entries_path", entries.c.path)
# Whose extraction it is that the service answers with.
sa.Index("ix_keen_entries_extraction", entries.c.scope_id, entries.c.extraction_id)
sa.Index("ix_keen_entries_series_id", entries.c.series_id)
sa.Index("ix_keen_entries_parent_id", entries.c.parent_id)

api_requests = sa.Table(
    "keen_api_requests",
    metadata,
    sa.Column("id", sa.BigInteger().with_variant(sa.Integer, "sqlite"), primary_key=True),
    sa.Column("budget", sa.String(512), nullable=False, server_default="", comment="whose limit they count for"),
    sa.Column("sent_at", UtcDateTime, nullable=False),
    comment="the last minute's requests, for the requests-per-minute limits",
)
sa.Index("ix_keen_api_requests_budget", api_requests.c.budget, api_requests.c.sent_at)

api_pauses = sa.Table(
    "keen_api_pauses",
    metadata,
    sa.Column("name", sa.String(512), primary_key=True, comment="the budget"),
    sa.Column("until", UtcDateTime, nullable=False),
    sa.Column("refusals", sa.BigInteger, nullable=False, server_default="0", comment="how often the service refused, ever"),
    comment="nobody sends before this instant: the service refused a request",
)

notices = sa.Table(
    "keen_notices",
    metadata,
    sa.Column("id", sa.BigInteger().with_variant(sa.Integer, "sqlite"), primary_key=True),
    sa.Column("name", sa.String(256), nullable=False, comment="what it is about, once for each channel"),
    sa.Column("channel", sa.String(16), nullable=False, comment="mail or slack"),
    sa.Column("body", sa.Text, comment="JSON object; null where it is written when it is sent"),
    sa.Column("created_at", UtcDateTime, nullable=False),
    sa.Column("due_at", UtcDateTime, nullable=False, comment="not tried before"),
    sa.Column("attempts", sa.Integer, nullable=False, server_default="0"),
    sa.Column("ended_at", UtcDateTime, comment="sent, or given up where there is an error"),
    sa.Column("error", sa.Text, comment="of the last attempt"),
)
is_waiting_notice = notices.c.ended_at.is_(None)
sa.Index("uq_keen_notices_name_channel", notices.c.name, notices.c.channel, unique=True)
_partial("ix_keen_notices_waiting", is_waiting_notice, notices.c.due_at)

compatibility = sa.Table(
    "keen_ledger_compatibility",
    metadata,
    sa.Column("id", sa.Integer, primary_key=True, autoincrement=False),
    sa.Column("oldest_code", sa.String(32), nullable=False, comment="the oldest revision of code that can work on it"),
    comment="one row; raised by contract migrations",
)

collections = sa.Table(
    "keen_collections",
    metadata,
    sa.Column("scope_id", sa.Integer, primary_key=True, autoincrement=False),
    sa.Column("collection", sa.String(256), primary_key=True),
    sa.Column("listed_at", UtcDateTime, comment="the last list call that was answered"),
    sa.Column("answered_seconds", sa.Float, nullable=False, server_default="0", comment="how long list calls were answered, ever"),
    sa.Column("pending", sa.Text, nullable=False, server_default="[]", comment="JSON array; extractions it found unfinished"),
    sa.Column("problem", sa.Text, comment="why nothing of the collection goes on; null once it does"),
    sa.Column("problem_since", UtcDateTime),
    sa.Column("problem_until", UtcDateTime, comment="not tried before, where that is known"),
    comment="what is known of a collection at its service",
)
