"""How long to wait before a repeated request: pure arithmetic, no clock of its own."""

from __future__ import annotations

import math
import random
from collections.abc import Iterator
from datetime import datetime, timezone
from email.utils import parsedate_to_datetime

FIRST_WAIT_SECONDS = 0.5
LONGEST_WAIT_SECONDS = 20.0
DEFAULT_REFUSAL_SECONDS = 60.0
"""How long Keen refuses every request after a 429 that does not say it: the next minute."""
LONGEST_REFUSAL_SECONDS = 3600.0
"""A Retry-After beyond this is taken as this; a broken clock at the service must not stop a pipeline for a year."""


def waits() -> Iterator[float]:
    """Seconds before each further try: doubling from FIRST_WAIT_SECONDS to LONGEST_WAIT_SECONDS, with jitter of a half."""
    ceiling = FIRST_WAIT_SECONDS
    while True:
        yield ceiling * random.uniform(0.5, 1.0)  # noqa: S311 - spreads load, protects nothing
        ceiling = min(ceiling * 2, LONGEST_WAIT_SECONDS)


def parse_retry_after(text: str | None, now: datetime) -> float | None:
    """Seconds to wait from `now` (aware UTC), of a Retry-After header in either form (seconds, HTTP-date).

    None when the header is missing or unreadable. Never negative, never above LONGEST_REFUSAL_SECONDS.
    """
    if text is None:
        return None
    try:
        seconds = float(text)
    except ValueError:
        try:
            moment = parsedate_to_datetime(text)
        except (TypeError, ValueError, OverflowError):
            return None
        # An HTTP-date is GMT by definition, even if `-0000` made the parser leave the zone out.
        moment = moment if moment.tzinfo else moment.replace(tzinfo=timezone.utc)
        seconds = (moment - now).total_seconds()
    return min(max(seconds, 0.0), LONGEST_REFUSAL_SECONDS) if math.isfinite(seconds) else None
