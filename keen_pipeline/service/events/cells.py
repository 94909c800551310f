r"""One property value as a field of the CSV files that the service writes, and what a field means when it is read.

- missing: empty and without quotes, as the second field of `a,,b`; in quotes if it is the only one, as an empty line is no record
- null, true, false: `null`, `true`, `false`
- number: its JSON, `42`, `3.5`, `1e+16`
- string: the text itself, in quotes, which are doubled inside: "Ada", "a,b", "42", "", "[1]"
- list, empty object: compact JSON, in quotes if it holds a comma or a quote: [1], "[1,""a""]", {}
- timestamp of the service: `2026-01-31T08:00:00.000Z`, UTC, six digits if microseconds are not zero, without quotes

Every CSV reader sees the natural text. A reader that also looks at the quotes (`event_files`) gets the types back: without quotes
stands a JSON value, in quotes a string. One thing is lost: a list with a comma or a quote and a string of the same text are one
field. Such a field is read as the list; NDJSON keeps the two apart.
"""

from __future__ import annotations

import json
import re
from contextlib import suppress
from typing import Any

_NUMBER = re.compile(r"-?(?:0|[1-9]\d*)(?:\.\d+)?(?:[eE][+-]?\d+)?")
_NEEDS_QUOTES = re.compile(r'[",\r\n]')
_WORDS = {"null": None, "true": True, "false": False}


MISSING = object()
"""The absence of a property; unlike null it isn't a value."""


def quote(text: str) -> str:
    """A name as a field of a header: in quotes if RFC 4180 asks for it."""
    if not text or text[0] in " \t" or text[-1] in " \t" or _NEEDS_QUOTES.search(text):
        return '"' + text.replace('"', '""') + '"'
    return text


def decode_field(text: str, *, quoted: bool, nested: str = "[{") -> Any:
    """The JSON value of a CSV field whose quotes were taken off by a parser that knows whether there were any.

    `nested`: the first characters of texts that are taken for JSON when they read as such.
    """
    if not quoted:
        if not text:
            return MISSING
        if text in _WORDS:
            return _WORDS[text]
    # A list is in quotes only if it needs them.
    is_nested = text and text[0] in nested and (not quoted or _NEEDS_QUOTES.search(text))
    if is_nested or (not quoted and _NUMBER.fullmatch(text)):
        with suppress(ValueError, RecursionError):  # no JSON, though it begins so, or a number of over 4,300 digits
            return json.loads(text, parse_constant=refuse_constant)
    return text


def refuse_constant(word: str) -> Any:
    """For `json.loads`, which takes NaN and Infinity."""
    raise ValueError(f"{word} is not JSON")
