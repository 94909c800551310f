"""Files that nobody needs any more, after each landing run and wait; once a night leftovers and old history too."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import TYPE_CHECKING

from keen_pipeline.errors import ConfigurationError, RetryableError
from keen_pipeline.extraction import Kind
from keen_pipeline.landing import FileDestination
from keen_pipeline.landing.layout import QUARANTINE, REASON_SUFFIX
from keen_pipeline.pipeline import manifests
from keen_pipeline.pipeline.context import Pipeline
from keen_pipeline.timeframe import parse_instant

if TYPE_CHECKING:
    # The ledger brings SQLAlchemy, which a code location needs once it opens one.
    from keen_pipeline.ledger.workers import Worker

KEEP_ATTEMPTS = timedelta(days=400)
"""How long attempts that mean nothing any more stay in the ledger: a year to look back at, and a month."""
KEEP_NOTICES = timedelta(days=90)
KEEP_ASIDE = timedelta(days=90)
"""How long what could not be proven whole lies in the quarantine: a result that is cut each night would fill any disk."""
_MOST_REASON_BYTES = 1 << 20


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
    """Remove leftovers, files that nobody needs and old ones of the quarantine, forget old attempts and notices; answers in words
    what was done.

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
    aside = _remove_kept_aside(pipeline.destination, now - KEEP_ASIDE)
    told += [f"{aside} files removed from the quarantine, which were kept for {KEEP_ASIDE.days} days"] if aside else []
    return told + ([f"{forgotten} old attempts forgotten"] if forgotten else [])


def _remove_kept_aside(destination: FileDestination, before: datetime) -> int:
    """Remove what was kept aside before that, by the instant that its reason begins with; answers how many files."""
    removed = 0
    for path in [path for path, _ in destination.files(QUARANTINE) if path.endswith(REASON_SUFFIX)]:
        try:
            kept_at = parse_instant(destination.read(path, _MOST_REASON_BYTES).decode().partition("\n")[0])
        except (FileNotFoundError, ValueError):  # it is gone, or none of ours
            continue
        if kept_at < before:
            destination.remove(destination.uri_of(path.removesuffix(REASON_SUFFIX)))
            destination.remove(destination.uri_of(path))
            removed += 1
    return removed
