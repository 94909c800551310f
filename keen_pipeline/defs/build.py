"""From collections to Dagster definitions, in one call."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import dagster as dg

from keen_pipeline.collection import Collection
from keen_pipeline.collections_file import collection_to_wire, parse_collections
from keen_pipeline.defs.assets import collection_assets
from keen_pipeline.defs.freshness import freshness_sensor
from keen_pipeline.defs.io_managers import KeenIOManager, KeenReader
from keen_pipeline.defs.jobs import materialize_csvs_job, nightly_schedules, submit_extractions_job
from keen_pipeline.defs.names import Names
from keen_pipeline.defs.notifications import KeenNotifications, are_notifications_configured, notification_sensors
from keen_pipeline.defs.resources import CsvDestination, ExtractionLedger, KeenResource
from keen_pipeline.defs.sensors import INTERVAL_SECONDS, extraction_status_sensor
from keen_pipeline.defs.translator import KeenTranslator, specs_of
from keen_pipeline.errors import InvalidInputError
from keen_pipeline.landing.transfer.encode import check_encoding
from keen_pipeline.scope import DEFAULT_NAME
from keen_pipeline.settings import MOST_PARTITIONS_PER_RUN, Settings


def build_keen_definitions(
    collections: Sequence[Collection],
    *,
    name: str = DEFAULT_NAME,
    keen: KeenResource | None = None,
    ledger: ExtractionLedger | None = None,
    destination: CsvDestination | None = None,
    running: bool = False,
    nightly_cron: str | None = None,
    nightly_timezone: str | None = None,
    sensor_interval_seconds: int = INTERVAL_SECONDS,
    downstream: dg.AssetSelection | str | Sequence[str] | None = None,
    translator: KeenTranslator | None = None,
    notifications: KeenNotifications | None = None,
    partitions_per_run: int | None = None,
    pool: str | None = None,
    retry_policy: dg.RetryPolicy | None = None,
    hooks: set[dg.HookDefinition] | None = None,
    op_tags: Mapping[str, Any] | None = None,
    execute: Callable[[dg.AssetExecutionContext], Iterator[Any]] | None = None,
) -> dg.Definitions:
    """Everything for some collections: assets, ops in jobs, nightly schedules, the status sensor, the resources.

    It is a guest: it sets no executor and no default I/O manager, nothing of it runs by itself unless `running`, and it touches no
    asset but its own. Merge the answer with your own by `dg.Definitions.merge`.

    `name`: what every name in Dagster derives from, so that several projects live in one code location. Assets are
    `[name, collection]`, resources `{name}`, `{name}_ledger`, `{name}_destination`, `{name}_reader`, `{name}_io_manager`, jobs
    `{name}_submit_extractions` and `{name}_materialize_csvs`, schedules begin with `{name}_nightly`, the sensor is
    `{name}_extraction_status`.
    `keen`, `ledger`, `destination`: the resources; what is not given is the environment's.
    `running`: whether schedules and sensors start by themselves.
    `nightly_cron`: when the collections without a cron of their own that are not hourly are asked for (01:00).
    `nightly_timezone`: an IANA zone for every cron; by default each collection's own.
    `downstream`: assets whose automation conditions a sensor of ours evaluates, so that those with `AutomationCondition.eager()`
    wake; by default none, as projects have an automation sensor of their own.
    `translator`: makes the assets' keys, groups, owners, tags and conditions.
    `notifications`: where the digest and failures go; unset, the environment's addresses and webhook, and no sensors for them if it
    has none.
    `partitions_per_run` (1 to 100000): a longer backfill, or more finished extractions, are several runs of so many, which
    executors spread over workers; unset, the environment's KEEN_PIPELINE_PARTITIONS_PER_RUN, and one run if that is unset too.
    `pool`, `retry_policy`, `hooks`, `op_tags`: of the assets' steps, as Dagster's own decorators take them.
    `execute`: what an asset's step does instead of `keen.run(context)`.

    >>> defs = build_keen_definitions([Collection(name="purchases", start_date="2026-01-01")])
    >>> sorted(job.name for job in defs.jobs)
    ['keen_materialize_csvs', 'keen_submit_extractions']

    Raises InvalidInputError naming what is wrong with a collection or argument, ConfigurationError if the extra of an encoding is
    missing or the environment is wrong.
    """
    names = Names(name)
    parse_collections([collection_to_wire(c) for c in collections])  # refuses duplicates as the file does
    for encoding in {collection.encoding for collection in collections}:
        check_encoding(encoding)
    per_run = _partitions_per_run(partitions_per_run)
    keys = {collection: spec.key for collection, spec in specs_of(translator or KeenTranslator(), collections, name).items()}
    submit_job, materialize_job = submit_extractions_job(names, collections), materialize_csvs_job(names)
    resources = keen_resources(names, keen, ledger, destination)
    sensors = [
        extraction_status_sensor(
            names,
            materialize_job,
            collections,
            keys,
            interval_seconds=sensor_interval_seconds,
            running=running,
            partitions_per_run=per_run,
        )
    ]
    if any(collection.fresh_within_hours is not None for collection in collections):
        sensors.append(freshness_sensor(names, collections, keys, running=running))
    if notifications is not None or are_notifications_configured():
        sensors += notification_sensors(names, collections, keys, timezone=nightly_timezone or "UTC", running=running)
        resources[names.notifications] = notifications or KeenNotifications()
    if downstream is not None:
        sensors.append(_downstream_sensor(names, downstream, sensor_interval_seconds, running))
    return dg.Definitions(
        assets=collection_assets(
            collections,
            name=name,
            translator=translator,
            partitions_per_run=per_run,
            pool=pool,
            retry_policy=retry_policy,
            hooks=hooks,
            op_tags=op_tags,
            execute=execute,
        ),
        jobs=[submit_job, materialize_job],
        schedules=nightly_schedules(names, submit_job, collections, cron=nightly_cron, timezone=nightly_timezone, running=running),
        sensors=sensors,
        resources=resources,
    )


def _downstream_sensor(
    names: Names, downstream: dg.AssetSelection | str | Sequence[str], interval_seconds: int, running: bool
) -> dg.SensorDefinition:
    return dg.AutomationConditionSensorDefinition(
        names.downstream_sensor,
        target=downstream,
        minimum_interval_seconds=interval_seconds,
        default_status=dg.DefaultSensorStatus.RUNNING if running else dg.DefaultSensorStatus.STOPPED,
    )


def _partitions_per_run(given: int | None) -> int | None:
    if given is not None and not 1 <= given <= MOST_PARTITIONS_PER_RUN:
        raise InvalidInputError(
            f"partitions_per_run must lie between 1 and {MOST_PARTITIONS_PER_RUN}, not {given}", field="partitions_per_run"
        )
    return given if given is not None else Settings.from_environment().partitions_per_run


def keen_resources(
    names: Names,
    keen: KeenResource | None = None,
    ledger: ExtractionLedger | None = None,
    destination: CsvDestination | None = None,
) -> dict[str, object]:
    """The resources by the keys that our assets, ops and sensors know them by; what is not given is the environment's."""
    keen, ledger, destination = keen or KeenResource(), ledger or ExtractionLedger(), destination or CsvDestination()
    reader = KeenReader(keen=keen, ledger=ledger, destination=destination, name=names.name)
    return {
        names.name: keen,
        names.ledger: ledger,
        names.destination: destination,
        names.reader: reader,
        names.io_manager: KeenIOManager(reader=reader),
    }
