"""Incoming events: checked, flattened, and turned into the lines that the store keeps.

A line is one JSON object: `t`, the event's time in microseconds since 1970, and one cell (see `cells`) per property, under
the short column name that the catalog gives the property's path.
"""

from __future__ import annotations

import json
import secrets
from collections.abc import Iterable, Mapping
from datetime import datetime, timedelta
from functools import lru_cache
from typing import Any

from keen_pipeline.errors import InvalidInputError
from keen_pipeline.service.cells import encode_cell, encode_string
from keen_pipeline.service.properties import CREATED_AT, EVENT_ID, TIMESTAMP, escape_key
from keen_pipeline.timeframe import UTC, parse_instant

MAX_KEY_CHARACTERS = 256
MAX_DEPTH = 32
MAX_PROPERTIES = 1000

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND = timedelta(microseconds=1)
_encode_line = json.JSONEncoder(ensure_ascii=False, separators=(",", ":")).encode


class Columns(dict[str, str]):
    """Column names by path. A path never seen before gets the next name; `new` are those, not in the catalog yet."""

    def __init__(self, known: Mapping[str, str], next_number: int) -> None:
        super().__init__(known)
        self.new: dict[str, str] = {}
        self._next = next_number

    def __missing__(self, path: str) -> str:
        name = self[path] = self.new[path] = f"p{self._next}"
        self._next += 1
        return name

    def forget(self, paths: Iterable[str]) -> None:
        """Take back new paths of an event that was refused."""
        for path in paths:
            del self[path]
            del self.new[path]


def micros_of(moment: datetime) -> int:
    """Microseconds since 1970-01-01T00:00:00Z of an aware instant."""
    return (moment - EPOCH) // _MICROSECOND


def instant_of(micros: int) -> datetime:
    """The aware UTC instant of microseconds since 1970."""
    return EPOCH + timedelta(microseconds=micros)


def format_timestamp(moment: datetime) -> str:
    """The one form of the service's timestamps: milliseconds, or microseconds where there are any; UTC, `Z`."""
    digits = "microseconds" if moment.microsecond % 1000 else "milliseconds"
    return moment.isoformat(timespec=digits)[: 26 if digits == "microseconds" else 23] + "Z"


class EventEncoder:
    """Turns the events of one request into lines. `now`: when the request came in, aware UTC."""

    def __init__(self, columns: Columns, now: datetime, max_event_bytes: int) -> None:
        self._columns = columns
        self._now = now
        self._now_micros = micros_of(now)
        self._now_text = format_timestamp(now)
        self._max_bytes = max_event_bytes
        # Twelve random bytes would cost a system call an event; a random prefix and a counter are as unique.
        self._prefix = secrets.token_hex(8)
        self._count = 0

    def encode(self, event: object, header: object = None) -> str:
        """The line of one event in the v3.0 form; `header` carries what v2.0 sends beside the body.

        Raises InvalidInputError naming the property, and changes nothing.
        """
        if not isinstance(event, Mapping):
            raise InvalidInputError("event: must be a JSON object", field="event")
        seen_before = len(self._columns.new)
        try:
            return self._line(event, header)
        except InvalidInputError:
            self._columns.forget(list(self._columns.new)[seen_before:])
            raise

    def _line(self, event: Mapping[str, Any], header: object) -> str:
        cells: dict[str, Any] = {"t": 0}
        try:
            self._leaves(event, "", 0, cells)
        except (ValueError, OverflowError) as error:
            if isinstance(error, InvalidInputError):
                raise
            raise InvalidInputError(f"event: {error}", field="event") from None
        except RecursionError:
            raise InvalidInputError("event: nested too deep", field="event") from None
        if len(cells) == 1:
            raise InvalidInputError("event: must have at least one property", field="event")
        if len(cells) > MAX_PROPERTIES:
            raise InvalidInputError(f"event: more than {MAX_PROPERTIES} properties", field="event")
        self._service_properties(event, header, cells)
        line = _encode_line(cells)
        self._check_text(line)
        return line

    def _leaves(self, value: Mapping[str, Any], prefix: str, depth: int, cells: dict[str, Any]) -> None:
        columns = self._columns
        for key, item in value.items():
            path = prefix + _segment(key)
            if item.__class__ is str:
                cells[columns[path]] = encode_string(item)
            elif item.__class__ is dict and item:
                if depth >= MAX_DEPTH:
                    raise InvalidInputError(f"event.{path[:80]}: nested deeper than {MAX_DEPTH}", field="event")
                self._leaves(item, path + ".", depth + 1, cells)
            else:
                try:
                    cells[columns[path]] = encode_cell(item)
                except (ValueError, OverflowError):
                    raise InvalidInputError(
                        f"event.{path[:80]}: a number outside the range of a double", field=f"event.{path[:80]}"
                    ) from None

    def _service_properties(self, event: Mapping[str, Any], header: object, cells: dict[str, Any]) -> None:
        given = event.get("keen", {}) if header is None else header
        name = "keen" if header is None else "header"
        if not isinstance(given, Mapping):
            raise InvalidInputError(f"{name}: must be an object", field=name)
        if header is None and not given:
            cells.pop(self._columns.get("keen", ""), None)
        micros, text = self._moment(given.get("timestamp"), f"{name}.timestamp")
        cells["t"] = micros
        cells[self._columns[TIMESTAMP]] = text
        cells[self._columns[CREATED_AT]] = self._moment(given.get("created_at"), f"{name}.created_at")[1]
        event_id = given.get("id")
        if event_id is None:
            self._count += 1
            event_id = f"{self._prefix}{self._count:08x}"
        elif not isinstance(event_id, str) or not 1 <= len(event_id) <= 64:
            raise InvalidInputError(f"{name}.id: must be a string of 1 to 64 characters", field=f"{name}.id")
        cells[self._columns[EVENT_ID]] = encode_string(event_id)

    def _moment(self, text: object, field: str) -> tuple[int, str]:
        if text is None:
            return self._now_micros, self._now_text
        if not isinstance(text, str):
            raise InvalidInputError(f"{field}: must be an ISO-8601 text", field=field)
        return _parsed(text, field)

    def _check_text(self, line: str) -> None:
        try:
            size = len(line) if line.isascii() else len(line.encode())
        except UnicodeEncodeError:
            raise InvalidInputError("event: holds half of a surrogate pair, which is no character", field="event") from None
        if size > self._max_bytes:
            raise InvalidInputError(f"event: {size} bytes are more than {self._max_bytes}", field="event")


@lru_cache(maxsize=4096)
def _segment(key: str) -> str:
    if not key or len(key) > MAX_KEY_CHARACTERS:
        raise InvalidInputError(
            f"event: the property name {key[:40]!r} must have 1 to {MAX_KEY_CHARACTERS} characters", field="event"
        )
    return escape_key(key)


@lru_cache(maxsize=4096)
def _parsed(text: str, field: str) -> tuple[int, str]:
    moment = parse_instant(text, field=field)
    return micros_of(moment), format_timestamp(moment)


def split_v2(body: object) -> tuple[object, object]:
    """(body, header) of a v2.0 event `{"header": {...}, "body": {...}}`. Raises InvalidInputError naming the field."""
    if not isinstance(body, Mapping):
        raise InvalidInputError("event: must be an object with a body", field="body")
    unknown = [str(key) for key in body if key not in ("header", "body")]
    if unknown:
        raise InvalidInputError(f"event: unknown {unknown[0]!r}; only header and body are known", field=unknown[0])
    inner = body.get("body")
    if not isinstance(inner, Mapping) or not inner:
        raise InvalidInputError("body: must be an object with at least one property", field="body")
    if "keen" in inner:
        raise InvalidInputError("body.keen: the name keen belongs to the service", field="body.keen")
    header = body.get("header")
    if header is not None and (not isinstance(header, Mapping) or set(header) - {"timestamp", "created_at", "id"}):
        raise InvalidInputError("header: must be an object with a timestamp", field="header")
    return inner, header or {}


def encode_all(encoder: EventEncoder, events: Iterable[object]) -> tuple[list[str], list[InvalidInputError | None]]:
    """The lines of the good events, and per event what is wrong with it."""
    lines: list[str] = []
    problems: list[InvalidInputError | None] = []
    for event in events:
        try:
            lines.append(encoder.encode(event))
            problems.append(None)
        except InvalidInputError as error:
            problems.append(error)
    return lines, problems
