"""A worker thread with a short queue, and the buffers that travel through it and come back."""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable
from typing import Generic, TypeVar

Item = TypeVar("Item")

CHUNK_BYTES = 256 * 1024
"""Of one read, one hash update and one write: the fastest and steadiest size as measured."""
BUFFERS = 8
"""Chunks on their way between the threads of one landing; 2 MiB in all, whatever the file's size."""


class Lane(Generic[Item]):
    """Calls `work(item)` for every item put into it, in order, in its own thread."""

    def __init__(self, name: str, work: Callable[[Item], object]) -> None:
        self._work = work
        self._queue: queue.Queue[Item | None] = queue.Queue(BUFFERS)
        self._failure: BaseException | None = None
        self._thread = threading.Thread(target=self._run, name=f"landing-{name}", daemon=True)
        self._thread.start()

    def put(self, item: Item) -> None:
        """Hand over an item (not None); waits while the queue is full. Raises what an earlier item's work raised."""
        self._raise()
        self._queue.put(item)

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
        while (item := self._queue.get()) is not None:
            # After a failure the queue is still emptied, so that nobody waits for a place in it.
            if self._failure is None:
                try:
                    self._work(item)
                except BaseException as error:  # noqa: BLE001 - handed to the thread that feeds the lane
                    self._failure = error


class Chunk:
    """Bytes on their way through `lanes` lanes; when the last one is done with them, `free` gets their buffer back.

    A fresh buffer for each chunk costs more than its hash: every page of it is mapped and zeroed anew.
    """

    def __init__(self, data: bytes | bytearray, lanes: int, free: Callable[[bytearray], None]) -> None:
        self.data = data
        self._lanes = lanes
        self._free = free
        self._lock = threading.Lock()

    def done(self) -> None:
        """One lane is done."""
        with self._lock:
            self._lanes -= 1
            last = self._lanes == 0
        if last and isinstance(self.data, bytearray):
            self._free(self.data)
