"""Threads that work on what has come while more is coming, and a file writer that has one of its own."""

from __future__ import annotations

import hashlib
import io
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor, wait
from dataclasses import dataclass
from typing import Any, BinaryIO

from keen_pipeline.landing.transfer.direct import AlignedBuffer

CHUNK_BYTES = 2 * 1024 * 1024
"""Of one hash update and one write. With half of it the threads hand over so often that a landing takes a seventh more time."""
BUFFERS = 3
"""Chunks on their way between the threads of one landing; 6 MiB in all, whatever the file's size."""


@dataclass(slots=True)
class Chunk:
    """The bytes `memory[start:end]`, and the buffer that is free again once all work on them is done."""

    memory: bytes | bytearray
    start: int
    end: int
    buffer: AlignedBuffer | None = None

    @property
    def data(self) -> memoryview:
        return memoryview(self.memory)[self.start : self.end]


class Workers:
    """Does every work of `works` with each chunk, in order, each work in a thread of that name; with a single chunk in none.

    Most files are one chunk, and a thread costs as much as what is done with it. At most `most` chunks wait or are worked on. After
    a failure nothing more is done, `failed` is true, and it is raised by whatever is called next. Used by one thread at a time.
    """

    def __init__(self, most: int, **works: Callable[[Chunk], object]) -> None:
        self._most = most
        self._works = works
        self._threads: list[ThreadPoolExecutor] = []
        self._first: Chunk | None = None
        self._running: deque[tuple[Chunk, list[Future[None]]]] = deque()
        self._made = 0
        self._free: list[AlignedBuffer] = []
        self._failure: BaseException | None = None
        self._stopped = False

    @property
    def failed(self) -> bool:
        return self._failure is not None

    def buffer(self) -> AlignedBuffer:
        """One of `most` buffers of CHUNK_BYTES, to be put with a chunk; waits until one is free. Raises what a work raised."""
        if not self._free and self._made < self._most:
            self._made += 1
            return AlignedBuffer(CHUNK_BYTES)
        while not self._free:
            self._await_one()
        return self._free.pop()

    def put(self, chunk: Chunk) -> None:
        """Have a chunk worked on; waits while there are too many. Raises what a work raised."""
        if not self._threads:
            if self._first is None:
                self._first = chunk
                return
            self._threads = [ThreadPoolExecutor(1, thread_name_prefix=f"landing-{name}") for name in self._works]
            first, self._first = self._first, None
            self._start(first)
        self._start(chunk)

    def close(self) -> None:
        """Wait until everything is done, and end the threads. Raises what a work raised."""
        first, self._first = self._first, None
        if first is not None:
            for work in self._works.values():
                self._do(work, first)
        while self._running and not self.failed:
            self._await_one()
        self.stop()
        self._raise()

    def stop(self) -> None:
        """End the threads; what has not begun by then is left undone. Can be called again."""
        self._stopped = True
        for thread in self._threads:
            thread.shutdown()
        self._first = None
        self._running.clear()
        self._free.clear()  # not when the garbage collector comes by

    def _start(self, chunk: Chunk) -> None:
        while len(self._running) >= self._most:
            self._await_one()
        self._raise()
        works = zip(self._threads, self._works.values(), strict=True)
        self._running.append((chunk, [thread.submit(self._do, work, chunk) for thread, work in works]))

    def _do(self, work: Callable[[Chunk], object], chunk: Chunk) -> None:
        if self._failure is None and not self._stopped:
            try:
                work(chunk)
            except BaseException as error:  # noqa: BLE001 - raised in the thread that puts the chunks
                self._failure = error

    def _await_one(self) -> None:
        """Until all work on the oldest chunk is done."""
        chunk, works = self._running.popleft()
        wait(works)
        self._raise()
        if chunk.buffer is not None:
            self._free.append(chunk.buffer)

    def _raise(self) -> None:
        if self._failure is not None:
            raise self._failure


class BufferedFileWriter(io.RawIOBase):
    """Gathers bytes of any length into whole, page-aligned buffers, which a thread of its own writes to an empty, unbuffered file.

    Whoever makes the bytes does not wait for the disk. `tell()` is how many were taken, `sha256()` that of those that were written.
    Used by one thread at a time.
    """

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self._digest = hashlib.sha256()
        self._workers = Workers(2, write=self._write)
        self._buffer: AlignedBuffer | None = None
        self._held = 0
        self._size = 0

    def writable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._size

    def write(self, data: Any) -> int:
        """Take all of it. Raises what an earlier write of the file raised."""
        view = memoryview(data).cast("B")
        self._size += len(view)
        while view:
            if self._buffer is None:
                self._buffer, self._held = self._workers.buffer(), 0
            piece = view[: CHUNK_BYTES - self._held]
            self._buffer.view[self._held : self._held + len(piece)] = piece
            self._held += len(piece)
            view = view[len(piece) :]
            if self._held == CHUNK_BYTES:
                self._hand_over()
        return memoryview(data).nbytes

    def finish(self) -> None:
        """Wait until the file has everything. Raises what the file raised."""
        self._hand_over()
        self._workers.close()

    def stop(self) -> None:
        """End the thread; what has not been written by then is lost. Can be called again."""
        self._workers.stop()

    @property
    def failed(self) -> bool:
        """Whether the file refused something."""
        return self._workers.failed

    def sha256(self) -> str:
        """Hexadecimal."""
        return self._digest.hexdigest()

    def _hand_over(self) -> None:
        buffer, self._buffer = self._buffer, None
        if buffer is not None:
            self._workers.put(Chunk(buffer.memory, buffer.start, buffer.start + self._held, buffer))

    def _write(self, chunk: Chunk) -> None:
        write_all(self._file, chunk.data)
        self._digest.update(chunk.data)


def write_all(file: BinaryIO, data: bytes | memoryview) -> None:
    """One write of an unbuffered file may take less than it was given."""
    view = memoryview(data)
    while view:
        view = view[file.write(view) :]


def copy(source: BinaryIO, target: BinaryIO) -> None:
    """Write the rest of one file into another, unbuffered one."""
    while piece := source.read(256 * 1024):
        write_all(target, piece)
