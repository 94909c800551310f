"""Poll: ONE list call for each collection with open extractions, however many of its partitions wait."""

from __future__ import annotations

import math
import random
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from keen_pipeline.errors import PermanentError, RetryableError
from keen_pipeline.extraction import RemoteExtraction, RemoteStatus, SecretUrl, Status
from keen_pipeline.lifecycle import Complete, Entry, Fail, Wait, after_poll
from keen_pipeline.pipeline.context import Pipeline
from keen_pipeline.pipeline.slices import join_slices, split


@dataclass
class PollOutcome:
    """What one round of list calls changed.

    `completed`: entries whose result waits. `failed`: (attempt, what follows it). `waiting`: how many the service still
    works on. `urls`: results URLs by entry id, never stored. `errors`: collections whose list call failed for now.
    """

    completed: list[Entry] = field(default_factory=list)
    failed: list[tuple[Entry, Entry | None]] = field(default_factory=list)
    waiting: int = 0
    urls: dict[int, SecretUrl] = field(default_factory=dict)
    errors: dict[str, str] = field(default_factory=dict)


def poll(
    pipeline: Pipeline,
    entries: Sequence[Entry],
    *,
    owner: str | None = None,
    seconds: float = math.inf,
    shared_seconds: float = 0.0,
) -> PollOutcome:
    """Ask the service for the entries that are submitted, and record what it says; split ones are complete with their slices.

    No list call begins after `seconds`; which collections come first is left to chance, so that a slow service starves none of
    them over several polls. Nor is a collection listed whose extractions all were unfinished when somebody else listed it within
    `shared_seconds`: many runs that wait at once ask hardly more often than one. Another caller's claims are left alone. A
    ConfigurationError (a wrong key) is raised; a collection that can't be listed now is tried again at the next poll.
    """
    now = pipeline.clock.now()
    by_collection: Mapping[str, list[Entry]] = defaultdict(list)
    for entry in entries:
        if entry.status is Status.SUBMITTED and (not entry.leased(now) or entry.lease_owner == owner):
            by_collection[entry.request.collection].append(entry)
    outcome = PollOutcome()
    joined, ended = join_slices(
        pipeline, [e for e in entries if e.status is Status.SPLIT and (not e.leased(now) or e.lease_owner == owner)]
    )
    outcome.completed += joined
    outcome.failed += ended
    seen = pipeline.ledger.pending(sorted(by_collection), shared_seconds) if shared_seconds else {}
    for collection, waiting in random.sample(sorted(by_collection.items()), len(by_collection)):
        if (pipeline.clock.now() - now).total_seconds() > seconds:
            outcome.waiting += len(waiting)
            continue
        unfinished = {e.extraction_id or "": RemoteExtraction(e.extraction_id or "", RemoteStatus.PENDING) for e in waiting}
        if seen.get(collection, frozenset()).issuperset(unfinished):
            _apply(pipeline, waiting, unfinished, owner, outcome)
            continue
        try:
            listed = pipeline.api.list_extractions(collection)
        except RetryableError as error:
            outcome.errors[collection] = str(error)
            outcome.waiting += len(waiting)
        except PermanentError as error:
            for entry in waiting:
                _fail(pipeline, entry, f"its status can't be had: {error}", owner, outcome)
        else:
            if shared_seconds:
                pipeline.ledger.listed(collection, [i for i, remote in listed.items() if remote.status is RemoteStatus.PENDING])
            _apply(pipeline, waiting, listed, owner, outcome)
    return outcome


def _apply(
    pipeline: Pipeline, waiting: list[Entry], listed: Mapping[str, RemoteExtraction], owner: str | None, outcome: PollOutcome
) -> None:
    """Record what one list call says of the entries of its collection."""
    ready: list[Entry] = []
    for entry in waiting:
        remote = listed.get(entry.extraction_id or "")
        match after_poll(entry, remote, pipeline.clock.now(), pipeline.limits):
            case Wait():
                outcome.waiting += 1
            case Fail(reason, too_much):
                if too_much:
                    outcome.failed += split(pipeline, entry, reason, None, owner=owner)
                    outcome.waiting += 1
                else:
                    _fail(pipeline, entry, reason, owner, outcome)
            case Complete():
                ready.append(entry)
                if remote is not None and remote.results_url is not None:
                    outcome.urls[entry.entry_id] = remote.results_url
    outcome.completed += pipeline.ledger.complete([e.entry_id for e in ready])


def _fail(pipeline: Pipeline, entry: Entry, reason: str, owner: str | None, outcome: PollOutcome) -> None:
    follower = pipeline.ledger.fail(entry.entry_id, reason, owner=owner, limits=pipeline.limits, jitter=pipeline.jitter())
    if follower is not None:
        outcome.failed.append((entry, follower))
