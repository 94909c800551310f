"""The per-minute limit of the real service, for testing clients against it."""

from __future__ import annotations

import threading
import time
from collections import deque
from typing import Protocol

from keen_pipeline.errors import RateLimitedError, ServiceUnavailableError

WINDOW_SECONDS = 60.0
EXTRACTIONS, QUERIES, MAILS = "extraction", "query", "mail"


class RequestLimit(Protocol):
    """A limit on the requests of each kind in a minute."""

    def count(self, kind: str) -> None:
        """Count one request. Raises RateLimitedError with the seconds to wait."""
        ...


def refused(kind: str, seconds: float) -> RateLimitedError:
    """The answer while requests of a kind are refused."""
    return RateLimitedError(f"too many {kind} requests; refused for {seconds:.0f} s more", retry_after=seconds)


def exceeded(kind: str, limit: int) -> RateLimitedError:
    """The answer to the request that is one too many."""
    return RateLimitedError(f"more than {limit} {kind} requests in a minute", retry_after=WINDOW_SECONDS)


class RequestsPerMinute:
    """Counts the requests of each kind. After `limit` within a minute, every request of that kind is refused for a minute."""

    def __init__(self, limit: int | None) -> None:
        self._limit = limit
        self._lock = threading.Lock()
        self._times: dict[str, deque[float]] = {}
        self._refused_until: dict[str, float] = {}

    def count(self, kind: str) -> None:
        """Count one request. Raises RateLimitedError with the seconds to wait."""
        if self._limit is None:
            return
        now = time.monotonic()
        with self._lock:
            until = self._refused_until.get(kind, 0.0)
            if until > now:
                raise refused(kind, until - now)
            times = self._times.setdefault(kind, deque())
            while times and times[0] <= now - WINDOW_SECONDS:
                times.popleft()
            if len(times) >= self._limit:
                times.clear()
                self._refused_until[kind] = now + WINDOW_SECONDS
                raise exceeded(kind, self._limit)
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
