"""The sample's collections, and its events in the embedded service, each day loaded once."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import date
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING

from keen_pipeline.collection import Collection
from keen_pipeline.errors import UnreadableAnswerError
from keen_pipeline.ports import SystemClock
from keen_pipeline.service.sample_events import SAMPLE_COLLECTIONS, sample_days, sample_events, sample_start

if TYPE_CHECKING:
    from keen_pipeline.client import KeenClient

SAMPLE_LOOKBACK_DAYS = 7
# Of one request, well below the service's limit of bytes.
_DAYS_AT_ONCE = 10


def sample_collections(today: date | None = None) -> list[Collection]:
    """What the pipeline extracts if nothing is configured; their first partition moves once a month, see `sample_start`."""
    start = sample_start(today or SystemClock().now().date())
    return [
        Collection(name=name, start_date=start, lookback_days=SAMPLE_LOOKBACK_DAYS, description=f"Sample events: {name}.")
        for name in SAMPLE_COLLECTIONS
    ]


def load_sample_events(client: KeenClient, service_data: Path, today: date) -> int:
    """Bring the sample of the days before `today` into the service; answers how many events were new.

    A marker file for each day, made before the day is loaded, keeps two processes from loading it twice.
    """
    loaded = 0
    days = _unloaded(service_data / "sample", today)
    while some := list(islice(days, _DAYS_AT_ONCE)):
        batch = {name: [e for day in some for e in sample_events(name, day, today=today)] for name in SAMPLE_COLLECTIONS}
        outcomes = client.add_events({name: events for name, events in batch.items() if events})
        refused = [reason for reasons in outcomes.values() for reason in reasons if reason is not None]
        if refused:
            raise UnreadableAnswerError(
                f"the service refused {len(refused)} sample events of {some[0]} to {some[-1]}: {refused[0]}"
            )
        loaded += sum(len(events) for events in batch.values())
    return loaded


def _unloaded(markers: Path, today: date) -> Iterator[date]:
    """The days that nobody has loaded; each is marked now."""
    markers.mkdir(parents=True, exist_ok=True)
    for day in sample_days(today):
        try:
            (markers / f"{day}.loaded").touch(exist_ok=False)
        except FileExistsError:
            continue
        yield day
