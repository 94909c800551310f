"""Stops the queries of a request whose client has left: the engine looks at the event of the request that opened a cursor."""

from __future__ import annotations

import threading
from contextvars import ContextVar

from keen_pipeline.errors import RetryableError


class RequestCancelledError(RetryableError):
    """The client left before its answer was there."""


current: ContextVar[threading.Event | None] = ContextVar("keen_request_cancellation", default=None)
"""Set when the client has left whose request this task, or this thread, works for; None outside of requests."""
