"""Threads for the blocking work of requests: each kind has its own few, so that none of them keeps another one waiting."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import TypeVar

import anyio
from anyio import to_thread
from starlette.requests import ClientDisconnect, Request

from keen_pipeline.errors import ServiceUnavailableError
from keen_pipeline.service.cancellation import current

Answer = TypeVar("Answer")

HEALTH, RECORDS, INGEST, QUERY, EVENTS, DELETE = "health", "records", "ingest", "query", "events", "delete"
PARAMETERS, LISTS, EXTRACT = "parameters", "lists", "extract"
# Few for whole events at once, whose answers are put together in memory, and for lists, which hold the database meanwhile.
_THREADS = {HEALTH: 2, RECORDS: 8, INGEST: 8, QUERY: 8, EVENTS: 2, DELETE: 2, PARAMETERS: 2, LISTS: 2, EXTRACT: 2}
MAX_WAITING = 256


class Lanes:
    """Of one application."""

    def __init__(self) -> None:
        self._limiters = {name: anyio.CapacityLimiter(threads) for name, threads in _THREADS.items()}

    async def run(self, lane: str, work: Callable[[], Answer]) -> Answer:
        """Run `work` in a thread of a lane. Raises ServiceUnavailableError when too many wait for one already."""
        limiter = self._limiters[lane]
        if limiter.statistics().tasks_waiting >= MAX_WAITING:
            raise ServiceUnavailableError("too many requests of this kind wait already; ask again later", retry_after=5)
        return await to_thread.run_sync(work, limiter=limiter)

    async def run_while_connected(self, lane: str, request: Request, work: Callable[[], Answer]) -> Answer:
        """The same, and when the client leaves, its queries are cancelled. The body must be read. Raises ClientDisconnect."""
        left = threading.Event()
        current.set(left)
        outcome: list[Answer | BaseException] = []

        async def watch(scope: anyio.CancelScope) -> None:
            while (await request.receive())["type"] != "http.disconnect":
                pass
            left.set()
            scope.cancel()  # it may still wait for a thread

        async with anyio.create_task_group() as group:
            group.start_soon(watch, group.cancel_scope)
            try:
                outcome.append(await self.run(lane, work))
            except Exception as error:  # noqa: BLE001 - raised below, outside of the group, which would wrap it
                outcome.append(error)
            group.cancel_scope.cancel()
        if left.is_set() or not outcome:
            raise ClientDisconnect
        answer = outcome[0]
        if isinstance(answer, BaseException):
            raise answer
        return answer
