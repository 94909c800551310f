"""The processes of `change`: a night, a daemon, a backfill, each of one definition as it is configured when they start."""

from __future__ import annotations

import fcntl
import json
import logging
import os
import signal
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import date, datetime, timedelta, timezone
from pathlib import Path
from typing import Any

from keen_pipeline.client import KeenClient
from keen_pipeline.collection import Collection
from keen_pipeline.errors import KeenPipelineError, LedgerUnavailableError
from keen_pipeline.extraction import Status
from keen_pipeline.landing import FileDestination
from keen_pipeline.ledger import SqlLedger, open_engine
from keen_pipeline.lifecycle import Entry, Land, Limits, Seen, decide
from keen_pipeline.partitions import partition_range
from keen_pipeline.pipeline import Landed, Pipeline, extract, land, partition_request, poll, post_due, requests_of_a_night, submit
from keen_pipeline.scope import Scope

_log = logging.getLogger(__name__)
LIMITS = Limits(max_attempts=3, retry_seconds=0.1, lease_seconds=1.5, stuck_seconds=60, max_events=6)
QUIET_SECONDS = 60.0


@dataclass(frozen=True)
class Service:
    """A project: where it answers, and who it is."""

    url: str
    project: str
    key: str


@dataclass(frozen=True)
class Setting:
    """What a process reads when it starts: the definitions `name`, of today."""

    folder: Path
    service: Service
    destination: str
    collections: tuple[Collection, ...]
    as_of: datetime
    name: str = "keen"
    mask_key: bytes = b"k1"
    days: tuple[int, int] = (1, 3)
    options: dict[str, Any] = field(default_factory=dict)

    @property
    def scope(self) -> Scope:
        return Scope(f"projects/{self.service.project}", self.destination, self.name)


class HostClock:
    """The clock of a host that somebody sets: it is ahead by what stands in a file."""

    def __init__(self, file: Path) -> None:
        self._file = file

    def now(self) -> datetime:
        return datetime.now(timezone.utc) + timedelta(seconds=float(self._file.read_text() or 0))

    def sleep(self, seconds: float) -> None:
        time.sleep(min(seconds, 0.2))


def open_ledger(setting: Setting) -> SqlLedger:
    """The share of the definitions in the one ledger."""
    engine = open_engine(f"sqlite:///{setting.folder / 'ledger.db'}")
    return SqlLedger(engine, setting.scope, clock=HostClock(setting.folder / "ahead"))


@contextmanager
def opened(setting: Setting) -> Iterator[Pipeline]:
    """The pipeline of a setting."""
    service = setting.service
    with KeenClient(service.url, service.project, read_key=service.key, total_timeout=5) as client:
        destination = FileDestination(setting.destination)
        yield Pipeline(client, open_ledger(setting), destination, LIMITS, poll_seconds=0.1, mask_key=setting.mask_key)


class Told:
    """What Dagster would know: landings by token, each once; a line is written before the ledger hears of it."""

    def __init__(self, setting: Setting) -> None:
        self._file = setting.folder / "told.jsonl"

    def tell(self, ledger: SqlLedger, entry: Entry) -> None:
        with self._file.open("a+") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            file.seek(0)
            if not any(json.loads(line)["token"] == entry.token for line in file):
                line = {"token": entry.token, "status": entry.status.value, "what": str(entry.request)}
                file.write(json.dumps(line) + "\n")
        ledger.reported([entry.entry_id])


def night(setting: Setting) -> None:
    """The op of the nightly run; a collection that can't be asked for stops itself alone."""
    with opened(setting) as pipeline, pipeline.working("a night") as worker:
        for collection in setting.collections:
            try:
                submission = submit(pipeline, requests_of_a_night(pipeline, collection, setting.as_of))
                post_due(pipeline, submission.created, worker.id)
            except KeenPipelineError as error:
                _log.warning("night: %s: %s", collection.name, error)


def backfill(setting: Setting) -> None:
    """A backfill of some days of all collections; `resumable` as on the command line."""
    told = Told(setting)
    with opened(setting) as pipeline:
        first, last = (date(2026, 1, day).isoformat() for day in setting.days)
        requests = [
            partition_request(collection, partition, mask_key=pipeline.mask_key)
            for collection in setting.collections
            for partition in partition_range(collection, first, last, setting.as_of)
        ]
        for event in extract(pipeline, requests, doing="a backfill", resumable=setting.options.get("resumable", False)):
            if isinstance(event, Landed) and not event.adopted:
                told.tell(pipeline.ledger, event.entry)


def tick(pipeline: Pipeline, told: Told) -> None:
    """One tick of the sensor, and the landing run that it asks for."""
    ledger = pipeline.ledger
    with pipeline.working("the sensor") as worker:
        poll(pipeline, ledger.open_entries(), worker=worker.id)
        post_due(pipeline, ledger.open_entries(), worker.id, seconds=2)
    now = ledger.clock.now()
    complete = ledger.open_entries(status=Status.COMPLETE)
    due = [entry.entry_id for entry in complete if isinstance(decide(entry, Seen(), now, pipeline.limits), Land)]
    ready = ledger.dispatch(due, now + timedelta(seconds=1))
    with pipeline.working("a landing run") as worker:
        for outcome in land(pipeline, [entry.entry_id for entry in (*ready, *ledger.uncounted())], worker):
            if isinstance(outcome, Landed):
                told.tell(ledger, outcome.entry)
    for entry in ledger.outbox():
        told.tell(ledger, entry)


def daemon(setting: Setting) -> None:
    """The sensor: for ever, or for `ticks`, or until nothing is left if it shall `settle`."""
    told, number, quiet, begun = Told(setting), 0, 0, time.monotonic()
    with opened(setting) as pipeline:
        while quiet < 2 and number != setting.options.get("ticks"):
            tick(pipeline, told)
            number += 1
            left = pipeline.ledger.open_entries() or pipeline.ledger.outbox() or pipeline.ledger.uncounted()
            if setting.options.get("settle"):
                quiet = 0 if left else quiet + 1
                if time.monotonic() - begun > QUIET_SECONDS:
                    return
            time.sleep(0.1)


DOINGS: dict[str, Callable[[Setting], None]] = {"night": night, "backfill": backfill, "daemon": daemon}


def run(doing: str, setting: Setting, log: Path) -> None:
    """What a child of the fork server does: SIGTERM ends it as Ctrl-C does, giving everything back."""
    os.setpgid(0, 0)
    out = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(out, 1)
    os.dup2(out, 2)
    logging.basicConfig(
        level=logging.WARNING, format=f"%(asctime)s {os.getpid()} {doing} %(message)s", stream=sys.stderr, force=True
    )
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    try:
        DOINGS[doing](setting)
    except LedgerUnavailableError as error:
        # A process that was paused in the middle of a transaction holds SQLite's lock: this one ends in words, as a run would.
        if "another process has held it" not in str(error):
            raise
        sys.exit(f"{doing}: {error}")
