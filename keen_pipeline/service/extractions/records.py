"""The records of extractions in the database: what was asked, how it stands, whether its mail went out."""

# ruff: noqa: S608 - only names of columns and question marks are put together here, everything is bound
from __future__ import annotations

import json
import secrets
from collections.abc import Collection, Iterable, Sequence
from contextlib import AbstractContextManager
from dataclasses import asdict, dataclass
from typing import Any

from keen_pipeline.errors import RateLimitedError
from keen_pipeline.filters import Condition, parse_filters
from keen_pipeline.mail import TIMEOUT_SECONDS
from keen_pipeline.service.storage.places import Database
from keen_pipeline.timeframe import Timeframe, format_instant, parse_instant

NOT_STARTED, COMPLETE, FAILED = "not started", "complete", "failed"
MAIL_PENDING, MAIL_SENT, MAIL_GIVEN_UP = "pending", "sent", "given up"
QUEUE_RETRY_SECONDS = 30
CLOCK_SECONDS = 86_400
"""Nothing is held or put off for so long: what seems to be was while the clock was ahead."""
AHEAD_SECONDS = 60
"""Of a creation that this much lies ahead the clock was wrong; a shorter time is that between reading it and looking."""
MAIL_CLAIM_SECONDS = 12 * TIMEOUT_SECONDS
"""Longer than an attempt to send one, whose steps with TLS and a login are eleven; only a process that died in the middle of it
leaves a mail for so long."""


@dataclass(frozen=True)
class Shape:
    """What of the events is extracted: only the newest `latest`, only these properties; `gzip`: the mail links the file packed."""

    latest: int | None = None
    property_names: tuple[str, ...] | None = None
    gzip: bool = False


WHOLE = Shape()


@dataclass(frozen=True)
class Extraction:
    """One extraction as its row has it. Times are seconds since 1970. `names`: `v2` or `v3`. `message`: why it failed.

    `filters`: their JSON, None in a list without room for them. `turn`: which turn at it this is, counted from 1.
    """

    id: str
    collection: str
    names: str
    filters: str | None
    start_time: str | None
    end_time: str | None
    email: str | None
    status: str
    created: float
    finished: float | None
    events: int | None
    bytes: int | None
    message: str | None
    mail_status: str | None
    mail_attempts: int
    options: str
    turn: int

    @property
    def conditions(self) -> tuple[Condition, ...]:
        return parse_filters(self.filters)

    @property
    def timeframe(self) -> Timeframe | None:
        if self.start_time is None or self.end_time is None:
            return None
        return Timeframe(parse_instant(self.start_time), parse_instant(self.end_time))

    @property
    def shape(self) -> Shape:
        options = json.loads(self.options)
        names = options.get("property_names")
        return Shape(options.get("latest"), tuple(names) if names is not None else None, options.get("gzip", False))


_COLUMNS = tuple(Extraction.__dataclass_fields__)
_LISTED = f"""
WITH chosen AS (
    SELECT * FROM extractions WHERE collection = ? ORDER BY (finished IS NOT NULL), created DESC, id DESC LIMIT ?),
measured AS (
    SELECT chosen.*, sum(length(filters)) OVER (ORDER BY (finished IS NOT NULL), created DESC, id DESC) AS characters FROM chosen)
SELECT {", ".join(name for name in _COLUMNS if name != "filters")}, CASE WHEN characters <= ? THEN filters END AS filters
FROM measured ORDER BY created, id
"""


@dataclass(frozen=True)
class Turn:
    """A turn at one extraction. `number`: from 1; 0: an older release's. `lost`: turns that nobody ended."""

    extraction_id: str
    number: int = 0
    lost: int = 0

    @property
    def result(self) -> str:
        """What its result is called, without ending: two turns never write to one place."""
        return f"{self.extraction_id}-{self.number}" if self.number else self.extraction_id


class ExtractionRecords:
    """Reads and changes the records; each change is one transaction that names the state it expects.

    `lease_seconds`: how long a turn is its process's unless it is renewed, then it goes to another with the next number, and is
    counted as lost; 0: there is one process, which passes over what it runs itself, so all others' turns are lost.
    """

    def __init__(self, database: Database, lease_seconds: float = 0) -> None:
        self._database = database
        self.lease_seconds = lease_seconds
        self._holder = secrets.token_hex(8)

    def now(self) -> float:
        """The time that the records are kept in, in seconds since 1970."""
        return self._database.now()

    def create(
        self,
        collection: str,
        *,
        names: str,
        filters: Sequence[Condition],
        timeframe: Timeframe | None,
        email: str | None,
        delay: float,
        max_queue: int,
        shape: Shape = WHOLE,
    ) -> Extraction:
        """Note a new extraction. Raises RateLimitedError if `max_queue` extractions wait already."""
        extraction_id, now = secrets.token_hex(12), self.now()
        row = {
            "id": extraction_id,
            "collection": collection,
            "names": names,
            "filters": json.dumps([condition.to_wire() for condition in filters]),
            "start_time": format_instant(timeframe.start) if timeframe else None,
            "end_time": format_instant(timeframe.end) if timeframe else None,
            "email": email,
            "status": NOT_STARTED,
            "created": now,
            "not_before": now + delay,
            "mail_status": MAIL_PENDING if email else None,
            "options": json.dumps(asdict(shape)),
        }
        with self._database.transaction("queue") as connection:
            counted = connection.execute("SELECT count(*) AS waiting FROM extractions WHERE status = ?", [NOT_STARTED])
            waiting = counted.fetchone()["waiting"]
            if waiting >= max_queue:
                raise RateLimitedError(f"{waiting} extractions wait already; ask again later", retry_after=QUEUE_RETRY_SECONDS)
            marks = ", ".join("?" * len(row))
            connection.execute(f"INSERT INTO extractions ({', '.join(row)}) VALUES ({marks})", list(row.values()))
        made = self.get(extraction_id)
        assert made is not None
        return made

    def get(self, extraction_id: str) -> Extraction | None:
        """One extraction, None if there is none (any more)."""
        if "\0" in extraction_id:
            return None  # not every database takes such a text
        rows = self._database.rows("SELECT * FROM extractions WHERE id = ?", [extraction_id])
        return _extraction(rows[0]) if rows else None

    def of_collection(self, collection: str, most: int, most_filter_characters: int) -> list[Extraction]:
        """At most `most` extractions of a collection, those that are open and the newest before others; oldest first.

        Filters are read of the newest alone, `most_filter_characters` together: a poller needs the statuses of all of them.
        """
        rows = self._database.rows(_LISTED, [collection, most, most_filter_characters])
        return [_extraction(row) for row in rows]

    def count_waiting(self) -> int:
        rows = self._database.rows("SELECT count(*) AS waiting FROM extractions WHERE status = ?", [NOT_STARTED])
        return int(rows[0]["waiting"])

    def take_turn(self, passed_over: Collection[str]) -> Turn | None:
        """The oldest extraction that is due and nobody's now, apart from some; nobody else gets the same turn."""
        marks = ", ".join(["''", *"?" * len(passed_over)])
        due = (
            "SELECT id, turn, lost, holder, held_until FROM extractions WHERE status = ? AND (not_before <= ? OR created > ?)"
            " AND (held_until <= ? OR held_until > ?)"  # the clock may have been ahead
            f" AND id NOT IN ({marks}) ORDER BY created, id LIMIT 1"
        )
        while True:
            now = self.now()
            rows = self._database.rows(due, [NOT_STARTED, now, now + AHEAD_SECONDS, now, now + CLOCK_SECONDS, *passed_over])
            if not rows:
                return None
            row = rows[0]
            turn = Turn(row["id"], row["turn"] + 1, row["lost"] + (row["holder"] is not None))
            sql = (
                "UPDATE extractions SET holder = ?, held_until = ?, turn = ?, lost = ?"
                " WHERE id = ? AND status = ? AND turn = ? AND held_until = ?"
            )
            values = [self._holder, self.lease_seconds and now + self.lease_seconds, turn.number, turn.lost]
            if self._changed(sql, [*values, turn.extraction_id, NOT_STARTED, row["turn"], row["held_until"]]):
                return turn

    def renew(self, turns: Iterable[Turn]) -> None:
        """Hold turns for another `lease_seconds`; those that went to another process, or were put off, are left as they are."""
        sql = "UPDATE extractions SET held_until = ? WHERE id = ? AND turn = ? AND holder = ?"
        for turn in turns:
            self._changed(sql, [self.now() + self.lease_seconds, turn.extraction_id, turn.number, self._holder])

    def put_off(self, turn: Turn, seconds: float) -> None:
        """End a turn without an end of its extraction, which any process may take again after so many seconds."""
        sql = "UPDATE extractions SET holder = NULL, held_until = ? WHERE id = ? AND turn = ?"
        self._changed(sql, [self.now() + seconds, turn.extraction_id, turn.number])

    def _changed(self, sql: str, values: Sequence[Any]) -> bool:
        with self._database.transaction() as connection:
            return bool(connection.execute(sql, values).rowcount)

    def sweeping(self) -> AbstractContextManager[bool]:
        """Whether this process is the one that removes old results, while the block runs."""
        return self._database.exclusive("old results", 0)

    def finish(self, turn: Turn, status: str, *, events: int | None, size: int | None, message: str | None) -> bool:
        """Note the end of an extraction; its result, if it has one, is durable already. False if another turn has it by now."""
        if message is not None:
            message = message.replace("\0", "")  # it may quote what was asked, and not every database takes the character
        sql = (
            "UPDATE extractions SET status = ?, finished = ?, events = ?, bytes = ?, message = ?, mail_next = ?"
            " WHERE id = ? AND turn = ? AND status = ?"
        )
        now = self.now()
        return self._changed(sql, [status, now, events, size, message, now, turn.extraction_id, turn.number, NOT_STARTED])

    def claim_mail(self, now: float) -> Extraction | None:
        """The finished extraction whose mail is to be sent first, if one is due; for four minutes nobody else sends it."""
        due = (
            "SELECT * FROM extractions WHERE mail_status = ? AND status = ? AND (mail_next <= ? OR mail_next > ?)"
            " ORDER BY mail_next, id LIMIT 1"
        )
        claim = "UPDATE extractions SET mail_next = ? WHERE id = ? AND mail_status = ? AND mail_next = ?"
        while rows := self._database.rows(due, [MAIL_PENDING, COMPLETE, now, now + CLOCK_SECONDS]):
            row = rows[0]
            if self._changed(claim, [now + MAIL_CLAIM_SECONDS, row["id"], MAIL_PENDING, row["mail_next"]]):
                return _extraction(row)
        return None

    def mail_tried(self, extraction_id: str, status: str, next_try: float) -> None:
        sql = "UPDATE extractions SET mail_status = ?, mail_attempts = mail_attempts + 1, mail_next = ? WHERE id = ?"
        self._changed(sql, [status, next_try, extraction_id])

    def expired(self, finished_before: float) -> list[tuple[str, int]]:
        """(id, turn) of the extractions that finished earlier, oldest first."""
        sql = "SELECT id, turn FROM extractions WHERE finished < ? ORDER BY finished"
        return [(row["id"], row["turn"]) for row in self._database.rows(sql, [finished_before])]

    def remove(self, ids: Sequence[str]) -> None:
        """Remove records, after their results."""
        with self._database.transaction() as connection:
            for one in ids:
                connection.execute("DELETE FROM extractions WHERE id = ?", [one])

    def ids(self) -> set[str]:
        return {row["id"] for row in self._database.rows("SELECT id FROM extractions")}


def _extraction(row: Any) -> Extraction:
    return Extraction(**{name: row[name] for name in _COLUMNS})
