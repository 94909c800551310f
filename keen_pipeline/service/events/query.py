"""Filters and timeframes as SQL conditions over the texts of values. Pure; every value from a request is a bound parameter.

Names never reach the SQL either: a property name is looked up, and only the column name that the table has for it is written.
What the operators mean stands in `keen_pipeline.filters`; how values look in `values`.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from keen_pipeline.errors import InvalidInputError
from keen_pipeline.filters import AnyOf, Condition, Filter, Operator
from keen_pipeline.service.events.incoming import micros_of
from keen_pipeline.service.events.properties import CREATED_AT, TIMESTAMP, matching_paths, meant_path, paths_within
from keen_pipeline.service.events.values import encode_value, number_texts
from keen_pipeline.timeframe import Timeframe, parse_instant

EARTH_RADIUS_MILES = 3958.8
MAX_SQL_CHARACTERS = 400_000
"""Of a condition: DuckDB plans it in some seconds, which nothing can interrupt."""
_MAX_PAIR_BYTES = 4096
_COMPARE = {Operator.EQ: "=", Operator.NE: "<>", Operator.LT: "<", Operator.LTE: "<=", Operator.GT: ">", Operator.GTE: ">="}


@dataclass(frozen=True)
class Where:
    """A condition and its parameters, in the order of their question marks. It is never NULL."""

    sql: str
    parameters: tuple[Any, ...] = ()


def where(columns: Mapping[str, str], filters: Sequence[Condition], timeframe: Timeframe | None, names: str = "v3") -> Where:
    """The events in the timeframe that pass all filters. `columns`: names by path. `names`: `v2` or `v3`, as the filters have them.

    Raises InvalidInputError naming `filters[i]`, or `filters` if they compare too many properties, as a name has many spellings.
    """
    parts = [Where("true")]
    if timeframe is not None:
        parts.append(Where("t >= ? AND t < ?", (micros_of(timeframe.start), micros_of(timeframe.end))))
    parts += [_condition(columns, names, condition, f"filters[{index}]") for index, condition in enumerate(filters)]
    made = _joined(parts, " AND ")
    if len(made.sql) > MAX_SQL_CHARACTERS:
        raise InvalidInputError("filters: they mean too many properties or values together; send fewer", field="filters")
    return made


def _joined(conditions: Sequence[Where], word: str) -> Where:
    parts = tuple(dict.fromkeys(conditions))  # each once: one that names a thousand columns takes megabytes to plan
    return Where(word.join(f"({part.sql})" for part in parts), tuple(p for part in parts for p in part.parameters))


def _condition(columns: Mapping[str, str], names: str, condition: Condition, field: str) -> Where:
    if isinstance(condition, AnyOf):
        operands = [_condition(columns, names, one, f"{field}.operands[{i}]") for i, one in enumerate(condition.operands)]
        return _joined(operands, " OR ")
    operator, value = condition.operator, condition.property_value
    meant = meant_path(condition.property_name, columns, names)
    if meant in (TIMESTAMP, CREATED_AT) and operator is not Operator.EXISTS:
        return _instants(columns, meant, condition, field)
    _check_type(condition, field)
    if operator is Operator.EXISTS:
        found = [columns[path] for path in paths_within(condition.property_name, columns, names)]
        return Where(f"(coalesce({', '.join(found)}) IS NOT NULL) = ?" if found else "false = ?", (value,))
    found = [columns[path] for path in matching_paths(condition.property_name, columns, names)]
    negative = {Operator.NE: Operator.EQ, Operator.NOT_CONTAINS: Operator.CONTAINS}.get(operator)
    parts = [_comparison(column, negative or operator, value) for column in found]
    passing = _joined([Where(f"coalesce({p.sql}, false)", p.parameters) for p in parts], " OR ") if parts else Where("false")
    return Where(f"NOT ({passing.sql})", passing.parameters) if negative else passing


def _check_type(condition: Filter, field: str) -> None:
    if condition.operator in (Operator.LTE, Operator.GTE) and isinstance(condition.property_value, str):
        raise InvalidInputError(
            f"{field}.property_value: {condition.operator.value} takes a number, or an instant for the service's own timestamps",
            field=f"{field}.property_value",
        )


def _comparison(column: str, operator: Operator, value: Any) -> Where:
    if operator in (Operator.EQ, Operator.IN):
        texts = [text for v in ([value] if operator is Operator.EQ else value) for text in _texts_of(v)]
        return Where(f"{column} IN ({', '.join('?' * len(texts))})", tuple(texts)) if texts else Where("false")
    if operator is Operator.CONTAINS:
        # Taken apart is only a list in which the text stands somewhere: that takes many times the memory of the list.
        found = f"contains(value_list({column}), ?)"
        in_list = f"CASE WHEN {found} THEN list_contains(json_extract({column}, '$[*]'), to_json(?::VARCHAR)) END"
        return Where(f"coalesce(contains(value_string({column}), ?), {in_list})", (value, encode_value(value), value))
    if operator is Operator.REGEX:
        return Where(f"regexp_matches(value_string({column}), ?)", (value,))
    if operator is Operator.WITHIN:
        return _within(column, value)
    if isinstance(value, str):
        return Where(f"value_string({column}) {_COMPARE[operator]} ?", (value,))
    return _ordered(column, operator, value)


def _ordered(column: str, operator: Operator, value: float) -> Where:
    """An exact comparison with a number of any size, as integers have more digits than a double, or a HUGEINT, can hold.

    Of a whole number the digits decide, and `x > 2.5` is `x > 2`. Any other is a double, and is compared with the one nearest to
    the value asked for. `x < value` is what is not `x >= value`.
    """
    inclusive, negated = operator in (Operator.GTE, Operator.LT), "NOT " if operator in (Operator.LT, Operator.LTE) else ""
    whole, double = math.floor(value), _nearest_double(value)
    integers = _integer_above(column, whole, inclusive=inclusive and whole == value)
    # A value between two doubles equals none: `x > value` takes in the nearest one when that is above the value.
    sign = ">=" if (inclusive if double == value else double > value) else ">"
    return Where(
        f"CASE WHEN NOT is_number({column}) THEN false WHEN is_integer({column}) THEN {negated}({integers.sql})"
        f" ELSE {negated}(TRY_CAST({column} AS DOUBLE) {sign} ?) END",
        (*integers.parameters, double),
    )


def _nearest_double(value: float) -> float:
    try:
        return float(value)
    except OverflowError:
        return math.inf if value > 0 else -math.inf


def _integer_above(column: str, value: int, *, inclusive: bool) -> Where:
    """Whole numbers as texts: of one sign the longer is the farther from 0, of one length the digits decide."""
    text, equal = str(value), "=" if inclusive else ""
    positive, same = f"NOT starts_with({column}, '-')", f"strlen({column}) = {len(text)} AND {column}"
    if value >= 0:
        return Where(f"{positive} AND (strlen({column}) > {len(text)} OR ({same} >{equal} ?))", (text,))
    return Where(f"{positive} OR strlen({column}) < {len(text)} OR ({same} <{equal} ?)", (text,))


def _texts_of(value: Any) -> list[str]:
    if isinstance(value, (int, float)) and not isinstance(value, bool):
        try:
            return number_texts(value)
        except OverflowError:
            return []
    return [encode_value(value)]


def _instants(columns: Mapping[str, str], path: str, condition: Filter, field: str) -> Where:
    place = f"{field}.property_value"
    operator, value = condition.operator, condition.property_value
    created = f"epoch_us(CAST(value_string({columns.get(path)}) AS TIMESTAMP))"
    column = "t" if path == TIMESTAMP else created if path in columns else "NULL::BIGINT"
    if operator is Operator.IN:
        moments = tuple(micros_of(parse_instant(v, field=place)) for v in value)
        return Where(f"coalesce({column} IN ({', '.join('?' * len(moments))}), false)", moments) if moments else Where("false")
    if operator not in _COMPARE:
        raise InvalidInputError(f"{field}.operator: {operator.value} does not work on a timestamp", field=f"{field}.operator")
    moment = micros_of(parse_instant(value, field=place))
    return Where(f"coalesce({column} {_COMPARE[operator]} ?, {'true' if operator is Operator.NE else 'false'})", (moment,))


def _within(column: str, value: Mapping[str, Any]) -> Where:
    """The great circle by the haversine formula, on a sphere of the Earth's mean radius; NULL for what isn't a pair of numbers."""
    (longitude, latitude), miles = value["coordinates"], value["max_distance_miles"]
    pair = f"CASE WHEN strlen({column}) <= {_MAX_PAIR_BYTES} THEN value_list({column}) END"  # a long list takes much memory to read
    x, y = (f"value_number(json_extract({pair}, '$[{i}]')::VARCHAR)" for i in (0, 1))
    haversine = f"power(sin(radians({y} - ?) / 2), 2) + cos(radians(?)) * cos(radians({y})) * power(sin(radians({x} - ?) / 2), 2)"
    half_angle = _nearest_double(miles) / (2 * EARTH_RADIUS_MILES)
    most = math.sin(half_angle) ** 2 if half_angle < math.pi / 2 else math.inf  # no two points are farther apart
    return Where(f"{haversine} <= ?", (float(latitude), float(latitude), float(longitude), most))
