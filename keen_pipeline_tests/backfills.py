"""Asset backfills as the UI asks for them."""

from __future__ import annotations

import time
import uuid
from collections.abc import Iterable, Sequence

import dagster as dg
from dagster._core.definitions.assets.graph.asset_graph_subset import AssetGraphSubset
from dagster._core.execution.backfill import PartitionBackfill


def add_backfill(
    instance: dg.DagsterInstance, assets: Iterable[dg.AssetKey], definition: dg.PartitionsDefinition, keys: Sequence[str]
) -> str:
    """One of the partitions `keys` for all assets, which have the same `definition`; its id."""
    subset = definition.subset_with_partition_keys(keys)
    backfill_id = uuid.uuid4().hex[:8]
    instance.add_backfill(
        PartitionBackfill.from_asset_graph_subset(
            backfill_id=backfill_id,
            backfill_timestamp=time.time(),
            tags={},
            dynamic_partitions_store=instance,
            asset_graph_subset=AssetGraphSubset(dict.fromkeys(assets, subset)),
            title=None,
            description=None,
            run_config=None,
        )
    )
    return backfill_id
