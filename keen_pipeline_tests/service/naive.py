"""The filters and timeframes once more, in plain Python over events: what the service is compared with."""

from __future__ import annotations

import math
import re
from datetime import datetime, timedelta, timezone
from typing import Any
from zoneinfo import ZoneInfo

MISSING = object()


def value_of(event: dict[str, Any], name: str) -> Any:
    """The value of a dotted property name, MISSING where there is none."""
    place: Any = event
    for key in name.split("."):
        if not isinstance(place, dict) or key not in place:
            return MISSING
        place = place[key]
    # An object with properties is its properties.
    return MISSING if isinstance(place, dict) and place else place


def exists(event: dict[str, Any], name: str) -> bool:
    place: Any = event
    for key in name.split("."):
        if not isinstance(place, dict) or key not in place:
            return False
        place = place[key]
    return True


def same(a: Any, b: Any) -> bool:
    if isinstance(a, bool) or isinstance(b, bool) or a is None or b is None:
        return type(a) is type(b) and a == b
    number = (int, float)
    return a == b if isinstance(a, number) == isinstance(b, number) and not isinstance(a, (list, dict)) else False


def is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def ordered(a: Any, b: Any) -> int | None:
    """-1, 0, 1, or None where the two can't be compared."""
    if isinstance(a, str) and isinstance(b, str):
        return (a > b) - (a < b)
    if is_number(a) and is_number(b):
        return (a > b) - (a < b)
    return None


def passes(event: dict[str, Any], condition: dict[str, Any]) -> bool:
    """Whether an event passes one condition of a `filters` array."""
    operator = condition["operator"]
    if operator == "or":
        return any(passes(event, operand) for operand in condition["operands"])
    name, wanted = condition["property_name"], condition["property_value"]
    if operator == "exists":
        return exists(event, name) is wanted
    value = value_of(event, name)
    if operator in ("ne", "not_contains"):
        return not passes(event, condition | {"operator": {"ne": "eq", "not_contains": "contains"}[operator]})
    if value is MISSING:
        return False
    if operator == "eq":
        return same(value, wanted)
    if operator == "in":
        return any(same(value, one) for one in wanted)
    if operator == "contains":
        if isinstance(value, list):
            return any(isinstance(one, str) and one == wanted for one in value)
        return isinstance(value, str) and wanted in value
    if operator == "regex":
        return isinstance(value, str) and re.search(wanted, value) is not None
    if operator == "within":
        return within(value, wanted)
    order = ordered(value, wanted)
    return order is not None and {"lt": order < 0, "lte": order <= 0, "gt": order > 0, "gte": order >= 0}[operator]


def within(value: Any, wanted: dict[str, Any]) -> bool:
    if not (isinstance(value, list) and len(value) >= 2 and is_number(value[0]) and is_number(value[1])):
        return False
    (x1, y1), (x2, y2) = (map(math.radians, pair) for pair in (value[:2], wanted["coordinates"]))
    a = math.sin((y1 - y2) / 2) ** 2 + math.cos(y1) * math.cos(y2) * math.sin((x1 - x2) / 2) ** 2
    return 2 * 3958.8 * math.asin(math.sqrt(min(1, a))) <= wanted["max_distance_miles"]


def in_timeframe(event: dict[str, Any], timeframe: dict[str, str] | None) -> bool:
    if timeframe is None:
        return True
    start, moment, end = (instant(t) for t in (timeframe["start"], event["keen"]["timestamp"], timeframe["end"]))
    return start <= moment < end


def relative_window(text: str, zone: str, now: datetime) -> tuple[datetime, datetime]:
    """The window of `this_<n>_<units>` or `previous_<n>_<units>` in a zone: local walls, so a day may have 23 or 25 hours."""
    word, number, unit = text.split("_")
    unit = unit.removesuffix("s")
    local = now.astimezone(ZoneInfo(zone)).replace(tzinfo=None)
    wall = local.replace(minute=0, second=0, microsecond=0)
    if unit != "hour":
        wall = wall.replace(hour=0)
    if unit == "week":
        wall -= timedelta(days=(wall.weekday() + 1) % 7)
    if unit in ("month", "year"):
        wall = wall.replace(day=1)
    if unit == "year":
        wall = wall.replace(month=1)
    back = int(number) - (word == "this")
    start = _back(wall, unit, back)
    start, end = (moment.replace(tzinfo=ZoneInfo(zone)).astimezone(timezone.utc) for moment in (start, wall))
    return start, now if word == "this" else end


def _back(wall: datetime, unit: str, number: int) -> datetime:
    if unit in ("hour", "day", "week"):
        return wall - timedelta(**{f"{unit}s": number})
    months = wall.year * 12 + wall.month - 1 - number * (12 if unit == "year" else 1)
    return wall.replace(year=months // 12, month=months % 12 + 1)


def instant(text: str) -> datetime:
    return datetime.fromisoformat(text.replace("Z", "+00:00")).astimezone(timezone.utc)
