"""Failures in words: what, why, and the command that mends it; equal reasons once."""

from __future__ import annotations

import shlex
from collections import defaultdict
from collections.abc import Iterable, Sequence

import dagster as dg

from keen_pipeline.lifecycle import Entry

# Partitions that a line names one by one, and lines of one text; the others are counted. Metadata and events have all.
_MOST_NAMED = 5
_MOST_LINES = 10
_MOST_CHARACTERS = 600


def grouped(failed: Iterable[tuple[Entry, str]]) -> list[str]:
    """One line a reason, with its collection, its partitions and what mends it."""
    groups: dict[tuple[str, str], list[str]] = defaultdict(list)
    for entry, reason in failed:
        groups[entry.request.collection, reason.replace(str(entry.request), entry.request.collection)].append(
            entry.request.partition_key
        )
    lines = []
    for (collection, reason), keys in list(groups.items())[:_MOST_LINES]:
        more = f" and {len(keys) - _MOST_NAMED} more" if len(keys) > _MOST_NAMED else ""
        said = reason if len(reason) <= _MOST_CHARACTERS else reason[: _MOST_CHARACTERS - 1] + "…"
        named = " ".join(keys[:_MOST_NAMED])
        lines.append(f"{collection} {named}{more}: {said}\n  keen-pipeline retry {shlex.quote(collection)} {named}")
    if len(groups) > _MOST_LINES:
        lines.append(f"and {len(groups) - _MOST_LINES} other reasons; `keen-pipeline status` has all")
    return lines


def failure(landed: int, failed: Sequence[tuple[Entry, str]], problems: Sequence[str] = ()) -> dg.Failure:
    """The end of a run in which something failed; what landed is kept. It is not tried again as a whole."""
    lines = [*grouped(failed), *problems[:_MOST_LINES]]
    total = landed + len(failed)
    return dg.Failure(
        description=f"{landed} of {total} partitions landed, {len(failed)} failed\n" + "\n".join(lines),
        metadata={"landed": landed, "failed": len(failed)},
        allow_retries=False,
    )
