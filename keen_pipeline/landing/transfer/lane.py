"""A worker thread with a short queue, and the buffers that travel through it and come back."""

from __future__ import annotations

import collections
import queue
import threading
from collections.abc import Callable
from typing import Generic, TypeVar

from keen_pipeline.landing.transfer.direct import AlignedBuffer

Item = TypeVar("Item")

CHUNK_BYTES = 1024 * 1024
"""Of one hash update and one write: with writes that go to the disk at once, 2.5 times as fast as 256 KiB."""
BUFFERS = 4
"""Chunks on their way between the threads of one landing; 4 MiB in all, whatever the file's size."""
_IDLE = 16
"""Buffers kept between landings, 16 MiB at most."""


class Lane(Generic[Item]):
    """Calls `work(item)` for every item put into it, in order, in its own thread; for a single one in the thread that closes it.

    Most files are one chunk, and a thread costs as much as what is done with it. After a failure the items that are left go to
    `drop` instead, so that nobody waits for a place in the queue or for what they hold.
    """

    def __init__(self, name: str, work: Callable[[Item], object], drop: Callable[[Item], object]) -> None:
        self._work = work
        self._drop = drop
        self._queue: queue.Queue[Item | None] = queue.Queue(BUFFERS)
        self._first: Item | None = None
        self._failure: BaseException | None = None
        self._thread = threading.Thread(target=self._run, name=f"landing-{name}", daemon=True)
        self._begun = False

    def put(self, item: Item) -> None:
        """Hand over an item (not None); waits while the queue is full. Raises what an earlier item's work raised."""
        self._raise()
        if not self._begun and self._first is None:
            self._first = item
            return
        if not self._begun:
            self._begun = True
            self._queue.put(self._first)
            self._first = None
            self._thread.start()
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
        first, self._first = self._first, None
        if first is not None:
            self._do(first)

    def _raise(self) -> None:
        if self._failure is not None:
            raise self._failure

    def _run(self) -> None:
        while (item := self._queue.get()) is not None:
            self._do(item)

    def _do(self, item: Item) -> None:
        if self._failure is not None:
            self._drop(item)
            return
        try:
            self._work(item)
        except BaseException as error:  # noqa: BLE001 - handed to the thread that feeds the lane
            self._failure = error


_idle: collections.deque[AlignedBuffer] = collections.deque(maxlen=_IDLE)


class Buffers:
    """Some buffers of one landing: at most `most`, made when they are needed, or left over from an earlier landing.

    A fresh buffer for each chunk would cost more than its hash: every page of it is mapped and zeroed anew.
    """

    def __init__(self, most: int = BUFFERS) -> None:
        self._most = most
        self._free: queue.SimpleQueue[AlignedBuffer] = queue.SimpleQueue()
        self._made = 0

    def take(self) -> AlignedBuffer:
        """A free one; waits until there is one. Called by one thread."""
        if self._made < self._most and self._free.empty():
            self._made += 1
            try:
                return _idle.pop()
            except IndexError:
                return AlignedBuffer(CHUNK_BYTES)
        return self._free.get()

    def give(self, buffer: AlignedBuffer) -> None:
        """It can be filled anew. Called by any thread."""
        self._free.put(buffer)

    def leave(self) -> None:
        """Keep those that are free for later landings."""
        while not self._free.empty():
            _idle.append(self._free.get())


class Chunk:
    """The bytes `memory[start:end]` on their way through `lanes` lanes; when the last one is done with them, `free` is called."""

    def __init__(self, memory: bytes | bytearray, start: int, end: int, lanes: int, free: Callable[[], None]) -> None:
        self.memory = memory
        self.start = start
        self.end = end
        self._lanes = lanes
        self._free = free
        self._lock = threading.Lock()

    @property
    def data(self) -> memoryview:
        """The bytes."""
        return memoryview(self.memory)[self.start : self.end]

    def done(self) -> None:
        """One lane is done."""
        with self._lock:
            self._lanes -= 1
            last = self._lanes == 0
        if last:
            self._free()
