"""The asset checks: `complete` (the service's count), `schema_drift`, `unexpected_size` and `fresh`.

The first three belong to a partition and are evaluated where it lands; `fresh` belongs to a collection and is looked at by the
sensor of `keen_pipeline.defs.freshness`. Every result names the materialization it is about, so that automation conditions like
`all_deps_blocking_checks_passed()` know for each partition whether it was checked.
"""

import warnings
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence

import dagster as dg
from dagster._core.definitions.asset_checks.asset_check_evaluation import AssetCheckEvaluationTargetMaterializationData

from keen_pipeline.defs.metadata import ENTRY_KEY, asset_key
from keen_pipeline.defs.partitions import partitions_definition
from keen_pipeline.collection import CheckPolicy, Collection, CountPolicy
from keen_pipeline.extraction import Status
from keen_pipeline.lifecycle import Entry
from keen_pipeline.pipeline import Counted, Pipeline, recount
from keen_pipeline.pipeline.counts import verdict
from keen_pipeline.pipeline.freshness import Freshness, freshness
from keen_pipeline.pipeline.history import before_with_events, drift_between, history_span, is_partition, usual_events
from keen_pipeline.ports import Ledger

COMPLETE = "complete"
SCHEMA = "schema_drift"
SIZE = "unexpected_size"
FRESH = "fresh"
# Partitions whose materializations one query of the event log asks for: bounds its parameters and its answer.
_READ_TOGETHER = 200


def check_specs(collections: Sequence[Collection]) -> list[dg.AssetCheckSpec]:
    """The checks of each collection that its policies don't switch off; those whose policy is `fail` hold downstream assets."""
    return [spec for collection in collections for spec in _specs(collection)]


def _specs(collection: Collection) -> Iterator[dg.AssetCheckSpec]:
    texts = {
        COMPLETE: "The landed file holds the events that the service counts for the same timeframe and filters.",
        SCHEMA: "The file has the columns of the partition before it, and Keen the same types for them.",
        SIZE: "The number of events is near that of the partitions of the same weekday in the weeks before.",
    }
    policies: dict[str, CheckPolicy | CountPolicy] = {
        COMPLETE: collection.count_check,
        SCHEMA: collection.schema_check,
        SIZE: collection.size_check,
    }
    for name, policy in policies.items():
        if policy.value == CheckPolicy.OFF.value:
            continue
        with warnings.catch_warnings():
            # Results by partition are in preview in Dagster; without them one good partition would let all bad ones through.
            warnings.simplefilter("ignore")
            yield dg.AssetCheckSpec(
                name,
                asset=asset_key(collection.name),
                blocking=policy.value == CheckPolicy.FAIL.value,
                description=texts[name],
                partitions_def=partitions_definition(collection),
            )
    if collection.fresh_within_hours is not None:
        yield dg.AssetCheckSpec(
            FRESH,
            asset=asset_key(collection.name),
            description=f"Each partition has landed {collection.fresh_within_hours:g} hours after its end.",
        )


def _evaluation(
    name: str,
    entry: Entry,
    passed: bool,
    policy: CheckPolicy | CountPolicy,
    description: str,
    metadata: Mapping[str, dg.MetadataValue],
    target: AssetCheckEvaluationTargetMaterializationData | None,
) -> dg.AssetCheckEvaluation:
    """One result for one partition, of the policy's severity, about the materialization `target`."""
    fails = policy.value == CheckPolicy.FAIL.value
    key, partition = asset_key(entry.request.collection), entry.request.partition_key
    return dg.AssetCheckEvaluation(
        asset_key=key,
        check_name=name,
        passed=passed,
        severity=dg.AssetCheckSeverity.ERROR if fails else dg.AssetCheckSeverity.WARN,
        blocking=fails,
        description=description,
        metadata={**metadata, ENTRY_KEY: dg.MetadataValue.int(entry.entry_id)},
        partition=partition,
        target_materialization_data=target,
    )


class Targets:
    """The newest materialization of each landed partition, which is what check results are about. Many are read with one query."""

    def __init__(self, instance: dg.DagsterInstance, landed: Iterable[Entry] = ()) -> None:
        self._instance = instance
        self._known: dict[tuple[dg.AssetKey, str], AssetCheckEvaluationTargetMaterializationData | None] = {}
        self._unread: set[tuple[dg.AssetKey, str]] = set()
        for entry in landed:
            self.landed(entry)

    def landed(self, entry: Entry) -> None:
        """The partition of `entry` has a new materialization, read together with others when the first of them is needed."""
        self._unread.add(_place(entry))

    def of(self, entry: Entry) -> AssetCheckEvaluationTargetMaterializationData | None:
        """The newest materialization of the entry's partition, None where it has none."""
        place = _place(entry)
        if place in self._unread or place not in self._known:
            self._unread.add(place)
            self._read()
        return self._known[place]

    def _read(self) -> None:
        self._known.update(dict.fromkeys(self._unread))
        by_asset: dict[dg.AssetKey, list[str]] = defaultdict(list)
        for key, partition in sorted(self._unread):
            by_asset[key].append(partition)
        self._unread.clear()
        for key, partitions in by_asset.items():
            for start in range(0, len(partitions), _READ_TOGETHER):
                self._read_some(key, partitions[start : start + _READ_TOGETHER])

    def _read_some(self, key: dg.AssetKey, partitions: list[str]) -> None:
        wanted, cursor = set(partitions), None
        while wanted:
            told = self._instance.fetch_materializations(
                dg.AssetRecordsFilter(asset_key=key, asset_partitions=sorted(wanted)), limit=_READ_TOGETHER, cursor=cursor
            )
            for record in told.records:  # newest first
                if record.partition_key in wanted:
                    wanted.discard(record.partition_key)
                    self._known[key, record.partition_key] = AssetCheckEvaluationTargetMaterializationData(
                        storage_id=record.storage_id, run_id=record.run_id, timestamp=record.timestamp
                    )
            if not told.has_more:
                return
            cursor = told.cursor


def _place(entry: Entry) -> tuple[dg.AssetKey, str]:
    return asset_key(entry.request.collection), entry.request.partition_key


def evaluation(targets: Targets, counted: Counted, *, audits: bool = False) -> dg.AssetCheckEvaluation:
    """The result of `complete` for one partition, with both numbers. It is a warning while another attempt follows, and where it
    only `audits`: most likely events came later, and the nightly job has the last word on the days of its lookback."""
    entry = counted.entry
    assert entry.landing is not None
    metadata: dict[str, dg.MetadataValue] = {"keen/landed_events": dg.MetadataValue.int(entry.landing.records)}
    if entry.counted is not None:
        metadata["keen/counted_events"] = dg.MetadataValue.int(entry.counted)
    if entry.expected is not None:
        metadata["keen/counted_before"] = dg.MetadataValue.int(entry.expected)
    policy = CountPolicy.FAIL if counted.is_final_failure and not audits else CountPolicy.WARN
    return _evaluation(COMPLETE, entry, entry.is_whole is True, policy, verdict(counted), metadata, targets.of(entry))


def landing_checks(
    targets: Targets, ledger: Ledger, collections: Mapping[str, Collection], landed: Sequence[Entry]
) -> Iterator[dg.AssetCheckEvaluation]:
    """`schema_drift` and `unexpected_size` of landed partitions, in the order of time, against what the ledger has before them.

    Entries of other collections are left out.
    """
    by_collection: dict[str, list[Entry]] = defaultdict(list)
    for entry in landed:
        if entry.request.collection in collections and is_partition(entry):
            by_collection[entry.request.collection].append(entry)
    for name, entries in sorted(by_collection.items()):
        collection = collections[name]
        entries.sort(key=lambda e: e.request.timeframe.start)
        first, last = entries[0].request.timeframe, entries[-1].request.timeframe
        history = ledger.landed_between(name, first.start - history_span(collection), last.end)
        for entry in entries:
            target = targets.of(entry)
            if collection.schema_check is not CheckPolicy.OFF:
                yield _drift(collection, entry, history, target)
            if collection.size_check is not CheckPolicy.OFF:
                yield _size(collection, entry, history, target)


def _drift(
    collection: Collection, entry: Entry, history: Sequence[Entry], target: AssetCheckEvaluationTargetMaterializationData | None
) -> dg.AssetCheckEvaluation:
    before = before_with_events(entry, history)
    assert entry.landing is not None
    metadata: dict[str, dg.MetadataValue] = {"keen/columns": dg.MetadataValue.int(len(entry.landing.columns))}
    if before is None or before.landing is None or not entry.landing.records:
        why = "it has no events" if not entry.landing.records else "no partition with events has landed before it"
        return _evaluation(SCHEMA, entry, True, collection.schema_check, f"not compared: {why}", metadata, target)
    drift = drift_between(before.landing, entry.landing)
    metadata["keen/compared_with"] = dg.MetadataValue.text(before.request.partition_key)
    for name, columns in (("keen/added", drift.added), ("keen/removed", drift.removed)):
        if columns:
            metadata[name] = dg.MetadataValue.json(list(columns))
    if drift.retyped:
        metadata["keen/retyped"] = dg.MetadataValue.json({name: list(words) for name, words in drift.retyped.items()})
    description = f"against {before.request.partition_key}: {drift}"
    return _evaluation(SCHEMA, entry, not drift, collection.schema_check, description, metadata, target)


def _size(
    collection: Collection, entry: Entry, history: Sequence[Entry], target: AssetCheckEvaluationTargetMaterializationData | None
) -> dg.AssetCheckEvaluation:
    assert entry.landing is not None
    events, usual = entry.landing.records, usual_events(entry, history, collection)
    metadata: dict[str, dg.MetadataValue] = {"keen/landed_events": dg.MetadataValue.int(events)}
    if usual is None:
        return _evaluation(SIZE, entry, True, collection.size_check, "not compared: too few weeks have landed", metadata, target)
    metadata["keen/usual_events"] = dg.MetadataValue.float(usual.events)
    metadata["keen/usual_within"] = dg.MetadataValue.float(round(usual.tolerance, 1))
    metadata["keen/compared_partitions"] = dg.MetadataValue.int(usual.compared)
    description = f"{events} events; usual are {usual.events:g}, give or take {usual.tolerance:.0f}"
    return _evaluation(SIZE, entry, usual.holds(events), collection.size_check, description, metadata, target)


def freshness_evaluation(collection: Collection, found: Freshness) -> dg.AssetCheckEvaluation:
    """The result of `fresh` for a collection."""
    return dg.AssetCheckEvaluation(
        asset_key=asset_key(collection.name),
        check_name=FRESH,
        passed=not found.late,
        severity=dg.AssetCheckSeverity.ERROR,
        description=str(found),
        metadata={"keen/late_partitions": dg.MetadataValue.json([partition.key for partition, _ in found.late])},
    )


def audit(
    instance: dg.DagsterInstance,
    pipeline: Pipeline,
    collection: Collection,
    names: Sequence[str],
    partition_keys: Sequence[str] | None,
) -> Iterator[dg.AssetCheckEvaluation]:
    """The checks `names` of what has landed (of `partition_keys`, or of all), without a landing; nothing is extracted again."""
    landed = [e for e in pipeline.ledger.landed_entries(collection.name) if is_partition(e)]
    if partition_keys is not None:
        landed = [e for e in landed if e.request.partition_key in set(partition_keys)]
    targets = Targets(instance, landed)
    if COMPLETE in names:
        for entry in recount(pipeline, landed):
            if entry.status is Status.LANDED:
                yield evaluation(targets, Counted(entry), audits=True)
    for result in landing_checks(targets, pipeline.ledger, {collection.name: collection}, landed):
        if result.check_name in names:
            yield result
    if FRESH in names:
        yield freshness_evaluation(
            collection, freshness(pipeline.ledger, collection, pipeline.destination.uri, pipeline.clock.now())
        )
