"""Poll: ONE list call for each collection with open extractions, however many of its partitions wait."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from keen_pipeline.errors import PermanentError, RetryableError
from keen_pipeline.extraction import SecretUrl, Status
from keen_pipeline.lifecycle import Complete, Entry, Fail, Wait, after_poll
from keen_pipeline.pipeline.context import Pipeline


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


def poll(pipeline: Pipeline, entries: Sequence[Entry], *, owner: str | None = None) -> PollOutcome:
    """Ask the service for the entries that are submitted, and record what it says.

    Another caller's claims are left alone. A ConfigurationError (a wrong key) is raised; a collection that can't be
    listed now is tried again at the next poll.
    """
    now = pipeline.clock.now()
    by_collection: Mapping[str, list[Entry]] = defaultdict(list)
    for entry in entries:
        if entry.status is Status.SUBMITTED and (not entry.leased(now) or entry.lease_owner == owner):
            by_collection[entry.request.collection].append(entry)
    outcome = PollOutcome()
    for collection, waiting in sorted(by_collection.items()):
        try:
            listed = pipeline.api.list_extractions(collection)
        except RetryableError as error:
            outcome.errors[collection] = str(error)
            outcome.waiting += len(waiting)
            continue
        except PermanentError as error:
            for entry in waiting:
                _fail(pipeline, entry, f"its status can't be had: {error}", owner, outcome)
            continue
        ready: list[Entry] = []
        for entry in waiting:
            remote = listed.get(entry.extraction_id or "")
            match after_poll(entry, remote, now, pipeline.limits):
                case Wait():
                    outcome.waiting += 1
                case Fail(reason):
                    _fail(pipeline, entry, reason, owner, outcome)
                case Complete():
                    ready.append(entry)
                    if remote is not None and remote.results_url is not None:
                        outcome.urls[entry.entry_id] = remote.results_url
        outcome.completed += pipeline.ledger.complete([e.entry_id for e in ready])
    return outcome


def _fail(pipeline: Pipeline, entry: Entry, reason: str, owner: str | None, outcome: PollOutcome) -> None:
    follower = pipeline.ledger.fail(entry.entry_id, reason, owner=owner, limits=pipeline.limits, jitter=pipeline.jitter())
    if follower is not None:
        outcome.failed.append((entry, follower))
