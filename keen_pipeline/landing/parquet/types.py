"""Which type a column of a landed Parquet file has, so that all files of a collection have one. Nothing is guessed, no digit lost.

Keen's type of the property gives the narrow type, and a cell that it can't hold as it is moves the whole column to text:

| Keen's type | narrow | cells that it holds |
|---|---|---|
| `num` | `double` | JSON numbers that a double has, whole ones up to 2^53: not 9007199254740993, 1e400, 0.12345678901234567890 |
| `bool` | `bool` | `true`, `false` |
| `datetime` | `timestamp[us, tz=UTC]` | instants as Keen writes them, of the years 1 to 9999, which every reader can show |
| any other, several, unknown | `string` | UTF-8 |

The next wider type is always `string`, each cell as it stands in the CSV, and then `binary`, if one isn't UTF-8. Numbers are
never `int64` or decimal: an amount of 5 today and 5.5 tomorrow would make two types of it, and no decimal holds what a double does.

A column never gets narrower: what an earlier file of the collection had (`earlier_types`) is the least that a later one has, even
if Keen's type has changed in between. So a property changes its type at most twice in its life. A folder from before and after
such a change holds both types, until the older partitions are landed again. Whoever reads both casts to the wider one, as our
readers do, and DuckDB does by `union_by_name = true` (without it, it casts to the type of the first file, and rounds); polars
refuses such a folder. Without `earlier_types` the file alone decides, by the same table.
"""

from __future__ import annotations

from collections.abc import Mapping

STRING, BYTES = "string", "bytes"
WORDS: Mapping[str, str] = {"num": "double", "bool": "bool", "datetime": "timestamp[us, tz=UTC]", STRING: "string", BYTES: "binary"}
"""Arrow's word for each kind of column."""
_KINDS = {word: kind for kind, word in WORDS.items()}


def kind_of(keens_type: str, earlier: str | None) -> str:
    """The narrowest kind that a column may have. `earlier`: Arrow's word for its type in an earlier file."""
    kind = keens_type if keens_type in ("num", "bool", "datetime") else STRING
    if earlier is None:
        return kind
    before = _KINDS.get(earlier, STRING)
    if BYTES in (kind, before):
        return BYTES
    return kind if kind == before else STRING


def wider(one: str, other: str) -> str:
    """The type, in Arrow's words, that takes all that two files have in a column: `double` and `string` are `string`."""
    return WORDS[kind_of(_KINDS.get(one, STRING), other)] if one != "binary" else one
