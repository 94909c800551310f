"""The ops. They know their collections by config, so they work in any graph with the resources `keen`, `ledger`, `destination`."""

from collections.abc import Iterator
from typing import Any

import dagster as dg
from pydantic import Field

from keen_pipeline.collections_file import parse_collections
from keen_pipeline.defs.checks import Targets, evaluation, landing_checks
from keen_pipeline.defs.metadata import materialization
from keen_pipeline.defs.resources import CsvDestination, ExtractionLedger, KeenResource, build_pipeline
from keen_pipeline.errors import ConfigurationError, KeenPipelineError
from keen_pipeline.extraction import ExtractionRequest, Status
from keen_pipeline.lifecycle import Entry
from keen_pipeline.partitions import due_partitions, partition_for_key
from keen_pipeline.pipeline import Counted, NotLanded, Pipeline, land, partition_request, post_due, submit
from keen_pipeline.pipeline.context import new_owner
from keen_pipeline.pipeline.counts import verdict
from keen_pipeline.pipeline.history import is_partition
from keen_pipeline.timeframe import parse_instant

# How long the op posts; what is left then, for example beyond the requests per minute, the sensor posts.
POSTING_SECONDS = 30.0


class SubmitExtractionConfig(dg.Config):
    """Which partitions of which collections to ask for."""

    collections: list[dict[str, Any]] = Field(description="as in the collections file: name, start_date, granularity, filters, ...")
    as_of: str | None = Field(default=None, description="ISO-8601 instant the night stands for; unset: now")
    partition_keys: list[str] = Field(
        default=[], description="these partitions; empty: what ended in the last lookback_days and is not landed"
    )
    force: bool = Field(
        default=False, description="extract again what is landed; the new file replaces the old one when it is whole"
    )


class MaterializeCsvConfig(dg.Config):
    """Which finished extractions to land."""

    entry_ids: list[int] = Field(default=[], description="ledger entries; empty: every finished one that nobody is landing")
    claim: str | None = Field(default=None, description="the claim under which the sensor dispatched them")
    collections: list[dict[str, Any]] = Field(
        default=[], description="as in the collections file; those whose checks schema_drift and unexpected_size are evaluated"
    )


@dg.op(
    name="submit_extraction",
    description="Journals and submits an asynchronous extraction for each due partition; ends without waiting.",
)
def submit_extraction(
    context: dg.OpExecutionContext,
    config: SubmitExtractionConfig,
    keen: KeenResource,
    ledger: ExtractionLedger,
    destination: CsvDestination,
) -> list[int]:
    """Submit, do not wait. Answers the ledger entries that are open now; the sensor `extraction_status` follows them.

    Raises InvalidInputError for an unknown partition before anything is asked, AuthenticationError where the key is refused
    (the intents are cancelled then).
    """
    pipeline = build_pipeline(keen, ledger, destination)
    requests = _requests(config, pipeline)
    _remove_leftovers(context, pipeline)
    submission = submit(pipeline, requests, force=config.force, recount=True, run_id=context.run_id)
    ids = [entry.entry_id for entry in (*submission.created, *submission.adopted)]
    try:
        posted = post_due(pipeline, ids, seconds=POSTING_SECONDS)
    except dg.DagsterExecutionInterruptedError:
        raise
    except Exception:
        pipeline.ledger.cancel([e.entry_id for e in submission.created], "its submission was refused, see the run's error")
        raise
    for entry, follower in posted.failed:
        context.log.error("%s: %s", entry, follower.error if follower else "moved on by another process")
    context.log.info(
        "%d partitions: %d landed before, %d open before, %d new; %d submitted now, %d left to the sensor",
        *(
            len(requests),
            len(submission.landed),
            len(submission.adopted),
            len(submission.created),
            len(posted.submitted),
            len(posted.postponed),
        ),
    )
    context.add_output_metadata(
        {
            "partitions": len(requests),
            "landed_before": len(submission.landed),
            "adopted": len(submission.adopted),
            "submitted": len(posted.submitted),
        }
    )
    return ids


def _remove_leftovers(context: dg.OpExecutionContext, pipeline: Pipeline) -> None:
    """Once a night, as it walks the whole destination; a landing's own failure removes its own leftovers at once."""
    try:
        removed = pipeline.destination.remove_leftovers()
    except (KeenPipelineError, OSError) as error:
        context.log.warning("leftovers of dead landings could not be looked for: %s", error)
        return
    if removed:
        context.log.info("%d leftovers of dead landings removed", len(removed))


def _requests(config: SubmitExtractionConfig, pipeline: Pipeline) -> list[ExtractionRequest]:
    now = pipeline.clock.now()
    as_of = min(parse_instant(config.as_of, field="as_of"), now) if config.as_of else now
    requests: list[ExtractionRequest] = []
    for collection in parse_collections(config.collections):
        if config.partition_keys:
            partitions = [partition_for_key(collection, key, now) for key in config.partition_keys]
        else:
            partitions = due_partitions(collection, as_of)
        requests += [partition_request(collection, partition, pipeline.destination.uri) for partition in partitions]
    return requests


@dg.op(
    name="materialize_csv",
    out=dg.Out(list, is_required=False, description="URIs of the landed files"),
    description="Lands every finished extraction as a whole, verified file and records a materialization for each.",
)
def materialize_csv(
    context: dg.OpExecutionContext,
    config: MaterializeCsvConfig,
    keen: KeenResource,
    ledger: ExtractionLedger,
    destination: CsvDestination,
) -> Iterator[dg.AssetMaterialization | dg.AssetCheckEvaluation | dg.Output[list[str]]]:
    """One run for any number of collections and partitions. What lands is kept and reported, also where others fail.

    Each landed partition is held against the service's count, as the asset check `complete`.

    Raises Failure at the end, naming each partition that has no attempt left and why.
    """
    collections = parse_collections(config.collections)
    pipeline = build_pipeline(keen, ledger, destination)
    book, owner = pipeline.ledger, config.claim or new_owner()
    known = book.entries(config.entry_ids) if config.entry_ids else book.open_entries()
    now = pipeline.clock.now()
    wanted = [e for e in known if e.status is Status.COMPLETE and (not e.landing_tries or e.due_at <= now)]
    wanted += [e for e in known if e.status is Status.LANDED and e.counted_at is None]
    told = book.claim(
        [e.entry_id for e in known if e.status is Status.ABANDONED], Status.ABANDONED, owner, pipeline.limits.lease_seconds
    )
    failures = {e.entry_id: e.error or str(e) for e in told}
    uris: list[str] = []
    landed: list[Entry] = []
    targets = Targets(context.instance)
    for outcome in land(pipeline, wanted, owner):
        if isinstance(outcome, NotLanded):
            _note(context, outcome, failures)
            continue
        if isinstance(outcome, Counted):
            if is_partition(outcome.entry):
                yield evaluation(targets, outcome)
            if outcome.entry.is_whole is not True:
                context.log.warning("%s", verdict(outcome))
            if outcome.is_final_failure:
                failures[outcome.entry.entry_id] = verdict(outcome)
            continue
        assert outcome.entry.landing is not None
        if is_partition(outcome.entry):
            yield materialization(outcome.entry, pipeline.destination)
            landed.append(outcome.entry)
            targets.landed(outcome.entry)
        book.reported([outcome.entry.entry_id])
        uris.append(outcome.entry.landing.uri)
    yield from landing_checks(targets, book, {c.name: c for c in collections}, landed)
    if failures:
        book.reported(list(failures))
        raise dg.Failure(
            description=f"{len(uris)} landed, {len(failures)} failed: " + " | ".join(failures.values()),
            metadata={"landed": len(uris), "failed": len(failures)},
            allow_retries=False,
        )
    context.log.info("%d landed", len(uris))
    yield dg.Output(uris)


def _note(context: dg.OpExecutionContext, outcome: NotLanded, failures: dict[int, str]) -> None:
    follower = outcome.follower
    if follower is None:
        context.log.info("%s is another process's: %s", outcome.entry, outcome.error)
    elif follower.status is Status.ABANDONED:
        failures[follower.entry_id] = follower.error or str(outcome.error)
    elif isinstance(outcome.error, ConfigurationError):
        failures[follower.entry_id] = f"{outcome.entry}: {outcome.error} (it is tried again by itself)"
    else:
        # The next attempt, or the next try of this one, is the sensor's.
        context.log.warning("%s not landed, it is tried again: %s", outcome.entry, outcome.error)


__all__ = ["MaterializeCsvConfig", "SubmitExtractionConfig", "materialize_csv", "submit_extraction"]
