r"""One property value as the text of one CSV field, and back, without loss.

- missing: empty and without quotes, as the second field of `a,,b`
- null, true, false: `null`, `true`, `false`
- whole number: its digits, `42`; any other number: the shortest text that reads back the same, `3.5`, `1e+16`
- string: the text itself, in quotes where RFC 4180 asks for it, and also where it is empty, starts with a digit, a sign,
  a dot or a blank, ends with a blank, or is a word such as `null`, `true` or `nan`: Ada, "a,b", "42", ""
- list, empty object: compact JSON, quoted as any text: "[1,""a""]", {}
- string that itself reads as a JSON list, object or string, or that holds NUL: the JSON of that string
- timestamp of the service: `2026-01-31T08:00:00.000Z`, UTC, six digits where microseconds are not zero, without quotes

So a field without quotes that reads as a number, `true`, `false` or `null` is that JSON value, and in quotes it is a string.
Every CSV reader sees the natural text; a reader that also looks at the quotes (`event_files`) gets the types back.
The store keeps values in exactly this form, so an extraction copies them and converts nothing.
"""

from __future__ import annotations

import json
import math
import re
from typing import Any

# First characters of everything a number parser may take for a number.
_NUMBER_START = frozenset("0123456789+-. \t\n\v\f\r")
WORDS = frozenset({"null", "true", "false", "nan", "inf", "infinity"})
_NUMBER = re.compile(r"-?(?:0|[1-9]\d*)(?:\.\d+)?(?:[eE][+-]?\d+)?")
_NEEDS_QUOTES = re.compile(r'[",\r\n]')
_dump = json.JSONEncoder(ensure_ascii=False, separators=(",", ":"), allow_nan=False).encode
_MISSINGWORDS = {"null": None, "true": True, "false": False}


class _Missing:
    """The absence of a property; unlike null it is no value."""

    def __repr__(self) -> str:
        return "MISSING"


MISSING = _Missing()


def encode_cell(value: Any) -> str:
    """The CSV field of a JSON value. Raises ValueError for a number outside the range of a double."""
    if isinstance(value, str):
        return encode_string(value)
    if value is None:
        return "null"
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, int):
        float(value)  # OverflowError is an ArithmeticError: see below
        return str(value)
    if isinstance(value, float):
        if not math.isfinite(value):
            raise ValueError("a number outside the range of a double")
        return repr(value)
    return quote(_dump(value))


def encode_string(text: str) -> str:
    """The CSV field of a string."""
    if not text:
        return '""'
    first = text[0]
    if (first in '[{"' and _reads_as_json(text)) or "\0" in text:
        text = _dump(text)
    elif first in _NUMBER_START or text[-1] in " \t" or (len(text) <= 8 and text.lower() in WORDS):
        return '"' + text.replace('"', '""') + '"'
    return quote(text)


def quote(text: str) -> str:
    """Quote by RFC 4180 where the text holds a comma, a quote, CR or LF."""
    if _NEEDS_QUOTES.search(text):
        return '"' + text.replace('"', '""') + '"'
    return text


def decode_cell(cell: str | None) -> Any:
    """The JSON value of a CSV field as it stands in the file, quotes included; MISSING for an empty one."""
    if not cell:
        return MISSING
    if cell[0] == '"':
        return decode_field(cell[1:-1].replace('""', '"'), quoted=True)
    return decode_field(cell, quoted=False)


def decode_field(text: str, *, quoted: bool) -> Any:
    """The JSON value of a CSV field whose quotes were taken off by a parser that knows whether there were any."""
    if not quoted:
        if not text:
            return MISSING
        if text in _MISSINGWORDS:
            return _MISSINGWORDS[text]
        if _NUMBER.fullmatch(text):
            return json.loads(text)
    if text and text[0] in '[{"' and _reads_as_json(text):
        return json.loads(text)
    return text


def number_cells(value: float) -> list[str]:
    """Every field a number equal to `value` may have: 1 is also 1.0, and 0 also -0.0. Exact, also past 2**53."""
    cells = {repr(float(value))} if float(value) == value else set()
    if isinstance(value, int) or value.is_integer():
        cells.add(str(int(value)))
    if value == 0:
        cells.add("-0.0")
    return sorted(cells)


def _refuse_constant(word: str) -> Any:
    raise ValueError(f"{word} is not JSON")


def _reads_as_json(text: str) -> bool:
    try:
        json.loads(text, parse_constant=_refuse_constant)
    except (ValueError, RecursionError):
        return False
    return True
