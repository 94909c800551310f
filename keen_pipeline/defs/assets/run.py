"""What a step of CSV assets does: submit, wait by list calls, land, and tell Dagster of each partition as it lands."""

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import datetime, timedelta
from typing import Any

import dagster as dg
from dagster._core.storage.tags import BACKFILL_ID_TAG
from pydantic import Field

from keen_pipeline.collection import Collection
from keen_pipeline.defs.assets.one_by_one import NO_SECOND_MATERIALIZATION
from keen_pipeline.defs.names import DEFINITIONS_TAG
from keen_pipeline.defs.partitions import is_before_start
from keen_pipeline.defs.reports.checks import Targets, audit, freshness_evaluation
from keen_pipeline.defs.reports.metadata import materializing_runs
from keen_pipeline.defs.reports.reporter import NOT_COUNTED, Reporter
from keen_pipeline.defs.resources import pipeline_of
from keen_pipeline.defs.sensors.status import DISPATCH_SECONDS
from keen_pipeline.defs.translator import collection_of
from keen_pipeline.errors import ConfigurationError, KeenPipelineError
from keen_pipeline.extraction import ExtractionRequest
from keen_pipeline.lifecycle import Entry
from keen_pipeline.partitions import EVER, partition_for_key
from keen_pipeline.pipeline import (
    Counted,
    Ended,
    Hindered,
    Landed,
    Pipeline,
    Progress,
    Retrying,
    Stopped,
    extract,
    partition_request,
    post_due,
    submit,
)
from keen_pipeline.pipeline.extractions.wait import Event
from keen_pipeline.pipeline.freshness import freshness
from keen_pipeline.pipeline.told import few
from keen_pipeline.ports import Clock

# Between two lines on the progress. Each landing has its own event; a line for each would cost as much again in the event log.
PROGRESS_SECONDS = 10.0
# How long a step posts for the other collections of its run, so that they wait at the same time as its own.
_POSTING_SECONDS = 30.0
# How often a step keeps the sensor from landing what the next steps of its run are going to: more often than the sensor ticks.
_KEEPING_SECONDS = 10.0


class CsvAssetConfig(dg.Config):
    """How a run of CSV assets treats what has landed."""

    skip_landed: bool = Field(
        default=False,
        description="leave alone what has landed and is up to date; otherwise everything selected is extracted again, but for what "
        "landed since this run or backfill was launched",
    )


def run_assets(context: dg.AssetExecutionContext) -> Iterator[Any]:
    """The body of every step of ours; see `KeenResource.run`."""
    step = _Step(context)
    pipeline = pipeline_of(context.resources, step.name)
    if not context.selected_asset_keys:  # the checks alone
        yield from step.audit(pipeline)
        return
    yield from step.land(pipeline)


class _Step:
    """One step: which collections it is for, by the specs of its assets, and what it has to tell."""

    def __init__(self, context: dg.AssetExecutionContext) -> None:
        self.context = context
        self.keys: dict[str, dg.AssetKey] = {}
        self.collections: dict[str, Collection] = {}
        self.name = ""
        self._kept_at: datetime | None = None
        for spec in context.assets_def.specs:
            collection = collection_of(spec.metadata)
            if collection is not None:
                self.keys[collection.name], self.collections[collection.name] = spec.key, collection
                self.name = str(spec.metadata[DEFINITIONS_TAG])
        if not self.collections:
            raise ConfigurationError(f"{context.assets_def.node_def.name}: keen.run(context) is for assets made by @keen_assets")

    def audit(self, pipeline: Pipeline) -> Iterator[Any]:
        """The selected checks, of the partitions the run is for; of all that have landed if it is for none."""
        context = self.context
        for_some = context.has_partition_key or context.has_partition_key_range
        keys = list(context.partition_keys) if for_some else None
        targets = Targets(context.instance, self.keys)
        for collection in self.collections.values():
            wanted = [c.name for c in context.selected_asset_check_keys if c.asset_key == self.keys[collection.name]]
            if wanted:
                yield from audit(targets, pipeline, collection, sorted(wanted), keys)

    def land(self, pipeline: Pipeline) -> Iterator[Any]:
        """Submit, wait and land; each partition's event goes out as it lands, also if others fail."""
        context = self.context
        selected = [c for name, c in sorted(self.collections.items()) if self.keys[name] in context.selected_asset_keys]
        partition_keys = list(context.partition_keys)
        launched_at, run_id = _launch(context, pipeline)
        keep = _keep(context, pipeline.clock, launched_at, run_id)
        step, progress = context.op_execution_context.op.name, _ProgressLog(context, pipeline)
        requests, early = [], set[str]()
        for collection in selected:
            asked, before, not_over = _requests(pipeline, collection, partition_keys)
            requests += asked
            early.update(not_over)
            for partition in before:
                yield _before_start(self.keys[collection.name], collection, partition)
        others, is_one_over = _others_of_the_run(context, self.name, self.keys)
        # The first steps ask for all; what one has landed or given up is not asked for again.
        created = [] if is_one_over else self._submit_for_the_run(pipeline, others, partition_keys, keep, run_id)
        reporter = Reporter(context, pipeline, self.keys)
        is_over = False
        try:
            for event in extract(pipeline, requests, doing=f"run {context.run.run_id[:8]}, {step}", keep=keep, run_id=run_id):
                self._keep_for_next_steps(pipeline, partition_keys, run_id)
                yield from self._told(reporter, event, progress)
            is_over = True
        finally:
            if not is_over:
                # Nobody asked the sensor to go on with what this run never submitted.
                pipeline.ledger.withdraw(created, run_id=run_id)
        yield from self._checks(reporter, pipeline)
        reporter.end(len(requests) - len(reporter.failed))
        if early:
            told = f"{len(early)} of {len(partition_keys)} partitions are not over, so they have no file: {few(sorted(early))}"
            raise dg.Failure(f"{told}\nall others have landed", allow_retries=False)
        for collection in selected:
            yield dg.MaterializeResult(asset_key=self.keys[collection.name], metadata=NO_SECOND_MATERIALIZATION)

    def _submit_for_the_run(
        self,
        pipeline: Pipeline,
        others: Sequence[Collection],
        partition_keys: list[str],
        keep: Callable[[Entry], bool],
        run_id: str,
    ) -> list[int]:
        """Ask for the other collections of this run too, so that all of them wait at the same time; answers the new intents."""
        created: list[int] = []
        for collection in others:
            try:
                requests, _, _ = _requests(pipeline, collection, partition_keys)
                submission = submit(pipeline, requests, keep=keep, recount=False, run_id=run_id)
            except KeenPipelineError as error:  # its own step fails by it, and no other one
                self.context.log.info("%s is not asked for yet: %s", collection.name, error)
            else:
                created += [entry.entry_id for entry in submission.created]
        if created:
            with pipeline.working(f"run {self.context.run.run_id[:8]}, submitting") as worker:
                post_due(pipeline, pipeline.ledger.entries(created), worker.id, seconds=_POSTING_SECONDS)
        return created

    def _keep_for_next_steps(self, pipeline: Pipeline, partition_keys: Sequence[str], run_id: str) -> None:
        """Keep what the other steps of this run wait for from the sensor, which would land it in a run of its own meanwhile.

        Each partition would be told twice then: a backfill counts the events of its own runs alone. A run that dies keeps it for
        DISPATCH_SECONDS.
        """
        now = pipeline.clock.now()
        if self._kept_at is not None and now - self._kept_at < timedelta(seconds=_KEEPING_SECONDS):
            return
        self._kept_at = now
        others, _ = _others_of_the_run(self.context, self.name, self.keys)
        places = {(collection.name, key) for collection in others for key in partition_keys}
        if places:
            mine = [e for e in pipeline.ledger.open_entries() if e.run_id == run_id and e.request.place in places]
            # A landing that failed is put off already.
            pipeline.ledger.dispatch([e.entry_id for e in mine if e.error is None], now + timedelta(seconds=DISPATCH_SECONDS))

    def _told(self, reporter: Reporter, event: Event, progress: "_ProgressLog") -> Iterator[Any]:
        match event:
            case Landed(entry, adopted):
                yield from reporter.landed(entry, is_known=adopted and self._told_before(entry))
            case Ended(entry):
                yield from reporter.given_up(entry)
            case Counted():
                yield from reporter.counted(event)
            case Progress():
                progress.tell(event)
            case Retrying(entry, follower, reason):
                self.context.log.warning("%s failed, attempt %d follows: %s", entry.request, follower.attempt, reason)
            case Stopped(entry, error):
                reporter.fail(entry, f"{error} (it stays open, and carries on by itself once that is fixed)")
            case Hindered(collection, error):
                reporter.hindered(collection, NOT_COUNTED, error)

    def _checks(self, reporter: Reporter, pipeline: Pipeline) -> Iterator[Any]:
        yield from reporter.checks(self.collections)
        for watched in self.collections.values():
            if watched.fresh_within_hours is not None:
                found = freshness(pipeline.ledger, watched, pipeline.clock.now(), mask_key=pipeline.mask_key)
                yield freshness_evaluation(self.keys[watched.name], found)

    def _told_before(self, entry: Entry) -> bool:
        """Whether this landing was materialized by an earlier try of this run, or by another run of the same backfill.

        A backfill counts only events of its own runs, so one over partitions that others landed tells them once more.
        """
        mine, instance = self.context.run, self.context.instance
        backfill = mine.tags.get(BACKFILL_ID_TAG)
        for run_id in materializing_runs(instance, entry, self.keys[entry.request.collection]):
            run = instance.get_run_by_id(run_id)
            if run is None:
                continue  # reported by the sensor, without a run
            if (run.root_run_id or run.run_id) == (mine.root_run_id or mine.run_id):
                return True
            if backfill is not None and run.tags.get(BACKFILL_ID_TAG) == backfill:
                return True
        return False


def _requests(
    pipeline: Pipeline, collection: Collection, partition_keys: Sequence[str]
) -> tuple[list[ExtractionRequest], list[str], list[str]]:
    """What to ask for, and the partitions from before the collection's start date, which another collection's range has, and those
    that are not over yet, which definitions of one's own may have by their `end_offset`."""
    now = pipeline.clock.now()
    before = [key for key in partition_keys if is_before_start(collection, key)]
    wanted = [partition_for_key(collection, key, EVER) for key in partition_keys if not is_before_start(collection, key)]
    asked = [partition_request(collection, p, mask_key=pipeline.mask_key) for p in wanted if p.timeframe.end <= now]
    return asked, before, [p.key for p in wanted if p.timeframe.end > now]


def _before_start(key: dg.AssetKey, collection: Collection, partition: str) -> dg.AssetMaterialization:
    text = (
        f"{collection.name}[{partition}] lies before the start date {collection.start}: nothing is extracted, and there is no file"
    )
    return dg.AssetMaterialization(key, partition=partition, description=text, metadata={"keen/before_start_date": text})


def _others_of_the_run(
    context: dg.AssetExecutionContext, name: str, own: Mapping[str, dg.AssetKey]
) -> tuple[list[Collection], bool]:
    """The collections of the same definitions that other steps of this run are going to land, and whether one of those is over."""
    layer = context.job_def.asset_layer
    # A run of a whole job has no selection of its own.
    selection = frozenset(context.run.asset_selection or layer.selected_asset_keys)
    others: dict[str, list[Collection]] = {}
    for key in sorted(selection - set(own.values())):
        node = layer.get(key) if layer.has(key) else None
        if node is not None and node.metadata.get(DEFINITIONS_TAG) == name:
            collection = collection_of(node.metadata)
            others.setdefault(node.assets_def.node_def.name, []).extend([collection] if collection is not None else [])
    stats = context.instance.get_run_step_stats(context.run.run_id) if others else []
    ended = {one.step_key for one in stats if one.end_time is not None}
    plan = context.run.step_keys_to_execute or others  # of a re-execution the steps that were chosen or have failed
    left = [collection for step, found in others.items() if step in plan and step not in ended for collection in found]
    return left, bool(ended & others.keys())


def _launch(context: dg.AssetExecutionContext, pipeline: Pipeline) -> tuple[datetime, str]:
    """When what this run is part of was launched, and its id: of the backfill, else of the first run of its re-executions.

    In the ledger's time: how long ago it was by this host's clock counts, whatever that clock says now.
    """
    run, instance = context.run, context.instance
    backfill_id = run.tags.get(BACKFILL_ID_TAG)
    root = run.root_run_id or run.run_id
    backfill = instance.get_backfill(backfill_id) if backfill_id is not None else None
    # By its events: PostgreSQL writes down when a run was created in its own time zone, and Dagster takes that for UTC.
    stats = instance.get_run_stats(root if instance.has_run(root) else run.run_id)
    told = [stats.enqueued_time, stats.launch_time] if backfill is None else [backfill.backfill_timestamp]
    now = time.time()
    # Whoever launched it may have another clock than this host, whose own word on the start is an upper bound.
    launched = min(moment for moment in (now, stats.start_time, *told) if moment is not None)
    return pipeline.clock.now() - timedelta(seconds=max(0.0, now - launched)), backfill_id or root


def _keep(context: dg.AssetExecutionContext, clock: Clock, launched_at: datetime, run_id: str) -> Callable[[Entry], bool]:
    """What a run leaves alone: what it or its backfill has landed already, and what landed since it was launched."""
    config = context.op_execution_context.op_config or {}
    if config.get("skip_landed"):
        return lambda _: True
    # What lies ahead was landed by a clock that was wrong.
    return lambda entry: entry.run_id == run_id or (entry.landed_at is not None and launched_at <= entry.landed_at <= clock.now())


class _ProgressLog:
    """Logs the first and the last progress, others at most every PROGRESS_SECONDS, and what is waited for if nothing changes."""

    def __init__(self, context: dg.AssetExecutionContext, pipeline: Pipeline) -> None:
        self._log, self._clock = context.log, pipeline.clock
        self._logged_at: datetime | None = None
        self._logged = ""

    def tell(self, progress: Progress) -> None:
        """Maybe log it."""
        now = self._clock.now()
        early = self._logged_at is not None and now - self._logged_at < timedelta(seconds=PROGRESS_SECONDS)
        if early and not progress.is_last:
            return
        stands_still = self._logged == str(progress)
        self._log.info("%s%s", progress, "".join(f"\nwaiting: {why}" for why in progress.reasons()) if stands_still else "")
        self._logged_at, self._logged = now, str(progress)
