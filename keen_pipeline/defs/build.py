"""From collections to Dagster definitions, in one call."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import PurePath
from typing import Any

import dagster as dg

from keen_pipeline.collection import Collection
from keen_pipeline.collections_file import check_collections
from keen_pipeline.defs.assets.collections import collection_assets
from keen_pipeline.defs.assets.run import run_assets
from keen_pipeline.defs.io_managers import KeenIOManager, KeenReader
from keen_pipeline.defs.jobs import materialize_csvs_job, nightly_schedules, submit_extractions_job
from keen_pipeline.defs.names import Names, sensor_status
from keen_pipeline.defs.resources import CsvDestination, ExtractionLedger, KeenResource
from keen_pipeline.defs.sensors.freshness import freshness_sensors
from keen_pipeline.defs.sensors.notifications import KeenNotifications, configured_notifications, notification_sensors
from keen_pipeline.defs.sensors.status import INTERVAL_SECONDS, extraction_status_sensor
from keen_pipeline.defs.translator import KeenTranslator, specs_of
from keen_pipeline.errors import InvalidInputError
from keen_pipeline.scope import DEFAULT_NAME
from keen_pipeline.settings import MOST_PARTITIONS_PER_RUN, Settings

# A sensor that ticks less often than hourly would land a partition after its next one is asked for.
_MOST = {"partitions_per_run": MOST_PARTITIONS_PER_RUN, "sensor_interval_seconds": 3600}
_KINDS: Mapping[str, type] = {
    "keen": KeenResource,
    "ledger": ExtractionLedger,
    "destination": CsvDestination,
    "translator": KeenTranslator,
    "notifications": KeenNotifications,
    "nightly_cron": str,
    "nightly_timezone": str,
    "running": bool,
}


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
    execute: Callable[[dg.AssetExecutionContext], Iterator[Any]] = run_assets,
) -> dg.Definitions:
    """Everything for some collections: assets, ops in jobs, nightly schedules, the status sensor, the resources.

    It is a guest: it sets no executor and no default I/O manager, nothing of it runs by itself unless `running`, and it touches no
    asset but its own. Merge the answer with your own by `dg.Definitions.merge`.

    `name`: what every name in Dagster derives from (see `Names`), so that several projects live in one code location.
    `keen`, `ledger`, `destination`: the resources; what is not given is the environment's.
    `running`: whether schedules and sensors start by themselves. `sensor_interval_seconds` (1 to 3600): of the status sensor.
    `nightly_cron`: when those collections are asked for that are not hourly and have no cron of their own (01:00).
    `nightly_timezone`: an IANA zone for every cron; by default each collection's own.
    `downstream`: assets whose automation conditions a sensor of ours evaluates; by default none, as projects have their own sensor.
    `translator`: makes the assets' keys, groups, owners, tags and so on; `execute`: what steps do instead of `keen.run(context)`.
    `notifications`: where the digest and failures go; unset, the environment's addresses and webhook, if it has any.
    `partitions_per_run` (1 to 100000): larger backfills and landings are several runs; unset, KEEN_PIPELINE_PARTITIONS_PER_RUN.
    `pool`, `retry_policy`, `hooks`, `op_tags`: of the assets' steps, as Dagster's own decorators take them.

    Raises InvalidInputError naming a wrong collection or argument, ConfigurationError for the environment or an encoding's extra.
    """
    _check_arguments(locals())
    check_collections(collections)
    names = Names(name)
    per_run = Settings.from_environment().partitions_per_run if partitions_per_run is None else partitions_per_run
    specs = specs_of(translator or KeenTranslator(), collections, name)
    keys = {collection: spec.key for collection, spec in specs.items()}
    submit_job, landing_job = submit_extractions_job(names, collections), materialize_csvs_job(names, collections, keys)
    sensors = [extraction_status_sensor(names, landing_job, collections, keys, sensor_interval_seconds, running, per_run)]
    sensors += freshness_sensors(names, collections, keys, running)
    how: dict[str, Any] = {"minimum_interval_seconds": sensor_interval_seconds, "default_status": sensor_status(running)}
    sensors += [dg.AutomationConditionSensorDefinition(names.downstream_sensor, target=downstream, **how)] if downstream else []
    told = configured_notifications(notifications)
    sensors += notification_sensors(names, collections, keys, nightly_timezone, nightly_cron, running=running) if told else []
    step: dict[str, Any] = {"pool": pool, "retry_policy": retry_policy, "hooks": hooks}
    return dg.Definitions(
        assets=collection_assets(collections, specs, names, per_run, op_tags, execute, **step),
        jobs=[submit_job, landing_job],
        schedules=nightly_schedules(names, submit_job, collections, cron=nightly_cron, timezone=nightly_timezone, running=running),
        sensors=sensors,
        resources=keen_resources(names, keen, ledger, destination, told),
    )


def _check_arguments(given: Mapping[str, Any]) -> None:
    """Refuse what is plainly of another kind, as a path for a destination, which would come out in a run, or out of bounds."""
    for name, most in _MOST.items():
        value = given[name]
        if value is not None and (isinstance(value, bool) or not isinstance(value, int) or not 1 <= value <= most):
            raise InvalidInputError(f"{name} must lie between 1 and {most}, not {value!r}", field=name)
    for name, kind in _KINDS.items():
        value, is_plain = given[name], kind in (str, bool)
        # A resource may also be one that is configured at launch, or a double.
        is_wrong = not isinstance(value, kind) if is_plain else isinstance(value, (str, PurePath, Mapping, list, type))
        if value is not None and is_wrong:
            raise InvalidInputError(f"{name} must be a {kind.__name__}, not a {type(value).__name__}", field=name)


def keen_resources(
    names: Names,
    keen: KeenResource | None = None,
    ledger: ExtractionLedger | None = None,
    destination: CsvDestination | None = None,
    notifications: KeenNotifications | None = None,
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
        **({names.notifications: notifications} if notifications is not None else {}),
    }
