"""The type of each column that a reader sees: what the caller asked for, else Keen's type of the property, else text.

| type | column | a cell |
|---|---|---|
| `num` | 64-bit floating point | a number, as the nearest double: JSON's numbers are no more |
| `int` | 64-bit integer | a whole number; never Keen's word, asked for where numbers beyond 2^53 are kept exactly |
| `bool` | boolean | `true` or `false` |
| `datetime` | microseconds, UTC | ISO-8601 with a zone |
| `string`, any other of Keen's | text | as it stands in the CSV: `007` stays `007` |
| `bytes` | bytes | where a text is no UTF-8 |

An empty cell is null, and a JSON null (`null` without quotes) too; `""` is the empty text. A cell that is not of its column's type
is an error: nothing is guessed, and nothing is lost without a word.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from keen_pipeline.errors import ConfigurationError, InvalidInputError

TYPES = ("num", "int", "bool", "datetime", "string", "bytes")


def pyarrow() -> Any:
    """The module. Raises ConfigurationError where the extra is missing."""
    try:
        import pyarrow as module
    except ImportError:
        raise ConfigurationError("reading landed files needs pyarrow: pip install 'keen_pipeline[parquet]'") from None
    return module


def arrow_type(word: str) -> Any:
    """Arrow's type for one of Keen's, or of TYPES."""
    pa = pyarrow()
    known = {
        "num": pa.float64(),
        "int": pa.int64(),
        "bool": pa.bool_(),
        "datetime": pa.timestamp("us", "UTC"),
        "bytes": pa.binary(),
    }
    return known.get(word, pa.string())


def check_types(collection: str, types: Mapping[str, str]) -> None:
    """Raises InvalidInputError naming a type that a caller can't ask for."""
    for column, word in types.items():
        if word not in TYPES:
            raise InvalidInputError(f"{collection}: types: {column} can't be {word!r}, only {', '.join(TYPES)}", field="types")


def union_of(headers: Iterable[Sequence[str]]) -> list[str]:
    """The names of all headers, each once, in the order of their first appearance."""
    return list(dict.fromkeys(name for header in headers for name in header))
