"""The records of extractions in the database: what was asked, how it stands, whether its mail went out."""

from __future__ import annotations

import json
import secrets
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from keen_pipeline.errors import RateLimitedError
from keen_pipeline.filters import Condition, parse_filters
from keen_pipeline.service.storage.database import Database
from keen_pipeline.timeframe import Timeframe, format_instant, parse_instant

NOT_STARTED, COMPLETE, FAILED = "not started", "complete", "failed"
MAIL_PENDING, MAIL_SENT, MAIL_GIVEN_UP = "pending", "sent", "given up"
QUEUE_RETRY_SECONDS = 30


@dataclass(frozen=True)
class Shape:
    """What of the events is extracted: only the newest `latest`, only these properties; `gzip`: the mail links the file packed."""

    latest: int | None = None
    property_names: tuple[str, ...] | None = None
    gzip: bool = False


WHOLE = Shape()

_LISTED = """
WITH chosen AS (
    SELECT * FROM extractions WHERE collection = ? ORDER BY (finished IS NOT NULL), created DESC, id DESC LIMIT ?),
measured AS (
    SELECT chosen.*, sum(length(filters)) OVER (ORDER BY (finished IS NOT NULL), created DESC, id DESC) AS characters FROM chosen)
SELECT id, status, created, finished, start_time, end_time, events, bytes, message,
    CASE WHEN characters <= ? THEN filters END AS filters
FROM measured ORDER BY created, id
"""


@dataclass(frozen=True)
class Listed:
    """What a list shows of one extraction. `filters`: their JSON, None where the list had no room for it."""

    id: str
    status: str
    created: float
    finished: float | None
    start_time: str | None
    end_time: str | None
    events: int | None
    bytes: int | None
    message: str | None
    filters: str | None


@dataclass(frozen=True)
class Extraction:
    """One extraction. Times are seconds since 1970. `names`: `v2` or `v3`. `message`: why it failed.

    `turn`: which process's turn at it this is, of several on one catalogue, counted from 1; 0: there is one process.
    """

    id: str
    collection: str
    names: str
    filters: tuple[Condition, ...]
    timeframe: Timeframe | None
    email: str | None
    status: str
    created: float
    finished: float | None
    events: int | None
    bytes: int | None
    message: str | None
    mail_status: str | None
    mail_attempts: int
    shape: Shape = WHOLE
    turn: int = 0

    @property
    def result(self) -> str:
        """What its result is called, without ending."""
        return result_name(self.id, self.turn)


def result_name(extraction_id: str, turn: int) -> str:
    """What the result of one turn is called, without ending: two turns never write to one place."""
    return f"{extraction_id}-{turn}" if turn else extraction_id


class ExtractionRecords:
    """Reads and changes the records; each change is one transaction."""

    def __init__(self, database: Database) -> None:
        self._database = database

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
        now: float,
        delay: float,
        max_queue: int,
        shape: Shape = WHOLE,
    ) -> Extraction:
        """Note a new extraction. Raises RateLimitedError where `max_queue` extractions wait already."""
        extraction_id = secrets.token_hex(12)
        bounds = (format_instant(timeframe.start), format_instant(timeframe.end)) if timeframe else (None, None)
        wire = json.dumps([condition.to_wire() for condition in filters])
        with self._database.transaction("queue") as connection:
            counted = connection.execute("SELECT count(*) AS waiting FROM extractions WHERE status = ?", [NOT_STARTED])
            waiting = counted.fetchone()["waiting"]
            if waiting >= max_queue:
                raise RateLimitedError(f"{waiting} extractions wait already; ask again later", retry_after=QUEUE_RETRY_SECONDS)
            connection.execute(
                "INSERT INTO extractions (id, collection, names, filters, start_time, end_time, email, status, created, not_before,"
                " mail_status, options) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
                [
                    extraction_id,
                    collection,
                    names,
                    wire,
                    *bounds,
                    email,
                    NOT_STARTED,
                    now,
                    now + delay,
                    MAIL_PENDING if email else None,
                    json.dumps(asdict(shape)),
                ],
            )
        made = self.get(extraction_id)
        assert made is not None
        return made

    def get(self, extraction_id: str) -> Extraction | None:
        """One extraction, None where there is none (any more)."""
        rows = self._database.rows("SELECT * FROM extractions WHERE id = ?", [extraction_id])
        return extraction_of(rows[0]) if rows else None

    def of_collection(self, collection: str, most: int, most_filter_characters: int) -> list[Listed]:
        """At most `most` extractions of a collection, those that are open and the newest before others; oldest first.

        Filters are read of the newest alone, `most_filter_characters` together: a poller needs the statuses of all of them.
        """
        rows = self._database.rows(_LISTED, [collection, most, most_filter_characters])
        return [Listed(**{name: row[name] for name in Listed.__dataclass_fields__}) for row in rows]

    def count_waiting(self) -> int:
        """How many extractions are not finished."""
        rows = self._database.rows("SELECT count(*) AS waiting FROM extractions WHERE status = ?", [NOT_STARTED])
        return int(rows[0]["waiting"])

    def waiting(self) -> list[tuple[str, float]]:
        """(id, earliest start) of the extractions that are not finished, oldest first."""
        rows = self._database.rows("SELECT id, not_before FROM extractions WHERE status = ? ORDER BY created, id", [NOT_STARTED])
        return [(row["id"], row["not_before"]) for row in rows]

    def finish(
        self,
        extraction_id: str,
        status: str,
        *,
        now: float,
        events: int | None,
        size: int | None,
        message: str | None,
        turn: int = 0,
    ) -> bool:
        """Note the end of an extraction; its result, if it has one, is durable already. False where another turn has it by now."""
        if message is not None:
            message = message.replace("\0", "")  # it may quote what was asked, and not every database takes the character
        with self._database.transaction() as connection:
            noted = connection.execute(
                "UPDATE extractions SET status = ?, finished = ?, events = ?, bytes = ?, message = ?, mail_next = ?"
                " WHERE id = ? AND turn = ? AND status = ?",
                [status, now, events, size, message, now, extraction_id, turn, NOT_STARTED],
            )
        return noted.rowcount == 1

    def mails_due(self, now: float) -> list[Extraction]:
        """Finished extractions whose mail is to be sent now."""
        sql = "SELECT * FROM extractions WHERE mail_status = ? AND status = ? AND mail_next <= ? ORDER BY mail_next LIMIT 100"
        return [extraction_of(r) for r in self._database.rows(sql, [MAIL_PENDING, COMPLETE, now])]

    def mail_tried(self, extraction_id: str, status: str, next_try: float) -> None:
        """Note an attempt to send a mail."""
        with self._database.transaction() as connection:
            connection.execute(
                "UPDATE extractions SET mail_status = ?, mail_attempts = mail_attempts + 1, mail_next = ? WHERE id = ?",
                [status, next_try, extraction_id],
            )

    def expired(self, finished_before: float) -> list[tuple[str, int]]:
        """(id, turn) of the extractions that finished earlier, oldest first."""
        sql = "SELECT id, turn FROM extractions WHERE finished < ? ORDER BY finished"
        return [(row["id"], row["turn"]) for row in self._database.rows(sql, [finished_before])]

    def remove(self, ids: Sequence[str]) -> None:
        """Remove records, after their results."""
        with self._database.transaction() as connection:
            connection.executemany("DELETE FROM extractions WHERE id = ?", [(one,) for one in ids])

    def ids(self) -> set[str]:
        """The ids of all records."""
        return {row["id"] for row in self._database.rows("SELECT id FROM extractions")}


def extraction_of(row: Any) -> Extraction:
    """The extraction of one row of its table."""
    start, end = row["start_time"], row["end_time"]
    options = json.loads(row["options"])
    names = options.get("property_names")
    return Extraction(
        id=row["id"],
        collection=row["collection"],
        names=row["names"],
        filters=parse_filters(row["filters"]),
        timeframe=Timeframe(parse_instant(start), parse_instant(end)) if start is not None else None,
        email=row["email"],
        status=row["status"],
        created=row["created"],
        finished=row["finished"],
        events=row["events"],
        bytes=row["bytes"],
        message=row["message"],
        mail_status=row["mail_status"],
        mail_attempts=row["mail_attempts"],
        shape=Shape(options.get("latest"), tuple(names) if names is not None else None, options.get("gzip", False)),
        turn=row["turn"],
    )
