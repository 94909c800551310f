"""Files whose long writes go past the system's cache, if system and file system allow it.

Without a copy in the cache a landing needs half the processor's time, and leaves the memory to others.
"""

from __future__ import annotations

import ctypes
import errno
import io
import os
import tempfile
from typing import Any

from keen_pipeline.landing.storages.errors import of_temporary_folder

PAGE_BYTES = 4096
"""Where memory and places in a file begin that the disk writes by itself."""
_DIRECT_BYTES = 1024 * 1024
_O_DIRECT = getattr(os, "O_DIRECT", 0)  # Linux only


class AlignedBuffer:
    """At least `size` bytes of `memory` from `start` on, which is a multiple of PAGE_BYTES as an address; `view` shows them."""

    def __init__(self, size: int) -> None:
        length = -(-size // PAGE_BYTES) * PAGE_BYTES
        self.memory = bytearray(length + PAGE_BYTES)
        self.start = -ctypes.addressof(ctypes.c_char.from_buffer(self.memory)) % PAGE_BYTES
        self.view = memoryview(self.memory)[self.start : self.start + length]


class StagedFile(io.FileIO):
    """An unbuffered file whose long writes go to the disk at once."""

    _possible = _O_DIRECT != 0
    _direct = False

    def write(self, data: Any) -> int:
        """As a file does. The disk takes whole pages from page-aligned memory: all else goes through the cache."""
        length = len(data)
        self._set_direct(length >= _DIRECT_BYTES and length % PAGE_BYTES == 0 and self.tell() % PAGE_BYTES == 0)
        try:
            return super().write(data)
        except OSError as error:
            if not self._direct or error.errno != errno.EINVAL:
                raise
        self._set_direct(False)
        self._possible = False
        return super().write(data)

    def _set_direct(self, wanted: bool) -> None:
        if not self._possible or wanted == self._direct:
            return
        import fcntl  # where O_DIRECT is, there is this

        flags = fcntl.fcntl(self.fileno(), fcntl.F_GETFL)
        try:
            fcntl.fcntl(self.fileno(), fcntl.F_SETFL, flags | _O_DIRECT if wanted else flags & ~_O_DIRECT)
        except OSError:
            self._possible = False  # a file system without it, such as one in memory
        else:
            self._direct = wanted


class TemporaryFile(StagedFile):
    """A staged file without a name in this machine's temporary folder, which a crash takes with it.

    Raises ConfigurationError or ServiceUnavailableError that name this folder. `direct`: whether long writes go to the disk at
    once; then it can't be read by its own descriptor meanwhile.
    """

    def __init__(self, *, direct: bool = False) -> None:
        with of_temporary_folder(), tempfile.TemporaryFile(buffering=0) as file:
            super().__init__(os.dup(file.fileno()), "r+")
        self._possible = self._possible and direct

    def write(self, data: Any) -> int:
        with of_temporary_folder():
            return super().write(data)

    def truncate(self, size: int | None = None) -> int:
        with of_temporary_folder():
            return super().truncate(size)
