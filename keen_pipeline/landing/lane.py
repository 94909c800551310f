"""A worker thread with a short queue: hashing and writing happen beside the transfer, not in front of it."""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable

QUEUED_CHUNKS = 8
"""Chunks that wait at most; with chunks of 256 KiB, 2 MiB for each lane."""


class Lane:
    """Calls `work(chunk)` for every chunk put into it, in order, in its own thread."""

    def __init__(self, name: str, work: Callable[[bytes], object]) -> None:
        self._work = work
        self._queue: queue.Queue[bytes | None] = queue.Queue(QUEUED_CHUNKS)
        self._failure: BaseException | None = None
        self._thread = threading.Thread(target=self._run, name=f"landing-{name}", daemon=True)
        self._thread.start()

    def put(self, chunk: bytes) -> None:
        """Hand over a chunk; waits while the queue is full. Raises what an earlier chunk's work raised."""
        self._raise()
        self._queue.put(chunk)

    def close(self) -> None:
        """Wait until everything is done. Raises what the work raised."""
        self.stop()
        self._raise()

    def stop(self) -> None:
        """Let the thread end after what is queued; raises nothing. Can be called again."""
        if self._thread.is_alive():
            self._queue.put(None)
            self._thread.join()

    def _raise(self) -> None:
        if self._failure is not None:
            raise self._failure

    def _run(self) -> None:
        while (chunk := self._queue.get()) is not None:
            if self._failure is None:
                try:
                    self._work(chunk)
                except BaseException as error:  # noqa: BLE001 - handed to the thread that feeds the lane
                    self._failure = error
