"""The sensor `freshness`: looks whether partitions have landed in time; no run is needed for it."""

import json
from collections.abc import Sequence

import dagster as dg

from keen_pipeline.defs.checks import freshness_evaluation
from keen_pipeline.defs.resources import CsvDestination, ExtractionLedger
from keen_pipeline.collection import Collection
from keen_pipeline.pipeline.freshness import freshness

FRESHNESS_SENSOR = "freshness"
INTERVAL_SECONDS = 60


def freshness_sensor(collections: Sequence[Collection], *, running: bool = True) -> dg.SensorDefinition:
    """Every minute: the check `fresh` of each collection that has one, told to Dagster where its result is another than before."""
    watched = [collection for collection in collections if collection.fresh_within_hours is not None]

    @dg.sensor(
        name=FRESHNESS_SENSOR,
        minimum_interval_seconds=INTERVAL_SECONDS,
        default_status=dg.DefaultSensorStatus.RUNNING if running else dg.DefaultSensorStatus.STOPPED,
        description="Evaluates the check `fresh`: whether each partition has landed in time after its end.",
    )
    def fresh(context: dg.SensorEvaluationContext, ledger: ExtractionLedger, destination: CsvDestination) -> dg.SensorResult:
        told: dict[str, str] = json.loads(context.cursor or "{}")
        book, root = ledger.open(), destination.open().uri
        now = book.clock.now()
        events = []
        for collection in watched:
            found = freshness(book, collection, root, now)
            # What it says changes with each newly due partition, with what keeps it, and when it has landed.
            if told.get(collection.name) != str(found):
                events.append(freshness_evaluation(collection, found))
                told[collection.name] = str(found)
        return dg.SensorResult(asset_events=events, cursor=json.dumps(told))

    return fresh
