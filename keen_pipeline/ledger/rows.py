"""Between the ledger's rows and the domain's entries."""

from __future__ import annotations

import json
import secrets
import sys
from dataclasses import fields
from datetime import datetime
from functools import lru_cache
from typing import Any

import sqlalchemy as sa

from keen_pipeline.collection import CountPolicy, Encoding, MaskMethod
from keen_pipeline.errors import LedgerVersionError
from keen_pipeline.extraction import ExtractionRequest, Kind, Landing, Status
from keen_pipeline.filters import Filter
from keen_pipeline.ledger.database.tables import MOST_CHARACTERS, entries
from keen_pipeline.lifecycle import Entry
from keen_pipeline.scope import Scope
from keen_pipeline.timeframe import Timeframe

# Columns that are fields of an entry by the same name.
_PLAIN = tuple(field.name for field in fields(Entry) if field.name in entries.c and field.name != "status")
# Of a landing: columns that are fields of it by the same name, and those that are lists.
_PROOF = ("bytes", "records", "sha256", "stored_bytes")
_LISTS = ("columns", "column_types", "property_types")
# What the next attempt has in common with this one.
_REQUEST = (
    *("scope_id", "kind", "collection", "partition_key", "window_start", "window_end", "filters", "email", "encoding", "mask"),
    *("mask_key", "count_check", "fingerprint", "path", "run_id", "parent_id", "depth"),
)


def to_entry(row: sa.Row[Any], scope: Scope) -> Entry:
    """One row as an entry of `scope`. Raises LedgerVersionError for words that a newer release has written."""
    r = row._mapping
    try:
        request = _request(r)
    except ValueError as error:
        raise _newer(row, error) from None
    landing = None
    if r["landed_at"] is not None:
        proof: dict[str, Any] = {name: r[name] for name in _PROOF}
        proof |= {name: _names(r[name] or "[]") for name in _LISTS}
        masked = json.loads(r["masked"] or "{}")
        landing = Landing(uri=f"{scope.destination}/{r['path']}", seconds=r["landing_seconds"], masked=masked, **proof)
    plain = {name: r[name] for name in _PLAIN}
    return Entry(entry_id=r["id"], request=request, status=status_of(row), landing=landing, **plain)


def status_of(row: sa.Row[Any]) -> Status:
    """Of an entry's row. Raises LedgerVersionError for one that a newer release has written."""
    try:
        return Status(row.status)
    except ValueError as error:
        raise _newer(row, error) from None


def _newer(row: sa.Row[Any], error: ValueError) -> LedgerVersionError:
    return LedgerVersionError(
        f"entry {row.id} of the ledger, {row.collection}[{row.partition_key}], was written by a newer keen_pipeline ({error}); "
        "upgrade keen_pipeline, nothing was changed"
    )


def _request(r: sa.RowMapping) -> ExtractionRequest:
    return ExtractionRequest(
        collection=r["collection"],
        timeframe=Timeframe(r["window_start"], r["window_end"]),
        partition_key=r["partition_key"],
        path=r["path"],
        kind=Kind(r["kind"]),
        filters=_filters(r["filters"]),
        encoding=Encoding(r["encoding"]),
        mask={name: MaskMethod(method) for name, method in json.loads(r["mask"]).items()} if r["mask"] else {},
        mask_key=r["mask_key"],
        count_check=CountPolicy(r["count_check"]),
        email=r["email"],
    )


@lru_cache(maxsize=64)
def _filters(text: str) -> tuple[Filter, ...]:
    return tuple(Filter.from_wire(one) for one in json.loads(text))


@lru_cache(maxsize=64)
def _names(text: str) -> tuple[str, ...]:
    """A list of names. Each name is in memory once: a collection's history repeats its columns for every landing."""
    return tuple(sys.intern(name) for name in json.loads(text))


def new_row(request: ExtractionRequest, scope_id: int, scope: Scope, now: datetime, *, run_id: str | None) -> dict[str, Any]:
    """The values of a first attempt."""
    return {
        **_fresh(now),
        "scope_id": scope_id,
        "kind": request.kind.value,
        "collection": request.collection,
        "partition_key": request.partition_key,
        "window_start": request.timeframe.start,
        "window_end": request.timeframe.end,
        "filters": json.dumps([f.to_wire() for f in request.filters]),
        "email": request.email,
        "encoding": request.encoding.value,
        "mask": json.dumps({name: method.value for name, method in request.mask.items()}) if request.mask else None,
        "mask_key": request.mask_key,
        "count_check": request.count_check.value,
        "fingerprint": request.fingerprint(scope),
        "path": request.path,
        "run_id": run_id,
    }


def next_attempt_row(row: sa.Row[Any], now: datetime, due_at: datetime) -> dict[str, Any]:
    """The values of the attempt that follows `row`'s."""
    r = row._mapping
    series = {"series_id": r["series_id"] or r["id"], "attempt": r["attempt"] + 1, "due_at": due_at}
    return {**_fresh(now), **{name: r[name] for name in _REQUEST}, **series}


def _fresh(now: datetime) -> dict[str, Any]:
    return {
        "token": secrets.token_hex(8),
        "attempt": 1,
        "status": Status.REQUESTED.value,
        "requested_at": now,
        "due_at": now,
    }


def landing_values(landing: Landing) -> dict[str, Any]:
    """The proof of a landing as columns."""
    lists = {name: list(getattr(landing, name)) for name in _LISTS}
    return {
        **{name: getattr(landing, name) for name in _PROOF},
        **{name: json.dumps(values) if values or name == "columns" else None for name, values in lists.items()},
        "masked": json.dumps(dict(landing.masked)) if landing.masked else None,
        "landing_seconds": landing.seconds,
    }


def bounded(text: str) -> str:
    """A reason as the ledger keeps it: of bounded length, and nothing in it that a database refuses."""
    clean = text.encode("utf-8", "replace").decode("utf-8").replace("\0", "")
    return clean if len(clean) <= MOST_CHARACTERS else clean[: MOST_CHARACTERS - 1] + "…"
