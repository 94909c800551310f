"""Names of event collections, as Keen's own clients allow them, and names of properties, as v3.0 means them."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable

from keen_pipeline.errors import InvalidInputError
from keen_pipeline.filters import AnyOf, Condition, Filter
from keen_pipeline.service.events.properties import v2_name

MAX_NAME_CHARACTERS = 64

NAME_PATTERN = rf"[!-#%-\-/-^`-~][ -#%-~]{{0,{MAX_NAME_CHARACTERS - 1}}}"
_NAME = re.compile(NAME_PATTERN)


def check_event_collection(name: object) -> str:
    """Return `name` where it may be an event collection, else raise InvalidInputError.

    Legal: 1 to 64 characters of printable ASCII other than `$`, starting with neither `_` nor `.` nor a blank, not ending in a
    blank and without `..`; so `user:signup`, `a/b`, `c++` and `keen` are. Storage must not take a name for a path.
    """
    if not isinstance(name, str) or not _NAME.fullmatch(name) or ".." in name or name.endswith(" "):
        shown = repr(name)[: MAX_NAME_CHARACTERS * 2]
        raise InvalidInputError(
            f"collection: {shown} is not a legal name (1 to {MAX_NAME_CHARACTERS} characters of printable ASCII, no '$';"
            " it may not start with '_', '.' or a blank, end with a blank, nor hold '..')",
            field="collection",
        )
    return name


def literal_name(name: str, paths: Collection[str]) -> str:
    """A property name of v3.0, where a property may itself be called `header:x` or `body:y`, as the events' own code takes it.

    `paths`: of the collection's properties. Only a name that one of them has is meant literally: v2.0's names work as well.
    """
    if not name.startswith(("header:", "body:")) or not any(path == name or path.startswith(f"{name}.") for path in paths):
        return name
    return v2_name(name)


def literal_filters(conditions: Iterable[Condition], paths: Collection[str]) -> tuple[Condition, ...]:
    """Filters of v3.0 with their property names as `literal_name` makes them."""
    return tuple(
        AnyOf(literal_filters(one.operands, paths))
        if isinstance(one, AnyOf)
        else Filter(literal_name(one.property_name, paths), one.operator, one.property_value)
        for one in conditions
    )
