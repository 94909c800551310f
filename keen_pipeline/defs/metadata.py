"""What a materialization says of a landed file: never a URL with a signature, never a key."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import dagster as dg

from keen_pipeline.errors import InvalidInputError
from keen_pipeline.extraction import Landing
from keen_pipeline.landing.layout import parse_ad_hoc_key
from keen_pipeline.lifecycle import Entry
from keen_pipeline.timeframe import format_instant

ENTRY_KEY = "keen/entry"


def landing_metadata(entry: Entry) -> Mapping[str, Any]:
    """The metadata of one landed partition: numbers in events, bytes and seconds; times in UTC."""
    landing = entry.landing
    assert landing is not None
    metadata: dict[str, Any] = {
        "dagster/partition_row_count": landing.records,
        "dagster/uri": dg.MetadataValue.path(landing.uri) if "://" not in landing.uri else dg.MetadataValue.url(landing.uri),
        "dagster/column_schema": _schema(landing),
        "keen/events": landing.records,
        "keen/bytes": landing.bytes,
        "keen/stored_bytes": landing.stored_bytes,
        "keen/sha256": landing.sha256,
        "keen/extraction_id": entry.extraction_id,
        "keen/attempts": entry.attempt,
        "keen/landing_seconds": round(landing.seconds, 3),
        "keen/timeframe_start": format_instant(entry.request.timeframe.start),
        "keen/timeframe_end": format_instant(entry.request.timeframe.end),
        ENTRY_KEY: entry.entry_id,
    }
    if entry.slices:
        metadata["keen/slices"] = entry.slices
        metadata["keen/split_depth"] = entry.depth
    if entry.waiting_seconds is not None:
        metadata["keen/waiting_seconds"] = round(entry.waiting_seconds, 3)
    return metadata


def _schema(landing: Landing) -> dg.TableSchema:
    types = landing.column_types or ["string"] * len(landing.columns)
    return dg.TableSchema(columns=[dg.TableColumn(name, kind) for name, kind in zip(landing.columns, types, strict=True)])


def materialization(entry: Entry) -> dg.AssetMaterialization:
    """The event for a landed partition. Its data version is the file's sha256: the same bytes leave downstream fresh."""
    landing = entry.landing
    assert landing is not None
    return dg.AssetMaterialization(
        asset_key=asset_key(entry.request.collection),
        partition=entry.request.partition_key,
        description=f"{landing.records} events, {landing.bytes} bytes",
        metadata=landing_metadata(entry),
        tags={"dagster/data_version": landing.sha256},
    )


def materializing_runs(instance: dg.DagsterInstance, entry: Entry) -> list[str]:
    """Run ids of the events that report this landing, newest first; empty where none does (a runless report's id is no run's)."""
    wanted = dg.AssetRecordsFilter(asset_key=asset_key(entry.request.collection), asset_partitions=[entry.request.partition_key])
    found: list[str] = []
    for record in instance.fetch_materializations(wanted, limit=20).records:
        event = record.asset_materialization
        value = event.metadata.get(ENTRY_KEY) if event is not None else None
        if value is not None and value.value == entry.entry_id:
            found.append(record.run_id)
    return found


def asset_key(collection: str) -> dg.AssetKey:
    """The key of a collection's files."""
    return dg.AssetKey(["keen", collection])


def is_partition(entry: Entry) -> bool:
    """Whether the entry is a partition of an asset, not a slice of one or somebody's ad hoc extraction."""
    if entry.parent_id is not None:
        return False
    try:
        parse_ad_hoc_key(entry.request.partition_key)
    except InvalidInputError:
        return True
    return False
