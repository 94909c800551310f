"""What a materialization says of a landed file: never a URL with a signature, never a key."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from typing import Any

import dagster as dg

from keen_pipeline.collection import MaskMethod
from keen_pipeline.defs.reports.preview import preview
from keen_pipeline.extraction import Landing
from keen_pipeline.landing import FileDestination
from keen_pipeline.lifecycle import Entry
from keen_pipeline.timeframe import format_instant

# Columns that one event lists: each takes some 250 bytes of Dagster's database, for every partition and each time it lands.
_MOST_COLUMNS = 1000
LANDING_KEY = "keen/landing"
"""Metadata of an event: the token of the landing it speaks of, by which it is known again, also by a new ledger."""


def landing_metadata(entry: Entry, shown: str | None = None) -> Mapping[str, Any]:
    """The metadata of one landed partition: numbers in events, bytes and seconds; times in UTC.

    `shown`: its first events in Markdown.
    """
    landing = entry.landing
    assert landing is not None
    metadata: dict[str, Any] = {
        "dagster/partition_row_count": landing.records,
        "dagster/uri": dg.MetadataValue.path(landing.uri) if "://" not in landing.uri else dg.MetadataValue.url(landing.uri),
        "dagster/column_schema": _schema(landing),
        "keen/columns": len(landing.columns),
        "keen/events": landing.records,
        "keen/bytes": landing.bytes,
        "keen/stored_bytes": landing.stored_bytes,
        "keen/sha256": landing.sha256,
        "keen/extraction_id": entry.extraction_id,
        "keen/attempts": entry.attempt,
        "keen/landing_seconds": round(landing.seconds, 3),
        "keen/timeframe_start": format_instant(entry.request.timeframe.start),
        "keen/timeframe_end": format_instant(entry.request.timeframe.end),
        LANDING_KEY: entry.token,
    }
    if entry.slices:
        metadata["keen/slices"] = entry.slices
        metadata["keen/split_depth"] = entry.depth
    if entry.submitted_at is not None and entry.completed_at is not None:
        metadata["keen/waiting_seconds"] = round(max(0.0, (entry.completed_at - entry.submitted_at).total_seconds()), 3)
    if entry.request.mask:
        metadata["keen/masked"] = dg.MetadataValue.json(dict(landing.masked))
    if shown is not None:
        metadata["keen/preview"] = dg.MetadataValue.md(shown)
    return metadata


def _schema(landing: Landing) -> dg.TableSchema:
    """The first columns of the file: a parquet file's own types, else Keen's words for its properties; text if there is none."""
    types = landing.column_types or landing.property_types or ("string",) * len(landing.columns)
    done = {MaskMethod.HASH.value: "hashed", MaskMethod.MASK.value: "masked"}
    return dg.TableSchema(
        columns=[
            dg.TableColumn(name, kind or "string", description=done.get(landing.masked.get(name, "")))
            for name, kind in zip(landing.columns[:_MOST_COLUMNS], types, strict=False)
        ]
    )


def materialization(entry: Entry, key: dg.AssetKey, files: FileDestination | None = None) -> dg.AssetMaterialization:
    """The event for a landed partition of the asset `key`, with a preview if `files` are given to read it from.

    Its data version is the sha256 of Keen's CSV: a downstream condition such as `AutomationCondition.data_version_changed()` can
    tell that the bytes are the same as before. What a mask changed is part of it.
    """
    landing = entry.landing
    assert landing is not None
    return dg.AssetMaterialization(
        asset_key=key,
        partition=entry.request.partition_key,
        description=f"{entry.request}: {landing.records} events, {landing.bytes} bytes",
        metadata=landing_metadata(entry, preview(files, landing) if files is not None else None),
        tags={"dagster/data_version": _data_version(landing)},
    )


def _data_version(landing: Landing) -> str:
    if not landing.masked:
        return landing.sha256
    done = json.dumps(dict(landing.masked), sort_keys=True).encode()
    return hashlib.sha256(landing.sha256.encode() + done).hexdigest()


def materializing_runs(instance: dg.DagsterInstance, entry: Entry, key: dg.AssetKey) -> list[str]:
    """Run ids of the events that report this landing, newest first; empty if none does (a runless report's id is no run's)."""
    wanted = dg.AssetRecordsFilter(asset_key=key, asset_partitions=[entry.request.partition_key])
    found: list[str] = []
    for record in instance.fetch_materializations(wanted, limit=20).records:
        event = record.asset_materialization
        value = event.metadata.get(LANDING_KEY) if event is not None else None
        if value is not None and value.value == entry.token:
            found.append(record.run_id)
    return found
