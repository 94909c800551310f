"""Once a night: what dead landings left at the destination, and what the ledger needs to remember no more."""

from __future__ import annotations

from datetime import timedelta

from keen_pipeline.pipeline.context import Pipeline
from keen_pipeline.pipeline.slices import sweep

KEEP_ATTEMPTS = timedelta(days=400)
"""How long attempts that mean nothing any more stay in the ledger: a year to look back at, and a month."""
KEEP_NOTICES = timedelta(days=90)


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
