"""The type of each column that a reader sees: what the caller asked for, else what the ledger says of the collection, else text.

| type | column | a cell |
|---|---|---|
| `num`, as Keen has it | the first of `int`, double, `decimal` and text that holds all cells of the range | a JSON number |
| `num`, asked for | 64-bit floating point | a number, as the nearest double |
| `int` | 64-bit integer | a whole number |
| `decimal` | decimal, 38 digits | a number, exactly |
| `bool` | boolean | `true` or `false` |
| `datetime` | microseconds, UTC | ISO-8601 with a zone |
| `string`, any other of Keen's | text | as it stands in the CSV: `007` stays `007` |
| `bytes` | bytes | for a text that isn't UTF-8 |

Keen's type of a property is one for all landings of the collection: if they disagree it is text. An empty cell is null, and a
JSON null (`null` without quotes) too; `""` is the empty text. A cell that is not of its column's type is an error: nothing is
guessed, and nothing is lost without a word.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from keen_pipeline.errors import ConfigurationError, InvalidInputError
from keen_pipeline.readers.files import LandedFile

TYPES = ("num", "int", "decimal", "bool", "datetime", "string", "bytes")
KEENS_NUMBER = "number"
"""What a property is that Keen calls `num`: its column's type follows from its cells."""
DECIMAL_DIGITS = 38
# What Keen calls a property that it has only nulls of says nothing of the next event.
_NOTHING = frozenset({"", "null"})
ALWAYS = {"header:timestamp": "datetime"}
"""What every event has, so that of a collection which nothing is known of there is a column too: DuckDB takes no table without."""


def pyarrow() -> Any:
    """The module. Raises ConfigurationError if the extra is missing."""
    try:
        import pyarrow as module
    except ImportError:
        raise ConfigurationError("reading landed files needs pyarrow: pip install 'keen_pipeline[parquet]'") from None
    return module


def arrow_type(word: str) -> Any:
    """Arrow's type for one of Keen's, or of TYPES; not for KEENS_NUMBER and `decimal`, whose cells decide."""
    pa = pyarrow()
    from keen_pipeline.landing.parquet import cells

    return pa.int64() if word == "int" else cells.arrow_type(word)


def check_types(collection: str, types: Mapping[str, str]) -> None:
    """Raises InvalidInputError naming a type that a caller can't ask for."""
    if not isinstance(types, Mapping):
        raise InvalidInputError(f"{collection}: types: must be a mapping of names to types, not {types!r}", field="types")
    for column, word in types.items():
        if word not in TYPES:
            raise InvalidInputError(f"{collection}: types: {column} can't be {word!r}, only {', '.join(TYPES)}", field="types")


def known_words(files: Iterable[LandedFile]) -> dict[str, str]:
    """The columns of all the files, each once, in the order of their first appearance, with one word for the type of each."""
    said: dict[str, set[str]] = {}
    masked: set[str] = set()
    for file in files:
        masked.update(set(file.landing.masked).intersection(file.landing.columns))
        words = file.landing.property_types or ("",) * len(file.landing.columns)
        for name, word in zip(file.landing.columns, words, strict=True):
            # Keen told, and had none or several: it is no longer what another landing says.
            told = {"string"} if file.landing.property_types and not word else {word} - _NOTHING
            said.setdefault(name, set()).update(told)
    return {name: "string" if name in masked else _agreed(name, words) for name, words in said.items()}


def _agreed(name: str, words: set[str]) -> str:
    if name in ALWAYS:
        return ALWAYS[name]
    if len(words) != 1:
        return "string"
    [word] = words
    return KEENS_NUMBER if word == "num" else word
