"""The sensor `{name}_extraction_status`: polls, posts what is due, and asks for landing runs; no run waits for Keen."""

import hashlib
import math
import secrets
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

import dagster as dg

from keen_pipeline.collection import Collection
from keen_pipeline.defs.jobs import landing_config
from keen_pipeline.defs.names import Names, sensor_status
from keen_pipeline.defs.reports.checks import Keys
from keen_pipeline.defs.resources import pipeline_of
from keen_pipeline.extraction import Status
from keen_pipeline.lifecycle import Entry, Land, Seen, decide
from keen_pipeline.pipeline import Pipeline, poll, post_due
from keen_pipeline.pipeline.told import few, shortened

INTERVAL_SECONDS = 15
# Dagster ends a tick after 60 s. No list call begins after the first figure, no POST after the second, and none of them takes
# longer than the third; the next tick goes on.
POLLING_SECONDS = 15.0
POSTING_SECONDS = 10.0
CALL_SECONDS = 15.0
# Entries of one landing run: bounds its config and how much one dead worker holds up.
MAX_ENTRIES_PER_RUN = 2000
# Landing runs that may wait for a worker, those of this tick among them: to ask for a run takes a tick a third of a second, and
# what a longer queue held would be asked for again before its turn came.
MAX_WAITING_RUNS = 8
# How long a run, or a run's next step, may take to begin before another run is asked for; claims keep two from doing the same.
DISPATCH_SECONDS = 300.0


def extraction_status_sensor(
    names: Names,
    job: dg.JobDefinition,
    collections: Sequence[Collection],
    keys: Keys,
    interval_seconds: int,
    running: bool,
    partitions_per_run: int | None,
) -> dg.SensorDefinition:
    """Every `interval_seconds`: one list call for each collection with open extractions, then runs that land what has finished.

    One run if they are at most `partitions_per_run`, or 2000; never more than eight wait for a worker. The runs evaluate the
    checks of `collections`, whose assets are `keys`.
    """
    per_run = min(partitions_per_run or MAX_ENTRIES_PER_RUN, MAX_ENTRIES_PER_RUN)

    @dg.sensor(
        name=names.status_sensor,
        job=job,
        minimum_interval_seconds=interval_seconds,
        required_resource_keys=names.resources,
        default_status=sensor_status(running),
        description="Polls open extractions with one list call a collection and asks for the landing of all that finished.",
    )
    def extraction_status(context: dg.SensorEvaluationContext) -> list[dg.RunRequest] | dg.SkipReason:
        pipeline = pipeline_of(context.resources, names.name, call_seconds=CALL_SECONDS)
        return _Tick(context, pipeline, names, job, {c.name: c for c in collections}, keys).run(per_run)

    return extraction_status


@dataclass(frozen=True)
class _Tick:
    """One tick: poll, post, and ask for runs."""

    context: dg.SensorEvaluationContext
    pipeline: Pipeline
    names: Names
    job: dg.JobDefinition
    collections: Mapping[str, Collection]
    keys: Keys

    def run(self, per_run: int) -> list[dg.RunRequest] | dg.SkipReason:
        """The runs to ask for, or why there is none."""
        context, pipeline, ledger = self.context, self.pipeline, self.pipeline.ledger
        ledger.workers.prune(pipeline.limits.lease_seconds)
        waiting = ledger.open_entries()
        if not waiting and not ledger.outbox(limit=1) and not ledger.uncounted():
            return dg.SkipReason("no extraction is open")
        with pipeline.working(f"sensor {self.names.status_sensor}") as worker:
            polled = poll(pipeline, waiting, seconds=POLLING_SECONDS)
            posted = post_due(pipeline, ledger.open_entries(status=Status.REQUESTED), worker.id, seconds=POSTING_SECONDS)
        problems = dict(sorted({**polled.problems, **posted.problems}.items()))
        for collection, problem in problems.items():
            context.log.warning("%s goes on at the next tick: %s", collection, problem)
        for entry in (*polled.ended, *posted.ended):
            context.log.warning("%s: attempt %d has failed", entry.request, entry.attempt)
        finished = self._finished()
        if not finished:
            still = sum(entry.status is Status.SUBMITTED for entry in waiting) - len(polled.completed)
            why = shortened(f"; {few([*problems], ', ')}: {next(iter(problems.values()))}") if problems else ""
            return dg.SkipReason(f"none finished, {max(0, still)} extractions at the service{why}")
        # Those of this code location: another one may have a job of the same name.
        place = context.code_location_origin
        here = {".dagster/repository": f"{context.repository_name}@{place.location_name}"} if place is not None else {}
        queued = dg.RunsFilter(job_name=self.job.name, statuses=[dg.DagsterRunStatus.QUEUED], tags=here)
        room = MAX_WAITING_RUNS - context.instance.get_runs_count(queued)
        if room <= 0:
            return dg.SkipReason(f"{len(finished)} finished, and {MAX_WAITING_RUNS} landing runs wait for a worker already")
        return self._landing_runs(finished, per_run, room) or dg.SkipReason("what has finished is being landed by others")

    def _finished(self) -> list[Entry]:
        """What a run has to do something about and none does, oldest first."""
        ledger, now, limits = self.pipeline.ledger, self.pipeline.clock.now(), self.pipeline.limits
        complete = [
            e
            for e in ledger.open_entries(status=Status.COMPLETE)
            if e.claimed_by is None and isinstance(decide(e, Seen(), now, limits), Land)
        ]
        # Ends that Dagster has not heard of, and landings whose run died before it told or counted them.
        others = {e.entry_id: e for e in (*ledger.outbox(limit=MAX_ENTRIES_PER_RUN), *ledger.uncounted())}
        found = sorted((*complete, *others.values()), key=lambda entry: entry.entry_id)
        strangers = {e.request.collection for e in found}.difference(self.collections)
        for collection in sorted(strangers):
            self.context.log.warning(
                "%s isn't among these definitions: left to its own code location for %d s, landed here without checks after that; "
                "if there is one, give one of the two another name than %s",
                *(collection, DISPATCH_SECONDS, self.names.name),
            )
        return [e for e in found if e.request.collection not in strangers or not self._has_just_ended(e, now)]

    def _has_just_ended(self, entry: Entry, now: datetime) -> bool:
        ended = entry.landed_at or entry.completed_at or entry.requested_at
        return timedelta() <= now - ended < timedelta(seconds=DISPATCH_SECONDS)

    def _landing_runs(self, finished: Sequence[Entry], per_run: int, most: int) -> list[dg.RunRequest]:
        """Ask for the landing of what is finished by at most so many runs; the next tick doesn't ask for the same again."""
        alike: dict[frozenset[tuple[str, str]], list[Entry]] = defaultdict(list)
        # Each run lists each of its collections once: together they come to fewer requests.
        for entry in sorted(finished, key=lambda entry: entry.request.collection):
            alike[frozenset(self._tags(entry).items())].append(entry)
        parts = [entries[i : i + per_run] for entries in alike.values() for i in range(0, len(entries), per_run)]
        now, dispatch, requests = self.pipeline.clock.now(), timedelta(seconds=DISPATCH_SECONDS), []
        for part in parts[:most]:
            told = self.pipeline.ledger.dispatch([e.entry_id for e in part if e.status is Status.COMPLETE], now + dispatch)
            others = [e for e in part if e.status is not Status.COMPLETE]
            # Dagster takes one request of a key. The others can't be dispatched, so their key tells them apart for as long.
            same = f"{[e.token for e in others]} {turn_of(others, now)}"
            key = secrets.token_hex(8) if told else hashlib.sha256(same.encode()).hexdigest()[:16]
            if told or others:
                requests.append(self._landing_run([*told, *others], key))
        return requests

    def _landing_run(self, entries: Sequence[Entry], key: str) -> dg.RunRequest:
        known = [self.collections[n] for n in sorted({e.request.collection for e in entries}) if n in self.collections]
        keys = {collection.name: self.keys[collection.name] for collection in known}
        (op,) = self.job.graph.node_defs
        return dg.RunRequest(
            run_key=key,
            job_name=self.job.name,
            run_config=landing_config(op, known, keys, [e.entry_id for e in entries]),
            tags=self._tags(entries[0]),
        )

    def _tags(self, entry: Entry) -> dict[str, str]:
        collection = self.collections.get(entry.request.collection)
        return dict(collection.run_tags) if collection is not None else {}


def turn_of(others: Sequence[Entry], now: datetime) -> int:
    """Changes once another run may be asked for the same ends and landings: after DISPATCH_SECONDS.

    Landings that are told and whose counts can't be had are counted ever more rarely, the longer ago they landed.
    """
    if others and all(entry.reported_at is not None for entry in others):
        age = now - max(entry.landed_at or now for entry in others)
        return int(math.log2(1 + max(0.0, age.total_seconds()) / DISPATCH_SECONDS))
    return int(now.timestamp() // DISPATCH_SECONDS)
