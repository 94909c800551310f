"""A bad network before a good service: an HTTP proxy on loopback that fails some of the requests, each in one of many ways."""

from __future__ import annotations

import random
import socket
import struct
import threading
from collections import Counter
from collections.abc import Callable, Mapping
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType

import urllib3

# Answers that belong to one connection, or that this server makes itself.
_HOP = {"connection", "transfer-encoding", "keep-alive", "content-length", "date", "server"}
PAGE = b"<!DOCTYPE html><html><body>Please log in</body></html>"


class FaultProxy:
    """Forwards to `upstream` for the `with` block's time; `faults` counts what it did instead, by its name.

    `api` and `results` say how often (0 to 1) which fault meets a request of the API, or for the bytes of results.
    """

    def __init__(self, upstream: str, rng: random.Random, api: Mapping[str, float], results: Mapping[str, float]) -> None:
        self._upstream, self._rng, self._api, self._results = upstream, rng, api, results
        self._lock = threading.Lock()
        self._pool = urllib3.PoolManager(num_pools=1, maxsize=32, retries=False, timeout=60)
        self.faults: Counter[str] = Counter()

    def __enter__(self) -> FaultProxy:
        proxy = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def handle_any(self) -> None:
                proxy._answer(self)

            do_GET = do_POST = do_PUT = do_DELETE = do_HEAD = handle_any  # noqa: N815

            def log_message(self, format: str, *args: object) -> None:  # noqa: A002
                """The service has a log."""

        class Server(ThreadingHTTPServer):
            daemon_threads = True
            request_queue_size = 128

            def handle_error(self, request: object, client_address: object) -> None:
                """A client that went away in the middle: which faults make it do."""

        self._server = Server(("127.0.0.1", 0), Handler)
        self._thread = threading.Thread(target=self._server.serve_forever, daemon=True)
        self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join(10)
        self._pool.clear()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._server.server_address[1]}"

    def _answer(self, handler: BaseHTTPRequestHandler) -> None:
        body = handler.rfile.read(int(handler.headers.get("Content-Length", 0)))
        is_results = handler.path.startswith("/results/")
        fault = self._choose(self._results if is_results else self._api)
        if fault is not None:
            BEFORE.get(fault, _nothing)(handler)
            if fault in BEFORE:
                return
        # The Host stays the proxy's, so that results URLs lead through it.
        headers, url = dict(handler.headers.items()), self._upstream + handler.path
        answer = self._pool.request(handler.command, url, body=body, headers=headers, decode_content=False)
        AFTER.get(fault or "", _whole)(handler, answer)

    def _choose(self, odds: Mapping[str, float]) -> str | None:
        with self._lock:
            at = self._rng.random()
            for name, share in odds.items():
                if at < share:
                    self.faults[name] += 1
                    return name
                at -= share
        return None


def _nothing(handler: BaseHTTPRequestHandler) -> None:
    """The fault comes after the service has answered."""


def _refuse(status: int) -> Callable[[BaseHTTPRequestHandler], None]:
    def refuse(handler: BaseHTTPRequestHandler) -> None:
        _send(handler, status, b"{}", {"Retry-After": "1", "Content-Type": "application/json"})

    return refuse


def _page(handler: BaseHTTPRequestHandler) -> None:
    _send(handler, 200, PAGE, {"Content-Type": "text/html"})


def _reset(handler: BaseHTTPRequestHandler) -> None:
    handler.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    handler.close_connection = True


def _whole(handler: BaseHTTPRequestHandler, answer: urllib3.BaseHTTPResponse) -> None:
    _send(handler, answer.status, answer.data, {k: v for k, v in answer.headers.items() if k.lower() not in _HOP})


def _lose(handler: BaseHTTPRequestHandler, answer: urllib3.BaseHTTPResponse) -> None:
    """The service has done what it was asked for, and nobody hears of it."""
    _reset(handler)


def _cut(handler: BaseHTTPRequestHandler, answer: urllib3.BaseHTTPResponse) -> None:
    headers = {k: v for k, v in answer.headers.items() if k.lower() not in _HOP}
    _send(handler, answer.status, answer.data, headers, sent=len(answer.data) // 2)
    handler.close_connection = True


def _undelimited(handler: BaseHTTPRequestHandler, answer: urllib3.BaseHTTPResponse) -> None:
    """Neither a length nor chunks, and the connection ends in the middle."""
    handler.send_response(answer.status)
    for name in ("Content-Type", "Content-Encoding"):
        if name in answer.headers:
            handler.send_header(name, answer.headers[name])
    handler.send_header("Connection", "close")
    handler.end_headers()
    handler.wfile.write(answer.data[: len(answer.data) // 2])
    handler.close_connection = True


def _send(
    handler: BaseHTTPRequestHandler, status: int, body: bytes, headers: Mapping[str, str], *, sent: int | None = None
) -> None:
    handler.send_response(status)
    for name, value in headers.items():
        handler.send_header(name, value)
    handler.send_header("Content-Length", str(len(body)))
    handler.end_headers()
    handler.wfile.write(body[:sent])


BEFORE: Mapping[str, Callable[[BaseHTTPRequestHandler], None]] = {
    "429": _refuse(429),
    "500": _refuse(500),
    "503": _refuse(503),
    "reset": _reset,
    "login page": _page,
}
AFTER: Mapping[str, Callable[[BaseHTTPRequestHandler, urllib3.BaseHTTPResponse], None]] = {
    "answer lost": _lose,
    "cut": _cut,
    "undelimited and cut": _undelimited,
}
