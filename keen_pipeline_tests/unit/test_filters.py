"""Filters to and from the wire; what is refused names its place."""

from __future__ import annotations

from typing import Any

import pytest

from keen_pipeline.errors import InvalidInputError
from keen_pipeline.extraction import filters_identity
from keen_pipeline.filters import MAX_CONDITIONS, AnyOf, Filter, Operator, parse_filters

GOOD = {"property_name": "amount", "operator": "gt", "property_value": 3.5}


def test_a_filter_survives_the_wire() -> None:
    (read,) = parse_filters([GOOD])
    assert read == Filter("amount", Operator.GT, 3.5)
    assert read.to_wire() == GOOD
    assert parse_filters('[{"property_name": "a", "operator": "in", "value": [1, null]}]') == (Filter("a", "in", [1, None]),)


def test_groups_survive_the_wire() -> None:
    wire = [{"operator": "or", "operands": [GOOD, {"operator": "or", "operands": [GOOD]}]}]
    (group,) = parse_filters(wire)
    assert isinstance(group, AnyOf)
    assert [group.to_wire()] == wire
    assert hash(group) == hash(parse_filters(wire)[0])


@pytest.mark.parametrize("nothing", [None, "", [], "[]", ()])
def test_no_filters(nothing: Any) -> None:
    assert parse_filters(nothing) == ()


@pytest.mark.parametrize(
    ("operator", "value"),
    [
        ("eq", [1]),
        ("ne", {}),
        ("lt", None),
        ("gt", True),
        ("lte", []),
        ("gte", {}),
        ("exists", 1),
        ("exists", "true"),
        ("in", "a"),
        ("in", [[1]]),
        ("contains", 1),
        ("not_contains", None),
        ("regex", 5),
        ("within", [0, 0]),
        ("within", {"coordinates": [0, 0]}),
        ("within", {"coordinates": [200, 0], "max_distance_miles": 1}),
        ("within", {"coordinates": [0, 0], "max_distance_miles": -1}),
        ("within", {"coordinates": [0, "0"], "max_distance_miles": 1}),
        ("within", {"coordinates": 5, "max_distance_miles": 1}),
        ("eq", float("nan")),
    ],
)
def test_values_that_an_operator_does_not_take(operator: str, value: Any) -> None:
    with pytest.raises(InvalidInputError) as caught:
        parse_filters([GOOD, {"property_name": "a", "operator": operator, "property_value": value}])
    assert caught.value.field == "filters[1].property_value"
    assert "filters[1].property_value" in str(caught.value)


@pytest.mark.parametrize(
    ("wire", "field"),
    [
        ("{", "filters"),
        (7, "filters"),
        ({}, "filters"),
        (["x"], "filters[0]"),
        ([{"operator": "eq", "property_value": 1}], "filters[0].property_name"),
        ([{**GOOD, "property_name": " "}], "filters[0].property_name"),
        ([{**GOOD, "operator": "almost"}], "filters[0].operator"),
        ([{"operator": "or"}], "filters[0].operands"),
        ([{"operator": "or", "operands": []}], "filters[0].operands"),
        ([GOOD, {"operator": "or", "operands": [GOOD, {**GOOD, "operator": 1}]}], "filters[1].operands[1].operator"),
        ([GOOD] * (MAX_CONDITIONS + 1), "filters"),
    ],
)
def test_wrong_shapes(wire: Any, field: str) -> None:
    with pytest.raises(InvalidInputError) as caught:
        parse_filters(wire)
    assert caught.value.field == field


def test_groups_nested_without_end() -> None:
    wire: dict[str, Any] = GOOD
    for _ in range(50):
        wire = {"operator": "or", "operands": [wire]}
    with pytest.raises(InvalidInputError, match="nested deeper"):
        parse_filters([wire])


@pytest.mark.parametrize(
    ("one", "other", "same"), [(True, 1, False), (False, 0, False), (1, 1, True), ("1", 1, False), (None, None, True)]
)
def test_equal_filters_are_those_that_the_service_calls_equal(one: Any, other: Any, same: bool) -> None:
    first, second = Filter("a", "eq", one), Filter("a", "eq", other)
    assert (first == second) is same
    assert (hash(first) == hash(second)) is same
    assert (len({first, second}) == 1) is same
    assert (filters_identity((first,)) == filters_identity((second,))) is same
    assert first != first.to_wire()


def test_a_key_that_no_filter_has_is_named() -> None:
    with pytest.raises(InvalidInputError, match="unknown colour") as caught:
        Filter.from_wire({**GOOD, "colour": "red"})
    assert caught.value.field == "colour"
    with pytest.raises(InvalidInputError, match="an `or` group can't be used here") as caught:
        Filter.from_wire({"operator": "or", "operands": [GOOD]})
    assert caught.value.field == "operator"
    with pytest.raises(InvalidInputError, match="is not an object"):
        Filter.from_wire(["a"])  # type: ignore[arg-type]


def test_a_value_that_is_changed_afterwards_changes_no_filter() -> None:
    values = [1, 2]
    chosen = Filter("a", "in", values)
    before = hash(chosen)
    values.append(3)
    assert (chosen.property_value, hash(chosen)) == ([1, 2], before)
