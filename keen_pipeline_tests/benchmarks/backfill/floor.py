"""What no asset backfill in one run can do without: one event for each partition, while the run goes on for FLOOR_SECONDS."""

import os
import time
from collections.abc import Iterator

import dagster as dg

KEY = dg.AssetKey(["floor", "purchases"])


@dg.multi_asset(
    specs=[dg.AssetSpec(KEY, partitions_def=dg.DailyPartitionsDefinition(start_date="2025-01-01"), skippable=True)],
    backfill_policy=dg.BackfillPolicy.single_run(),
)
def purchases(context: dg.AssetExecutionContext) -> Iterator[dg.AssetMaterialization]:
    """Nothing is extracted or landed."""
    keys = context.partition_keys
    for key in keys:
        yield dg.AssetMaterialization(KEY, partition=key)
        time.sleep(float(os.environ["FLOOR_SECONDS"]) / len(keys))


defs = dg.Definitions(assets=[purchases], executor=dg.in_process_executor)
