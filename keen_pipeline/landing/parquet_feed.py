"""The CSV of a Parquet landing, on its way: written at its end by the download, read from its beginning by the conversion."""

from __future__ import annotations

import io
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from keen_pipeline.landing.remote import reader_of

READS_AHEAD = 4
"""Blocks of CSV that Arrow may have read while earlier ones are parsed."""


class StoppedError(Exception):
    """The CSV that was being read is given up. Never leaves a conversion."""


@dataclass(frozen=True)
class Facts:
    """What the verifier found in the whole CSV."""

    columns: Sequence[str]
    records: int
    bytes: int
    sha256: str


class CsvBody(io.FileIO):
    """The staged CSV. Writing at its end and beginning anew are all it is used for, but for reading it once it is whole."""

    def __init__(self, descriptor: int, grown: Callable[[int], None], begun_anew: Callable[[], None]) -> None:
        super().__init__(descriptor, "r+")
        self._grown = grown
        self._begun_anew = begun_anew

    def write(self, data: Any) -> int:
        """As a file does."""
        written = super().write(data)
        self._grown(self.tell())
        return written

    def truncate(self, size: int | None = None) -> int:
        """As a file does; what was made of it is dropped."""
        self._begun_anew()
        return super().truncate(size)


class Feed:
    """The bytes of one run of the CSV, for readers that wait for those which have not come yet. Safe to share between threads."""

    def __init__(self, descriptor: int) -> None:
        self._pread = reader_of(descriptor)
        self._changed = threading.Condition()
        self._size = 0
        self._facts: Facts | None = None
        self._stopped = False

    def grow(self, size: int) -> None:
        """So many bytes can be read by now."""
        with self._changed:
            self._size = size
            self._changed.notify_all()

    def end(self, facts: Facts) -> None:
        """All bytes can be read, and are proven."""
        with self._changed:
            self._facts = facts
            self._changed.notify_all()

    def stop(self) -> None:
        """No more bytes come, and what was read is worth nothing."""
        with self._changed:
            self._stopped = True
            self._changed.notify_all()

    def wake(self) -> None:
        """Let every waiting reader look again whether it was closed."""
        with self._changed:
            self._changed.notify_all()

    @property
    def stopped(self) -> bool:
        """Whether `stop` was called."""
        return self._stopped

    @property
    def ended(self) -> bool:
        """Whether no more bytes come."""
        return self._stopped or self._facts is not None

    def proven(self) -> Facts:
        """Wait until the CSV is whole. Raises StoppedError."""
        with self._changed:
            self._changed.wait_for(lambda: self.ended)
            if self._stopped or self._facts is None:
                raise StoppedError
            return self._facts

    def wait(self, size: int, closed: threading.Event) -> None:
        """Wait for the first `size` bytes, or for the end of all waiting."""
        with self._changed:
            self._changed.wait_for(lambda: self._size >= size or self.ended or closed.is_set())

    def read(self, offset: int, length: int, closed: threading.Event) -> bytes:
        """`length` bytes, fewer only at the CSV's end; none where it was stopped or its reader was `closed`."""
        self.wait(offset + length, closed)
        return b"" if self._stopped or closed.is_set() else self._pread(offset, length)


class BlockReader(io.RawIOBase):
    """Gives Arrow a CSV in blocks of `block` bytes, in a way that two errors of its parser don't come to pass.

    A LF at the start of a block is lost where the block before ended with a CR, within quotes too: so no read ends between them.
    An empty last cell without a line end counts as quoted where a quoted one stood before: so a line end follows it.
    Arrow reads 32 blocks ahead, in a thread that an error does not end: here it gets some, one more with each `allow`, and none
    after `close`.
    """

    def __init__(self, feed: Feed, block: int) -> None:
        self._feed = feed
        self._block = block
        self._closed = threading.Event()
        self._blocks = READS_AHEAD
        self._allowed = threading.Semaphore(READS_AHEAD)
        self._at = 0
        self._held = b""
        self._last = b""
        feed.wait(self._blocks * block, self._closed)

    def readable(self) -> bool:
        """It is."""
        return True

    def close(self) -> None:
        """Nothing more is read."""
        self._closed.set()
        self._feed.wake()
        self._allowed.release(READS_AHEAD)
        super().close()

    def allow(self) -> None:
        """One block more, once it has come: it is waited for here, not in one of Arrow's few threads."""
        self._blocks += 1
        self._feed.wait(self._blocks * self._block, self._closed)
        self._allowed.release()

    def read(self, size: int = -1) -> bytes:
        """As of a file."""
        # A block without an answer (the header alone) must not stop it for ever; what it costs is memory, no more.
        self._allowed.acquire(timeout=1.0)
        if self._closed.is_set():
            return b""
        data = self._feed.read(self._at, size - len(self._held), self._closed)
        self._at += len(data)
        if not data:
            data, self._held = self._held or (b"" if self._last in (b"", b"\r", b"\n") else b"\n"), b""
        else:
            data, self._held = (self._held + data if self._held else data), b""
            if data[-1] == ord("\r") and len(data) > 1:
                data, self._held = data[:-1], b"\r"
        self._last = data[-1:]
        return data
