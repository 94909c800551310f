r"""One property value as the text that the store keeps: its JSON, in one form.

The first character says the type: `"` a string, a digit or `-` a number, `t` or `f` a boolean, `n` null, `[` a list, `{` an
object (an empty one, since others are their properties). Whole numbers keep their digits, other numbers are the shortest text
that reads back the same, and objects inside of lists have their keys sorted, so that equal values have equal texts, 1 and 1.0
apart (see `number_texts`). A missing property has no text at all, which is not null.
"""

from __future__ import annotations

import json
import math
from json.encoder import encode_basestring
from typing import Any

_dump = json.JSONEncoder(ensure_ascii=False, separators=(",", ":"), allow_nan=False, sort_keys=True).encode


def encode_value(value: Any) -> str:
    """The text of a JSON value. Raises ValueError or OverflowError for a number outside the range of a double, at any depth."""
    if isinstance(value, str):
        return encode_basestring(value)
    if value is None:
        return "null"
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, (int, float)):
        if not math.isfinite(value):
            raise ValueError("a number outside the range of a double")
        return repr(value)
    _check_numbers(value)
    return _dump(value)


def _check_numbers(value: Any) -> None:
    """Also inside of lists, DuckDB takes no other number."""
    if isinstance(value, list):
        for item in value:
            _check_numbers(item)
    elif isinstance(value, dict):
        for item in value.values():
            _check_numbers(item)
    elif isinstance(value, (int, float)) and not math.isfinite(value):
        raise ValueError("a number outside the range of a double")


def number_texts(value: float) -> list[str]:
    """Every text a number equal to `value` may have: 1 is also 1.0, and 0 also -0.0. Exact, also past 2**53."""
    if value == 0:
        return ["-0.0", "0", "0.0"]
    texts = {repr(float(value))} if float(value) == value else set()
    if isinstance(value, int) or value.is_integer():
        texts.add(str(int(value)))
    return sorted(texts)
