"""Between the ledger's rows and the domain's entries."""

from __future__ import annotations

import json
from datetime import datetime
from typing import Any

import sqlalchemy as sa

from keen_pipeline.extraction import CountPolicy, ExtractionRequest, Landing, MaskMethod, Status
from keen_pipeline.filters import Filter
from keen_pipeline.lifecycle import Entry
from keen_pipeline.timeframe import Timeframe


def to_entry(row: sa.Row[Any]) -> Entry:
    """One row as an entry."""
    r = row._mapping
    request = ExtractionRequest(
        collection=r["collection"],
        timeframe=Timeframe(r["window_start"], r["window_end"]),
        partition_key=r["partition_key"],
        target=r["target"],
        filters=tuple(Filter.from_wire(f) for f in json.loads(r["filters"])),
        email=r["email"],
        count_check=CountPolicy(r["count_check"]),
        mask={name: MaskMethod(method) for name, method in json.loads(r["mask"] or "{}").items()},
    )
    landing = None
    if r["landed_at"] is not None:
        landing = Landing(
            uri=r["target"],
            bytes=r["bytes"],
            records=r["records"],
            sha256=r["sha256"],
            columns=tuple(json.loads(r["columns"])),
            column_types=tuple(json.loads(r["column_types"] or "[]")),
            property_types=tuple(json.loads(r["property_types"] or "[]")),
            masked=json.loads(r["masked"] or "{}"),
            stored_bytes=r["stored_bytes"],
            seconds=r["landing_seconds"],
        )
    plain: tuple[str, ...] = (
        "attempt",
        "requested_at",
        "due_at",
        "posted_at",
        "submitted_at",
        "completed_at",
        "landed_at",
        "reported_at",
    )
    plain += ("extraction_id", "landing_tries", "error", "lease_owner", "lease_until", "run_id")
    plain += ("planned_at", "expected", "counted", "counted_at", "parent_id", "depth", "slices")
    return Entry(
        entry_id=r["id"], request=request, status=Status(r["status"]), landing=landing, **{name: r[name] for name in plain}
    )


def new_row(request: ExtractionRequest, now: datetime, *, run_id: str | None) -> dict[str, Any]:
    """The values of a first attempt."""
    return {
        "attempt": 1,
        "status": Status.REQUESTED.value,
        "collection": request.collection,
        "partition_key": request.partition_key,
        "window_start": request.timeframe.start,
        "window_end": request.timeframe.end,
        "filters": json.dumps([f.to_wire() for f in request.filters]),
        "email": request.email,
        "count_check": request.count_check.value,
        "mask": json.dumps({name: method.value for name, method in request.mask.items()}) if request.mask else None,
        "fingerprint": request.fingerprint,
        "target": request.target,
        "run_id": run_id,
        "requested_at": now,
        "due_at": now,
        "landing_tries": 0,
        "orphans": 0,
    }


_REQUEST_COLUMNS = (
    "collection",
    "partition_key",
    "window_start",
    "window_end",
    "filters",
    "email",
    "count_check",
    "mask",
    "fingerprint",
    "target",
    "run_id",
    "parent_id",
    "depth",
)


def next_attempt_row(row: sa.Row[Any], now: datetime, due_at: datetime) -> dict[str, Any]:
    """The values of the attempt that follows a failed one."""
    r = row._mapping
    values = {name: r[name] for name in _REQUEST_COLUMNS}
    return values | {
        "series_id": r["series_id"] or r["id"],
        "attempt": r["attempt"] + 1,
        "status": Status.REQUESTED.value,
        "requested_at": now,
        "due_at": due_at,
        "landing_tries": 0,
        "orphans": 0,
    }


def landing_values(landing: Landing) -> dict[str, Any]:
    """The proof of a landing as columns."""
    return {
        "bytes": landing.bytes,
        "records": landing.records,
        "sha256": landing.sha256,
        "columns": json.dumps(list(landing.columns)),
        "column_types": json.dumps(list(landing.column_types)) if landing.column_types else None,
        "property_types": json.dumps(list(landing.property_types)) if landing.property_types else None,
        "masked": json.dumps(dict(landing.masked)) if landing.masked else None,
        "stored_bytes": landing.stored_bytes,
        "landing_seconds": landing.seconds,
    }
