"""Which column a property becomes, and which table a collection: by its name alone, so that it is the same one in every table, for
ever, whoever loads first.

| property | column |
|---|---|
| `header:timestamp` | `keen_timestamp` |
| `body:amount`, `body:user:id` | `amount`, `user__id`, as dlt flattens |
| `body:userId`, `body:user-id`, one of over 63 characters | `user_id_2bf6c21a`: in lower case, with a digest of its name |
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Mapping

from keen_pipeline.errors import ConfigurationError, InvalidInputError

PARTITION_COLUMN = "keen_partition"
"""The partition that a row came with."""
SOURCE_COLUMN = "keen_source"
"""The asset that a row came from."""
MAX_NAME_BYTES = 63
"""PostgreSQL's limit; other databases have more."""
_DIGEST = 8
# What stands for itself in every database, without quotes; none looks like one with a digest.
_PLAIN = re.compile(r"[a-z][a-z0-9]*(_[a-z0-9]+)*")
_DIGESTED = re.compile(rf".*_[0-9a-f]{{{_DIGEST}}}")
_OURS = re.compile(r"keen(_.*)?")


def column_name(name: str) -> str:
    """The column of a property, as it is called in a landed file.

    >>> column_name("header:timestamp"), column_name("body:user:id"), column_name("body:userId")
    ('keen_timestamp', 'user__id', 'user_id_2bf6c21a')
    """
    header = name.startswith(("header:", "keen."))
    parts = re.split("[:]" if name.startswith(("header:", "body:")) else "[.]", name)
    if header or name.startswith("body:"):
        parts = parts[1:]
    plain = "__".join(["keen_" + parts[0], *parts[1:]] if header else parts)
    is_plain = all(_PLAIN.fullmatch(part) for part in parts) and not _DIGESTED.fullmatch(plain) and "\\" not in name
    if is_plain and len(plain) <= MAX_NAME_BYTES and (header or not _OURS.fullmatch(parts[0])):
        return plain
    return _digested(plain, name)


def column_names(collection: str, names: Iterable[str]) -> Mapping[str, str]:
    """The column of each of a file's properties. Raises ConfigurationError for two that would be one."""
    found: dict[str, str] = {}
    taken = {PARTITION_COLUMN, SOURCE_COLUMN}
    for name in names:
        column = column_name(name)
        if column in taken:
            raise ConfigurationError(f"{collection}: {name} can't be loaded: another property has the column {column} already")
        found[name] = column
        taken.add(column)
    return found


def table_name(collection: str) -> str:
    """The table of a collection unless another one is named.

    >>> table_name("purchases"), table_name("Sign Ups")
    ('purchases', 'sign_ups_5fd797c1')
    """
    return collection if _is_table(collection) else _digested(collection, collection)


def check_table_name(name: str) -> str:
    """`name`, if it names a table in every database. Raises InvalidInputError with a name that does."""
    if not _is_table(name):
        raise InvalidInputError(
            f"table: {name[:80]!r} can't be a table's name: 1 to {MAX_NAME_BYTES} lower-case letters, digits and single '_', "
            f"a letter first, and not keen or keen_...; for example {_readable(name)!r}",
            field="table",
        )
    return name


def _is_table(name: str) -> bool:
    return _PLAIN.fullmatch(name) is not None and len(name) <= MAX_NAME_BYTES and _OURS.fullmatch(name) is None


def _readable(name: str) -> str:
    """A plain name that resembles this one."""
    words = re.sub(r"([a-z0-9])([A-Z])", r"\1_\2", name).lower()
    plain = re.sub(r"[^a-z0-9]+", "_", words).strip("_")[:MAX_NAME_BYTES].strip("_")
    return plain if _PLAIN.fullmatch(plain) and _OURS.fullmatch(plain) is None else f"p_{plain or 'unnamed'}"[:MAX_NAME_BYTES]


def _digested(readable: str, name: str) -> str:
    digest = hashlib.sha256(name.encode()).hexdigest()[:_DIGEST]
    return f"{_readable(readable)[: MAX_NAME_BYTES - _DIGEST - 1].strip('_')}_{digest}"
