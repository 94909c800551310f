"""Records and turns of extractions in the catalogue: every process takes those that are due, and nobody's twice."""

# ruff: noqa: S608 - only the expression for the time is put together here, everything else is bound
from __future__ import annotations

import logging
import secrets
import threading
from collections.abc import Iterator, Set
from contextlib import contextmanager

from keen_pipeline.errors import RetryableError
from keen_pipeline.service.extractions.queue import Turn
from keen_pipeline.service.extractions.records import (
    COMPLETE,
    MAIL_PENDING,
    NOT_STARTED,
    Extraction,
    ExtractionRecords,
    extraction_of,
)
from keen_pipeline.service.storage.shared.database import NOW, PostgresDatabase

# Longer than any attempt to send one; only a process that died in the middle of it leaves a mail for so long.
MAIL_CLAIM_SECONDS = 120.0
POLL_SECONDS = 0.5
_SWEEP = "old results"
_log = logging.getLogger(__name__)


class SharedExtractionRecords(ExtractionRecords):
    """The records of all processes."""

    def get(self, extraction_id: str) -> Extraction | None:
        """One extraction, None where there is none (any more)."""
        return None if "\0" in extraction_id else super().get(extraction_id)  # PostgreSQL takes no such text

    def mails_due(self, now: float) -> list[Extraction]:
        """The finished extraction whose mail is to be sent first, if there is one; for two minutes no other process sends it."""
        with self._database.transaction() as connection:
            sql = (
                "UPDATE extractions SET mail_next = ? WHERE id = (SELECT id FROM extractions WHERE mail_status = ? AND status = ?"
                " AND mail_next <= ? ORDER BY mail_next LIMIT 1 FOR UPDATE SKIP LOCKED) RETURNING *"
            )
            claimed = connection.execute(sql, [now + MAIL_CLAIM_SECONDS, MAIL_PENDING, COMPLETE, now])
            return [extraction_of(row) for row in claimed.fetchall()]


class SharedQueue:
    """Turns by leases of `lease_seconds`, renewed while their process works on them.

    One that is not renewed goes to another process with the next number, and is counted as lost: `Turn.lost`.
    """

    def __init__(self, database: PostgresDatabase, lease_seconds: float) -> None:
        self._database = database
        self._lease_seconds = lease_seconds
        self._holder = secrets.token_hex(8)
        self._lock = threading.Lock()
        self._held: dict[str, Turn] = {}
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._renew_all, name="renew", daemon=True)
        self._thread.start()

    def take(self, running: Set[str], resting: Set[str]) -> Turn | float:
        """The oldest that is due and that no process works on."""
        passed_over = list(running | resting) if running else []
        sql = (
            f"UPDATE extractions SET holder = ?, held_until = {NOW} + ?, turn = turn + 1,"
            " lost = lost + CASE WHEN holder IS NULL THEN 0 ELSE 1 END"
            f" WHERE id = (SELECT id FROM extractions WHERE status = ? AND not_before <= {NOW} AND held_until <= {NOW}"
            " AND NOT (id = ANY(?)) ORDER BY created, id LIMIT 1 FOR UPDATE SKIP LOCKED) RETURNING id, turn, lost"
        )
        rows = self._database.rows(sql, [self._holder, self._lease_seconds, NOT_STARTED, passed_over])
        if not rows:
            return POLL_SECONDS
        turn = Turn(rows[0]["id"], rows[0]["turn"], rows[0]["lost"])
        with self._lock:
            self._held[turn.extraction_id] = turn
        return turn

    def put_off(self, turn: Turn, seconds: float) -> None:
        """End a turn without an end of its extraction, which any process may take again after so many seconds."""
        sql = f"UPDATE extractions SET holder = NULL, held_until = {NOW} + ? WHERE id = ? AND turn = ?"
        self._database.rows(sql, [seconds, turn.extraction_id, turn.number])

    def leave(self, turn: Turn) -> None:
        """No longer renew the lease of a turn."""
        with self._lock:
            self._held.pop(turn.extraction_id, None)

    @contextmanager
    def sweeping(self) -> Iterator[bool]:
        """Whether this process is the one that removes old results, while the block runs."""
        with self._database.exclusive(_SWEEP, 0) as ours:
            yield ours

    def _renew_all(self) -> None:
        while not self._stop.wait(self._lease_seconds / 3):
            with self._lock:
                turns = list(self._held.values())
            try:
                for turn in turns:
                    sql = f"UPDATE extractions SET held_until = {NOW} + ? WHERE id = ? AND turn = ? AND holder = ?"
                    self._database.rows(sql, [self._lease_seconds, turn.extraction_id, turn.number, self._holder])
            except RetryableError as error:  # what is lost meanwhile is written by another process, and its end is noted once
                _log.warning("leases not renewed", extra={"reason": str(error)})

    def close(self) -> None:
        """Renew nothing any more."""
        self._stop.set()
        self._thread.join()
