"""A task that works for as long as a test needs it to, for workers started with `-I` this module."""

from __future__ import annotations

import time

from celery import shared_task


@shared_task(name="work", track_started=True)
def work(seconds: float) -> None:
    """As a run: busy for so long."""
    time.sleep(seconds)
