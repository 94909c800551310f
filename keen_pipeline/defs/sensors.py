"""The sensor `extraction_status`: polls, posts what is due, and asks for landing runs; no run waits for Keen."""

from collections import defaultdict
from collections.abc import Mapping, Sequence

import dagster as dg

from keen_pipeline.collections_file import collection_to_wire
from keen_pipeline.defs.checks import Targets, evaluation, landing_checks
from keen_pipeline.defs.jobs import MATERIALIZE_JOB
from keen_pipeline.defs.metadata import materialization, materializing_runs
from keen_pipeline.defs.ops import materialize_csv
from keen_pipeline.defs.resources import CsvDestination, ExtractionLedger, KeenResource, build_pipeline
from keen_pipeline.defs.run_tags import tags_identity
from keen_pipeline.collection import Collection
from keen_pipeline.extraction import Status
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
# Landing runs that may wait for a worker, those of this tick among them: to ask for a run takes a tick a third of a second, and
# what a longer queue held would be asked for again before its turn came.
MAX_WAITING_RUNS = 8


def extraction_status_sensor(
    job: dg.JobDefinition,
    collections: Sequence[Collection] = (),
    *,
    interval_seconds: int = INTERVAL_SECONDS,
    running: bool = True,
    partitions_per_run: int | None = None,
) -> dg.SensorDefinition:
    """Every `interval_seconds`: one list call for each collection with open extractions, then runs that land what has finished.

    One run where they are at most `partitions_per_run`, or 2000; never more than eight wait for a worker. The runs evaluate the
    checks of `collections`.
    """
    per_run = min(partitions_per_run or MAX_ENTRIES_PER_RUN, MAX_ENTRIES_PER_RUN)
    by_name = {collection.name: collection for collection in collections}

    @dg.sensor(
        name=STATUS_SENSOR,
        job=job,
        minimum_interval_seconds=interval_seconds,
        default_status=dg.DefaultSensorStatus.RUNNING if running else dg.DefaultSensorStatus.STOPPED,
        description="Polls open extractions with one list call a collection and asks for the landing of all that finished.",
    )
    def extraction_status(
        context: dg.SensorEvaluationContext, keen: KeenResource, ledger: ExtractionLedger, destination: CsvDestination
    ) -> list[dg.RunRequest] | dg.SkipReason:
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
        finished = _finished(pipeline)
        if not finished:
            return dg.SkipReason(f"{outcome.waiting} extractions at the service, {len(posted.postponed)} to submit, none finished")
        room = MAX_WAITING_RUNS - _queued(context.instance)
        if room <= 0:
            return dg.SkipReason(f"{len(finished)} finished, and {MAX_WAITING_RUNS} landing runs wait for a worker already")
        return _landing_runs(pipeline, by_name, finished[: room * per_run], per_run, room)

    return extraction_status


def _queued(instance: dg.DagsterInstance) -> int:
    return instance.get_runs_count(dg.RunsFilter(job_name=MATERIALIZE_JOB, statuses=[dg.DagsterRunStatus.QUEUED]))


def _finished(pipeline: Pipeline) -> list[Entry]:
    """What a run has to do something about and none does, oldest first."""
    ledger, now = pipeline.ledger, pipeline.clock.now()
    complete = [
        e for e in ledger.open_entries(status=Status.COMPLETE) if not e.leased(now) and (not e.landing_tries or e.due_at <= now)
    ]
    ended = [e for e in ledger.unreported() if e.status is Status.ABANDONED]
    # Their run died between landing and counting.
    uncounted = [e for e in ledger.uncounted() if e.reported_at is not None]
    return sorted((*complete, *ended, *uncounted), key=lambda entry: entry.entry_id)


def _landing_runs(
    pipeline: Pipeline, collections: Mapping[str, Collection], finished: Sequence[Entry], per_run: int, most: int
) -> list[dg.RunRequest] | dg.SkipReason:
    """Claim what is finished, so that the next tick doesn't ask for it again, and ask for its landing by at most so many runs."""
    alike: Mapping[str, list[Entry]] = defaultdict(list)
    # Each run lists each of its collections once: together they come to fewer requests.
    for entry in sorted(finished, key=lambda entry: entry.request.collection):
        collection = collections.get(entry.request.collection)
        alike[tags_identity(collection)].append(entry)
    parts = [entries[i : i + per_run] for entries in alike.values() for i in range(0, len(entries), per_run)]
    runs = [_landing_run(pipeline, collections, part) for part in parts[:most]]
    requests = [run for run in runs if run is not None]
    return requests or dg.SkipReason("what has finished is being landed by others")


def _landing_run(pipeline: Pipeline, collections: Mapping[str, Collection], finished: Sequence[Entry]) -> dg.RunRequest | None:
    """None where others have claimed all of it meanwhile."""
    owner, seconds = new_owner(), pipeline.limits.lease_seconds
    claimed: list[Entry] = []
    for status in (Status.COMPLETE, Status.ABANDONED, Status.LANDED):
        ids = [e.entry_id for e in finished if e.status is status]
        claimed += pipeline.ledger.claim(ids, status, owner, seconds) if ids else []
    if not claimed:
        return None
    checked = sorted({e.request.collection for e in claimed} & set(collections))
    config = {
        "entry_ids": [e.entry_id for e in claimed],
        "claim": owner,
        "collections": [collection_to_wire(collections[name]) for name in checked],
    }
    first = collections.get(claimed[0].request.collection)
    return dg.RunRequest(
        run_key=owner,
        job_name=MATERIALIZE_JOB,
        run_config={"ops": {materialize_csv.name: {"config": config}}},
        tags=first.run_tags if first is not None else None,
    )


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
