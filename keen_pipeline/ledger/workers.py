"""The processes that work on a ledger: who holds a claim, and whether it still lives.

A claim is a worker's id in `keen_entries.claimed_by`. A worker is gone once its heartbeat is older than the lease, or at once if
it ran on this host and its process is no more; what it had claimed is free then.
"""

from __future__ import annotations

import logging
import os
import platform
import secrets
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime, timedelta
from functools import cache
from pathlib import Path
from threading import Event, Thread

import sqlalchemy as sa

from keen_pipeline.errors import LedgerUnavailableError
from keen_pipeline.ledger.database.tables import entries, is_claimed, is_publishing, workers
from keen_pipeline.ledger.database.transactions import lock_rows, read_transaction, reason_of, transaction
from keen_pipeline.ports import Clock

_log = logging.getLogger(__name__)

# Heartbeats within one lease; one may be lost without a word.
_BEATS = 3
# Between two heartbeats, however long the lease of this process is: that of another may be the default, 60 s.
_LONGEST_PAUSE_SECONDS = 20.0
_MOST_CHARACTERS = 256


@dataclass(frozen=True)
class WorkerRow:
    """A process that may hold claims. `host` and `pid` say where it runs, `doing` what it does."""

    worker_id: str
    host: str
    pid: int
    process_started: str | None
    doing: str
    started_at: datetime
    heartbeat_at: datetime

    @property
    def is_dead(self) -> bool:
        """Whether it ran on this host and its process is no more."""
        return self.host == this_host() and not is_alive(self.pid, self.process_started)

    def is_gone(self, now: datetime, lease_seconds: float) -> bool:
        """Whether others may take over: its process is no more, or its last heartbeat older than the lease."""
        # A heartbeat that lies ahead was written by a clock that was wrong.
        return self.is_dead or abs(now - self.heartbeat_at) > timedelta(seconds=lease_seconds)

    def __str__(self) -> str:
        return f"{self.doing} (process {self.pid} on {self.host.partition(' ')[0]})"


class Workers:
    """The table of workers. Every method is one transaction."""

    def __init__(self, engine: sa.Engine, clock: Clock) -> None:
        self.engine = engine
        self._clock = clock

    @transaction
    def register(self, connection: sa.Connection, doing: str) -> str:
        """A new worker of this process; answers its id."""
        now, worker_id = self._clock.now(), secrets.token_hex(16)
        row = {"id": worker_id, "host": this_host(), "pid": os.getpid(), "process_started": _process_started(os.getpid())}
        text = {"doing": doing[:_MOST_CHARACTERS], "started_at": now, "heartbeat_at": now}
        connection.execute(sa.insert(workers).values({**row, **text}))
        return worker_id

    @transaction
    def beat(self, connection: sa.Connection, worker_id: str) -> bool:
        """A heartbeat; False if the worker was taken for gone, and its claims with it."""
        beat = sa.update(workers).where(workers.c.id == worker_id).values(heartbeat_at=self._clock.now())
        return connection.execute(beat).rowcount == 1

    @transaction
    def retire(self, connection: sa.Connection, worker_id: str) -> None:
        """The worker ends and gives back all that it had claimed."""
        connection.execute(sa.delete(workers).where(workers.c.id == worker_id))
        self._free(connection, worker_id)

    @transaction
    def prune(self, connection: sa.Connection, lease_seconds: float) -> list[WorkerRow]:
        """Remove the workers that are gone and free what they had claimed; answers them."""
        now = self._clock.now()
        removed = []
        for worker in self._rows(connection):
            if not worker.is_gone(now, lease_seconds):
                continue
            # By the heartbeat that was seen: one that came meanwhile says that the worker lives.
            still = sa.and_(workers.c.id == worker.worker_id, workers.c.heartbeat_at == worker.heartbeat_at)
            if connection.execute(sa.delete(workers).where(still)).rowcount != 1:
                continue
            self._free(connection, worker.worker_id)
            if worker.is_dead:  # what it was about to publish never comes; of one that is late it may
                publishing = sa.and_(is_publishing, entries.c.publisher == worker.worker_id)
                connection.execute(sa.update(entries).where(publishing).values(publisher=None))
            removed.append(worker)
        for worker in removed:
            _log.info("taken over from a worker that is gone: %s", worker)
        return removed

    @read_transaction
    def all(self, connection: sa.Connection) -> list[WorkerRow]:
        """The workers that are registered, oldest first."""
        return self._rows(connection)

    def _rows(self, connection: sa.Connection) -> list[WorkerRow]:
        return [WorkerRow(*row) for row in connection.execute(sa.select(workers).order_by(workers.c.started_at))]

    def _free(self, connection: sa.Connection, worker_id: str) -> None:
        mine = sa.and_(is_claimed, entries.c.claimed_by == worker_id)
        lock_rows(connection, entries.c.id, mine)
        connection.execute(sa.update(entries).where(mine).values(claimed_by=None))


class Worker:
    """A registered worker with a thread that sends its heartbeats. `id` changes if it was taken for gone meanwhile.

    A context manager; at its end, however it comes, all claims are given back.
    """

    def __init__(self, table: Workers, doing: str, lease_seconds: float) -> None:
        self._table, self._doing = table, doing
        self._every = min(lease_seconds / _BEATS, _LONGEST_PAUSE_SECONDS)
        self._stop = Event()
        self.id = table.register(doing)
        self._thread = Thread(target=self._beat, name="keen-heartbeat", daemon=True)
        self._thread.start()

    def _beat(self) -> None:
        while not self._stop.wait(self._every):
            try:
                if not self._table.beat(self.id):
                    _log.warning("%s was taken for gone, others may have gone on with what it had claimed", self._doing)
                    self.id = self._table.register(self._doing)
            except (sa.exc.SQLAlchemyError, LedgerUnavailableError, OSError) as error:
                reason = reason_of(error) if isinstance(error, sa.exc.SQLAlchemyError) else str(error)
                _log.warning("no heartbeat of %s: %s", self._doing, reason)
            except Exception:  # noqa: BLE001 - logged with its traceback
                # This thread has no caller, and must not end before the worker does.
                _log.exception("no heartbeat of %s", self._doing)

    def __enter__(self) -> Worker:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self._stop.set()
        self._thread.join(timeout=30)
        # Whoever comes next sees that this process is gone, or that its heartbeat is old.
        with suppress(LedgerUnavailableError):
            self._table.retire(self.id)


@cache
def this_host() -> str:
    """What tells this machine's processes from others: its name, its boot and its process namespace."""
    parts = [platform.node() or "unknown"]
    with suppress(OSError):
        parts.append(Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip())
    with suppress(OSError):
        parts.append(str(Path("/proc/self/ns/pid").readlink()))
    return " ".join(parts)[:_MOST_CHARACTERS]


def is_alive(pid: int, started: str | None) -> bool:
    """Whether a process of this host still runs; one that ended and is not waited for doesn't. True if that can't be told."""
    if os.name != "posix":
        return True
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except (PermissionError, OverflowError):
        return True
    stat = _stat(pid)
    if stat is None:
        return True
    state, now_started = stat
    return state not in "ZX" and (started is None or started == now_started)


def _process_started(pid: int) -> str | None:
    stat = _stat(pid)
    return None if stat is None else stat[1]


def _stat(pid: int) -> tuple[str, str] | None:
    """State and start time of a process, None if the system doesn't tell."""
    try:
        # The name, in brackets, may hold blanks and brackets.
        fields = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace").rpartition(")")[2].split()
        return fields[0], fields[19]
    except (OSError, IndexError):
        return None
