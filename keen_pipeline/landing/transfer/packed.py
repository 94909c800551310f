"""Bytes of any length, gathered into whole buffers that a thread of its own writes to a file."""

from __future__ import annotations

from typing import BinaryIO

from keen_pipeline.landing.transfer.direct import AlignedBuffer
from keen_pipeline.landing.transfer.lane import CHUNK_BYTES, Buffers, Lane

BUFFERS = 2
"""One that is filled while the other is written."""


class PackedWriter:
    """Fills an empty, unbuffered file. Whoever makes the bytes does not wait for the disk, and the disk gets page-aligned buffers,
    which it can take without the system's cache. Used by one thread at a time.
    """

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self._buffers = Buffers(BUFFERS)
        self._lane: Lane[tuple[AlignedBuffer, int]] = Lane("write", self._write, self._give)
        self._buffer: AlignedBuffer | None = None
        self._held = 0
        self.size = 0

    def write(self, data: bytes | memoryview) -> None:
        """Take all of it. Raises what an earlier write of the file raised."""
        view = memoryview(data)
        self.size += len(view)
        while view:
            if self._buffer is None:
                self._buffer, self._held = self._buffers.take(), 0
            piece = view[: CHUNK_BYTES - self._held]
            self._buffer.view[self._held : self._held + len(piece)] = piece
            self._held += len(piece)
            view = view[len(piece) :]
            if self._held == CHUNK_BYTES:
                self._hand_over()

    def finish(self) -> None:
        """Wait until the file has everything. Raises what the file raised."""
        self._hand_over()
        self._lane.close()
        self._buffers.leave()

    def stop(self) -> None:
        """End the thread; what it has not written by then is lost. Can be called again."""
        self._lane.stop()
        self._buffers.leave()

    def _hand_over(self) -> None:
        if self._buffer is not None:
            self._lane.put((self._buffer, self._held))
        self._buffer = None

    def _write(self, filled: tuple[AlignedBuffer, int]) -> None:
        buffer, length = filled
        try:
            write_all(self._file, buffer.view[:length])
        finally:
            self._give(filled)

    def _give(self, filled: tuple[AlignedBuffer, int]) -> None:
        self._buffers.give(filled[0])


def write_all(file: BinaryIO, data: bytes | memoryview) -> None:
    """One write of an unbuffered file may take less than it was given."""
    view = memoryview(data)
    while view:
        view = view[file.write(view) :]
