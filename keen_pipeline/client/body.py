"""The body of one results answer, read into the caller's buffers: length, chunks and end are checked here.

Not `http.client`'s own body reader: it takes a body that stops early for whole, fills a buffer before it returns (so that a
slow drip is never seen), and can't see what follows an announced length.
"""

from __future__ import annotations

import http.client
import io
import socket
import threading

from keen_pipeline.errors import TransferError

_LONGEST_LINE = 4096
"""Bytes of one chunk-size or trailer line."""
_MOST_TRAILERS = 100
_AFTERWARDS_SECONDS = 1.0
"""How long to look for surplus bytes after an announced length; we asked for `Connection: close`, so an end comes at once."""


class ResultsBody:
    """The body of a results answer (a ResultsStream); see `keen_pipeline.ports.ResultsStream`."""

    def __init__(
        self,
        response: http.client.HTTPResponse,
        sock: socket.socket,
        deadline: threading.Timer,
        *,
        start: int,
        total: int | None,
        validator: str | None,
    ) -> None:
        self._response = response
        self._reader: io.BufferedReader = response.fp
        self._sock = sock
        self._deadline = deadline
        self._chunked = bool(response.chunked)
        length = response.length
        # Bytes left of the body, or of the present chunk; None: until the connection ends.
        self._left: int | None = 0 if self._chunked else length
        self._first_chunk = True
        self._ended = False
        self.start = start
        self.total = total
        self.validator = validator
        self.encoding = (response.headers.get("Content-Encoding") or "identity").strip().lower()
        self.delimited = self._chunked or length is not None

    def readinto(self, buffer: memoryview) -> int:
        """Fill `buffer` with what is there, at least one byte; 0 only at the body's end. Raises TransferError."""
        if self._ended or not buffer:
            return 0
        try:
            return self._read(buffer)
        except TimeoutError:
            raise TransferError("the results stalled: no byte within the read time-out") from None
        except (OSError, http.client.HTTPException, ValueError) as error:
            raise TransferError(f"the connection broke in the middle of the results{self._why(error)}") from None

    def _read(self, buffer: memoryview) -> int:
        if self._chunked and self._left == 0 and not self._next_chunk():
            return self._end()
        if self._left == 0:
            self._expect_nothing()
            return self._end()
        wanted = buffer if self._left is None else buffer[: self._left]
        got = self._reader.readinto1(wanted)
        if got == 0:
            if self._left is None and not self._deadline.finished.is_set():
                return self._end()
            raise TransferError(f"the results ended before their announced length{self._why(None)}")
        if self._left is not None:
            self._left -= got
        return got

    def _next_chunk(self) -> bool:
        """Read the next chunk's size line; False at the last chunk, whose trailers are read too."""
        if not self._first_chunk and self._line() != b"":
            raise TransferError("the results' chunks are not well-formed")
        self._first_chunk = False
        size = self._line().partition(b";")[0].strip()
        if not size or len(size) > 16 or size.strip(b"0123456789abcdefABCDEF"):
            raise TransferError("the results' chunks are not well-formed")
        self._left = int(size, 16)
        if self._left:
            return True
        for _ in range(_MOST_TRAILERS):
            if self._line() == b"":
                return False
        raise TransferError("the results' trailers have no end")

    def _line(self) -> bytes:
        line = self._reader.readline(_LONGEST_LINE)
        if not line.endswith(b"\n"):
            raise TransferError(f"the results' chunks ended before the last one{self._why(None)}")
        return line.rstrip(b"\r\n")

    def _expect_nothing(self) -> None:
        """After an announced length the connection ends; bytes that follow mean that the length was wrong."""
        self._sock.settimeout(_AFTERWARDS_SECONDS)
        try:
            surplus = self._reader.read1(1)
        except OSError:
            return  # no end in time, or a reset: the announced bytes are all here
        if surplus:
            raise TransferError("the service sent more bytes than it announced")

    def _end(self) -> int:
        self._ended = True
        self.close()
        return 0

    def _why(self, error: Exception | None) -> str:
        if self._deadline.finished.is_set() and not self._ended:
            return f" (the time limit of {self._deadline.interval:g} s for one connection ran out)"
        return f" ({type(error).__name__})" if error is not None else ""

    def close(self) -> None:
        """End the connection. Can be called again."""
        self._deadline.cancel()
        self._response.close()  # and with it the reader
        self._sock.close()

    def __enter__(self) -> ResultsBody:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self._ended = True
        self.close()
