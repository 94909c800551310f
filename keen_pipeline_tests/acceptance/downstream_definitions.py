"""A code location of somebody else's: an asset of what ours has landed, which it knows by its key alone."""

from __future__ import annotations

import dagster as dg


@dg.asset(deps=[dg.AssetKey(["keen", "purchases"])], partitions_def=dg.DailyPartitionsDefinition(start_date="2025-01-01"))
def revenue() -> None:
    """Depends on our code location's asset."""


@dg.sensor(asset_selection=[revenue], minimum_interval_seconds=5, default_status=dg.DefaultSensorStatus.RUNNING)
def heartbeat() -> dg.SkipReason:
    """Ticks, by which the daemon shows that it has loaded this code location."""
    return dg.SkipReason("nothing to do")


defs = dg.Definitions(assets=[revenue], sensors=[heartbeat])
