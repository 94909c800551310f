"""The two jobs of the nightly path, and its schedule."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import dagster as dg

from keen_pipeline.collections_file import collection_to_wire
from keen_pipeline.defs.ops import materialize_csv, submit_extraction
from keen_pipeline.collection import Collection
from keen_pipeline.timeframe import format_instant

SUBMIT_JOB = "submit_extractions"
MATERIALIZE_JOB = "materialize_csvs"
NIGHTLY_SCHEDULE = "nightly_extractions"


def _submit_config(collections: Sequence[Collection], as_of: str | None = None) -> dict[str, Any]:
    config: dict[str, Any] = {"collections": [collection_to_wire(c) for c in collections]}
    if as_of is not None:
        config["as_of"] = as_of
    return {"ops": {submit_extraction.name: {"config": config}}}


def submit_extractions_job(collections: Sequence[Collection]) -> dg.JobDefinition:
    """`submit_extractions`: asks for what the last nights lack and ends in seconds."""

    @dg.graph(name=SUBMIT_JOB, description="Submits an extraction for every partition that the last nights lack; does not wait.")
    def graph() -> None:
        submit_extraction()

    return graph.to_job(config=_submit_config(collections), executor_def=dg.in_process_executor)


def materialize_csvs_job() -> dg.JobDefinition:
    """`materialize_csvs`: lands what has finished, one run for any number of collections and partitions."""

    @dg.graph(
        name=MATERIALIZE_JOB,
        description="Lands every finished extraction and reports it; asked for by the sensor extraction_status.",
    )
    def graph() -> None:
        materialize_csv()

    return graph.to_job(executor_def=dg.in_process_executor)


def nightly_schedule(
    job: dg.JobDefinition, collections: Sequence[Collection], *, cron: str, timezone: str, running: bool = True
) -> dg.ScheduleDefinition:
    """`nightly_extractions`: one submit run a tick; the tick's own time says which partitions are due."""

    def run_config(context: dg.ScheduleEvaluationContext) -> dict[str, Any]:
        return _submit_config(collections, format_instant(context.scheduled_execution_time))

    return dg.ScheduleDefinition(
        name=NIGHTLY_SCHEDULE,
        job=job,
        cron_schedule=cron,
        execution_timezone=timezone,
        run_config_fn=run_config,
        default_status=dg.DefaultScheduleStatus.RUNNING if running else dg.DefaultScheduleStatus.STOPPED,
    )
