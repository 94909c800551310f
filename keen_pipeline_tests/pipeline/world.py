"""The callers of the use cases without Dagster: a night, the sensor's ticks, landing runs, a backfill, the command line."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta, timezone
from functools import cache
from pathlib import Path
from typing import Any

import sqlalchemy as sa

from keen_pipeline.collection import Collection
from keen_pipeline.extraction import ExtractionRequest, Status
from keen_pipeline.landing import FileDestination
from keen_pipeline.ledger import SqlLedger, open_engine
from keen_pipeline.ledger.database.tables import compatibility, metadata
from keen_pipeline.lifecycle import Entry, Land, Limits, Seen, decide
from keen_pipeline.partitions import partition_range
from keen_pipeline.pipeline import (
    Counted,
    Landed,
    NotLanded,
    Pipeline,
    Submission,
    extract,
    land,
    partition_request,
    poll,
    post_due,
    requests_of_a_night,
    submit,
)
from keen_pipeline.pipeline.extractions.explain import explain_all
from keen_pipeline.scope import Scope
from keen_pipeline.testing import FakeClock
from keen_pipeline_tests.pipeline.scripted import ScriptedKeen

UTC = timezone.utc
NOW = datetime(2026, 1, 4, 1, tzinfo=UTC)
# Between two ticks of the sensor.
TICK_SECONDS = 15.0
# How long a landing run that was asked for may take until another one is.
DISPATCH_SECONDS = 300.0


@cache
def _engine() -> sa.Engine:
    return open_engine("sqlite://")


def empty_engine() -> sa.Engine:
    """The one ledger in memory of this process, emptied: migrations would take longer than most tests."""
    engine = _engine()
    with engine.begin() as connection:
        for table in metadata.sorted_tables:
            if table is not compatibility:
                connection.execute(sa.delete(table))
        connection.exec_driver_sql("DELETE FROM sqlite_sequence")  # each test begins with entry 1
    return engine


def day(number: int, hour: int = 12) -> datetime:
    """An hour of a day of January 2026."""
    return datetime(2026, 1, 1, hour, tzinfo=UTC) + timedelta(days=number - 1)


@dataclass
class World:
    """One pipeline, and what its callers were told: `told` landed partitions, `counts`, `refused` landings, `ended` entries."""

    api: ScriptedKeen
    clock: FakeClock
    ledger: SqlLedger
    pipeline: Pipeline
    root: Path
    told: list[str] = field(default_factory=list)
    counts: list[Counted] = field(default_factory=list)
    refused: list[NotLanded] = field(default_factory=list)
    ended: list[Entry] = field(default_factory=list)
    submissions: list[Submission] = field(default_factory=list)

    @classmethod
    def at(
        cls,
        root: Path,
        *,
        clock: FakeClock | None = None,
        api: ScriptedKeen | None = None,
        scope: Scope | None = None,
        **limits: Any,
    ) -> World:
        """A world with an empty ledger in memory, the only one of a test, whose files lie below `root`."""
        clock = clock or FakeClock(NOW)
        api = api or ScriptedKeen(clock)
        destination = FileDestination(str(root))
        scope = scope or Scope("projects/one", destination.uri)
        ledger = SqlLedger(empty_engine(), scope, clock=clock)
        return cls(api, clock, ledger, Pipeline(api, ledger, destination, Limits(**limits), mask_key=b"k1"), root)

    def beside(self, root: Path | None = None, *, api: ScriptedKeen | None = None, **scope: str) -> World:
        """Another pipeline on the same ledger's database, with another scope."""
        destination = FileDestination(str(root or self.root))
        other = replace(self.ledger.scope, destination=destination.uri, **scope)
        ledger = SqlLedger(self.ledger.engine, other, clock=self.clock)
        pipeline = replace(self.pipeline, api=api or self.api, ledger=ledger, destination=destination)
        return World(api or self.api, self.clock, ledger, pipeline, root or self.root)

    def with_limits(self, **limits: Any) -> None:
        """Other bounds."""
        self.pipeline = replace(self.pipeline, limits=replace(self.pipeline.limits, **limits))

    # -- callers ------------------------------------------------------------------------------------------------------

    def requests(self, collection: Collection, first: int, last: int | None = None) -> list[ExtractionRequest]:
        """Days of January 2026, both inclusive."""
        keys = [day(number).date().isoformat() for number in (first, last or first)]
        days = partition_range(collection, keys[0], keys[1], day((last or first) + 400))
        return [partition_request(collection, one, mask_key=self.pipeline.mask_key) for one in days]

    def night(self, *collections: Collection) -> list[ExtractionRequest]:
        """What the op `submit_extractions` does; answers what it wanted."""
        wanted: list[ExtractionRequest] = []
        with self.pipeline.working("a night") as worker:
            for collection in collections:
                requests = requests_of_a_night(self.pipeline, collection, self.clock.now())
                submission = submit(self.pipeline, requests)
                self.submissions.append(submission)
                wanted += requests
                post_due(self.pipeline, submission.created, worker.id)
        return wanted

    def tick(self) -> None:
        """What the sensor does, and the landing run that it asks for."""
        with self.pipeline.working("the sensor") as worker:
            poll(self.pipeline, self.ledger.open_entries(), worker=worker.id)
            post_due(self.pipeline, self.ledger.open_entries(), worker.id)
        now = self.clock.now()
        complete = self.ledger.open_entries(status=Status.COMPLETE)
        due = [e.entry_id for e in complete if isinstance(decide(e, Seen(), now, self.pipeline.limits), Land)]
        ready = self.ledger.dispatch(due, now + timedelta(seconds=DISPATCH_SECONDS))
        self.run([e.entry_id for e in (*ready, *self.ledger.uncounted())])
        for entry in self.ledger.outbox():
            self.told += [str(entry.request)] if entry.status is Status.LANDED else []
            self.ended += [entry] if entry.status is Status.ABANDONED else []
            self.ledger.reported([entry.entry_id])
        self.clock.advance(TICK_SECONDS)

    def run(self, entry_ids: Sequence[int]) -> None:
        """A landing run."""
        with self.pipeline.working("a landing run") as worker:
            for outcome in land(self.pipeline, entry_ids, worker):
                if isinstance(outcome, Landed):
                    self.told.append(str(outcome.entry.request))
                    self.ledger.reported([outcome.entry.entry_id])
                elif isinstance(outcome, Counted):
                    self.counts.append(outcome)
                else:
                    self.refused.append(outcome)

    def ticks(self, most: int = 40) -> None:
        """Ticks until nothing is open, at most so many."""
        for _ in range(most):
            self.tick()
            if not self.ledger.open_entries():
                return

    def extract(self, requests: Sequence[ExtractionRequest], *, most: int = 100_000, **options: Any) -> list[Any]:
        """What a backfill or a command hears, progress aside."""
        events = []
        for number, event in enumerate(extract(self.pipeline, requests, doing="a test", **options)):
            assert number < most, f"no end after {most} events"
            if type(event).__name__ != "Progress":
                events.append(event)
            if isinstance(event, Landed) and not event.adopted:
                self.ledger.reported([event.entry.entry_id])
        return events

    # -- what there is ------------------------------------------------------------------------------------------------

    def entry(self, request: ExtractionRequest) -> Entry:
        """The current attempt of a partition."""
        [entry] = self.ledger.current([request])
        assert entry is not None
        return entry

    def file(self, request: ExtractionRequest) -> bytes | None:
        """The bytes of a file at rest."""
        path = self.root / request.path
        return path.read_bytes() if path.exists() else None

    def is_right(self, request: ExtractionRequest) -> bool:
        """Whether the (CSV) file holds exactly what an extraction of now would."""
        return self.file(request) == self.api.csv(request)

    def files(self) -> list[str]:
        """All files below the root but those kept aside, sorted."""
        paths = (path.relative_to(self.root).as_posix() for path in self.root.rglob("*") if path.is_file())
        return sorted(path for path in paths if not path.startswith("_"))

    def aside(self) -> list[str]:
        """What lies in the quarantine, reasons aside."""
        folder = self.root / "_quarantine"
        return sorted(path.name for path in folder.rglob("*") if path.is_file() and not path.name.endswith(".reason.txt"))

    def reasons(self) -> dict[str, str]:
        """Why each open partition waits, by its key."""
        entries = self.ledger.open_entries()
        waiting = explain_all(self.ledger, entries, self.pipeline.limits)
        return {str(e.request): str(waiting[e.entry_id]) for e in entries}
