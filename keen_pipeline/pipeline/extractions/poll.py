"""Poll: ONE list call for each collection with open extractions, however many of its partitions wait."""

from __future__ import annotations

import math
import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from keen_pipeline.errors import ConfigurationError, KeenPipelineError, RetryableError
from keen_pipeline.extraction import RemoteExtraction, RemoteStatus, SecretUrl, Status
from keen_pipeline.lifecycle import Entry, GiveUp, Land, Poll, Retry, Seen, Split, decide
from keen_pipeline.pipeline.context import Pipeline, by_collection, each, first_line
from keen_pipeline.pipeline.extractions.slices import split


@dataclass
class Polled:
    """What one round of list calls changed.

    `completed`: entries whose result waits. `ended`: attempts that are over, as they were before. `urls`: results URLs by entry id,
    never stored. `problems`: by collection why its extractions could not be listed; nothing of it was changed.
    """

    completed: list[Entry] = field(default_factory=list)
    ended: list[Entry] = field(default_factory=list)
    urls: dict[int, SecretUrl] = field(default_factory=dict)
    problems: dict[str, KeenPipelineError] = field(default_factory=dict)


def poll(
    pipeline: Pipeline,
    entries: Sequence[Entry],
    *,
    worker: str | None = None,
    seconds: float = math.inf,
    shared_seconds: float = 0.0,
) -> Polled:
    """Ask the service for the entries that are submitted, and record what it says; split ones are complete with their slices.

    What others have claimed is left alone. No list call begins after `seconds`; which collections come first is left to chance, so
    that a slow service starves none of them over several polls. Nor is a collection listed whose extractions all were unfinished
    when somebody else listed it within `shared_seconds`: many runs that wait at once ask hardly more often than one.

    An answer that can't be read, or an error, says nothing about any extraction: it ends none.
    """
    outcome = Polled()
    mine = [e for e in entries if e.is_free_for(worker)]
    _join(pipeline, [e for e in mine if e.status is Status.SPLIT], worker, outcome)
    groups = by_collection(e for e in mine if e.status is Status.SUBMITTED)
    known = pipeline.ledger.listed_within(shared_seconds) if shared_seconds and groups else {}
    waiting = [
        (collection, members)
        for collection, members in random.sample(sorted(groups.items()), len(groups))
        if collection not in known or any(entry.extraction_id not in known[collection].pending for entry in members)
    ]
    begun = pipeline.clock.now()
    in_time = (group for group in waiting if (pipeline.clock.now() - begun).total_seconds() <= seconds)
    for collection, members, answer in each(in_time, lambda group: pipeline.api.list_extractions(group[0].request.collection)):
        if isinstance(answer, KeenPipelineError):
            outcome.problems[collection] = answer
            pipeline.ledger.hindered(collection, f"its extractions can't be listed: {first_line(answer)}")
            continue
        tick = pipeline.ledger.listed(collection, [i for i, remote in answer.items() if remote.status is RemoteStatus.PENDING])
        _apply(pipeline, members, answer, tick, worker, outcome)
    return outcome


def _apply(
    pipeline: Pipeline,
    members: Sequence[Entry],
    listed: Mapping[str, RemoteExtraction],
    tick: float,
    worker: str | None,
    outcome: Polled,
) -> None:
    """Record what one list call says of the entries of its collection."""
    ready: list[int] = []
    now = pipeline.clock.now()
    for entry in members:
        remote = listed.get(entry.extraction_id or "")
        action = decide(entry, Seen(listed=True, remote=remote, tick=tick), now, pipeline.limits)
        assert not isinstance(action, Poll)
        if isinstance(action, Land):
            ready.append(entry.entry_id)
            if remote is not None and remote.results_url is not None:
                outcome.urls[entry.entry_id] = remote.results_url
        else:
            _end(pipeline, entry, action, worker, outcome)
    outcome.completed += pipeline.ledger.complete(ready, worker) if ready else []


def _join(pipeline: Pipeline, entries: Sequence[Entry], worker: str | None, outcome: Polled) -> None:
    """Split entries whose slices have all landed are complete; one with a slice that is given up is given up too."""
    parts = pipeline.ledger.slices([e.entry_id for e in entries]) if entries else {}
    for entry in entries:
        slices = parts.get(entry.entry_id, [])
        action = decide(entry, Seen(slices=[part.status for part in slices]), pipeline.clock.now(), pipeline.limits)
        if isinstance(action, Land):
            joined = pipeline.ledger.joined(entry.entry_id, len(slices), worker)
            outcome.completed += [joined] if joined is not None else []
        elif isinstance(action, GiveUp):
            why = next((part.error for part in slices if part.status.is_terminal and part.error), None)
            _end(pipeline, entry, GiveUp(f"{action.reason}{f': {why}' if why else ''}"), worker, outcome)


def _end(pipeline: Pipeline, entry: Entry, action: object, worker: str | None, outcome: Polled) -> None:
    """Carry out a decision that ends an attempt; others leave it as it is."""
    match action:
        case Split(reason):
            try:
                outcome.ended += [entry] if split(pipeline, entry, reason, worker) is not None else []
            except (RetryableError, ConfigurationError) as error:  # no count to be had now: the next poll tries again
                outcome.problems[entry.request.collection] = error
        case Retry(reason) | GiveUp(reason):
            pipeline.fail(entry, reason, worker, final=isinstance(action, GiveUp))
            outcome.ended.append(entry)
