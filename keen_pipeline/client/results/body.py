"""The body of one results answer, read into the caller's buffers: length, chunks and end are checked here.

Not `http.client`'s own body reader: it takes a body that stops early for whole, fills a buffer before it returns (so that a
slow drip is never seen), and can't see what follows an announced length.
"""

from __future__ import annotations

import io
import zlib

from keen_pipeline.client.connection import Channel, Response, translated
from keen_pipeline.errors import TransferError
from keen_pipeline.gunzip import unzipped

_LONGEST_LINE = 4096
"""Bytes of one chunk-size or trailer line."""
_MOST_TRAILERS = 100
_AFTERWARDS_SECONDS = 1.0
"""How long to look for surplus bytes after an announced length; we asked for `Connection: close`, so an end comes at once."""
HEAD_BYTES = 1024


class ResultsBody:
    """The body of a results answer (a ResultsStream); see `keen_pipeline.ports.ResultsStream`. Owns its connection."""

    def __init__(
        self, response: Response, channel: Channel, host: str, *, start: int, total: int | None, validator: str | None
    ) -> None:
        self._response = response
        self._reader: io.BufferedReader = response.fp
        self._channel = channel
        self._host = host
        self._chunked = bool(response.chunked)
        # Bytes left of the body, or of the present chunk; None: until the connection ends.
        self._left: int | None = 0 if self._chunked else response.length
        self._first_chunk = True
        self._ended = False
        self._head = memoryview(b"")
        self.start = start
        self.total = total
        self.validator = validator
        self.encoding = response.encoding

    def head(self) -> tuple[bytes, bool]:
        """The first bytes of the file, up to HEAD_BYTES, and whether they are all of it; `readinto` gives them again.

        Raises TransferError.
        """
        found = bytearray(HEAD_BYTES)
        length = 0
        while length < HEAD_BYTES and (got := self.readinto(memoryview(found)[length:])):
            length += got
        if not length and self._left is None:
            raise TransferError("results: the connection ended before their first byte, and no length says that there is none")
        self._head = memoryview(bytes(found[:length]))
        if self.encoding == "identity":
            return bytes(self._head), self._ended
        try:
            text, whole = unzipped(bytes(self._head), HEAD_BYTES)
        except zlib.error:
            return b"", False  # damaged: whoever decodes it all says so
        return text, self._ended and whole

    def readinto(self, buffer: memoryview) -> int:
        """Fill `buffer` with what is there, at least one byte; 0 only at the body's end. Raises TransferError."""
        if self._head:
            piece, self._head = self._head[: len(buffer)], self._head[len(buffer) :]
            buffer[: len(piece)] = piece
            return len(piece)
        if self._ended or not buffer:
            return 0
        with translated(self._host, TransferError, "results: the connection broke in the middle of them"):
            return self._read(buffer)

    def _read(self, buffer: memoryview) -> int:
        if self._chunked and self._left == 0 and not self._next_chunk():
            return self._end()
        if self._left == 0:
            self._expect_nothing()
            return self._end()
        wanted = buffer if self._left is None else buffer[: self._left]
        got = self._reader.readinto1(wanted)
        if got == 0:
            if self._left is None:
                return self._end()
            raise TransferError("results: they ended before their announced length")
        if self._left is not None:
            self._left -= got
        return got

    def _next_chunk(self) -> bool:
        """Read the next chunk's size line; False at the last chunk, whose trailers are read too."""
        if not self._first_chunk and self._line() != b"":
            raise TransferError("results: their chunks are not well-formed")
        self._first_chunk = False
        size = self._line().partition(b";")[0].strip()
        if not size or size.strip(b"0123456789abcdefABCDEF"):
            raise TransferError("results: their chunks are not well-formed")
        self._left = int(size, 16)
        if self._left:
            return True
        for _ in range(_MOST_TRAILERS):
            if self._line() == b"":
                return False
        raise TransferError("results: their trailers have no end")

    def _line(self) -> bytes:
        line = self._reader.readline(_LONGEST_LINE)
        if not line.endswith(b"\n"):
            raise TransferError("results: their chunks ended before the last one")
        return line.rstrip(b"\r\n")

    def _expect_nothing(self) -> None:
        """After an announced length the connection ends; bytes that follow mean that the length was wrong."""
        self._channel.wait_at_most(_AFTERWARDS_SECONDS)
        try:
            surplus = self._reader.read1(1)
        except OSError:
            return  # no end in time, or a reset: the announced bytes are all here
        if surplus:
            raise TransferError("results: the service sent more bytes than it announced")

    def _end(self) -> int:
        self._ended = True
        self.close()
        return 0

    def close(self) -> None:
        self._response.close()  # and with it the reader
        self._channel.end()

    def __enter__(self) -> ResultsBody:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.close()
