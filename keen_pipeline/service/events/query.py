"""Filters and timeframes as SQL conditions over cells. Pure; every value from a request is a bound parameter.

Names never reach the SQL either: a property name is looked up, and only the column name that the catalog made for it is written.
What the operators mean stands in `keen_pipeline.filters`; how cells look in `cells`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from keen_pipeline.errors import InvalidInputError
from keen_pipeline.filters import AnyOf, Condition, Filter, Operator
from keen_pipeline.service.events.cells import encode_cell, number_cells
from keen_pipeline.service.events.incoming import micros_of
from keen_pipeline.service.events.properties import CREATED_AT, TIMESTAMP, matching_paths, path_of_name
from keen_pipeline.timeframe import Timeframe, parse_instant

EARTH_RADIUS_MILES = 3958.8
_COMPARE = {Operator.EQ: "=", Operator.NE: "<>", Operator.LT: "<", Operator.LTE: "<=", Operator.GT: ">", Operator.GTE: ">="}


@dataclass(frozen=True)
class Where:
    """A condition and its parameters, in the order of their question marks. It is never NULL."""

    sql: str
    parameters: tuple[Any, ...] = ()


def where(columns: Mapping[str, str], filters: Sequence[Condition], timeframe: Timeframe | None) -> Where:
    """The events in the timeframe that pass all filters. `columns`: names by path.

    Raises InvalidInputError naming `filters[i]`.
    """
    parts = [Where("true")]
    if timeframe is not None:
        parts.append(Where("t >= ? AND t < ?", (micros_of(timeframe.start), micros_of(timeframe.end))))
    for index, condition in enumerate(filters):
        parts.append(_condition(columns, condition, f"filters[{index}]"))
    return _joined(parts, " AND ")


def _joined(parts: Sequence[Where], word: str) -> Where:
    return Where(word.join(f"({part.sql})" for part in parts), tuple(p for part in parts for p in part.parameters))


def _condition(columns: Mapping[str, str], condition: Condition, field: str) -> Where:
    if isinstance(condition, AnyOf):
        return _joined([_condition(columns, c, f"{field}.operands[{i}]") for i, c in enumerate(condition.operands)], " OR ")
    path = path_of_name(condition.property_name)
    if path in (TIMESTAMP, CREATED_AT) and condition.operator is not Operator.EXISTS:
        return _instants(columns, path, condition, field)
    _check_type(condition, field)
    cells = [columns[p] for p in matching_paths(condition.property_name, columns)]
    if condition.operator is Operator.EXISTS:
        inside = [column for p, column in columns.items() if p.startswith(path + ".")]
        present = " OR ".join(f"{column} IS NOT NULL" for column in [*cells, *inside]) or "false"
        return Where(f"({present}) = ?", (condition.property_value,))
    negative = {Operator.NE: Operator.EQ, Operator.NOT_CONTAINS: Operator.CONTAINS}.get(condition.operator)
    parts = [_comparison(column, negative or condition.operator, condition.property_value) for column in cells]
    found = _joined([Where(f"coalesce({p.sql}, false)", p.parameters) for p in parts], " OR ") if parts else Where("false")
    return Where(f"NOT ({found.sql})", found.parameters) if negative else found


def _check_type(condition: Filter, field: str) -> None:
    if condition.operator in (Operator.LTE, Operator.GTE) and isinstance(condition.property_value, str):
        raise InvalidInputError(
            f"{field}.property_value: {condition.operator.value} takes a number, or an instant for the service's own timestamps",
            field=f"{field}.property_value",
        )


def _comparison(column: str, operator: Operator, value: Any) -> Where:
    if operator in (Operator.EQ, Operator.IN):
        texts = [text for v in ([value] if operator is Operator.EQ else value) for text in _cells_of(v)]
        return Where(f"{column} IN ({', '.join('?' * len(texts))})", tuple(texts)) if texts else Where("false")
    if operator is Operator.CONTAINS:
        in_list = f"list_contains(json_extract(cell_list({column}), '$[*]')::VARCHAR[], to_json(?::VARCHAR)::VARCHAR)"
        return Where(f"coalesce(contains(cell_string({column}), ?), {in_list})", (value, value))
    if operator is Operator.REGEX:
        return Where(f"regexp_matches(cell_string({column}), ?)", (value,))
    if operator is Operator.WITHIN:
        return _within(column, value)
    kind = "cell_string" if isinstance(value, str) else "cell_number"
    return Where(f"{kind}({column}) {_COMPARE[operator]} ?", (value if isinstance(value, str) else _double(value),))


def _double(value: float) -> float:
    try:
        return float(value)
    except OverflowError:
        return float("inf") if value > 0 else float("-inf")


def _cells_of(value: Any) -> list[str]:
    if isinstance(value, (int, float)) and not isinstance(value, bool):
        try:
            return number_cells(value)
        except OverflowError:
            return []
    return [encode_cell(value)]


def _instants(columns: Mapping[str, str], path: str, condition: Filter, field: str) -> Where:
    place = f"{field}.property_value"
    operator, value = condition.operator, condition.property_value
    column = "t" if path == TIMESTAMP else f"epoch_us(CAST({columns[path]} AS TIMESTAMP))" if path in columns else "NULL::BIGINT"
    if operator is Operator.IN:
        moments = tuple(micros_of(parse_instant(v, field=place)) for v in value)
        return Where(f"coalesce({column} IN ({', '.join('?' * len(moments))}), false)", moments) if moments else Where("false")
    if operator not in _COMPARE:
        raise InvalidInputError(f"{field}.operator: {operator.value} does not work on a timestamp", field=f"{field}.operator")
    moment = micros_of(parse_instant(value, field=place))
    return Where(f"coalesce({column} {_COMPARE[operator]} ?, {'true' if operator is Operator.NE else 'false'})", (moment,))


def _within(column: str, value: Mapping[str, Any]) -> Where:
    """The great circle by the haversine formula, on a sphere of the Earth's mean radius."""
    (longitude, latitude), miles = value["coordinates"], value["max_distance_miles"]
    x, y = (f"TRY_CAST(json_extract_string(cell_list({column}), '$[{i}]') AS DOUBLE)" for i in (0, 1))
    haversine = f"power(sin(radians({y} - ?) / 2), 2) + cos(radians(?)) * cos(radians({y})) * power(sin(radians({x} - ?) / 2), 2)"
    distance = f"{2 * EARTH_RADIUS_MILES} * asin(sqrt(least(1, {haversine})))"
    return Where(f"{distance} <= ?", (float(latitude), float(latitude), float(longitude), float(miles)))
