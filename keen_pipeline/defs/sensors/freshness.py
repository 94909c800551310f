"""The sensor `{name}_freshness`: looks whether partitions have landed in time; no run is needed for it."""

import hashlib
import json
import time
from collections.abc import Sequence

import dagster as dg

from keen_pipeline.collection import Collection
from keen_pipeline.defs.names import Names, sensor_status
from keen_pipeline.defs.reports.checks import Keys, freshness_evaluation
from keen_pipeline.defs.resources import ledger_of
from keen_pipeline.pipeline.freshness import freshness
from keen_pipeline.settings import Settings

INTERVAL_SECONDS = 60
# No collection is begun after so many: many collections, or years of hours, may take some minutes, but never more of a processor.
LOOKING_SECONDS = 5.0


def freshness_sensors(names: Names, collections: Sequence[Collection], keys: Keys, running: bool) -> list[dg.SensorDefinition]:
    """Every minute: the check `fresh` of each collection that has one, told to Dagster if its result is another than before."""
    watched = [collection for collection in collections if collection.fresh_within_hours is not None]
    if not watched:
        return []

    @dg.sensor(
        name=names.freshness_sensor,
        minimum_interval_seconds=INTERVAL_SECONDS,
        required_resource_keys=names.resources,
        default_status=sensor_status(running),
        description="Evaluates the check `fresh`: whether each partition has landed in time after its end.",
    )
    def fresh(context: dg.SensorEvaluationContext) -> dg.SensorResult:
        before: dict[str, str] = json.loads(context.cursor or "{}")
        ledger, mask_key = ledger_of(context.resources, names.name), Settings.from_environment().mask_key
        now, begun, events = ledger.clock.now(), time.monotonic(), []
        known = {collection.name for collection in watched}
        # In the order in which they were looked at: what one tick has no time for comes first at the next.
        told = {name: said for name, said in before.items() if name in known}
        order = list(told)
        for collection in sorted(watched, key=lambda c: order.index(c.name) if c.name in told else -1):
            state = freshness(ledger, collection, now, mask_key=mask_key)
            # What it says changes with each newly due partition, with what keeps it, and when it has landed. Dagster keeps a cursor
            # with each tick, a sentence may name ten partitions with their errors, and there may be hundreds of collections.
            said = hashlib.sha256(str(state).encode()).hexdigest()[:16]
            if told.pop(collection.name, None) != said:
                events.append(freshness_evaluation(keys[collection.name], state))
            told[collection.name] = said
            if time.monotonic() - begun > LOOKING_SECONDS:
                break
        return dg.SensorResult(asset_events=events, cursor=json.dumps(told))

    return [fresh]
