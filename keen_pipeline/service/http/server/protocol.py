"""HTTP/1.1 as uvicorn and h11 speak it, with two changes: refusals in JSON, and an end to connections that stand still.

The application never sees what is refused here: a request line or headers that can't be parsed, are longer than allowed or do not
arrive in time, a body that does not keep to its announced framing or does not move on, a connection too many.

This subclass uses uvicorn's private names, so uvicorn is bound to one minor release, and a test names them.
"""

from __future__ import annotations

import sys
import time
from typing import Any

import h11
from uvicorn.protocols.http.h11_impl import STATUS_PHRASES, H11Protocol

from keen_pipeline.service.http.answers import refused
from keen_pipeline.service.http.server.connections import Connections

_ANSWERS = {
    400: ("the request is not valid HTTP/1.1", "InvalidRequestError"),
    408: ("the request line and the headers did not arrive in time", "RequestTimeoutError"),
    431: ("the request line and the headers are too long; send long filters in the body of a POST", "RequestHeadTooLargeError"),
    501: ("this transfer coding is not known; use chunked or Content-Length", "TransferCodingError"),
    503: ("too many connections are open; try again", "ServiceUnavailableError"),
}
SLOWEST = 1024
"""Bytes a second, on average, that a body, and the reader of an answer, must reach once the grace is over."""


class BoundedProtocol(H11Protocol):
    """One connection. Its own refusals have a JSON body with `message` and `error_code`, and end the connection.

    `head_seconds`: for a whole head; `stalled_seconds`: the grace of a body and of a reader.
    """

    def __init__(self, *args: Any, places: Connections, head_seconds: float, stalled_seconds: float, **more: Any) -> None:
        super().__init__(*args, **more)
        self.address = ""
        self._places = places
        self._head_seconds, self._stalled_seconds = head_seconds, stalled_seconds
        self._since: float | None = time.monotonic()  # when it began to owe a head; None: between two requests it owes nothing
        self._head_bytes = 0  # of a head that is not whole yet
        self._body_since: float | None = None
        self._body_bytes = 0
        self.unread_since: float | None = None
        self._unread_bytes = 0

    def connection_made(self, transport: Any) -> None:
        """Take a place, or say that there is none."""
        super().connection_made(transport)
        self.address = str(self.client[0]) if self.client else ""
        if not self._places.admit(self):
            self._refuse(503)

    def connection_lost(self, exc: Exception | None) -> None:
        self._hold_head(0)
        self._places.leave(self)
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Note what came, so that `look` can tell progress from a pretence of it."""
        if self.transport.is_closing():
            return
        self._body_bytes += len(data)
        if self._since is None:
            self._since = time.monotonic()
        super().data_received(data)
        self._hold_head(self._head_bytes + len(data) if self.conn.their_state is h11.IDLE else 0)
        if self._is_asking():
            self._places.asks(self)

    def _hold_head(self, size: int) -> None:
        if not self._places.hold_head(size - self._head_bytes):
            self._refuse(503)
        self._head_bytes = size

    def on_response_complete(self) -> None:
        """From here on it is idle, unless a part of the next head is there already."""
        self._since = time.monotonic() if self.conn.trailing_data[0] else None
        self._body_since = None
        self._places.answered(self)
        super().on_response_complete()
        if self._is_asking():  # the next request was there already
            self._places.asks(self)

    def pause_writing(self) -> None:
        """The client does not read as fast as we write."""
        self.unread_since, self._unread_bytes = time.monotonic(), self.unread_bytes()
        super().pause_writing()

    def resume_writing(self) -> None:
        self.unread_since = None
        super().resume_writing()

    def unread_bytes(self) -> int:
        """Of answers that the client has yet to take."""
        return int(self.transport.get_write_buffer_size())

    def _is_asking(self) -> bool:
        return self.cycle is not None and not self.cycle.response_complete

    def still_sends(self) -> bool:
        """Whether a request has begun whose body is not whole yet."""
        return self.conn.their_state is h11.SEND_BODY

    def abort(self) -> None:
        self.transport.abort()

    def look(self, now: float) -> None:
        """Close it when its head, its body or its reading does not move on."""
        if self.unread_since is not None:
            if self._unread_bytes - self.unread_bytes() < (now - self.unread_since - self._stalled_seconds) * SLOWEST:
                self.abort()
        elif self.still_sends():
            self._look_at_body(now)
        elif not self._is_asking() and self._since is not None and now - self._since > self._head_seconds:
            self._refuse(408)

    def _look_at_body(self, now: float) -> None:
        if self._body_since is None:
            self._body_since, self._body_bytes = now, 0
        elif self.flow.read_paused:
            self._body_since += 1  # it is us who do not read
        elif self._body_bytes < (now - self._body_since - self._stalled_seconds) * SLOWEST:
            self.abort()

    def send_400_response(self, msg: str) -> None:
        """Answer what h11 could not read; uvicorn calls this while it handles h11's error."""
        # The hint says more than uvicorn passes on: 431 for a head that is too long, 501 for an unknown transfer coding.
        self._refuse(getattr(sys.exc_info()[1], "error_status_hint", 400))

    def _refuse(self, status: int) -> None:
        """Answer in JSON if an answer is still possible, and close. A request whose body it was about is answered to nobody."""
        if self.cycle is not None:
            self.cycle.disconnected = True
        if self.conn.our_state in (h11.IDLE, h11.SEND_RESPONSE):
            status = status if status in _ANSWERS else 400
            message, code = _ANSWERS[status]
            answer = refused(status, code, message, headers={"Connection": "close", "Access-Control-Allow-Origin": "*"})
            head = h11.Response(status_code=status, headers=answer.raw_headers, reason=STATUS_PHRASES[status])
            for event in (head, h11.Data(data=bytes(answer.body)), h11.EndOfMessage()):
                self.transport.write(self.conn.send(event) or b"")
        self.transport.close()
