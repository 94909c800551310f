"""Windows of time: absolute and relative timeframes, always half-open `[start, end)` in aware UTC.

Source of the forms: Keen's timeframe page, v2.0 and v3.0. Weeks start on Sunday.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import datetime, timedelta, timezone

from keen_pipeline.errors import InvalidInputError

UTC = timezone.utc

_ISO = re.compile(
    r"(\d{4})-(\d{2})-(\d{2})(?:[T ](\d{2}):(\d{2})(?::(\d{2})(?:[.,](\d{1,9}))?)?)?\s*(Z|z|[+-]\d{2}(?::?\d{2})?)?"
)


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
        naive = datetime(
            int(year), int(month), int(day), int(hour or 0), int(minute or 0), int(second or 0),
            int((fraction or "0").ljust(6, "0")[:6]),
        )
        return naive.replace(tzinfo=_offset(offset)).astimezone(UTC)
    except (ValueError, OverflowError) as error:
        raise InvalidInputError(f"{field}: {text!r} is not a valid instant ({error})", field=field) from error


def _offset(text: str | None) -> timezone:
    if text is None or text in "Zz":
        return UTC
    digits = text[1:].replace(":", "").ljust(4, "0")
    delta = timedelta(hours=int(digits[:2]), minutes=int(digits[2:]))
    return timezone(-delta if text[0] == "-" else delta)


def format_instant(moment: datetime) -> str:
    """Write an aware instant as Keen does: `2026-01-31T08:00:00Z`, with `.mmm` or `.ffffff` only where needed."""
    moment = moment.astimezone(UTC)
    text = moment.strftime("%Y-%m-%dT%H:%M:%S")
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

    Raises InvalidInputError where a bound is naive or the end is before the start. An empty window (start equal to
    end) is legal, as `this_day` at midnight is one.
    """

    start: datetime
    end: datetime

    def __post_init__(self) -> None:
        for name in ("start", "end"):
            value = getattr(self, name)
            if not isinstance(value, datetime) or value.utcoffset() is None:
                raise InvalidInputError(f"timeframe.{name}: {value!r} is not a datetime with a time zone", field=f"timeframe.{name}")
            object.__setattr__(self, name, value.astimezone(UTC))
        if self.end < self.start:
            raise InvalidInputError(
                f"timeframe: the end {format_instant(self.end)} is before the start {format_instant(self.start)}", field="timeframe"
            )

    @property
    def duration(self) -> timedelta:
        """Elapsed time between the bounds."""
        return self.end - self.start

    def __contains__(self, moment: datetime) -> bool:
        return self.start <= moment < self.end

    def to_wire(self) -> dict[str, str]:
        """The absolute form of Keen's JSON bodies."""
        return {"start": format_instant(self.start), "end": format_instant(self.end)}
