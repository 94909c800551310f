"""The sample's collections, and its events in the embedded service, each day loaded once."""

from __future__ import annotations

from datetime import date
from pathlib import Path
from typing import TYPE_CHECKING

from keen_pipeline.collection import Collection
from keen_pipeline.errors import UnreadableAnswerError
from keen_pipeline.service.sample_events import SAMPLE_COLLECTIONS, SAMPLE_START_DATE, sample_days, sample_events

if TYPE_CHECKING:
    from keen_pipeline.client import KeenClient

SAMPLE_LOOKBACK_DAYS = 7


def sample_collections() -> list[Collection]:
    """What the pipeline extracts where nothing is configured."""
    return [
        Collection(
            name=name, start_date=SAMPLE_START_DATE, lookback_days=SAMPLE_LOOKBACK_DAYS, description=f"Sample events: {name}."
        )
        for name in SAMPLE_COLLECTIONS
    ]


def load_sample_events(client: KeenClient, service_data: Path, today: date) -> int:
    """Bring the sample of the days before `today` into the service; answers how many events were new.

    A marker file for each day, made before the day is loaded, keeps two processes from loading it twice.
    """
    markers = service_data / "sample"
    markers.mkdir(parents=True, exist_ok=True)
    loaded = 0
    for day in sample_days(today):
        try:
            (markers / f"{day}.loaded").touch(exist_ok=False)
        except FileExistsError:
            continue
        batch = {name: sample_events(name, day, today=today) for name in SAMPLE_COLLECTIONS}
        outcomes = client.add_events({name: events for name, events in batch.items() if events})
        refused = [reason for reasons in outcomes.values() for reason in reasons if reason is not None]
        if refused:
            raise UnreadableAnswerError(f"the service refused {len(refused)} sample events of {day}: {refused[0]}")
        loaded += sum(len(events) for events in batch.values())
    return loaded
