"""CSV assets: one per collection; a range of partitions is one run that submits, waits by list calls and lands."""

from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import datetime
from typing import Any

import dagster as dg
from dagster._core.definitions.source_asset import SYSTEM_METADATA_KEY_SOURCE_ASSET_OBSERVATION
from dagster._core.storage.tags import BACKFILL_ID_TAG
from pydantic import Field

from keen_pipeline.defs.checks import Targets, audit, check_specs, evaluation, freshness_evaluation, landing_checks
from keen_pipeline.defs.metadata import asset_key, materialization, materializing_runs
from keen_pipeline.defs.partitions import partitions_definition
from keen_pipeline.defs.resources import CsvDestination, ExtractionLedger, KeenResource, build_pipeline
from keen_pipeline.defs.run_tags import tags_identity
from keen_pipeline.defs.translator import KeenTranslator, translated
from keen_pipeline.errors import InvalidInputError
from keen_pipeline.collection import Collection, Granularity
from keen_pipeline.lifecycle import Entry
from keen_pipeline.partitions import partition_for_key
from keen_pipeline.pipeline import Counted, Landed, Pipeline, extract, partition_request
from keen_pipeline.pipeline.counts import verdict
from keen_pipeline.pipeline.freshness import freshness
from keen_pipeline.pipeline.wait import Abandoned, Progress, Retrying

# Between two lines on the progress. Each landing has its own event; a line for each would cost as much again in the event log.
PROGRESS_SECONDS = 10.0
# Dagster emits a materialization of every partition of the range for an output, beside those yielded by hand; with this
# key of its own in the output's metadata it doesn't. A test holds exactly one materialization per partition.
NO_SECOND_MATERIALIZATION = {SYSTEM_METADATA_KEY_SOURCE_ASSET_OBSERVATION: True}


class CsvAssetConfig(dg.Config):
    """How a run of CSV assets treats what has landed."""

    force: bool = Field(
        default=False, description="extract again what is landed; the new file replaces the old one when it is whole"
    )


def csv_assets(
    collections: Sequence[Collection], *, translator: KeenTranslator | None = None, partitions_per_run: int | None = None
) -> list[dg.AssetsDefinition]:
    """The assets `["keen", <collection>]`, one definition for all collections with the same partitions and `run_tags`.

    `translator` makes their specs. `partitions_per_run`: a backfill of a longer range is cut into runs of so many, None: it is
    one run. They need the resources `keen`, `ledger`, `destination` and `keen_io_manager`, which loads them downstream.
    Raises ConfigurationError where the translator gives an asset another key, InvalidInputError where two collections would
    have one key (`a b` and `a_b`).
    """
    names: dict[dg.AssetKey, str] = {}
    for collection in collections:
        other = names.setdefault(asset_key(collection.name), collection.name)
        if other != collection.name:
            raise InvalidInputError(
                f"collections {other!r} and {collection.name!r} would be one asset, as blanks are `_` in its key; "
                "put one of them into another code location",
                field="collections",
            )
    translator = translator or KeenTranslator()
    alike: Mapping[tuple[dg.TimeWindowPartitionsDefinition, str], list[Collection]] = defaultdict(list)
    for collection in collections:
        alike[partitions_definition(collection), tags_identity(collection)].append(collection)
    policy = dg.BackfillPolicy.single_run() if partitions_per_run is None else dg.BackfillPolicy.multi_run(partitions_per_run)
    return [_csv_assets_of(definition, members, translator, policy) for (definition, _), members in alike.items()]


def _csv_assets_of(
    definition: dg.TimeWindowPartitionsDefinition,
    collections: list[Collection],
    translator: KeenTranslator,
    policy: dg.BackfillPolicy,
) -> dg.AssetsDefinition:
    by_key = {asset_key(c.name): c for c in collections}
    first = collections[0]
    name = (
        f"keen_{first.granularity.value}_{first.start:%Y%m%d}_{first.timezone}".replace("/", "_")
        .replace("-", "_")
        .replace("+", "_")
    )
    if first.run_tags:
        name += f"_{tags_identity(first)}"
    grain = "" if first.granularity is Granularity.DAILY else f" ({first.granularity.value})"

    @dg.multi_asset(
        name=name,
        specs=[translated(translator, c) for c in collections],
        check_specs=check_specs(collections),
        partitions_def=definition,
        can_subset=True,
        backfill_policy=policy,
        op_tags=dict(first.run_tags),
        description=f"Extracts the selected collections over a range of partitions{grain} in one run.",
    )
    def extract_csvs(
        context: dg.AssetExecutionContext,
        config: CsvAssetConfig,
        keen: KeenResource,
        ledger: ExtractionLedger,
        destination: CsvDestination,
    ) -> Iterator[Any]:
        selected = [by_key[key] for key in sorted(context.selected_asset_keys)]
        pipeline = build_pipeline(keen, ledger, destination)
        if not selected:  # the checks alone
            yield from _audit(context, pipeline, by_key)
            return
        yield from _land_range(context, pipeline, selected, list(context.partition_keys), config.force)

    return extract_csvs


def _audit(context: dg.AssetExecutionContext, pipeline: Pipeline, by_key: Mapping[dg.AssetKey, Collection]) -> Iterator[Any]:
    """The selected checks, of the partitions the run is for; of all that have landed where it is for none."""
    names: Mapping[dg.AssetKey, list[str]] = defaultdict(list)
    for check in sorted(context.selected_asset_check_keys):
        names[check.asset_key].append(check.name)
    for_some = context.has_partition_key or context.has_partition_key_range
    keys = list(context.partition_keys) if for_some else None
    for key, wanted in names.items():
        yield from audit(context.instance, pipeline, by_key[key], wanted, keys)


def _land_range(
    context: dg.AssetExecutionContext, pipeline: Pipeline, collections: list[Collection], keys: list[str], force: bool
) -> Iterator[Any]:
    """Submit, wait and land; each partition's event goes out as it lands, also where others fail."""
    now = pipeline.clock.now()
    requests = [
        partition_request(collection, partition_for_key(collection, key, now), pipeline.destination.uri)
        for key in keys
        for collection in collections
    ]
    failed: list[str] = []
    files: dict[str, Entry] = {}
    targets = Targets(context.instance)
    tell = _progress_log(context, pipeline)
    for event in extract(pipeline, requests, force=force, run_id=context.run.run_id):
        match event:
            case Landed(entry, adopted):
                if not (adopted and _told_before(context, entry)):
                    yield materialization(entry, pipeline.destination)
                files[entry.request.target] = entry
                targets.landed(entry)
                pipeline.ledger.reported([entry.entry_id])
            case Retrying(entry, follower, reason):
                context.log.warning("%s failed, attempt %d follows: %s", entry, follower.attempt, reason)
            case Abandoned(entry):
                failed.append(entry.error or str(entry))
                pipeline.ledger.reported([entry.entry_id])
                context.log.error("%s", failed[-1])
            case Counted(entry) as counted:
                yield evaluation(targets, counted)
                if entry.is_whole is not True:
                    context.log.warning("%s", verdict(counted))
                if counted.is_final_failure:
                    failed.append(verdict(counted))
            case Progress() as progress:
                tell(progress)
    yield from _check(targets, pipeline, collections, list(files.values()))
    if failed:
        raise dg.Failure(
            description=f"{len(requests) - len(failed)} of {len(requests)} partitions landed, {len(failed)} failed: "
            + " | ".join(failed),
            metadata={"landed": len(requests) - len(failed), "failed": len(failed)},
            allow_retries=False,
        )
    for collection in collections:
        yield dg.MaterializeResult(asset_key=asset_key(collection.name), metadata=NO_SECOND_MATERIALIZATION)


def _check(
    targets: Targets, pipeline: Pipeline, collections: list[Collection], landed: list[Entry]
) -> Iterator[dg.AssetCheckEvaluation]:
    """The checks against what had landed before, and the freshness."""
    yield from landing_checks(targets, pipeline.ledger, {c.name: c for c in collections}, landed)
    for collection in collections:
        if collection.fresh_within_hours is not None:
            found = freshness(pipeline.ledger, collection, pipeline.destination.uri, pipeline.clock.now())
            yield freshness_evaluation(collection, found)


def _progress_log(context: dg.AssetExecutionContext, pipeline: Pipeline) -> Callable[[Progress], None]:
    """Logs the first and the last progress, and those between at most every PROGRESS_SECONDS."""
    logged_at: datetime | None = None

    def tell(progress: Progress) -> None:
        nonlocal logged_at
        now = pipeline.clock.now()
        if logged_at is None or progress.is_last or (now - logged_at).total_seconds() >= PROGRESS_SECONDS:
            context.log.info("%s", progress)
            logged_at = now

    return tell


def _told_before(context: dg.AssetExecutionContext, entry: Entry) -> bool:
    """Whether this landing was materialized by an earlier try of this run, or by another run of the same backfill.

    A backfill counts only events of its own runs, so one over partitions that others landed tells them once more.
    """
    mine = context.run
    backfill = mine.tags.get(BACKFILL_ID_TAG)
    for run_id in materializing_runs(context.instance, entry):
        run = context.instance.get_run_by_id(run_id)
        if run is None:
            continue  # reported by the sensor, without a run
        if (run.root_run_id or run.run_id) == (mine.root_run_id or mine.run_id):
            return True
        if backfill is not None and run.tags.get(BACKFILL_ID_TAG) == backfill:
            return True
    return False
