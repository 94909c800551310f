"""The asset check `complete`: what landed against what the service counts."""

from collections.abc import Iterator, Sequence

import dagster as dg

from keen_pipeline.defs.metadata import ENTRY_KEY, asset_key
from keen_pipeline.extraction import Collection, CountPolicy, Status
from keen_pipeline.lifecycle import Entry
from keen_pipeline.pipeline import Counted, Pipeline, recount
from keen_pipeline.pipeline.counts import verdict

COMPLETE = "complete"


def check_specs(collections: Sequence[Collection]) -> list[dg.AssetCheckSpec]:
    """One check for each collection that is counted; where its policy is `fail`, the check blocks downstream assets."""
    return [
        dg.AssetCheckSpec(
            COMPLETE,
            asset=asset_key(collection.name),
            blocking=collection.count_check is CountPolicy.FAIL,
            description="The landed file holds the events that the service counts for the same timeframe and filters.",
        )
        for collection in collections
        if collection.count_check is not CountPolicy.OFF
    ]


def evaluation(counted: Counted) -> dg.AssetCheckEvaluation:
    """The check's result for one partition, with both numbers. It is a warning while another attempt follows."""
    entry = counted.entry
    assert entry.landing is not None
    metadata: dict[str, dg.MetadataValue] = {
        "keen/landed_events": dg.MetadataValue.int(entry.landing.records),
        ENTRY_KEY: dg.MetadataValue.int(entry.entry_id),
    }
    if entry.counted is not None:
        metadata["keen/counted_events"] = dg.MetadataValue.int(entry.counted)
    if entry.expected is not None:
        metadata["keen/counted_before"] = dg.MetadataValue.int(entry.expected)
    return dg.AssetCheckEvaluation(
        asset_key=asset_key(entry.request.collection),
        check_name=COMPLETE,
        passed=entry.is_whole is True,
        severity=dg.AssetCheckSeverity.ERROR if counted.is_final_failure else dg.AssetCheckSeverity.WARN,
        description=verdict(counted),
        metadata=metadata,
        partition=entry.request.partition_key,
    )


def audit(pipeline: Pipeline, collection: str) -> dg.AssetCheckResult:
    """All landed partitions of a collection against the service's counts; nothing is extracted again."""
    landed: Sequence[Entry] = pipeline.ledger.landed_entries(collection)
    wrong = list(_wrong(recount(pipeline, landed)))
    return dg.AssetCheckResult(
        asset_key=asset_key(collection),
        check_name=COMPLETE,
        passed=not wrong,
        # Most likely events that came later; the nightly job has the last word on the days of its lookback.
        severity=dg.AssetCheckSeverity.WARN,
        description=f"{len(landed)} partitions counted; " + ("all are whole" if not wrong else "; ".join(wrong[:20])),
        metadata={"keen/partitions": len(landed), "keen/not_whole": len(wrong)},
    )


def _wrong(entries: Sequence[Entry]) -> Iterator[str]:
    for entry in entries:
        if entry.status is Status.LANDED and entry.is_whole is False:
            yield verdict(Counted(entry))
