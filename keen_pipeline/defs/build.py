"""From collections to Dagster definitions, in one call."""

from __future__ import annotations

from collections.abc import Sequence

import dagster as dg

from keen_pipeline.defs.assets import csv_assets
from keen_pipeline.defs.freshness import freshness_sensor
from keen_pipeline.defs.io_managers import IO_MANAGER_KEY, KeenIOManager, KeenReader
from keen_pipeline.defs.jobs import materialize_csvs_job, nightly_schedule, submit_extractions_job
from keen_pipeline.defs.notifications import KeenNotifications, are_notifications_configured, notification_sensors
from keen_pipeline.defs.resources import CsvDestination, ExtractionLedger, KeenResource
from keen_pipeline.defs.sensors import INTERVAL_SECONDS, extraction_status_sensor
from keen_pipeline.defs.translator import KeenTranslator
from keen_pipeline.errors import InvalidInputError
from keen_pipeline.extraction import Collection
from keen_pipeline.landing.transfer.encode import check_encoding
from keen_pipeline.settings import MOST_PARTITIONS_PER_RUN, Settings

AUTOMATION_SENSOR = "keen_downstream"


def build_keen_definitions(
    collections: Sequence[Collection],
    *,
    keen: KeenResource | None = None,
    ledger: ExtractionLedger | None = None,
    destination: CsvDestination | None = None,
    nightly_cron: str = "0 1 * * *",
    nightly_timezone: str = "UTC",
    sensor_interval_seconds: int = INTERVAL_SECONDS,
    downstream_sensor: bool = True,
    running: bool = True,
    translator: KeenTranslator | None = None,
    notifications: KeenNotifications | None = None,
    partitions_per_run: int | None = None,
    executor: dg.ExecutorDefinition = dg.in_process_executor,
) -> dg.Definitions:
    """Everything for some collections: assets, ops in jobs, the nightly schedule, the status sensor, the resources.

    `nightly_cron` is read in `nightly_timezone` (an IANA name). `downstream_sensor` evaluates the automation conditions of
    every asset in the code location, so that downstream assets with `AutomationCondition.eager()` wake. `running`: whether
    schedule and sensors start by themselves. `translator` makes the assets' groups, owners, tags and conditions.
    `partitions_per_run` (1 to 100000): a longer backfill, or more finished extractions, are several runs of so many, which
    executors spread over workers; unset, the environment's KEEN_PIPELINE_PARTITIONS_PER_RUN, and one run where it is unset too.
    `executor` runs the assets' backfills; with one that gives each step a pod or a worker of its own (dagster-k8s, dagster-celery),
    collections with other `run_tags` are other steps, which have these tags.
    `notifications`: where the digest and failures go; unset, the environment's addresses and webhook, and no sensors for
    them where it has none. Merge the answer with your own by `dg.Definitions.merge`.

    >>> defs = build_keen_definitions([Collection(name="purchases", start_date="2026-01-01")])
    >>> sorted(job.name for job in defs.jobs)
    ['materialize_csvs', 'submit_extractions']

    Raises InvalidInputError where a collection stands there twice or a run would have no partition, ConfigurationError where
    the extra of an encoding is missing or the environment is wrong.
    """
    from keen_pipeline.collections_file import collection_to_wire, parse_collections

    parse_collections([collection_to_wire(c) for c in collections])  # refuses duplicates as the file does
    for encoding in {collection.encoding for collection in collections}:
        check_encoding(encoding)
    per_run = _partitions_per_run(partitions_per_run)
    submit_job, materialize_job = submit_extractions_job(collections), materialize_csvs_job()
    resources = keen_resources(keen, ledger, destination)
    sensors = _sensors(collections, materialize_job, sensor_interval_seconds, per_run, running)
    if notifications is not None or are_notifications_configured():
        sensors += notification_sensors(collections, timezone=nightly_timezone, running=running)
        resources["notifications"] = notifications or KeenNotifications()
    if downstream_sensor:
        sensors.append(_downstream_sensor(sensor_interval_seconds, running))
    return dg.Definitions(
        assets=csv_assets(collections, translator=translator, partitions_per_run=per_run),
        jobs=[submit_job, materialize_job],
        schedules=[nightly_schedule(submit_job, collections, cron=nightly_cron, timezone=nightly_timezone, running=running)],
        sensors=sensors,
        resources=resources,
        executor=executor,
    )


def _sensors(
    collections: Sequence[Collection], landing: dg.JobDefinition, interval_seconds: int, per_run: int | None, running: bool
) -> list[dg.SensorDefinition]:
    """Those that follow the extractions."""
    sensors: list[dg.SensorDefinition] = [
        extraction_status_sensor(
            landing, collections, interval_seconds=interval_seconds, running=running, partitions_per_run=per_run
        )
    ]
    if any(collection.fresh_within_hours is not None for collection in collections):
        sensors.append(freshness_sensor(collections, running=running))
    return sensors


def _downstream_sensor(interval_seconds: int, running: bool) -> dg.SensorDefinition:
    return dg.AutomationConditionSensorDefinition(
        AUTOMATION_SENSOR,
        target=dg.AssetSelection.all(),
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
    keen: KeenResource | None = None, ledger: ExtractionLedger | None = None, destination: CsvDestination | None = None
) -> dict[str, object]:
    """The resources by the keys that our assets, ops and sensors know them by; what is not given is the environment's."""
    keen, ledger, destination = keen or KeenResource(), ledger or ExtractionLedger(), destination or CsvDestination()
    reader = KeenReader(ledger=ledger, destination=destination)
    return {
        "keen": keen,
        "ledger": ledger,
        "destination": destination,
        "keen_reader": reader,
        IO_MANAGER_KEY: KeenIOManager(reader=reader),
    }
