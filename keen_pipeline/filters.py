"""Filters: property_name, operator, property_value; to and from Keen's JSON."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum
from typing import Any

from keen_pipeline.errors import InvalidInputError


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


@dataclass(frozen=True)
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
            raise InvalidInputError(f"filter on {property_name}: unknown operator {operator!r}, expected one of {names}", field="operator") from None
        if known is Operator.EXISTS and not isinstance(property_value, bool):
            raise InvalidInputError(f"filter on {property_name}: exists takes true or false", field="property_value")
        if known is Operator.IN and not isinstance(property_value, (list, tuple)):
            raise InvalidInputError(f"filter on {property_name}: in takes a JSON array", field="property_value")
        try:
            json.dumps(property_value, allow_nan=False)
        except (TypeError, ValueError) as error:
            raise InvalidInputError(f"filter on {property_name}: the value is not JSON ({error})", field="property_value") from error
        object.__setattr__(self, "property_name", property_name)
        object.__setattr__(self, "operator", known)
        object.__setattr__(self, "property_value", json.loads(json.dumps(property_value)))

    def __hash__(self) -> int:
        # The value may be a list or an object, which have no hash of their own.
        return hash(json.dumps(self.to_wire(), sort_keys=True))

    def to_wire(self) -> dict[str, Any]:
        """The JSON object of Keen's `filters` array."""
        return {"property_name": self.property_name, "operator": self.operator.value, "property_value": self.property_value}

    @classmethod
    def from_wire(cls, wire: Mapping[str, Any]) -> Filter:
        """Read one object of a `filters` array; the value's key may be `property_value` or `value`."""
        if not isinstance(wire, Mapping):
            raise InvalidInputError(f"filters: {wire!r} is not an object", field="filters")
        missing = [key for key in ("property_name", "operator") if key not in wire]
        if "property_value" not in wire and "value" not in wire:
            missing.append("property_value")
        if missing:
            raise InvalidInputError(f"filters: {', '.join(missing)} missing in {dict(wire)!r}", field=missing[0])
        value = wire["property_value"] if "property_value" in wire else wire["value"]
        return cls(wire["property_name"], wire["operator"], value)
