"""The two jobs of the nightly path, and its schedules."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any

import dagster as dg

from keen_pipeline.collection import Collection, Granularity
from keen_pipeline.collections_file import collection_to_wire
from keen_pipeline.defs.names import DEFINITIONS_TAG, Names, identifier
from keen_pipeline.defs.ops import materialize_csvs_op, submit_extractions_op
from keen_pipeline.errors import InvalidInputError
from keen_pipeline.timeframe import format_instant

# An hour after midnight, when most late events of the day before have come; an hour's partition five minutes after its end.
DEFAULT_CRON = "0 1 * * *"
HOURLY_CRON = "5 * * * *"


def submit_extractions_job(names: Names, collections: Sequence[Collection]) -> dg.JobDefinition:
    """`{name}_submit_extractions`: asks for what the last nights lack and ends in seconds."""
    op = submit_extractions_op(names.name)
    said = "Submits an extraction for every partition that the last nights lack; does not wait."
    return _job(names, names.submit_job, said, op, _submit_config(op, collections))


def materialize_csvs_job(names: Names, collections: Sequence[Collection], keys: Mapping[str, dg.AssetKey]) -> dg.JobDefinition:
    """`{name}_materialize_csvs`: lands what has finished, one run for any number of collections and partitions.

    A person who launches it from the UI without a config lands whatever has finished, with the checks and the keys of the assets.
    """
    said = f"Lands every finished extraction and reports it; asked for by the sensor {names.status_sensor}."
    op = materialize_csvs_op(names.name)
    return _job(names, names.materialize_job, said, op, landing_config(op, collections, keys))


def landing_config(
    op: dg.NodeDefinition, collections: Sequence[Collection], keys: Mapping[str, dg.AssetKey], entry_ids: Sequence[int] = ()
) -> dict[str, Any]:
    """The config of one run of the landing job."""
    config = {
        "entry_ids": list(entry_ids),
        "collections": [collection_to_wire(c) for c in collections],
        "asset_keys": {name: list(key.path) for name, key in keys.items()},
    }
    return {"ops": {op.name: {"config": config}}}


def _job(names: Names, name: str, said: str, op: dg.OpDefinition, config: dict[str, Any]) -> dg.JobDefinition:
    graph = dg.GraphDefinition(name, description=said, node_defs=[op])
    return graph.to_job(config=config, executor_def=dg.in_process_executor, tags={DEFINITIONS_TAG: names.name})


def _submit_config(op: dg.OpDefinition, collections: Sequence[Collection], as_of: str | None = None) -> dict[str, Any]:
    config: dict[str, Any] = {"collections": [collection_to_wire(c) for c in collections]}
    if as_of is not None:
        config["as_of"] = as_of
    return {"ops": {op.name: {"config": config}}}


def nightly_schedules(
    names: Names,
    job: dg.JobDefinition,
    collections: Sequence[Collection],
    *,
    cron: str | None = None,
    timezone: str | None = None,
    running: bool = False,
) -> list[dg.ScheduleDefinition]:
    """One schedule for all collections that are asked for at the same time; the tick's own time says which partitions are due.

    `cron`: of those without a cron of their own that are not hourly (01:00 by default); `timezone`: in which every cron is read, by
    default each collection's own, so that its day is over by then. Raises InvalidInputError naming a wrong cron or zone.
    """
    by_time: dict[tuple[str, str], list[Collection]] = {}
    nightly = cron or DEFAULT_CRON
    for collection in collections:
        by_time.setdefault(_time_of(collection, cron, timezone), []).append(collection)

    def name_of(when: str, zone: str) -> str:
        # Dagster keeps by the name whether a schedule is on, so no collection that comes, goes or moves may change it.
        if when != nightly:
            return f"{names.nightly}_{identifier(f'{when} {zone}')}"
        return names.nightly if zone == (timezone or "UTC") else f"{names.nightly}_{identifier(zone)}"

    return [_schedule(name_of(*when), job, members, *when, running=running) for when, members in by_time.items()]


def _time_of(collection: Collection, cron: str | None, timezone: str | None) -> tuple[str, str]:
    """When a collection is asked for: a cron, and the zone in which it is read."""
    default = HOURLY_CRON if collection.granularity is Granularity.HOURLY else cron or DEFAULT_CRON
    return collection.cron or default, timezone or collection.timezone


def last_asked(collection: Collection, now: datetime, *, cron: str | None, timezone: str | None) -> datetime:
    """When its schedule, if it is on, asked for a collection last; `cron`, `timezone` as for `nightly_schedules`."""
    when, zone = _time_of(collection, cron, timezone)
    ticks = dg.TimeWindowPartitionsDefinition(start="1970-01-01", fmt="%Y-%m-%d", cron_schedule=when, timezone=zone)
    window = ticks.get_prev_partition_window(now, respect_bounds=False)
    assert window is not None
    return window.end


def _schedule(
    name: str, job: dg.JobDefinition, collections: Sequence[Collection], cron: str, timezone: str, *, running: bool
) -> dg.ScheduleDefinition:
    (op,) = job.graph.node_defs

    def run_config(context: dg.ScheduleEvaluationContext) -> dict[str, Any]:
        assert isinstance(op, dg.OpDefinition)
        return _submit_config(op, collections, format_instant(context.scheduled_execution_time))

    try:
        return dg.ScheduleDefinition(
            name=name,
            job=job,
            cron_schedule=cron,
            execution_timezone=timezone,
            run_config_fn=run_config,
            description=f"Asks for {', '.join(c.name for c in collections[:5])}{' and others' if len(collections) > 5 else ''}.",
            default_status=dg.DefaultScheduleStatus.RUNNING if running else dg.DefaultScheduleStatus.STOPPED,
        )
    except dg.DagsterInvalidDefinitionError:
        field = "cron" if collections[0].cron == cron else "nightly_cron"
        wrong = f"collection {collections[0].name}, {field}: {cron!r} in {timezone} isn't a schedule"
        expected = "expected a cron such as '0 1 * * *' and an IANA zone"
        raise InvalidInputError(f"{wrong}; {expected}", field=field) from None
