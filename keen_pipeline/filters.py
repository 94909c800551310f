"""Filters: property_name, operator, property_value; to and from Keen's JSON.

What an operator takes, and what it means. Values are never coerced: the string "12" isn't a number.

| operator | property_value | an event passes if its property |
|---|---|---|
| eq, ne | string, number, boolean, null | equals it (1 equals 1.0); ne is the opposite of eq, so a missing property passes ne |
| lt, gt | string, number | is of the same type and less or greater; strings by code point |
| lte, gte | number | is a number and at most or at least; also an instant if the property is a timestamp of the service |
| exists | boolean | is there at all, null included (true), or is missing (false); an object is there with any property of it |
| in | array of strings, numbers, booleans, nulls | equals one of them |
| contains, not_contains | string | is a string that holds it, or a list with it as an element; not_contains is the opposite |
| regex | string (RE2) | is a string with a match anywhere |
| within | `{"coordinates": [longitude, latitude], "max_distance_miles": n}` | is such a pair of coordinates, at most n miles away |

The service's own timestamps (`header:timestamp`, `keen.timestamp`, `keen.created_at`) are compared as instants, whatever the
offset of the property_value, with eq, ne, lt, lte, gt, gte, exists and in.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum
from typing import Any

from keen_pipeline.errors import InvalidInputError

_KEYS = frozenset({"property_name", "operator", "property_value", "value"})


class Operator(str, Enum):
    """The comparison of one filter. The first eight are API v2.0, the rest v3.0."""

    EQ = "eq"
    NE = "ne"
    LT = "lt"
    LTE = "lte"
    GT = "gt"
    GTE = "gte"
    EXISTS = "exists"
    IN = "in"
    CONTAINS = "contains"
    NOT_CONTAINS = "not_contains"
    REGEX = "regex"
    WITHIN = "within"


@dataclass(frozen=True, eq=False)
class Filter:
    """One condition on one property of an event; several of them must all hold.

    >>> Filter("body:amount", "gt", 3.5).to_wire()
    {'property_name': 'body:amount', 'operator': 'gt', 'property_value': 3.5}

    `property_value` is any JSON value. Raises InvalidInputError for an unknown operator, an empty name, or a value
    that its operator can't take.
    """

    property_name: str
    operator: Operator
    property_value: Any

    def __init__(self, property_name: str, operator: Operator | str, property_value: Any) -> None:
        if not isinstance(property_name, str) or not property_name.strip():
            raise InvalidInputError("filter: property_name must be a non-empty string", field="property_name")
        try:
            known = Operator(operator)
        except ValueError:
            names = ", ".join(o.value for o in Operator)
            raise InvalidInputError(
                f"filter on {property_name}: unknown operator {operator!r}, expected one of {names}", field="operator"
            ) from None
        problem = _value_problem(known, property_value)
        if problem:
            raise InvalidInputError(f"filter on {property_name}: {known.value} {problem}", field="property_value")
        try:
            json.dumps([property_name, property_value], allow_nan=False, ensure_ascii=False).encode()  # no half of a surrogate pair
        except (TypeError, ValueError) as error:
            raise InvalidInputError(
                f"filter on {property_name}: the value is not JSON ({error})", field="property_value"
            ) from error
        object.__setattr__(self, "property_name", property_name)
        object.__setattr__(self, "operator", known)
        object.__setattr__(self, "property_value", json.loads(json.dumps(property_value)))

    def __eq__(self, other: object) -> bool:
        # By the wire's text: Python calls True and 1 equal, the service does not.
        return isinstance(other, Filter) and self._text() == other._text()

    def __hash__(self) -> int:
        return hash(self._text())

    def _text(self) -> str:
        return json.dumps(self.to_wire(), sort_keys=True)

    def to_wire(self) -> dict[str, Any]:
        """The JSON object of Keen's `filters` array."""
        return {"property_name": self.property_name, "operator": self.operator.value, "property_value": self.property_value}

    @classmethod
    def from_wire(cls, wire: Mapping[str, Any]) -> Filter:
        """Read one object of a `filters` array; the value's key may be `property_value` or `value`."""
        if not isinstance(wire, Mapping):
            raise InvalidInputError(f"filters: {wire!r} is not an object", field="filters")
        if wire.get("operator") == "or":
            raise InvalidInputError("filters: an `or` group can't be used here, all filters must hold", field="operator")
        unknown = sorted(str(key) for key in wire if key not in _KEYS)
        if unknown:
            raise InvalidInputError(f"filters: unknown {', '.join(unknown)} in {dict(wire)!r}", field=unknown[0])
        missing = [key for key in ("property_name", "operator") if key not in wire]
        if "property_value" not in wire and "value" not in wire:
            missing.append("property_value")
        if missing:
            raise InvalidInputError(f"filters: {', '.join(missing)} missing in {dict(wire)!r}", field=missing[0])
        values = [wire[key] for key in ("property_value", "value") if key in wire]
        if values[:1] != values[-1:]:  # as lists, since a NaN is itself in one
            raise InvalidInputError(f"filters: property_value and value differ in {dict(wire)!r}", field="value")
        return cls(wire["property_name"], wire["operator"], values[0])


@dataclass(frozen=True)
class AnyOf:
    """A group of filters of which at least one must hold; v3.0 writes it `{"operator": "or", "operands": [...]}`.

    Raises InvalidInputError for an empty group.
    """

    operands: tuple[Condition, ...]

    def __post_init__(self) -> None:
        object.__setattr__(self, "operands", tuple(self.operands))
        if not self.operands:
            raise InvalidInputError("filter: an or group needs at least one operand", field="operands")

    def to_wire(self) -> dict[str, Any]:
        """The JSON object of Keen's `filters` array."""
        return {"operator": "or", "operands": [operand.to_wire() for operand in self.operands]}


Condition = Filter | AnyOf
"""One element of a `filters` array."""

MAX_CONDITIONS = 200
"""Most conditions of one request, those inside of groups counted."""

_MAX_DEPTH = 8


def parse_filters(wire: object, *, field: str = "filters") -> tuple[Condition, ...]:
    """Read a `filters` array, or the JSON text of one; None and the empty text are no filters.

    Raises InvalidInputError whose `field` names the culprit, for example ``filters[1].operator``.
    """
    if wire is None or wire == "":
        return ()
    if isinstance(wire, str):
        try:
            wire = json.loads(wire)
        except (ValueError, RecursionError):
            raise InvalidInputError(f"{field}: not JSON", field=field) from None
    conditions = _conditions(wire, field, 0)
    if sum(_size(condition) for condition in conditions) > MAX_CONDITIONS:
        raise InvalidInputError(f"{field}: more than {MAX_CONDITIONS} conditions", field=field)
    return conditions


def _size(condition: Condition) -> int:
    return sum(_size(operand) for operand in condition.operands) if isinstance(condition, AnyOf) else 1


def _conditions(wire: object, field: str, depth: int) -> tuple[Condition, ...]:
    if not isinstance(wire, (list, tuple)):
        raise InvalidInputError(f"{field}: must be a JSON array of objects", field=field)
    if depth > _MAX_DEPTH:
        raise InvalidInputError(f"{field}: or groups nested deeper than {_MAX_DEPTH}", field=field)
    conditions: list[Condition] = []
    for index, item in enumerate(wire):
        place = f"{field}[{index}]"
        try:
            if isinstance(item, Mapping) and item.get("operator") == "or":
                conditions.append(AnyOf(_conditions(item.get("operands"), f"{place}.operands", depth + 1)))
            else:
                conditions.append(Filter.from_wire(item))
        except InvalidInputError as error:
            inner = error.field or ""
            # Errors of nested groups already carry their whole path.
            known = inner if inner.startswith(field) and inner != field else place if inner == "filters" else f"{place}.{inner}"
            text = str(error) if inner.startswith(field) and inner != field else f"{known}: {error}"
            raise InvalidInputError(text, field=known) from None
    return tuple(conditions)


def _value_problem(operator: Operator, value: object) -> str | None:
    """What is wrong with the value of an operator, None if it fits."""
    if operator is Operator.EXISTS:
        return None if isinstance(value, bool) else "takes true or false"
    if operator is Operator.WITHIN:
        return _within_problem(value)
    if operator is Operator.IN:
        if not isinstance(value, (list, tuple)):
            return "takes a JSON array"
        return "takes strings, numbers, booleans and nulls" if any(isinstance(v, (list, tuple, dict)) for v in value) else None
    if operator in (Operator.CONTAINS, Operator.NOT_CONTAINS, Operator.REGEX):
        return None if isinstance(value, str) else "takes a string"
    if operator in (Operator.EQ, Operator.NE):
        return "takes a string, a number, a boolean or null" if isinstance(value, (list, tuple, dict)) else None
    # A string passes here for lte and gte too, as the value of a timestamp; the service refuses it elsewhere.
    return None if isinstance(value, (str, int, float)) and not isinstance(value, bool) else "takes a number or a string"


def _within_problem(value: object) -> str | None:
    shape = 'takes {"coordinates": [longitude, latitude], "max_distance_miles": number}'
    if not isinstance(value, Mapping) or set(value) != {"coordinates", "max_distance_miles"}:
        return shape
    pair, miles = value["coordinates"], value["max_distance_miles"]
    numbers = [*pair, miles] if isinstance(pair, (list, tuple)) and len(pair) == 2 else []
    if len(numbers) != 3 or not all(isinstance(n, (int, float)) and not isinstance(n, bool) for n in numbers):
        return shape
    if not (-180 <= numbers[0] <= 180 and -90 <= numbers[1] <= 90 and numbers[2] >= 0):
        return f"{shape}; longitude -180 to 180, latitude -90 to 90, the distance not negative"
    return None
