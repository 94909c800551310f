"""Incoming events: checked, flattened, and turned into the lines that the store keeps.

A line is one JSON object: `t`, the event's time in microseconds since 1970, and the text of each value (see `values`) as a JSON
string, under the short column name that the table has for the property's path.
"""

from __future__ import annotations

import json
import re
import secrets
from collections.abc import Iterable, Mapping
from datetime import datetime, timedelta
from functools import lru_cache
from json.encoder import encode_basestring
from typing import Any

from keen_pipeline.errors import InvalidInputError
from keen_pipeline.service.events.properties import CREATED_AT, EVENT_ID, TIMESTAMP, escape_key
from keen_pipeline.service.events.values import encode_value
from keen_pipeline.timeframe import UTC, parse_instant

MAX_KEY_CHARACTERS = 256
MAX_DEPTH = 32
MAX_PROPERTIES = 1000

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
MAX_ID_CHARACTERS = 64
MAX_PLAIN_NUMBER = 1e300
MAX_REMEMBERED = 20_000
MAX_REMEMBERED_CHARACTERS = 64

_MICROSECOND = timedelta(microseconds=1)
_NAIVE_EPOCH = EPOCH.replace(tzinfo=None)
_GIVEN = frozenset({"timestamp", "created_at", "id"})
_CANONICAL = re.compile(r"[0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9]{2}:[0-9]{2}:[0-9]{2}(?:\.[0-9]{3})?Z").fullmatch
# Holds something that JSON escapes.
_SPECIAL = re.compile(r'["\\\x00-\x1f]').search
_escape = encode_basestring


class Columns(dict[str, str]):
    """Column names by path. A path never seen before gets the next name; `new` are those, not in the log yet.

    Raises InvalidInputError instead of a name if there are `limit` already.
    """

    def __init__(self, known: Mapping[str, str], next_number: int, limit: int) -> None:
        super().__init__(known)
        self._limit = limit
        self.new: dict[str, str] = {}
        self._next = next_number

    def __missing__(self, path: str) -> str:
        if len(self) >= self._limit:
            raise InvalidInputError(
                f"event: its collection would have more than {self._limit} properties, those of deleted events too; use another"
                " collection, or give the service more memory",
                field="event",
            )
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


def format_timestamp(moment: datetime) -> str:
    """The one form of the service's timestamps: milliseconds, or microseconds if there are any; UTC, `Z`."""
    digits = "microseconds" if moment.microsecond % 1000 else "milliseconds"
    return moment.isoformat(timespec=digits)[: 26 if digits == "microseconds" else 23] + "Z"


class EventEncoder:
    """Turns the events of one request into lines. `now`: when the request came in, aware UTC.

    Written for speed: a batch of 10 MB has half a million values, and the answer waits for all of them.
    """

    def __init__(self, columns: Columns, now: datetime, max_event_bytes: int) -> None:
        self._columns = columns
        # Per object path the label of each of its keys, `"p7":`, so that a path is put together once per request.
        self._labels: dict[str, dict[str, str]] = {}
        self._texts: dict[str, str] = {}  # strings repeat: shops, cities, devices
        self._now = (micros_of(now), format_timestamp(now))
        self._max_bytes = max_event_bytes
        # Random bytes for each would cost a system call an event; a random prefix and a counter are as unique.
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
            self._labels.clear()
            raise

    def _line(self, event: Mapping[str, Any], header: object) -> str:
        given = event.get("keen", {}) if header is None else header
        if not isinstance(given, Mapping):
            raise InvalidInputError("keen: must be an object", field="keen")
        if not event:
            raise InvalidInputError("event: must have at least one property", field="event")
        micros, parts = self._service_properties(given, "keen" if header is None else "header")
        try:
            if header is None and "keen" in event:
                others = {key: value for key, value in given.items() if key not in _GIVEN}
                event = {key: value for key, value in event.items() if key != "keen"}
                if others:
                    self._leaves(others, "keen.", 1, parts)
            self._leaves(event, "", 0, parts)
        except RecursionError:
            raise InvalidInputError("event: nested too deep", field="event") from None
        if len(parts) - 1 > MAX_PROPERTIES:  # beside the service's own
            raise InvalidInputError(f"event: more than {MAX_PROPERTIES} properties", field="event")
        line = f'{{"t":{micros},{",".join(parts)}}}'
        self._check_text(line)
        return line

    def _leaves(self, value: Mapping[str, Any], prefix: str, depth: int, parts: list[str]) -> None:
        labels = self._labels.setdefault(prefix, {})
        texts = self._texts
        for key, item in value.items():
            kind = item.__class__
            if kind is dict and item:
                if depth >= MAX_DEPTH:
                    raise InvalidInputError(f"event.{prefix[:80]}: nested deeper than {MAX_DEPTH}", field="event")
                self._leaves(item, f"{prefix}{_segment(key)}.", depth + 1, parts)
                continue
            label = labels.get(key)
            if label is None:
                label = labels[key] = f'"{self._columns[prefix + _segment(key)]}":'
            if kind is str:
                text = texts.get(item)
                if text is None:
                    text = _escaped_string(item)
                    if len(texts) < MAX_REMEMBERED and len(item) <= MAX_REMEMBERED_CHARACTERS:
                        texts[item] = text
                parts.append(label + text)
            elif (kind is float or kind is int) and -MAX_PLAIN_NUMBER < item < MAX_PLAIN_NUMBER:
                parts.append(f'{label}"{item!r}"')
            else:
                parts.append(label + self._escaped_value(item, prefix, key))

    @staticmethod
    def _escaped_value(item: Any, prefix: str, key: str) -> str:
        try:
            return _escape(encode_value(item))
        except (ValueError, OverflowError):
            place = f"event.{prefix}{key}"[:100]
            raise InvalidInputError(f"{place}: a number outside the range of a double", field=place) from None

    def _service_properties(self, given: Mapping[str, Any], name: str) -> tuple[int, list[str]]:
        micros, moment = self._moment(given.get("timestamp"), f"{name}.timestamp")
        _, created = self._moment(given.get("created_at"), f"{name}.created_at")
        event_id = given.get("id")
        if event_id is None:
            self._count += 1
            event_id = f"{self._prefix}{self._count:08x}"
        elif not isinstance(event_id, str) or not 1 <= len(event_id) <= MAX_ID_CHARACTERS:
            raise InvalidInputError(f"{name}.id: must be a string of 1 to {MAX_ID_CHARACTERS} characters", field=f"{name}.id")
        columns = self._columns
        instants = f'"{columns[TIMESTAMP]}":"\\"{moment}\\"","{columns[CREATED_AT]}":"\\"{created}\\""'
        return micros, [f'{instants},"{columns[EVENT_ID]}":{_escaped_string(event_id)}']

    def _moment(self, text: object, field: str) -> tuple[int, str]:
        if text is None:
            return self._now
        if not isinstance(text, str):
            raise InvalidInputError(f"{field}: must be an ISO-8601 text", field=field)
        return parse_timestamp(text, field)

    def _check_text(self, line: str) -> None:
        try:
            size = len(line) if line.isascii() else len(line.encode())
        except UnicodeEncodeError:
            raise InvalidInputError("event: holds half of a surrogate pair, which isn't a character", field="event") from None
        # A line escapes every quote once more than the event's own JSON, so a long one is measured without that.
        if size > self._max_bytes and (size := _json_bytes(line)) > self._max_bytes:
            raise InvalidInputError(f"event: {size} bytes are more than {self._max_bytes}", field="event")


def _json_bytes(line: str) -> int:
    """The bytes of the values of a line as JSON, and as many for each name."""
    values = json.loads(line)
    return sum(len(name) + 4 + (len(text.encode()) if isinstance(text, str) else 20) for name, text in values.items())


@lru_cache(maxsize=4096)
def _segment(key: str) -> str:
    try:
        key.encode()
    except UnicodeEncodeError:
        raise InvalidInputError(
            "event: a property name holds half of a surrogate pair, which isn't a character", field="event"
        ) from None
    if not key or len(key) > MAX_KEY_CHARACTERS:
        raise InvalidInputError(
            f"event: the property name {key[:40]!r} must have 1 to {MAX_KEY_CHARACTERS} characters", field="event"
        )
    return escape_key(key)


def _escaped_string(text: str) -> str:
    if _SPECIAL(text) is None:
        return f'"\\"{text}\\""'
    return _escape(_escape(text))


def parse_timestamp(text: str, field: str) -> tuple[int, str]:
    """(microseconds since 1970, the service's form) of an ISO-8601 text. Raises InvalidInputError naming `field`."""
    if _CANONICAL(text) is None:
        moment = parse_instant(text, field=field)
        return micros_of(moment), format_timestamp(moment)
    try:
        # In UTC, with milliseconds or without: what trackers send, ten times as fast.
        elapsed = datetime.fromisoformat(text[:-1]) - _NAIVE_EPOCH
    except ValueError:
        raise InvalidInputError(f"{field}: {text!r} is not a valid instant", field=field) from None
    micros = (elapsed.days * 86400 + elapsed.seconds) * 1_000_000 + elapsed.microseconds
    return micros, text if len(text) == 24 else text[:-1] + ".000Z"


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
    if header is not None and (not isinstance(header, Mapping) or set(header) - _GIVEN):
        raise InvalidInputError("header: must be an object with a timestamp", field="header")
    return inner, header or {}
