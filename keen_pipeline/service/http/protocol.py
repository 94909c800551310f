"""HTTP/1.1 as uvicorn and h11 speak it, with one change: what is no HTTP request is refused in JSON, like everything else.

The application never sees such a request: a request line or headers that can't be parsed, or are longer than allowed, or a body
that does not keep to its announced framing.
"""

from __future__ import annotations

import sys

import h11
from uvicorn.protocols.http.h11_impl import STATUS_PHRASES, H11Protocol

from keen_pipeline.service.http.messages import JsonResponse

_ANSWERS = {
    400: ("the request is not valid HTTP/1.1", "InvalidRequestError"),
    431: ("the request line and the headers are too long; send long filters in the body of a POST", "RequestHeadTooLargeError"),
    501: ("this transfer coding is not known; use chunked or Content-Length", "TransferCodingError"),
}


class JsonErrorProtocol(H11Protocol):
    """One connection. Its own refusals have a JSON body with `message` and `error_code`, and end the connection."""

    def send_400_response(self, msg: str) -> None:
        """Answer what h11 could not read, where an answer is still possible; uvicorn calls this while it handles h11's error."""
        if self.conn.our_state in (h11.IDLE, h11.SEND_RESPONSE):
            # The hint says more than uvicorn passes on: 431 for a head that is too long, 501 for an unknown transfer coding.
            status = getattr(sys.exc_info()[1], "error_status_hint", 400)
            status = status if status in _ANSWERS else 400
            message, code = _ANSWERS[status]
            body = bytes(JsonResponse({"message": message, "error_code": code}).body)
            headers = [("Content-Type", "application/json"), ("Content-Length", str(len(body))), ("Connection", "close")]
            answer = h11.Response(status_code=status, headers=headers, reason=STATUS_PHRASES[status])
            for event in (answer, h11.Data(data=body), h11.EndOfMessage()):
                self.transport.write(self.conn.send(event) or b"")
        self.transport.close()
