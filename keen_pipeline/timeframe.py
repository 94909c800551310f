"""Windows of time: absolute and relative timeframes, always half-open `[start, end)` in aware UTC.

Source of the forms: Keen's timeframe page, v2.0 and v3.0. Weeks start on Sunday.

Relative forms, of minutes, hours, days, weeks, months and years, in the singular or plural:
`last_n_days` and `previous_n_days` are the n complete units before the one that runs, `last_day` and `previous_day` one
of them, `this_day` runs from the start of the unit until now, `this_n_days` from n - 1 units earlier until now,
`yesterday` is `last_1_day` and `today` is `this_day`. Units are those of the calendar of a time zone, UTC by default:
a day across a change of the clocks has 23 or 25 hours.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta, tzinfo
from datetime import timezone as fixed_offset
from zoneinfo import ZoneInfo

from keen_pipeline.errors import InvalidInputError

UTC = fixed_offset.utc

_RELATIVE = re.compile(r"(this|last|previous)_(?:(\d{1,5})_)?(minute|hour|day|week|month|year)s?")
_WORDS = {"today": ("this", 1, "day"), "yesterday": ("last", 1, "day")}
_MAX_OFFSET_SECONDS = 86_399

_ISO = re.compile(r"(\d{4})-(\d{2})-(\d{2})(?:[T ](\d{2}):(\d{2})(?::(\d{2})(?:[.,](\d{1,9}))?)?)?\s*(Z|z|[+-]\d{2}(?::?\d{2})?)?")


def parse_instant(text: str, *, field: str = "timeframe") -> datetime:
    """Read one ISO-8601 instant; no offset means UTC. `Z`, `-0800`, `-08:00` and `-08` are all legal.

    Returns an aware datetime in UTC with microseconds (further digits are dropped).
    Raises InvalidInputError naming `field`.
    """
    match = _ISO.fullmatch(text.strip()) if isinstance(text, str) else None
    if match is None:
        raise InvalidInputError(f"{field}: {text!r} is not an ISO-8601 date or time", field=field)
    year, month, day, hour, minute, second, fraction, offset = match.groups()
    try:
        clock = (int(hour or 0), int(minute or 0), int(second or 0), int((fraction or "0").ljust(6, "0")[:6]))
        return datetime(int(year), int(month), int(day), *clock, tzinfo=_offset(offset)).astimezone(UTC)
    except (ValueError, OverflowError) as error:
        raise InvalidInputError(f"{field}: {text!r} is not a valid instant ({error})", field=field) from error


def _offset(text: str | None) -> fixed_offset:
    if text is None or text in "Zz":
        return UTC
    digits = text[1:].replace(":", "").ljust(4, "0")
    delta = timedelta(hours=int(digits[:2]), minutes=int(digits[2:]))
    return fixed_offset(-delta if text[0] == "-" else delta)


def format_instant(moment: datetime) -> str:
    """Write an aware instant as Keen does: `2026-01-31T08:00:00Z`, with `.mmm` or `.ffffff` only if needed."""
    moment = moment.astimezone(UTC)
    text = moment.replace(tzinfo=None, microsecond=0).isoformat()  # strftime drops the zeros of early years
    if moment.microsecond % 1000:
        text += f".{moment.microsecond:06d}"
    elif moment.microsecond:
        text += f".{moment.microsecond // 1000:03d}"
    return text + "Z"


@dataclass(frozen=True)
class Timeframe:
    """A half-open window `[start, end)`; both bounds are aware datetimes, kept in UTC.

    >>> from datetime import datetime, timezone
    >>> day = Timeframe(datetime(2026, 1, 1, tzinfo=timezone.utc), datetime(2026, 1, 2, tzinfo=timezone.utc))
    >>> day.to_wire()
    {'start': '2026-01-01T00:00:00Z', 'end': '2026-01-02T00:00:00Z'}

    Raises InvalidInputError if a bound is naive or the end is before the start. An empty window (start equal to
    end) is legal, as `this_day` at midnight is one.
    """

    start: datetime
    end: datetime

    def __post_init__(self) -> None:
        for name in ("start", "end"):
            value = getattr(self, name)
            if not isinstance(value, datetime) or value.utcoffset() is None:
                raise InvalidInputError(
                    f"timeframe.{name}: {value!r} is not a datetime with a time zone", field=f"timeframe.{name}"
                )
            object.__setattr__(self, name, value.astimezone(UTC))
        if self.end < self.start:
            raise InvalidInputError(
                f"timeframe: the end {format_instant(self.end)} is before the start {format_instant(self.start)}", field="timeframe"
            )

    @property
    def duration(self) -> timedelta:
        """Elapsed time between the bounds."""
        return self.end - self.start

    def halves(self) -> tuple[Timeframe, Timeframe] | None:
        """The window cut in the middle at a whole millisecond, Keen's resolution; None if it is too short for that."""
        middle = self.start + timedelta(milliseconds=int(self.duration / timedelta(milliseconds=2)))
        if not self.start < middle < self.end:
            return None
        return Timeframe(self.start, middle), Timeframe(middle, self.end)

    def __contains__(self, moment: datetime) -> bool:
        return self.start <= moment < self.end

    def to_wire(self) -> dict[str, str]:
        """The absolute form of Keen's JSON bodies."""
        return {"start": format_instant(self.start), "end": format_instant(self.end)}


def resolve_timeframe(
    wire: str | Mapping[str, object] | None, *, now: datetime, timezone: str | int | None = None
) -> Timeframe | None:
    """The window that a timeframe of the API means at the instant `now`; None if none was given (all events).

    `wire`: a relative form (see the module), `{"start": ..., "end": ...}` or the JSON text of one; an instant without an offset
    is UTC. `now`: an aware datetime. `timezone`: seconds east of UTC (at most a day) or an IANA name; it moves the units
    of relative forms only. Raises InvalidInputError naming `timeframe`, `timeframe.start`, `timeframe.end` or `timezone`.
    """
    zone = _zone(timezone)
    if wire is None:
        return None
    if isinstance(wire, str) and wire.lstrip().startswith("{"):
        try:
            wire = json.loads(wire)
        except (ValueError, RecursionError):
            raise InvalidInputError(f"timeframe: {wire!r} is not JSON", field="timeframe") from None
    if isinstance(wire, Mapping):
        return _absolute(wire)
    if not isinstance(wire, str):
        raise InvalidInputError(f"timeframe: {wire!r} is neither a name nor an object with start and end", field="timeframe")
    return _relative(wire.strip(), now.astimezone(zone))


def _absolute(wire: Mapping[str, object]) -> Timeframe:
    unknown = sorted(str(key) for key in wire if key not in ("start", "end"))
    if unknown:
        raise InvalidInputError(f"timeframe: unknown {', '.join(unknown)}; only start and end are known", field="timeframe")
    bounds = []
    for name in ("start", "end"):
        if name not in wire:
            raise InvalidInputError(f"timeframe: {name} is missing", field=f"timeframe.{name}")
        bounds.append(parse_instant(wire[name], field=f"timeframe.{name}"))  # type: ignore[arg-type]  # it checks the type itself
    return Timeframe(*bounds)


def _relative(text: str, local: datetime) -> Timeframe:
    match = _RELATIVE.fullmatch(text)
    if text in _WORDS:
        kind, count, unit = _WORDS[text]
    elif match is not None:
        kind, count, unit = match[1], int(match[2] or 1), match[3]
    else:
        raise InvalidInputError(
            f"timeframe: {text!r} is not a known timeframe such as last_4_days, this_week or yesterday", field="timeframe"
        )
    if count < 1:
        raise InvalidInputError(f"timeframe: {text!r} asks for no {unit} at all", field="timeframe")
    try:
        if kind == "this":
            return Timeframe(_unit_start(local, unit, count - 1), local)
        return Timeframe(_unit_start(local, unit, count), _unit_start(local, unit, 0))
    except (ValueError, OverflowError):
        raise InvalidInputError(f"timeframe: {text!r} reaches beyond the calendar", field="timeframe") from None


def _unit_start(local: datetime, unit: str, back: int) -> datetime:
    """The start of the unit that holds `local`, `back` units earlier, in UTC."""
    if unit in ("minute", "hour"):
        # Elapsed time, not wall-clock time: an hour repeated by a change of the clocks counts twice.
        past = timedelta(minutes=local.minute if unit == "hour" else 0, seconds=local.second, microseconds=local.microsecond)
        return local.astimezone(UTC) - past - timedelta(**{f"{unit}s": back})
    year, month, day = local.year, local.month, local.day
    if unit == "year":
        return datetime(year - back, 1, 1, tzinfo=local.tzinfo).astimezone(UTC)
    if unit == "month":
        months = year * 12 + month - 1 - back
        return datetime(months // 12, months % 12 + 1, 1, tzinfo=local.tzinfo).astimezone(UTC)
    days = back if unit == "day" else back * 7 + local.isoweekday() % 7
    # Calendar arithmetic on the date alone; the zone is put back on afterwards, so that midnight stays midnight.
    date = datetime(year, month, day, tzinfo=UTC) - timedelta(days=days)
    return datetime(date.year, date.month, date.day, tzinfo=local.tzinfo).astimezone(UTC)


def _zone(timezone: str | int | None) -> tzinfo:
    if timezone is None:
        return UTC
    if isinstance(timezone, str) and re.fullmatch(r"[+-]?\d{1,6}", timezone.strip()):
        timezone = int(timezone)
    if isinstance(timezone, int) and not isinstance(timezone, bool):
        if abs(timezone) > _MAX_OFFSET_SECONDS:
            raise InvalidInputError(f"timezone: {timezone} seconds is more than a day", field="timezone")
        return fixed_offset(timedelta(seconds=timezone))
    try:
        return ZoneInfo(timezone)  # type: ignore[arg-type]  # anything but a name ends in the error below
    except (KeyError, ValueError, TypeError, AttributeError, OSError):
        raise InvalidInputError(f"timezone: {timezone!r} is neither seconds nor a known name", field="timezone") from None
