"""The asset checks: `complete` (the service's count), `schema_drift`, `unexpected_size` and `fresh`.

The first three belong to a partition and are evaluated when it lands; `fresh` belongs to a collection and is looked at by the
sensor `{name}_freshness`. Every result names the materialization it is about, so that automation conditions like
`all_deps_blocking_checks_passed()` know for each partition whether it was checked.
"""

from __future__ import annotations

import warnings
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import partial
from itertools import islice
from typing import TYPE_CHECKING, Any, TypeAlias

import dagster as dg
from dagster._core.definitions.asset_checks.asset_check_evaluation import AssetCheckEvaluationTargetMaterializationData

from keen_pipeline.collection import CheckPolicy, Collection, CountPolicy
from keen_pipeline.defs.reports.metadata import LANDING_KEY
from keen_pipeline.errors import KeenPipelineError
from keen_pipeline.lifecycle import Entry
from keen_pipeline.pipeline import Counted, Pipeline, count_landed, verdict
from keen_pipeline.pipeline.files.history import (
    before_with_events,
    drift_between,
    history_span,
    lost_events,
    unmet_by_mask,
    usual_events,
)
from keen_pipeline.pipeline.freshness import Freshness, freshness
from keen_pipeline.pipeline.told import by_cause, shortened

if TYPE_CHECKING:
    # The ledger brings SQLAlchemy, which a code location needs once it opens one.
    from keen_pipeline.ledger import SqlLedger

COMPLETE = "complete"
SCHEMA = "schema_drift"
SIZE = "unexpected_size"
FRESH = "fresh"
# Partitions or columns that one result lists; its description says how many there are, or begins with them.
_MOST_LISTED = 1000
# Partitions whose materializations one query of the event log asks for: bounds its parameters and its answer.
_READ_TOGETHER = 200


Keys: TypeAlias = Mapping[str, dg.AssetKey]
"""The asset key of each collection."""


def check_specs(collection: Collection, spec: dg.AssetSpec) -> Iterator[dg.AssetCheckSpec]:
    """The checks of a collection's asset that its policies don't switch off; those that `fail` hold downstream assets."""
    # Also without counts: a partition that is given up fails it, and says why on the asset's page.
    complete = CountPolicy.WARN if collection.count_check is CountPolicy.OFF else collection.count_check
    checks: dict[str, tuple[CheckPolicy | CountPolicy, str]] = {
        COMPLETE: (complete, "The landed file holds the events that the service counts for the same timeframe and filters."),
        SCHEMA: (collection.schema_check, "The file has the columns of the partition before it, and Keen the same types for them."),
        SIZE: (
            collection.size_check,
            "The number of events is near that of the partitions of the same weekday in the weeks before.",
        ),
    }
    for name, (policy, text) in checks.items():
        if policy.value == CheckPolicy.OFF.value:
            continue
        with warnings.catch_warnings():
            # Results by partition are in preview in Dagster; without them one good partition would let all bad ones through.
            warnings.simplefilter("ignore")
            yield dg.AssetCheckSpec(
                name,
                asset=spec.key,
                blocking=policy.value == CheckPolicy.FAIL.value,
                description=text,
                partitions_def=spec.partitions_def,
            )
    if collection.fresh_within_hours is not None:
        yield dg.AssetCheckSpec(
            FRESH,
            asset=spec.key,
            description=f"Each partition has landed {collection.fresh_within_hours:g} hours after its end, as configured today.",
        )


def _evaluation(
    targets: Targets, name: str, entry: Entry, policy: CheckPolicy | CountPolicy, passed: bool, said: str, **metadata: Any
) -> dg.AssetCheckEvaluation:
    """One result for one partition, of the policy's severity, about the partition's newest materialization; without None."""
    fails = policy.value == CheckPolicy.FAIL.value
    known = {f"keen/{name}": value for name, value in metadata.items() if value is not None}
    return dg.AssetCheckEvaluation(
        asset_key=targets.keys[entry.request.collection],
        check_name=name,
        passed=passed,
        severity=dg.AssetCheckSeverity.ERROR if fails else dg.AssetCheckSeverity.WARN,
        blocking=fails,
        description=said,
        metadata={**known, LANDING_KEY: entry.token},
        partition=entry.request.partition_key,
        target_materialization_data=targets.of(entry) if entry.landing is not None else None,
    )


class Targets:
    """The newest materialization of each landed partition, which is what check results are about. Many are read with one query."""

    def __init__(self, instance: dg.DagsterInstance, keys: Keys) -> None:
        self._instance = instance
        self.keys = keys
        self._known: dict[tuple[dg.AssetKey, str], AssetCheckEvaluationTargetMaterializationData | None] = {}
        self._unread: set[tuple[dg.AssetKey, str]] = set()

    def landed(self, entry: Entry) -> None:
        """The partition of `entry` has a new materialization, read together with others when the first of them is needed."""
        self._unread.add(self._place(entry))

    def of(self, entry: Entry) -> AssetCheckEvaluationTargetMaterializationData | None:
        """The newest materialization of the entry's partition, None if it has none."""
        place = self._place(entry)
        if place not in self._known:
            self._unread.add(place)
        if place in self._unread:
            self._known.update(dict.fromkeys(self._unread))
            for key, partitions in _together(self._unread):
                self._read(key, partitions)
            self._unread.clear()
        return self._known[place]

    def overtaken(self, entries: Sequence[Entry]) -> list[int]:
        """The entries, by id, whose newest result of `complete` is not about the newest materialization of their partition."""
        found: list[int] = []
        ids = {self._place(entry): entry.entry_id for entry in entries if entry.is_partition}
        for key, partitions in _together(ids):
            results = self._instance.event_log_storage.get_asset_check_partition_info(
                [dg.AssetCheckKey(key, COMPLETE)], partition_keys=partitions
            )
            found += [ids[key, one.partition_key] for one in results if one.partition_key is not None and not one.is_current]
        return found

    def _read(self, key: dg.AssetKey, partitions: list[str]) -> None:
        newest = self._instance.get_latest_storage_id_by_partition(key, dg.DagsterEventType.ASSET_MATERIALIZATION, set(partitions))
        wanted = dg.AssetRecordsFilter(asset_key=key, storage_ids=list(newest.values()))
        for record in self._instance.fetch_materializations(wanted, limit=len(newest)).records if newest else ():
            assert record.partition_key is not None
            self._known[key, record.partition_key] = AssetCheckEvaluationTargetMaterializationData(
                storage_id=record.storage_id, run_id=record.run_id, timestamp=record.timestamp
            )

    def _place(self, entry: Entry) -> tuple[dg.AssetKey, str]:
        return self.keys[entry.request.collection], entry.request.partition_key


def _together(places: Iterable[tuple[dg.AssetKey, str]]) -> Iterator[tuple[dg.AssetKey, list[str]]]:
    """Each asset with its partitions, as many at once as one query asks for."""
    by_asset: dict[dg.AssetKey, list[str]] = defaultdict(list)
    for key, partition in sorted(places):
        by_asset[key].append(partition)
    for key, partitions in by_asset.items():
        for start in range(0, len(partitions), _READ_TOGETHER):
            yield key, partitions[start : start + _READ_TOGETHER]


def evaluation(targets: Targets, counted: Counted, *, audits: bool = False) -> dg.AssetCheckEvaluation:
    """The result of `complete` for one partition, with both numbers. It is a warning while another attempt follows, and if it
    only `audits`: most likely events came later, and the nightly job has the last word on the days of its lookback."""
    entry = counted.entry
    assert entry.landing is not None
    return _evaluation(
        targets,
        COMPLETE,
        entry,
        CountPolicy.FAIL if counted.is_final_failure and not audits else CountPolicy.WARN,
        entry.is_whole is True,
        verdict(counted),
        landed_events=entry.landing.records,
        counted_events=entry.counted,
        counted_before=entry.expected,
    )


def given_up(targets: Targets, entry: Entry, name: str) -> dg.AssetCheckEvaluation:
    """The failed check `complete` of a partition that no attempt is left for, with the reason and what fixes it.

    `name`: of its definitions.
    """
    (group,) = by_cause([(entry.request.collection, entry.request.partition_key, entry.reason, "retry")], name)
    said = f"{group.reason}\n\nOnce the cause is gone, materialize it again. On the command line:\n\n    {group.command}"
    return _evaluation(targets, COMPLETE, entry, CountPolicy.FAIL, False, said, attempts=str(entry.attempt))


def landing_checks(
    targets: Targets, ledger: SqlLedger, collections: Mapping[str, Collection], landed: Sequence[Entry]
) -> Iterator[dg.AssetCheckEvaluation]:
    """`schema_drift` and `unexpected_size` of landed partitions, in the order of time, against what the ledger has before them.

    And `complete` when nothing is counted, so that it isn't red any more once what was given up has landed. Entries of other
    collections are left out.
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
        replaced = ledger.replaced(name, [entry.request.partition_key for entry in entries])
        for entry in entries:
            if collection.count_check is CountPolicy.OFF:
                yield _evaluation(targets, COMPLETE, entry, CheckPolicy.WARN, True, "not compared: count_check is off")
            if collection.schema_check is not CheckPolicy.OFF:
                yield _drift(targets, collection, entry, history)
            if collection.size_check is not CheckPolicy.OFF:
                yield _size(targets, collection, entry, history, replaced.get(entry.request.partition_key))


def _drift(targets: Targets, collection: Collection, entry: Entry, history: Sequence[Entry]) -> dg.AssetCheckEvaluation:
    before, landing = before_with_events(entry, history), entry.landing
    assert landing is not None
    tell = partial(_evaluation, targets, SCHEMA, entry, collection.schema_check, columns=len(landing.columns))
    unmet = unmet_by_mask(entry, history)
    if unmet:
        said = f"the mask names {', '.join(unmet)}, which no file has so far: masked is what it names as the columns are called"
        return tell(passed=False, said=said)
    if before is None or before.landing is None or not landing.records:
        why = "it has no events" if not landing.records else "no partition with events has landed before it"
        return tell(passed=True, said=f"not compared: {why}")
    drift = drift_between(before.landing, landing)
    compared_with = before.request.partition_key
    return tell(
        passed=not drift,
        said=shortened(f"against {compared_with}: {drift}"),
        compared_with=compared_with,
        added=list(drift.added[:_MOST_LISTED]) or None,
        removed=list(drift.removed[:_MOST_LISTED]) or None,
        retyped={name: list(words) for name, words in islice((drift.retyped or {}).items(), _MOST_LISTED)} or None,
    )


def _size(
    targets: Targets, collection: Collection, entry: Entry, history: Sequence[Entry], before: Entry | None
) -> dg.AssetCheckEvaluation:
    assert entry.landing is not None
    events, usual, lost = entry.landing.records, usual_events(entry, history, collection), lost_events(entry, before)
    tell = partial(_evaluation, targets, SIZE, entry, collection.size_check, landed_events=events)
    if lost is not None or usual is None:
        return tell(passed=lost is None, said=lost or "not compared: too few weeks have landed")
    return tell(
        passed=usual.holds(events),
        said=f"{events} events; usual are {usual.events:g}, give or take {usual.tolerance:.0f}",
        usual_events=usual.events,
        usual_within=round(usual.tolerance, 1),
        compared_partitions=usual.compared,
    )


def freshness_evaluation(key: dg.AssetKey, found: Freshness) -> dg.AssetCheckEvaluation:
    """The result of `fresh` for a collection."""
    late = [partition.key for partition, _ in found.late[:_MOST_LISTED]]
    return dg.AssetCheckEvaluation(
        asset_key=key,
        check_name=FRESH,
        passed=found.is_fresh,
        severity=dg.AssetCheckSeverity.ERROR if late else dg.AssetCheckSeverity.WARN,
        description=str(found),
        metadata={"keen/late_partitions": late, "keen/outdated_partitions": list(found.outdated[:_MOST_LISTED])},
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
