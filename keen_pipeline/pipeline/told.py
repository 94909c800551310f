"""Failures in words: what, why, and the command that mends it; equal reasons once. For runs, mails and the command line alike."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterable, Sequence

from keen_pipeline.lifecycle import Entry

# Partitions that a line names one by one, and lines of one text; the others are counted. Metadata and --json have all.
MOST_NAMED = 5
MOST_LINES = 10
_MOST_CHARACTERS = 600
# Ids of extractions, and what makes the name of a temporary file unique.
_IDS = re.compile(r"[0-9a-f]{8,}(?:-[0-9a-f]{8,})*")
FIRST_LINE_CHARACTERS = 200
"""A first line is shorter than this: it is what a mail's subject and a phone show."""


def grouped(failed: Iterable[tuple[Entry, str]]) -> list[str]:
    """For each collection and reason one line with its partitions, and below it what mends it."""
    groups: dict[tuple[str, str], tuple[str, list[Entry]]] = {}
    for entry, error in failed:
        collection, key = entry.request.collection, entry.request.partition_key
        reason = error.replace(str(entry.request), collection)
        groups.setdefault((collection, cause(reason, key)), (reason, []))[1].append(entry)
    lines = [_line(entries[0].request.collection, reason, entries) for reason, entries in list(groups.values())[:MOST_LINES]]
    if len(groups) > MOST_LINES:
        lines.append(f"and {len(groups) - MOST_LINES} other reasons; `keen-pipeline status` has all")
    return lines


def cause(reason: str, partition_key: str) -> str:
    """A reason without what differs from one partition to the next, so that what is equal is told once.

    >>> cause("extraction 5960b6bb4739: /d/.2026-11-26.csv.bd98ba06-0f55c9ce is full", "2026-11-26")
    'extraction : /d/..csv. is full'
    """
    return _IDS.sub("", reason.replace(partition_key, ""))


def _line(collection: str, reason: str, entries: Sequence[Entry]) -> str:
    keys = [entry.request.partition_key for entry in entries]
    told = f"{collection} {few(keys)}: {shortened(reason)}"
    if not entries[0].is_partition:
        return told
    # Given up: a person asks again. Still open: who lands it goes on by himself once the cause is mended.
    verb = "retry" if entries[0].status.is_terminal else "status"
    rest = f" {' '.join(keys[:MOST_NAMED])}" if verb == "retry" else ""
    return f"{told}\n  keen-pipeline {verb} {shlex.quote(collection)}{rest}"


def few(keys: Sequence[str], separator: str = " ") -> str:
    """The first of some partitions, and how many more there are."""
    more = f" and {len(keys) - MOST_NAMED} more" if len(keys) > MOST_NAMED else ""
    return separator.join(keys[:MOST_NAMED]) + more


def shortened(text: str, most: int = _MOST_CHARACTERS) -> str:
    """The text, cut to `most` characters."""
    return text if len(text) <= most else text[: most - 1] + "…"


def summary(landed: int, failed: Sequence[tuple[Entry, str]], problems: Sequence[str] = ()) -> str:
    """The end of a run or a command in which something failed: how much on the first line, then why."""
    lines = [*grouped(failed), *problems[:MOST_LINES]]
    return f"{landed} of {landed + len(failed)} partitions landed, {len(failed)} failed\n" + "\n".join(lines)


def in_lines(text: str) -> list[str]:
    """A message as lines for a terminal or a log: no blank ones, and the first one shorter than FIRST_LINE_CHARACTERS."""
    lines = [" ".join(line.split()) if not line.startswith("  ") else line.rstrip() for line in text.splitlines() if line.strip()]
    if not lines:
        return ["no reason was given"]
    first = lines[0]
    if len(first) < FIRST_LINE_CHARACTERS:
        return lines
    # At the end of a clause if there is one in the second half of the line, else between two words.
    ends = [first.rfind(mark, FIRST_LINE_CHARACTERS // 2, FIRST_LINE_CHARACTERS - 1) + 1 for mark in ("; ", ". ", ": ", ", ")]
    cut = next((end for end in ends if end), 0) or first.rfind(" ", 1, FIRST_LINE_CHARACTERS - 1) or FIRST_LINE_CHARACTERS - 1
    cut = cut if cut > 0 else FIRST_LINE_CHARACTERS - 1
    return [first[:cut].rstrip(), f"  {first[cut:].lstrip()}", *lines[1:]]
