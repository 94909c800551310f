"""The asset checks: `complete` (the service's count), `schema_drift`, `unexpected_size` and `fresh`.

The first three belong to a partition and are evaluated where it lands; `fresh` belongs to a collection and is looked at by the
sensor `{name}_freshness`. Every result names the materialization it is about, so that automation conditions like
`all_deps_blocking_checks_passed()` know for each partition whether it was checked.
"""

from __future__ import annotations

import warnings
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, TypeAlias

import dagster as dg
from dagster._core.definitions.asset_checks.asset_check_evaluation import AssetCheckEvaluationTargetMaterializationData

from keen_pipeline.collection import CheckPolicy, Collection, CountPolicy
from keen_pipeline.defs.reports.metadata import LANDING_KEY
from keen_pipeline.errors import KeenPipelineError
from keen_pipeline.lifecycle import Entry
from keen_pipeline.pipeline import Counted, Pipeline, count_landed, verdict
from keen_pipeline.pipeline.freshness import Freshness, freshness
from keen_pipeline.pipeline.history import before_with_events, drift_between, history_span, usual_events

if TYPE_CHECKING:
    # The ledger brings SQLAlchemy, which a code location needs once it opens one.
    from keen_pipeline.ledger import SqlLedger

COMPLETE = "complete"
SCHEMA = "schema_drift"
SIZE = "unexpected_size"
FRESH = "fresh"
# Partitions whose materializations one query of the event log asks for: bounds its parameters and its answer.
_READ_TOGETHER = 200


Keys: TypeAlias = Mapping[str, dg.AssetKey]
"""The asset key of each collection."""


def check_specs(collection: Collection, spec: dg.AssetSpec) -> Iterator[dg.AssetCheckSpec]:
    """The checks of a collection's asset that its policies don't switch off; those that `fail` hold downstream assets."""
    texts = {
        COMPLETE: "The landed file holds the events that the service counts for the same timeframe and filters.",
        SCHEMA: "The file has the columns of the partition before it, and Keen the same types for them.",
        SIZE: "The number of events is near that of the partitions of the same weekday in the weeks before.",
    }
    # Also without counts: a partition that is given up fails it, and says why on the asset's page.
    complete = CountPolicy.WARN if collection.count_check is CountPolicy.OFF else collection.count_check
    policies: dict[str, CheckPolicy | CountPolicy] = {
        COMPLETE: complete,
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
                asset=spec.key,
                blocking=policy.value == CheckPolicy.FAIL.value,
                description=texts[name],
                partitions_def=spec.partitions_def,
            )
    if collection.fresh_within_hours is not None:
        yield dg.AssetCheckSpec(
            FRESH,
            asset=spec.key,
            description=f"Each partition has landed {collection.fresh_within_hours:g} hours after its end, as configured today.",
        )


def _evaluation(
    name: str,
    entry: Entry,
    key: dg.AssetKey,
    passed: bool,
    policy: CheckPolicy | CountPolicy,
    description: str,
    metadata: Mapping[str, dg.MetadataValue],
    target: AssetCheckEvaluationTargetMaterializationData | None,
) -> dg.AssetCheckEvaluation:
    """One result for one partition, of the policy's severity, about the materialization `target`."""
    fails = policy.value == CheckPolicy.FAIL.value
    return dg.AssetCheckEvaluation(
        asset_key=key,
        check_name=name,
        passed=passed,
        severity=dg.AssetCheckSeverity.ERROR if fails else dg.AssetCheckSeverity.WARN,
        blocking=fails,
        description=description,
        metadata={**metadata, LANDING_KEY: dg.MetadataValue.text(entry.token)},
        partition=entry.request.partition_key,
        target_materialization_data=target,
    )


class Targets:
    """The newest materialization of each landed partition, which is what check results are about. Many are read with one query."""

    def __init__(self, instance: dg.DagsterInstance, keys: Keys, landed: Iterable[Entry] = ()) -> None:
        self._instance = instance
        self.keys = keys
        self._known: dict[tuple[dg.AssetKey, str], AssetCheckEvaluationTargetMaterializationData | None] = {}
        self._unread: set[tuple[dg.AssetKey, str]] = set()
        for entry in landed:
            self.landed(entry)

    def landed(self, entry: Entry) -> None:
        """The partition of `entry` has a new materialization, read together with others when the first of them is needed."""
        self._unread.add(self._place(entry))

    def of(self, entry: Entry) -> AssetCheckEvaluationTargetMaterializationData | None:
        """The newest materialization of the entry's partition, None where it has none."""
        place = self._place(entry)
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

    def _place(self, entry: Entry) -> tuple[dg.AssetKey, str]:
        return self.keys[entry.request.collection], entry.request.partition_key


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
    key = targets.keys[entry.request.collection]
    return _evaluation(COMPLETE, entry, key, entry.is_whole is True, policy, verdict(counted), metadata, targets.of(entry))


def given_up(entry: Entry, key: dg.AssetKey) -> dg.AssetCheckEvaluation:
    """The failed check `complete` of a partition that no attempt is left for, with the reason and what mends it."""
    request = entry.request
    description = f"{entry.error or 'unknown reason'}\n\nOnce the cause is gone: materialize it, or "
    description += f"`keen-pipeline retry {request.collection!r} {request.partition_key}`"
    metadata = {"keen/attempts": dg.MetadataValue.text(str(entry.attempt))}
    return _evaluation(COMPLETE, entry, key, False, CountPolicy.FAIL, description, metadata, None)


def landing_checks(
    targets: Targets, ledger: SqlLedger, collections: Mapping[str, Collection], landed: Sequence[Entry]
) -> Iterator[dg.AssetCheckEvaluation]:
    """`schema_drift` and `unexpected_size` of landed partitions, in the order of time, against what the ledger has before them.

    Entries of other collections are left out.
    """
    by_collection: dict[str, list[Entry]] = defaultdict(list)
    for entry in landed:
        if entry.request.collection in collections and entry.is_partition:
            by_collection[entry.request.collection].append(entry)
    for name, entries in sorted(by_collection.items()):
        collection = collections[name]
        entries.sort(key=lambda e: e.request.timeframe.start)
        first, last = entries[0].request.timeframe, entries[-1].request.timeframe
        history = ledger.landed_entries(name, start=first.start - history_span(collection), end=last.end)
        for entry in entries:
            target = targets.of(entry)
            key = targets.keys[name]
            if collection.schema_check is not CheckPolicy.OFF:
                yield _drift(collection, entry, key, history, target)
            if collection.size_check is not CheckPolicy.OFF:
                yield _size(collection, entry, key, history, target)


def _drift(
    collection: Collection,
    entry: Entry,
    key: dg.AssetKey,
    history: Sequence[Entry],
    target: AssetCheckEvaluationTargetMaterializationData | None,
) -> dg.AssetCheckEvaluation:
    before = before_with_events(entry, history)
    assert entry.landing is not None
    metadata: dict[str, dg.MetadataValue] = {"keen/columns": dg.MetadataValue.int(len(entry.landing.columns))}
    if before is None or before.landing is None or not entry.landing.records:
        why = "it has no events" if not entry.landing.records else "no partition with events has landed before it"
        return _evaluation(SCHEMA, entry, key, True, collection.schema_check, f"not compared: {why}", metadata, target)
    drift = drift_between(before.landing, entry.landing)
    metadata["keen/compared_with"] = dg.MetadataValue.text(before.request.partition_key)
    for name, columns in (("keen/added", drift.added), ("keen/removed", drift.removed)):
        if columns:
            metadata[name] = dg.MetadataValue.json(list(columns))
    if drift.retyped:
        metadata["keen/retyped"] = dg.MetadataValue.json({name: list(words) for name, words in drift.retyped.items()})
    description = f"against {before.request.partition_key}: {drift}"
    return _evaluation(SCHEMA, entry, key, not drift, collection.schema_check, description, metadata, target)


def _size(
    collection: Collection,
    entry: Entry,
    key: dg.AssetKey,
    history: Sequence[Entry],
    target: AssetCheckEvaluationTargetMaterializationData | None,
) -> dg.AssetCheckEvaluation:
    assert entry.landing is not None
    events, usual = entry.landing.records, usual_events(entry, history, collection)
    metadata: dict[str, dg.MetadataValue] = {"keen/landed_events": dg.MetadataValue.int(events)}
    if usual is None:
        return _evaluation(
            SIZE, entry, key, True, collection.size_check, "not compared: too few weeks have landed", metadata, target
        )
    metadata["keen/usual_events"] = dg.MetadataValue.float(usual.events)
    metadata["keen/usual_within"] = dg.MetadataValue.float(round(usual.tolerance, 1))
    metadata["keen/compared_partitions"] = dg.MetadataValue.int(usual.compared)
    description = f"{events} events; usual are {usual.events:g}, give or take {usual.tolerance:.0f}"
    return _evaluation(SIZE, entry, key, usual.holds(events), collection.size_check, description, metadata, target)


def freshness_evaluation(key: dg.AssetKey, found: Freshness) -> dg.AssetCheckEvaluation:
    """The result of `fresh` for a collection."""
    late = [partition.key for partition, _ in found.late]
    return dg.AssetCheckEvaluation(
        asset_key=key,
        check_name=FRESH,
        passed=found.is_fresh,
        severity=dg.AssetCheckSeverity.ERROR if late else dg.AssetCheckSeverity.WARN,
        description=str(found),
        metadata={
            "keen/late_partitions": dg.MetadataValue.json(late),
            "keen/outdated_partitions": dg.MetadataValue.json(list(found.outdated)),
        },
    )


def audit(
    targets: Targets,
    pipeline: Pipeline,
    collection: Collection,
    names: Sequence[str],
    partition_keys: Sequence[str] | None,
) -> Iterator[dg.AssetCheckEvaluation]:
    """The checks `names` of what has landed (of `partition_keys`, or of all), without a landing; nothing is extracted again."""
    landed = [e for e in pipeline.ledger.landed_entries(collection.name) if e.is_partition]
    if partition_keys is not None:
        landed = [e for e in landed if e.request.partition_key in set(partition_keys)]
    for entry in landed:
        targets.landed(entry)
    if COMPLETE in names and collection.count_check is not CountPolicy.OFF:
        for entries, answer in count_landed(pipeline, landed):
            for entry in entries if isinstance(answer, KeenPipelineError) else answer:
                problem = answer if isinstance(answer, KeenPipelineError) else None
                yield evaluation(targets, Counted(entry, problem=problem), audits=True)
    for result in landing_checks(targets, pipeline.ledger, {collection.name: collection}, landed):
        if result.check_name in names:
            yield result
    if FRESH in names:
        found = freshness(pipeline.ledger, collection, pipeline.clock.now(), mask_key=pipeline.mask_key)
        yield freshness_evaluation(targets.keys[collection.name], found)
