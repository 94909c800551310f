"""Requests too large for one extraction: planned by counts, halved in time until each slice fits, put together again."""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace

from keen_pipeline.collection import ABSENT, CountPolicy, Encoding, masked_by
from keen_pipeline.errors import ExtractionTooLargeError, KeenPipelineError, PermanentError, RateLimitedError
from keen_pipeline.extraction import ExtractionRequest, Kind, Landing, Status
from keen_pipeline.landing.layout import ad_hoc_key, slice_path
from keen_pipeline.lifecycle import Entry
from keen_pipeline.pipeline.context import Pipeline, each
from keen_pipeline.pipeline.counts import ask_count, count_together, groups_of
from keen_pipeline.timeframe import Timeframe

# A day halved so often is shorter than Keen's resolution of a millisecond.
MAX_DEPTH = 40
# Of the events of the whole. If a part with so few is called too large, it is so for something else, such as its filters, and every
# smaller one would be refused too.
_SMALLEST_SHARE = 1000


@dataclass
class Planned:
    """What became of intents of one collection before their POST.

    `whole`: to be posted as they are. `split`: slices are asked for instead. `ended`: given up, as they can't be cut far enough.
    `refused`: why the others wait.
    """

    whole: list[Entry] = field(default_factory=list)
    split: list[Entry] = field(default_factory=list)
    ended: list[Entry] = field(default_factory=list)
    refused: RateLimitedError | None = None


def is_planned(intent: Entry) -> bool:
    """Whether an intent can be posted as it is."""
    return intent.planned_at is not None or intent.request.count_check is CountPolicy.OFF


def plan(pipeline: Pipeline, intents: Sequence[Entry], worker: str) -> Iterator[tuple[str, Planned]]:
    """Count what the intents would hold; those beyond `max_events` are split, with an intent for each slice.

    Yields collections with what became of their intents, each counted when it is asked for. Intents whose count can't be had are
    posted as they are: the service says itself what is too large. If it is refused for now, they wait. Which collections come first
    is left to chance, so that one whose counts are always refused starves no other.
    """
    groups = [(collection, (members, Planned())) for (collection, _), members in groups_of(intents).items()]
    random.shuffle(groups)
    for collection, (members, planned), answer in each(groups, lambda group: _plan_group(pipeline, *group, worker)):
        if isinstance(answer, RateLimitedError):
            planned.refused = answer
        elif isinstance(answer, KeenPipelineError):
            over = {entry.entry_id for entry in (*planned.split, *planned.ended)}
            planned.whole = [entry for entry in members if entry.entry_id not in over]
        yield collection, planned


def _plan_group(pipeline: Pipeline, intents: Sequence[Entry], planned: Planned, worker: str) -> None:
    limit = pipeline.limits.max_events
    for positions, total in count_together(pipeline, [e.request for e in intents], lambda _, total: total <= limit):
        entries = [intents[position] for position in positions]
        if total <= limit:
            known = total if len(entries) == 1 or total == 0 else None
            pipeline.ledger.planned([e.entry_id for e in entries], known)
            planned.whole += entries
            continue
        given_up = _split(pipeline, entries[0], f"{total} events, more than {limit}", worker, total)
        if given_up is None:
            planned.split.append(entries[0])
        else:
            planned.ended.append(given_up)


def split(pipeline: Pipeline, entry: Entry, reason: str, worker: str | None, *, fewest: int = 0) -> Entry | None:
    """Ask for slices of `entry` instead, which the service has refused as too large.

    Answers the given up entry if it can't be cut, or not be counted for good, or the next attempt of one with fewer events than
    `fewest`: those can't be what is too large; None if all is well or if it had moved on. Raises
    RetryableError or ConfigurationError if the counts for it can't be had now; nothing is changed then.
    """
    whole = pipeline.ledger.entries([entry.parent_id]) if entry.parent_id is not None else []
    try:
        total = ask_count(pipeline, entry.request, entry.request.timeframe)
        if total < fewest:
            return pipeline.fail(entry, f"{reason}; the service counts {total} events in it", worker)
        if any(total * _SMALLEST_SHARE <= min(one.expected or 0, pipeline.limits.max_events) for one in whole):
            told = f"{reason}; it is a part with {total} of {whole[0].expected} events, so their number is not what is too large"
            return pipeline.fail(entry, told, worker, final=True)
        return _split(pipeline, entry, reason, worker, total)
    except PermanentError as error:
        told = f"{reason}; it can't be cut, as its events can't be counted: {error}"
        return pipeline.fail(entry, told, worker, final=True)


def _split(pipeline: Pipeline, entry: Entry, reason: str, worker: str | None, total: int) -> Entry | None:
    """As `split`, of an entry with `total` events; raises PermanentError too."""
    request = entry.request
    try:
        windows = _halve(pipeline, request, request.timeframe, total, entry.depth, 1)
    except ExtractionTooLargeError as error:
        told = f"{reason}; the service counts {total} events in it, which can't be cut: {error}"
        return pipeline.fail(entry, told, worker, final=True)
    from keen_pipeline.ledger import Slice

    slices = [Slice(_slice_request(request, entry.token, window), depth, count) for window, count, depth in windows]
    pipeline.ledger.split(entry.entry_id, slices, reason, worker=worker, expected=total)
    return None


def _halve(
    pipeline: Pipeline, request: ExtractionRequest, window: Timeframe, total: int, above: int, depth: int
) -> list[tuple[Timeframe, int, int]]:
    """(window, events, depth) of the slices; those without events are left out."""
    halves = window.halves()
    if halves is None or total <= 1 or above + depth > MAX_DEPTH:
        raise ExtractionTooLargeError(
            f"{request}: too large for one extraction, and {window.start.isoformat()} to {window.end.isoformat()} can't be halved"
        )
    limit = pipeline.limits.max_events
    left = ask_count(pipeline, request, halves[0])
    found: list[tuple[Timeframe, int, int]] = []
    for half, number in zip(halves, (left, max(0, total - left)), strict=True):
        if number > limit:
            found += _halve(pipeline, request, half, number, above, depth + 1)
        elif number:
            found.append((half, number, depth))
    return found


def _slice_request(request: ExtractionRequest, token: str, window: Timeframe) -> ExtractionRequest:
    key = f"{token}.{ad_hoc_key(window)}"  # no other ledger's slices lie there either
    return replace(
        request,
        timeframe=window,
        partition_key=key,
        path=slice_path(request.collection, key),
        kind=Kind.SLICE,
        encoding=Encoding.CSV,
        email=None,
        count_check=CountPolicy.OFF,
    )


def landed_slices(pipeline: Pipeline, entry: Entry) -> list[Landing]:
    """The files of a complete entry's slices, in the order of time."""
    parts = pipeline.ledger.slices([entry.entry_id]).get(entry.entry_id, [])
    return [part.landing for part in parts if part.status is Status.LANDED and part.landing is not None]


def masked_in_slices(parts: Sequence[Landing]) -> dict[str, str]:
    """What was done to which columns of the slices; `absent` if none of them has the column."""
    done = {name: what for part in parts for name, what in part.masked.items() if what != ABSENT}
    absent = {name for part in parts for name, what in part.masked.items() if what == ABSENT}
    covering = {masked_by(dict.fromkeys(absent), column) for column in done}
    return done | dict.fromkeys(absent - covering, ABSENT)
