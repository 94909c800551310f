"""Limits on requests in a minute, as the real service has them, and on the bytes of their bodies."""

from __future__ import annotations

import threading
import time
from collections import deque

from keen_pipeline.errors import RateLimitedError, ServiceUnavailableError

WINDOW_SECONDS = 60.0
EXTRACTIONS, QUERIES, MAILS = "extraction", "query", "mail"


def refused(kind: str, seconds: float) -> RateLimitedError:
    return RateLimitedError(f"too many {kind} requests; refused for {seconds:.0f} s more", retry_after=seconds)


def exceeded(kind: str, limit: int) -> RateLimitedError:
    return RateLimitedError(f"more than {limit} {kind} requests in a minute", retry_after=WINDOW_SECONDS)


class RequestsPerMinute:
    """The limit of one process: past so many requests of a kind within a minute, every one of it is refused for a minute."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._times: dict[str, deque[float]] = {}
        self._refused_until: dict[str, float] = {}

    def count(self, kind: str, limit: int) -> None:
        now = time.monotonic()
        with self._lock:
            until = self._refused_until.get(kind, 0.0)
            if until > now:
                raise refused(kind, until - now)
            times = self._times.setdefault(kind, deque())
            while times and times[0] <= now - WINDOW_SECONDS:
                times.popleft()
            if len(times) >= limit:
                times.clear()
                self._refused_until[kind] = now + WINDOW_SECONDS
                raise exceeded(kind, limit)
            times.append(now)


class ByteBudget:
    """Bytes that all requests together may hold of their bodies. Used on the event loop alone."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self.held = 0

    def take(self, size: int) -> None:
        """Hold `size` more bytes. Raises ServiceUnavailableError when they are not free."""
        if self.held + size > self._limit:
            raise ServiceUnavailableError("the service is busy with other large requests; send this one again", retry_after=1)
        self.held += size

    def release(self, size: int) -> None:
        self.held -= size
