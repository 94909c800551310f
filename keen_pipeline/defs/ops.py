"""The ops. They know their collections by config, and their resources by the definitions' name, so they work in any graph."""

from collections.abc import Iterator
from typing import Any

import dagster as dg
from pydantic import Field

from keen_pipeline.collection import Collection
from keen_pipeline.collections_file import parse_collections
from keen_pipeline.defs.names import Names
from keen_pipeline.defs.reports.metadata import materializing_runs
from keen_pipeline.defs.reports.reporter import NOT_COUNTED, Reporter
from keen_pipeline.defs.resources import pipeline_of
from keen_pipeline.errors import ConfigurationError, KeenPipelineError, PermanentError
from keen_pipeline.extraction import ExtractionRequest, Kind, Status
from keen_pipeline.lifecycle import Entry
from keen_pipeline.partitions import partition_for_key
from keen_pipeline.pipeline import (
    Counted,
    Landed,
    NotLanded,
    Pipeline,
    Posted,
    land,
    partition_request,
    post_due,
    requests_of_a_night,
    submit,
)
from keen_pipeline.pipeline.counts import Patience
from keen_pipeline.pipeline.files.upkeep import tidy_up
from keen_pipeline.scope import DEFAULT_NAME
from keen_pipeline.timeframe import parse_instant

# How long the op posts; what is left then, for example beyond the requests per minute, the sensor posts.
POSTING_SECONDS = 30.0
_Collections = list[dict[str, Any]]


class SubmitExtractionConfig(dg.Config):
    """Which partitions of which collections to ask for."""

    collections: _Collections = Field(description="as in the collections file: name, start_date, granularity, filters, ...")
    as_of: str | None = Field(default=None, description="ISO-8601 instant the night stands for; unset: now")
    partition_keys: list[str] = Field(
        default=[], description="these partitions; empty: those of the lookback, and older ones that are missing"
    )
    force: bool = Field(
        default=False, description="extract again what is landed; the new file replaces the old one when it is whole"
    )


class MaterializeCsvConfig(dg.Config):
    """Which finished extractions to land."""

    entry_ids: list[int] = Field(default=[], description="ledger entries; empty: every finished one that nobody is landing")
    collections: _Collections = Field(
        default=[], description="as in the collections file; those whose checks schema_drift and unexpected_size are evaluated"
    )
    asset_keys: dict[str, list[str]] = Field(
        default={}, description="the asset key of each collection; unset: the definitions' name and the collection's"
    )


class _Night:
    """One run of the submitting op: each collection for itself, so that what is wrong with one keeps no other."""

    def __init__(self, context: dg.OpExecutionContext, pipeline: Pipeline, config: SubmitExtractionConfig) -> None:
        self.context, self.pipeline, self.config = context, pipeline, config
        # Of a night it only keeps what went wrong: there is no key of an asset to tell anything of.
        self.reporter = Reporter(context, pipeline, {})
        self.patience = Patience()
        self.counts = {"partitions": 0, "landed_before": 0, "adopted": 0, "submitted": 0}

    def run(self) -> None:
        """Raises Failure at the end, naming each collection that can't be asked for; InvalidInputError before anything is."""
        collections = parse_collections(self.config.collections)
        requests = {collection.name: self._requests(collection) for collection in collections}
        self._tidy_up()
        ids: list[int] = []
        for collection in collections:
            ids += self._submit(collection, requests[collection.name])
        with self.pipeline.working(f"run {self.context.run.run_id[:8]}, submitting") as worker:
            posted = post_due(self.pipeline, self.pipeline.ledger.entries(ids), worker.id, seconds=POSTING_SECONDS)
        self._told(posted, len(ids))

    def _requests(self, collection: Collection) -> list[ExtractionRequest]:
        pipeline, now = self.pipeline, self.pipeline.clock.now()
        if self.config.partition_keys:
            partitions = [partition_for_key(collection, key, now) for key in self.config.partition_keys]
            return [partition_request(collection, p, mask_key=pipeline.mask_key) for p in partitions]
        as_of = min(parse_instant(self.config.as_of, field="as_of"), now) if self.config.as_of else now
        return requests_of_a_night(pipeline, collection, as_of)

    def _submit(self, collection: Collection, requests: list[ExtractionRequest]) -> list[int]:
        force = self.config.force
        try:
            keep, run_id = (lambda _: not force), self.context.run.run_id
            submission = submit(self.pipeline, requests, keep=keep, patience=self.patience, run_id=run_id, waits=False)
        except (ConfigurationError, PermanentError) as error:
            self.reporter.problems.append((collection.name, str(error)))
            return []
        for name, problem in submission.problems.items():
            self.reporter.hindered(name, NOT_COUNTED, problem)
        open_ = [*submission.created, *submission.adopted]
        self.counts["partitions"] += len(requests)
        self.counts["landed_before"] += len(submission.landed)
        self.counts["adopted"] += len(submission.adopted)
        return [entry.entry_id for entry in open_]

    def _told(self, posted: Posted, asked: int) -> None:
        context = self.context
        for collection, problem in posted.problems.items():
            self.reporter.hindered(collection, "not all is submitted, the sensor goes on with it", problem)
        self.counts["submitted"] = len(posted.submitted)
        left = asked - len(posted.submitted) - len(posted.ended)
        context.log.info("%s; %d left to the sensor", ", ".join(f"{n} {name}" for name, n in self.counts.items()), left)
        context.add_output_metadata(self.counts)
        self.reporter.failed += [(entry, entry.reason) for entry in posted.ended]
        self.reporter.end(self.counts["partitions"] - len(posted.ended))

    def _tidy_up(self) -> None:
        """Once a night, as it walks the whole destination; a landing's own failure removes its own leftovers at once."""
        try:
            for what in tidy_up(self.pipeline):
                self.context.log.info("%s", what)
        except (KeenPipelineError, OSError) as error:
            self.context.log.warning("what dead landings left could not be looked for: %s", error)


class _LandingRun:
    """One run for any number of collections and partitions. What lands is kept and reported, also if others fail."""

    def __init__(self, context: dg.OpExecutionContext, pipeline: Pipeline, config: MaterializeCsvConfig, names: Names) -> None:
        self.context, self.pipeline, self.ledger, self.config = context, pipeline, pipeline.ledger, config
        self.collections = {c.name: c for c in parse_collections(config.collections)}
        self.wanted = self._wanted()
        self.keys = {e.request.collection: names.asset_key(e.request.collection) for e in self.wanted}
        self.keys |= {name: dg.AssetKey(path) for name, path in config.asset_keys.items()}
        self.reporter = Reporter(context, pipeline, self.keys)

    def events(self) -> Iterator[Any]:
        """Materializations and checks; raises Failure at the end, naming each partition that has no attempt left and why."""
        reporter = self.reporter
        with self.pipeline.working(f"run {self.context.run.run_id[:8]}, landing") as worker:
            claimed = self.ledger.claim([e.entry_id for e in self.wanted], worker.id)
            for entry in claimed:
                if entry.status is Status.ABANDONED:
                    yield from reporter.given_up(entry)
                elif entry.status is Status.LANDED:
                    yield from self._unreported(entry)
            for outcome in land(self.pipeline, [e.entry_id for e in claimed if e.status is not Status.ABANDONED], worker):
                match outcome:
                    case NotLanded():
                        yield from self._not_landed(outcome)
                    case Counted():
                        yield from reporter.counted(outcome)
                    case Landed(entry):
                        yield from reporter.landed(entry)
            yield from reporter.checks(self.collections)
        reporter.end()

    def _wanted(self) -> list[Entry]:
        if self.config.entry_ids:
            known = self.ledger.entries(self.config.entry_ids)
        else:
            known = [*self.ledger.open_entries(status=Status.COMPLETE), *self.ledger.uncounted(), *self.ledger.outbox()]
        ends = (Status.COMPLETE, Status.LANDED, Status.ABANDONED)
        return [e for e in known if e.status in ends and not (e.status is Status.ABANDONED and e.reported_at is not None)]

    def _unreported(self, entry: Entry) -> Iterator[Any]:
        """What a run that died, or a command, has landed and Dagster may not have heard of; `land` counts it if that is due."""
        if not entry.is_partition or entry.reported_at is not None:
            return
        key = self.keys[entry.request.collection]
        yield from self.reporter.landed(entry, is_known=bool(materializing_runs(self.context.instance, entry, key)))

    def _not_landed(self, outcome: NotLanded) -> Iterator[Any]:
        entry, error = outcome.entry, outcome.error
        if outcome.is_lost:
            self.context.log.info("%s is another process's: %s", entry.request, error)
        elif entry.status is Status.ABANDONED and entry.request.kind is not Kind.SLICE:  # a slice's end is its partition's
            yield from self.reporter.given_up(entry)
        elif isinstance(error, ConfigurationError) and entry.landing_tries == 1:
            # Told once: the same cause keeps it at every later try too, and `status` names it until it is fixed.
            self.reporter.fail(entry, f"{error} (it is tried again by itself)")
        else:
            # The next attempt, or the next try of this one, is the sensor's.
            self.context.log.warning("%s not landed, it is tried again: %s", entry.request, error)


def submit_extractions_op(name: str = DEFAULT_NAME) -> dg.OpDefinition:
    """The op that submits, on the resources of the definitions called `name`."""

    @dg.op(
        name=f"{name}_submit_extraction" if name != DEFAULT_NAME else "submit_extraction",
        ins={"after": dg.In(dg.Nothing)},
        out=dg.Out(dg.Nothing, description="the intents are journalled, and most of them submitted"),
        required_resource_keys=Names(name).resources,
        description="Journals and submits an asynchronous extraction for each due partition; ends without waiting.",
    )
    def op(context: dg.OpExecutionContext, config: SubmitExtractionConfig) -> None:
        _Night(context, pipeline_of(context.resources, name), config).run()

    return op


def materialize_csvs_op(name: str = DEFAULT_NAME) -> dg.OpDefinition:
    """The op that lands, on the resources of the definitions called `name`."""

    @dg.op(
        name=f"{name}_materialize_csv" if name != DEFAULT_NAME else "materialize_csv",
        ins={"after": dg.In(dg.Nothing)},
        out=dg.Out(dg.Nothing, is_required=False, description="what had finished is landed and reported"),
        required_resource_keys=Names(name).resources,
        description="Lands every finished extraction as a whole, verified file and records a materialization for each.",
    )
    def op(context: dg.OpExecutionContext, config: MaterializeCsvConfig) -> Iterator[Any]:
        yield from _LandingRun(context, pipeline_of(context.resources, name), config, Names(name)).events()
        yield dg.Output(None)

    return op


# Under the singular name Dagster shows, and under the plural of the jobs made of them.
submit_extraction = submit_extractions = submit_extractions_op()
materialize_csv = materialize_csvs = materialize_csvs_op()
