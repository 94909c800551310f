"""A host whose clock is wrong: processes of the tests call this before they do anything."""

from __future__ import annotations

import time
from datetime import datetime, timedelta, timezone

from keen_pipeline import ports


def set_this_hosts_clock(ahead_seconds: float) -> None:
    """Whatever in this process asks for the machine's time gets one that is `ahead_seconds` ahead (behind, where negative)."""
    true_time = time.time

    def now(self: ports.SystemClock) -> datetime:
        return datetime.fromtimestamp(true_time(), timezone.utc) + timedelta(seconds=ahead_seconds)

    ports.SystemClock.now = now  # type: ignore[method-assign]
    time.time = lambda: true_time() + ahead_seconds
