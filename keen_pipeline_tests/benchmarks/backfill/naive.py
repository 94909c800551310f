"""The other side of the backfill benchmark: the asset one writes in an afternoon. One run a partition, default executor; each
submits, polls its own extraction, downloads."""

import json
import os
import time
from datetime import date, timedelta
from pathlib import Path

import dagster as dg
import urllib3

PARTITIONS = dg.DailyPartitionsDefinition(start_date="2025-01-01")


@dg.asset(key=dg.AssetKey(["naive", "purchases"]), partitions_def=PARTITIONS)
def purchases(context: dg.AssetExecutionContext) -> None:
    """Waits where it stands."""
    http = urllib3.PoolManager(headers={"Authorization": os.environ["KEEN_READ_KEY"]})
    root = f"{os.environ['KEEN_BASE_URL']}/2.0/projects/{os.environ['KEEN_PROJECT_ID']}/purchases/_extract"
    end = date.fromisoformat(context.partition_key) + timedelta(days=1)
    window = {"start": f"{context.partition_key}T00:00:00Z", "end": f"{end}T00:00:00Z"}
    made = json.loads(http.request("POST", root, body=json.dumps({"filters": [], "timeframe": window}).encode()).data)
    while True:
        found = json.loads(http.request("GET", f"{root}/{made['_id']}").data)
        if found["status"] == "complete":
            break
        time.sleep(2)
    target = Path(os.environ["KEEN_PIPELINE_DESTINATION"]) / "purchases" / f"{context.partition_key}.csv"
    target.parent.mkdir(parents=True, exist_ok=True)
    target.write_bytes(http.request("GET", found["results_url"]).data)


defs = dg.Definitions(assets=[purchases])
