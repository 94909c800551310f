"""The sensor `extraction_status`: polls, posts what is due, and asks for one landing run; no run waits for Keen."""

from collections.abc import Mapping, Sequence

import dagster as dg

from keen_pipeline.collections_file import collection_to_wire
from keen_pipeline.defs.checks import Targets, evaluation, landing_checks
from keen_pipeline.defs.jobs import MATERIALIZE_JOB
from keen_pipeline.defs.metadata import materialization, materializing_runs
from keen_pipeline.defs.ops import materialize_csv
from keen_pipeline.defs.resources import CsvDestination, ExtractionLedger, KeenResource, build_pipeline
from keen_pipeline.extraction import Collection, Status
from keen_pipeline.lifecycle import Entry
from keen_pipeline.pipeline import Counted, Pipeline, poll, post_due
from keen_pipeline.pipeline.context import new_owner
from keen_pipeline.pipeline.history import is_partition
from keen_pipeline.ports import Ledger

STATUS_SENSOR = "extraction_status"
INTERVAL_SECONDS = 15
# Dagster ends a tick after 60 s. No list call begins after the first figure, no POST after the second, and none of them takes
# longer than the third; the next tick goes on.
POLLING_SECONDS = 15.0
POSTING_SECONDS = 10.0
CALL_SECONDS = 15.0
# Outbox entries a tick reports: each asks the event log first, and has checks of its own.
MAX_REPORTS_PER_TICK = 100
# Entries of one landing run: bounds its config and how much one dead worker holds up.
MAX_ENTRIES_PER_RUN = 2000


def extraction_status_sensor(
    job: dg.JobDefinition,
    collections: Sequence[Collection] = (),
    *,
    interval_seconds: int = INTERVAL_SECONDS,
    running: bool = True,
) -> dg.SensorDefinition:
    """Every `interval_seconds`: one list call for each collection with open extractions, then at most one landing run.

    The run evaluates the checks of `collections`.
    """
    by_name = {collection.name: collection for collection in collections}

    @dg.sensor(
        name=STATUS_SENSOR,
        job=job,
        minimum_interval_seconds=interval_seconds,
        default_status=dg.DefaultSensorStatus.RUNNING if running else dg.DefaultSensorStatus.STOPPED,
        description="Polls open extractions with one list call a collection and asks for one landing run for all that finished.",
    )
    def extraction_status(
        context: dg.SensorEvaluationContext, keen: KeenResource, ledger: ExtractionLedger, destination: CsvDestination
    ) -> dg.RunRequest | dg.SkipReason:
        book = ledger.open()
        waiting = book.open_entries()
        if not waiting and not book.unreported() and not book.uncounted():
            return dg.SkipReason("no extraction is open")
        pipeline = build_pipeline(keen, ledger, destination, call_seconds=CALL_SECONDS)
        report_outbox(context.instance, pipeline.ledger, by_name)
        outcome = poll(pipeline, waiting, seconds=POLLING_SECONDS)
        posted = post_due(pipeline, seconds=POSTING_SECONDS)
        for collection, error in outcome.errors.items():
            context.log.warning("%s could not be listed, the next tick tries again: %s", collection, error)
        for entry, follower in (*outcome.failed, *posted.failed):
            context.log.warning(
                "%s failed: %s", entry, follower.error if follower and follower.status.is_terminal else "the next attempt follows"
            )
        return _landing_run(pipeline, by_name, outcome.waiting, len(posted.postponed))

    return extraction_status


def _landing_run(
    pipeline: Pipeline, collections: Mapping[str, Collection], waiting: int, to_submit: int
) -> dg.RunRequest | dg.SkipReason:
    """Claim what is finished, so that the next tick doesn't ask for it again, and ask for its landing."""
    ledger, now = pipeline.ledger, pipeline.clock.now()
    owner = new_owner()
    finished = [
        e.entry_id
        for e in ledger.open_entries(status=Status.COMPLETE)
        if not e.leased(now) and (not e.landing_tries or e.due_at <= now)
    ]
    uncounted = [e.entry_id for e in ledger.uncounted() if e.reported_at is not None]
    ended = [e.entry_id for e in ledger.unreported() if e.status is Status.ABANDONED]
    claimed: Sequence[Entry] = [
        *ledger.claim(finished[:MAX_ENTRIES_PER_RUN], Status.COMPLETE, owner, pipeline.limits.lease_seconds),
        *ledger.claim(ended[:MAX_ENTRIES_PER_RUN], Status.ABANDONED, owner, pipeline.limits.lease_seconds),
        # Their run died between landing and counting.
        *ledger.claim(uncounted[:MAX_ENTRIES_PER_RUN], Status.LANDED, owner, pipeline.limits.lease_seconds),
    ]
    if not claimed:
        return dg.SkipReason(f"{waiting} extractions at the service, {to_submit} to submit, none finished")
    checked = sorted({e.request.collection for e in claimed} & set(collections))
    config = {
        "entry_ids": [e.entry_id for e in claimed],
        "claim": owner,
        "collections": [collection_to_wire(collections[name]) for name in checked],
    }
    return dg.RunRequest(run_key=owner, job_name=MATERIALIZE_JOB, run_config={"ops": {materialize_csv.name: {"config": config}}})


def report_outbox(instance: dg.DagsterInstance, ledger: Ledger, collections: Mapping[str, Collection] | None = None) -> int:
    """Report landings whose run died between landing and reporting (or that had no run); answers how many.

    With them their checks, so that downstream assets wake that wait for those: `complete` where it is counted, which the next
    landing run does otherwise, and the others of `collections`.

    The event log is asked first whether the event is there, so each landing is reported exactly once.
    """
    told: list[Entry] = []
    landed = [entry for entry in ledger.unreported() if entry.status is Status.LANDED]
    for entry in landed[:MAX_REPORTS_PER_TICK]:
        if is_partition(entry) and not materializing_runs(instance, entry):
            instance.report_runless_asset_event(materialization(entry))
            told.append(entry)
            if entry.counted_at is not None:
                instance.report_runless_asset_event(evaluation(Targets(instance), Counted(entry)))
        ledger.reported([entry.entry_id])
    for result in landing_checks(Targets(instance, told), ledger, collections or {}, told):
        instance.report_runless_asset_event(result)
    return len(told)
