"""The CSV of a Parquet landing, on its way: written at its end by the download, read from its beginning by the conversion."""

from __future__ import annotations

import os
import tempfile
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from keen_pipeline.landing.transfer.direct import AlignedBuffer, DirectReader, StagedFile


class StoppedError(Exception):
    """The CSV that was being read is given up. Never leaves a conversion."""


@dataclass(frozen=True)
class Facts:
    """What the verifier found in the whole CSV."""

    columns: Sequence[str]
    records: int
    bytes: int
    sha256: str


class CsvBody(StagedFile):
    """The staged CSV, a file of this machine's temporary folder that a crash takes with it.

    Writing at its end and beginning anew are all it is used for, but for reading it once it is whole; `reader` reads it meanwhile.
    """

    def __init__(self, grown: Callable[[int], None], begun_anew: Callable[[], None]) -> None:
        with tempfile.TemporaryFile(buffering=0) as file:
            super().__init__(os.dup(file.fileno()), "r+")
        self.reader = DirectReader(self.fileno())
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

    def close(self) -> None:
        """Of it and its reader."""
        if not self.closed:
            self.reader.close()
        super().close()


class Feed:
    """The bytes of one run of the CSV, for readers that wait for those which have not come yet."""

    def __init__(self, reader: DirectReader) -> None:
        self._reader = reader
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

    def wait(self, offset: int, length: int) -> int:
        """Wait until `length` bytes from `offset` on have come; returns how many: fewer only at the end. Raises StoppedError."""
        with self._changed:
            self._changed.wait_for(lambda: self._size >= offset + length or self.ended)
            if self._stopped:
                raise StoppedError
            return min(length, self._size - offset)

    def read(self, buffer: AlignedBuffer, offset: int, length: int) -> int:
        """Read bytes that have come; returns where in `buffer.memory` they begin. For one thread."""
        start, end = self._reader.read(buffer, offset, length)
        assert end - start == length
        return start
