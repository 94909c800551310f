"""Files that nobody needs any more, after each landing run and wait; once a night leftovers and old history too."""

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING

from keen_pipeline.errors import ConfigurationError, RetryableError
from keen_pipeline.extraction import Kind
from keen_pipeline.pipeline.context import Pipeline
from keen_pipeline.pipeline.files import manifests

if TYPE_CHECKING:
    # The ledger brings SQLAlchemy, which a code location needs once it opens one.
    from keen_pipeline.ledger.workers import Worker

KEEP_ATTEMPTS = timedelta(days=400)
"""How long attempts that mean nothing any more stay in the ledger: a year to look back at, and a month."""
KEEP_NOTICES = timedelta(days=90)


def sweep(pipeline: Pipeline, worker: Worker) -> None:
    """Remove files that nobody needs any more: slices of what has landed or ended, and files that another encoding replaced."""
    ledger = pipeline.ledger
    for entry in (*ledger.stale_slices(), *ledger.stale_files()):
        stale = ledger.claim_stale(entry.entry_id, worker.id)
        if stale is None or stale.landing is None:
            continue
        try:
            if stale.request.kind is not Kind.SLICE:
                manifests.remove(pipeline.destination, stale.request.path)
            pipeline.destination.remove(stale.landing.uri)
        except (RetryableError, ConfigurationError, OSError):
            ledger.release([stale.entry_id], worker.id)  # the next sweep tries again
            continue
        ledger.removed(stale, worker.id)


def tidy_up(pipeline: Pipeline, *, keep: timedelta = KEEP_ATTEMPTS) -> list[str]:
    """Remove leftovers and files that nobody needs, forget old attempts and notices; answers in words what was done.

    Raises ConfigurationError or RetryableError if the destination can't be looked at.
    """
    ledger, now = pipeline.ledger, pipeline.clock.now()
    forgotten = ledger.prune(now - keep)
    from keen_pipeline.ledger.notices import SqlNotices

    SqlNotices(ledger.engine, clock=ledger.clock).prune(now - KEEP_NOTICES)
    with pipeline.working("tidying up") as worker:
        sweep(pipeline, worker)
    leftovers = pipeline.destination.remove_leftovers()
    told = [f"{len(leftovers)} leftovers of dead landings removed"] if leftovers else []
    return told + ([f"{forgotten} old attempts forgotten"] if forgotten else [])
