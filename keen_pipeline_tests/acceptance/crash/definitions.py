"""The code location of the crash rounds: the product's definitions, and an operator who launches the nights he is told to.

`CRASH_NIGHTS` names a file with a number: so many nights have begun. Night n (from 0) stands for 01:00 of the day after the
collections' start date plus n, and asks for the partitions that ended in the day before. `CRASH_SENSOR_SECONDS`: how often the
product's sensor looks, 2 where unset.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path

import dagster as dg

from keen_pipeline.collections_file import collection_to_wire, read_collections_file
from keen_pipeline.defs.build import build_keen_definitions
from keen_pipeline.defs.names import Names

COLLECTIONS = read_collections_file(Path(os.environ["KEEN_PIPELINE_COLLECTIONS"]))


# The key of a run request makes each night run once, also where the daemon dies between the tick and the launch.
@dg.sensor(job_name=Names().submit_job, minimum_interval_seconds=1, default_status=dg.DefaultSensorStatus.RUNNING)
def operator() -> Iterator[dg.RunRequest]:
    """Launches the nights."""
    nights = int(Path(os.environ["CRASH_NIGHTS"]).read_text())
    for night in range(nights):
        morning = COLLECTIONS[0].start + timedelta(days=night + 1)
        config = {"collections": [collection_to_wire(c) for c in COLLECTIONS], "as_of": f"{morning}T01:00:00Z"}
        yield dg.RunRequest(run_key=f"night-{night}", run_config={"ops": {"submit_extraction": {"config": config}}})


defs = dg.Definitions.merge(
    # The schedule would ask for real nights; its work is the operator's here.
    build_keen_definitions(
        COLLECTIONS,
        sensor_interval_seconds=int(os.environ.get("CRASH_SENSOR_SECONDS", "2")),
        running=True,
        nightly_cron="0 0 29 2 *",
    ),
    dg.Definitions(sensors=[operator]),
)
