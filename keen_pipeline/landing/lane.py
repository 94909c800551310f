"""A worker thread with a short queue, and the buffers that travel through it and come back."""

from __future__ import annotations

import collections
import queue
import threading
from collections.abc import Callable
from typing import Generic, TypeVar

import numpy as np

Item = TypeVar("Item")

PAGE_BYTES = 4096
"""Where a buffer begins in memory, so that a write can go to the disk from there."""
CHUNK_BYTES = 1024 * 1024
"""Of one hash update and one write: with writes that go to the disk at once, 2.5 times as fast as 256 KiB."""
BUFFERS = 4
"""Chunks on their way between the threads of one landing; 4 MiB in all, whatever the file's size."""
_IDLE = 16
"""Buffers kept between landings, 16 MiB at most."""


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


class Buffer:
    """CHUNK_BYTES of memory from `start` on in `memory`, which is a multiple of PAGE_BYTES as an address; `view` shows them."""

    def __init__(self) -> None:
        self.memory = bytearray(CHUNK_BYTES + PAGE_BYTES)
        self.start = -np.frombuffer(self.memory, np.uint8).ctypes.data % PAGE_BYTES
        self.view = memoryview(self.memory)[self.start : self.start + CHUNK_BYTES]


_idle: collections.deque[Buffer] = collections.deque(maxlen=_IDLE)


class Buffers:
    """Some buffers of one landing: at most `most`, made when they are needed, or left over from an earlier landing.

    A fresh buffer for each chunk would cost more than its hash: every page of it is mapped and zeroed anew.
    """

    def __init__(self, most: int = BUFFERS) -> None:
        self._most = most
        self._free: queue.SimpleQueue[Buffer] = queue.SimpleQueue()
        self._made = 0

    def take(self) -> Buffer:
        """A free one; waits until there is one. Called by one thread."""
        if self._made < self._most and self._free.empty():
            self._made += 1
            try:
                return _idle.pop()
            except IndexError:
                return Buffer()
        return self._free.get()

    def give(self, buffer: Buffer) -> None:
        """It can be filled anew. Called by any thread."""
        self._free.put(buffer)

    def leave(self) -> None:
        """Keep those that are free for later landings."""
        while not self._free.empty():
            _idle.append(self._free.get())


class Chunk:
    """Bytes on their way through `lanes` lanes; when the last one is done with them, `free` is called."""

    def __init__(self, data: bytes | memoryview, lanes: int, free: Callable[[], None]) -> None:
        self.data = data
        self._lanes = lanes
        self._free = free
        self._lock = threading.Lock()

    def done(self) -> None:
        """One lane is done."""
        with self._lock:
            self._lanes -= 1
            last = self._lanes == 0
        if last:
            self._free()
