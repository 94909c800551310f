"""Stops the queries of a request whose client has left: whatever opens a database cursor registers it with the request."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

import duckdb

from keen_pipeline.errors import RetryableError


class RequestCancelledError(RetryableError):
    """The client left before its answer was there."""


class Cancellation:
    """Of one request; every method may be called from any thread."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._cursors: list[duckdb.DuckDBPyConnection] = []
        self.cancelled = False

    def cancel(self) -> None:
        """Interrupt every open cursor of the request; none is opened any more."""
        with self._lock:
            self.cancelled = True
            for cursor in self._cursors:
                cursor.interrupt()

    @contextmanager
    def watching(self, cursor: duckdb.DuckDBPyConnection) -> Iterator[None]:
        """Interrupt `cursor` when the request is cancelled while the block runs.

        Raises RequestCancelledError when it is already.
        """
        with self._lock:
            if self.cancelled:
                raise RequestCancelledError("the client left")
            self._cursors.append(cursor)
        try:
            yield
        finally:
            with self._lock:
                self._cursors.remove(cursor)


current: ContextVar[Cancellation | None] = ContextVar("keen_request_cancellation", default=None)
"""The request that this task, and the threads that it has work for it, belong to; None outside of requests."""
