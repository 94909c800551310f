"""Requests too large for one extraction: planned by counts, halved in time until each slice fits, put together again."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

from keen_pipeline.collection import CountPolicy, Encoding
from keen_pipeline.errors import ExtractionTooLargeError, KeenPipelineError, RateLimitedError
from keen_pipeline.extraction import ExtractionRequest, Kind, Landing, Status
from keen_pipeline.landing.layout import ad_hoc_key, slice_path
from keen_pipeline.lifecycle import Entry
from keen_pipeline.pipeline.context import Pipeline, each
from keen_pipeline.pipeline.counts import ask_count, count_together, groups_of
from keen_pipeline.timeframe import Timeframe

# A day halved so often is shorter than Keen's resolution of a millisecond.
MAX_DEPTH = 40
_ABSENT = "absent"


@dataclass
class Planned:
    """What became of some intents before their POST.

    `split`: slices are asked for instead. `ended`: given up, as they can't be cut far enough. `problems`: by collection that the
    requests a minute are used up.
    """

    split: list[Entry] = field(default_factory=list)
    ended: list[Entry] = field(default_factory=list)
    problems: dict[str, KeenPipelineError] = field(default_factory=dict)


def plan(pipeline: Pipeline, intents: Sequence[Entry], worker: str) -> Planned:
    """Count what the intents would hold; those beyond `max_events` are split, with an intent for each slice.

    Intents of a collection whose count can't be had are posted as they are: the service says itself what is too large. If the
    requests a minute are used up, they wait.
    """
    planned = Planned()
    groups = groups_of(e for e in intents if e.planned_at is None and e.request.count_check is not CountPolicy.OFF)
    for (collection, _), _members, answer in each(groups.items(), lambda group: _plan_group(pipeline, group, worker, planned)):
        if isinstance(answer, RateLimitedError):
            planned.problems[collection] = answer
    return planned


def _plan_group(pipeline: Pipeline, intents: Sequence[Entry], worker: str, planned: Planned) -> None:
    limit = pipeline.limits.max_events
    for positions, total in count_together(pipeline, [e.request for e in intents], lambda _, total: total <= limit, patient=False):
        entries = [intents[position] for position in positions]
        if total <= limit:
            known = total if len(entries) == 1 or total == 0 else None
            pipeline.ledger.planned([e.entry_id for e in entries], known)
            continue
        given_up = split(pipeline, entries[0], f"{total} events, more than {limit}", total=total, worker=worker)
        if given_up is None:
            planned.split.append(entries[0])
        else:
            planned.ended.append(given_up)


def split(pipeline: Pipeline, entry: Entry, reason: str, *, total: int | None = None, worker: str | None = None) -> Entry | None:
    """Ask for slices of `entry` instead; `total`: its count, if it is known already.

    Answers the given up entry if it can't be cut, None if all is well or if it had moved on. Raises what the counts for it raise;
    nothing is changed then.
    """
    ledger, request = pipeline.ledger, entry.request
    try:
        if total is None:
            total = ask_count(pipeline, request, request.timeframe, patient=False)
        windows = _halve(pipeline, request, request.timeframe, total, entry.depth, 1)
    except ExtractionTooLargeError as error:
        told = f"{reason}; the service counts {total} events in it, which can't be cut: {error}"
        return ledger.fail(entry.entry_id, told, worker=worker, limits=pipeline.limits, final=True)
    from keen_pipeline.ledger import Slice

    parent = entry.parent_id or entry.entry_id
    slices = [Slice(_slice_request(request, parent, window), depth, count) for window, count, depth in windows]
    ledger.split(entry.entry_id, slices, reason, worker=worker, expected=total)
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
    left = ask_count(pipeline, request, halves[0], patient=False)
    found: list[tuple[Timeframe, int, int]] = []
    for half, number in zip(halves, (left, max(0, total - left)), strict=True):
        if number > limit:
            found += _halve(pipeline, request, half, number, above, depth + 1)
        elif number:
            found.append((half, number, depth))
    return found


def _slice_request(request: ExtractionRequest, parent_id: int, window: Timeframe) -> ExtractionRequest:
    key = f"{parent_id}.{ad_hoc_key(window)}"
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
    found: dict[str, str] = {}
    for part in parts:
        found.update({name: what for name, what in part.masked.items() if found.get(name, _ABSENT) == _ABSENT})
    return found
