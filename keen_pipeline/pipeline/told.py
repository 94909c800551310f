"""Failures in words: what, why, and the command that fixes it; equal reasons once. For runs, mails and the command line alike."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from keen_pipeline.lifecycle import Entry
from keen_pipeline.scope import DEFAULT_NAME

# Partitions that a line names one by one, and lines of one text; the others are counted. Metadata and --json have all.
MOST_NAMED = 5
# Partitions in one command: a month of days.
_MOST_IN_A_COMMAND = 31
MOST_LINES = 10
_MOST_CHARACTERS = 600
# Ids of extractions, what makes the name of a temporary file unique, and moments.
_IDS = re.compile(r"[0-9a-f]{8,}(?:-[0-9a-f]{8,})*|\d{4}-\d\d-\d\dT[\d:.]+Z")
_UNKNOWN_COLLECTION = "doctor has the right names; a collection that was deleted leaves the configuration"
_DOCTOR = "keen-pipeline doctor"
FIRST_LINE_CHARACTERS = 200
"""A first line is shorter than this: it is what a mail's subject and a phone show."""


@dataclass(frozen=True)
class Group:
    """Partitions of one collection with one reason, in order. `verb`: of the command that fixes it, empty if none is known.

    `name`: of the definitions that the command is for, unless the shell that shows it is set up for them.
    """

    collection: str
    keys: tuple[str, ...]
    reason: str
    verb: str
    name: str = DEFAULT_NAME

    @property
    def is_open(self) -> bool:
        """Whether they are being worked on."""
        return self.verb == "status"

    @property
    def command(self) -> str:
        """What fixes it, for a shell; empty if nothing is known to."""
        if not self.verb:
            return ""
        if is_unknown_collection(self.reason):  # to ask again would be refused again
            command = _DOCTOR
        elif self.verb == "backfill":
            command = backfill_command(self.collection, self.keys)
        elif self.verb == "retry" and len(self.keys) > _MOST_IN_A_COMMAND:  # as `retry`, it leaves them to the status sensor
            command = backfill_command(self.collection, self.keys, "--no-wait")
        else:
            command = command_line(self.verb, self.collection, self.keys if self.verb == "retry" else ())
        return _of(self.name, command)

    def __str__(self) -> str:
        told = f"{self.collection} {few(self.keys)}: {shortened(self.reason)}"
        return f"{told}\n  {self.command}" if self.command else told


def _of(name: str, command: str) -> str:
    return command if name == DEFAULT_NAME else f"KEEN_PIPELINE_NAME={name} {command}"


def backfill_command(collection: str, keys: Sequence[str], *options: str) -> str:
    """What extracts partitions, given in order, for a shell."""
    return command_line("backfill", collection, options=("--from", keys[0], "--to", keys[-1], *options))


def command_line(verb: str, collection: str, keys: Sequence[str] = (), options: Sequence[str] = ()) -> str:
    """A command about a collection and some of its partitions, for a shell.

    >>> command_line("verify", "Sign Ups", options=("--from", "2026-01-01"))
    "keen-pipeline verify 'Sign Ups' --from 2026-01-01"
    >>> command_line("verify", "-x", options=("--from", "2026-01-01"))
    'keen-pipeline verify --from 2026-01-01 -- -x'
    """
    names = (collection, *keys)
    # A name may begin like an option.
    words = (*options, "--", *names) if collection.startswith("-") else (*names, *options)
    return shlex.join(["keen-pipeline", verb, *words])


def by_cause(told: Iterable[tuple[str, str, str, str]], name: str = DEFAULT_NAME) -> list[Group]:
    """Of (collection, partition key, reason, verb): what is equal once, with all its partitions. `name`: see `Group`."""
    groups: dict[tuple[str, str, str], dict[str, str]] = {}
    for collection, key, reason, verb in told:
        groups.setdefault((collection, verb, cause(reason, collection, key)), {})[key] = reason
    found = []
    for (collection, verb, _), members in groups.items():
        reason = _hinted(_without_partition(next(iter(members.values())), collection, len(members)))
        found.append(Group(collection, tuple(sorted(members)), reason, verb, name))
    return found


def grouped(failed: Iterable[tuple[Entry, str]], name: str = DEFAULT_NAME) -> list[str]:
    """For each collection and reason one line with its partitions, and below it what fixes it. `name`: see `Group`."""
    groups = by_cause(((e.request.collection, e.request.partition_key, reason, _verb(e)) for e, reason in failed), name)
    lines = [str(group) for group in groups[:MOST_LINES]]
    if len(groups) > MOST_LINES:
        lines.append(f"and {len(groups) - MOST_LINES} other reasons; `keen-pipeline status` has all")
    return lines


def _verb(entry: Entry) -> str:
    """Given up: a person asks again. Still open: who lands it goes on by himself once the cause is fixed."""
    return "" if not entry.is_partition else "retry" if entry.status.is_terminal else "status"


def is_unknown_collection(reason: str) -> bool:
    """Whether the service said that it has no such thing: until somebody changes a name or the project, it says so again."""
    return "not found (HTTP 404" in reason


def _hinted(reason: str) -> str:
    return f"{reason}; {_UNKNOWN_COLLECTION}" if is_unknown_collection(reason) else reason


def cause(reason: str, collection: str, partition_key: str = "") -> str:
    """A reason without what differs from one partition or collection to the next, so that what is equal is told once.

    >>> cause("extraction 5960b6bb4739: /d/.2026-11-26.csv.bd98ba06-0f55c9ce is full", "signups", "2026-11-26")
    'extraction : /d/..csv. is full'
    >>> cause("submit of signups[2026-11-27]: refused", "signups", "2026-11-26")
    'submit of : refused'
    """
    bare = _without_partition(reason, collection).replace(partition_key, "")
    return _IDS.sub("", re.sub(rf"(?<!\w){re.escape(collection)}(?!\w)", "", bare))


def _without_partition(reason: str, collection: str, members: int = 1) -> str:
    """On one line, without naming a partition, which stand before it; of several `members` without the id of one's extraction."""
    told = re.sub(rf"{re.escape(collection)}\[[^\]]*\]", collection, on_one_line(reason)).removeprefix(f"{collection}, ")
    return re.sub(r"^extraction \w+: ", "", told) if members > 1 else told


def on_one_line(text: str) -> str:
    """The text, its lines as sentences one after the other."""
    return " ".join(re.sub(r"[.\s]*\n", ". ", text.strip()).split())


def few(keys: Sequence[str], separator: str = " ") -> str:
    """The first of some partitions, and how many more there are."""
    more = f" and {len(keys) - MOST_NAMED} more" if len(keys) > MOST_NAMED else ""
    return separator.join(keys[:MOST_NAMED]) + more


def shortened(text: str, most: int = _MOST_CHARACTERS) -> str:
    """The text, cut to `most` characters."""
    return text if len(text) <= most else text[: most - 1] + "…"


def summary(
    well: int, failed: Sequence[tuple[Entry, str]], problems: Sequence[tuple[str, str]] = (), name: str = DEFAULT_NAME
) -> str:
    """The end of a run or a command in which something failed: how much on the first line, then why.

    `well`: partitions that didn't fail. `problems`: collections with which nothing went on, and why. `name`: see `Group`.
    """
    first = [f"{len(failed)} of {well + len(failed)} partitions failed"] if failed else []
    first += [f"{len(problems)} collection{'s'[: len(problems) > 1]} stopped"] if problems else []
    return "\n".join([", ".join(first), *grouped(failed, name), *_stopped(problems, name)])


def _stopped(problems: Sequence[tuple[str, str]], name: str) -> list[str]:
    """For each reason one line with its collections, then the command that says whether it is fixed."""
    groups: dict[str, list[tuple[str, str]]] = {}
    for collection, reason in problems:
        groups.setdefault(cause(reason, collection), []).append((collection, reason))
    lines = []
    for members in list(groups.values())[:MOST_LINES]:
        first, reason = members[0]
        told = _without_partition(reason, first)
        told = told.replace(f" of {first}", "") if len(members) > 1 else told
        lines.append(f"{few([collection for collection, _ in members], ', ')}: {shortened(_hinted(told))}")
    return [*lines, f"  {_of(name, _DOCTOR)}"] if lines else []


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
