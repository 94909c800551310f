"""Requests too large for one extraction: planned by counts, halved in time until each slice fits, put together again."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from keen_pipeline.errors import ConfigurationError, ExtractionTooLargeError, PermanentError, RateLimitedError, RetryableError
from keen_pipeline.extraction import CountPolicy, ExtractionRequest, Landing, Status
from keen_pipeline.landing.layout import ad_hoc_key, target_uri
from keen_pipeline.lifecycle import Entry
from keen_pipeline.pipeline.context import Pipeline
from keen_pipeline.pipeline.counts import ask_count, count_together
from keen_pipeline.ports import Slice
from keen_pipeline.timeframe import Timeframe

# A day halved so often is shorter than Keen's resolution of a millisecond.
MAX_DEPTH = 40
_ABSENT = "absent"


def plan(pipeline: Pipeline, intents: Sequence[Entry], *, owner: str) -> list[tuple[Entry, Entry | None]]:
    """Count what the intents would hold; those beyond `max_events` are split, with an intent for each slice.

    Intents whose count can't be had are posted as they are: the service says itself what is too large. Answers those
    that can't be split far enough, with what follows them. Raises RateLimitedError, ConfigurationError.
    """
    due = [e for e in intents if e.planned_at is None and e.request.count_check is not CountPolicy.OFF]
    limit = pipeline.limits.max_events
    failed: list[tuple[Entry, Entry | None]] = []
    try:
        for positions, total in count_together(pipeline, [e.request for e in due], lambda _, total: total <= limit, patient=False):
            entries = [due[position] for position in positions]
            if total <= limit:
                known = total if len(entries) == 1 or total == 0 else None
                pipeline.ledger.planned([e.entry_id for e in entries], known)
            else:
                failed += split(pipeline, entries[0], f"{total} events, more than {limit}", total, owner=owner)
    except RateLimitedError:
        raise
    except (PermanentError, RetryableError):
        pass
    return failed


def split(
    pipeline: Pipeline, entry: Entry, reason: str, total: int | None, *, owner: str | None = None
) -> list[tuple[Entry, Entry | None]]:
    """Ask for slices of `entry` instead; `total`: its count, where known. Answers (entry, what follows) where it can't be cut.

    Raises RateLimitedError where the counts for it are refused for now; nothing is changed then.
    """
    ledger = pipeline.ledger
    try:
        windows = _halve(pipeline, entry.request, entry.request.timeframe, total, entry.depth, 1)
    except ExtractionTooLargeError as error:
        return [(entry, ledger.fail(entry.entry_id, str(error), owner=owner, limits=pipeline.limits, final=True))]
    parent = entry.parent_id or entry.entry_id
    slices = [Slice(_slice_request(pipeline, entry.request, parent, window), depth, n) for window, n, depth in windows]
    ledger.split(entry.entry_id, slices, reason, owner=owner, expected=total)
    return []


def _halve(
    pipeline: Pipeline, request: ExtractionRequest, window: Timeframe, total: int | None, above: int, depth: int
) -> list[tuple[Timeframe, int | None, int]]:
    """(window, events, depth) of the slices; without counts just the two halves."""
    halves = window.halves()
    if halves is None or above + depth > MAX_DEPTH:
        raise ExtractionTooLargeError(
            f"{request}: too large for one extraction, and {window.start.isoformat()} to {window.end.isoformat()} can't be halved"
        )
    if total is None:
        return [(half, None, depth) for half in halves]
    limit = pipeline.limits.max_events
    left = ask_count(pipeline, request, halves[0], patient=False)
    found: list[tuple[Timeframe, int | None, int]] = []
    for half, number in zip(halves, (left, max(0, total - left)), strict=True):
        if number > limit:
            found += _halve(pipeline, request, half, number, above, depth + 1)
        elif number:
            found.append((half, number, depth))
    # A service that refused what it now counts as fewer events than `max_events` has a limit of its own.
    return found if len(found) > 1 or not found or found[0][0] != window else [(half, None, depth) for half in halves]


def _slice_request(pipeline: Pipeline, request: ExtractionRequest, parent_id: int, window: Timeframe) -> ExtractionRequest:
    key = f"{_parent_key(request, parent_id)}.{parent_id}.{ad_hoc_key(window)}"
    root = pipeline.destination.for_slices().uri
    return replace(
        request,
        timeframe=window,
        partition_key=key,
        target=target_uri(root, request.collection, key),
        email=None,
        count_check=CountPolicy.OFF,
    )


def _parent_key(request: ExtractionRequest, parent_id: int) -> str:
    """The partition's key, also where `request` is a slice itself."""
    return request.partition_key.split(f".{parent_id}.")[0]


def join_slices(pipeline: Pipeline, split_entries: Sequence[Entry]) -> tuple[list[Entry], list[tuple[Entry, Entry | None]]]:
    """Entries whose slices have all landed are complete; one with a slice that is given up is given up too.

    Answers (complete entries, (entry, what follows it) of the others that ended).
    """
    complete: list[Entry] = []
    ended: list[tuple[Entry, Entry | None]] = []
    if not split_entries:
        return complete, ended
    slices = pipeline.ledger.slices([e.entry_id for e in split_entries])
    for entry in split_entries:
        parts = slices.get(entry.entry_id, [])
        bad = next((part for part in parts if part.status in (Status.ABANDONED, Status.CANCELLED)), None)
        if bad is not None:
            reason = f"its slice {bad.request.timeframe.to_wire()} ended: {bad.error}"
            ended.append((entry, pipeline.ledger.fail(entry.entry_id, reason, limits=pipeline.limits, final=True)))
        elif parts and all(part.status is Status.LANDED for part in parts):
            joined = pipeline.ledger.joined(entry.entry_id, len(parts))
            if joined is not None:
                complete.append(joined)
    return complete, ended


def landed_slices(pipeline: Pipeline, entry: Entry) -> list[Landing]:
    """The files of a complete entry's slices, in the order of time."""
    parts = pipeline.ledger.slices([entry.entry_id]).get(entry.entry_id, [])
    return [part.landing for part in parts if part.landing is not None]


def masked_in_slices(pipeline: Pipeline, entry: Entry) -> dict[str, str]:
    """What was done to which columns of a complete entry's slices; `absent` where none of them has the column."""
    found: dict[str, str] = {}
    for part in landed_slices(pipeline, entry):
        found.update({name: what for name, what in part.masked.items() if found.get(name, _ABSENT) == _ABSENT})
    return found


def sweep_slices(pipeline: Pipeline) -> None:
    """Remove the slices that were put together, and those of requests that ended otherwise."""
    stale = pipeline.ledger.stale_slices()
    if not stale:
        return
    place = pipeline.destination.for_slices()
    for entry in stale:
        try:
            place.remove(entry.request.target)
        except (RetryableError, ConfigurationError, OSError):
            continue  # the next sweep tries again
        pipeline.ledger.supersede([entry.entry_id])
