"""Which column of a table a property becomes: a name without quotes where possible, and for ever the same one."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Mapping

PARTITION_COLUMN = "keen_partition"
"""The partition that a row came with."""
MAX_NAME_BYTES = 63
"""PostgreSQL's limit; MySQL's is 64, others have more."""
_DIGEST = 8


def new_column_names(properties: Iterable[str], taken: Mapping[str, str]) -> dict[str, str]:
    """Names for those of `properties` (names of landed columns) that `taken` (column by property) lacks.

    >>> new_column_names(["header:timestamp", "body:user:email", "user.email"], {})
    {'header:timestamp': 'keen_timestamp', 'body:user:email': 'user_email', 'user.email': 'user_email_61f51870'}
    """
    used = {PARTITION_COLUMN, *(name.lower() for name in taken.values())}
    made: dict[str, str] = {}
    for name in properties:
        if name in taken or name in made:
            continue
        column = _readable(name)
        if column.lower() in used or len(column.encode()) > MAX_NAME_BYTES:
            digest = hashlib.sha256(name.encode()).hexdigest()[:_DIGEST]
            column = f"{_cut(column, MAX_NAME_BYTES - _DIGEST - 1)}_{digest}"
        used.add(column.lower())
        made[name] = column
    return made


def _readable(name: str) -> str:
    plain = re.sub(r"^header:", "keen:", name).removeprefix("body:")
    return re.sub(r"[^\w]+", "_", plain).strip("_") or "column"


def _cut(text: str, size: int) -> str:
    return text.encode()[:size].decode("utf-8", "ignore")
