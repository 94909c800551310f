"""Stands between a client and a service on loopback, and spoils what it is told to spoil."""

from __future__ import annotations

import http.client
import socket
import struct
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import urlsplit

Fault = Callable[["Handler"], bool]
"""Spoils the exchange and says so; False lets it through."""


class HttpProxy(ThreadingHTTPServer):
    """`requests`: method and path with query of everything that was asked. `fault`: asked about each of them."""

    daemon_threads = True

    def __init__(self, upstream: str) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.upstream = urlsplit(upstream).netloc
        self.path = urlsplit(upstream).path
        self.requests: list[str] = []
        self.fault: Fault = lambda _: False

    def changes(self) -> list[str]:
        """The requests that change something."""
        return [request for request in self.requests if request.startswith(("PUT", "POST"))]

    @property
    def netloc(self) -> str:
        return f"127.0.0.1:{self.server_port}"

    @property
    def endpoint(self) -> str:
        return f"http://{self.netloc}{self.path}"

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that goes away is none of ours."""


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: HttpProxy
    body = b""

    def log_message(self, *args: Any) -> None:
        """Say nothing."""

    def handle_any(self) -> None:
        self.body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        self.server.requests.append(f"{self.command} {self.path}")
        if not self.server.fault(self):
            self.answer(*self.ask())

    do_GET = do_PUT = do_POST = do_HEAD = do_DELETE = handle_any  # noqa: N815 - names of the standard library's

    def ask(self) -> tuple[int, dict[str, str], bytes]:
        """What the service answers."""
        connection = http.client.HTTPConnection(self.server.upstream, timeout=30)
        try:
            headers = {name: value for name, value in self.headers.items() if name.lower() != "expect"}
            connection.request(self.command, self.path, self.body, headers)
            answer = connection.getresponse()
            data = answer.read()
            kept = {name: value for name, value in answer.getheaders() if name.lower() not in _HOP}
            if answer.headers.get_content_type() == "application/json":  # links in it lead through here too
                data = data.replace(self.server.upstream.encode(), self.server.netloc.encode())
                kept["Content-Length"] = str(len(data))
            kept.setdefault("Content-Length", str(len(data)))
            return answer.status, kept, data
        finally:
            connection.close()

    def answer(self, status: int, headers: dict[str, str], body: bytes = b"") -> None:
        self.send_response_only(status)
        for name, value in headers.items():
            self.send_header(name, value.replace(self.server.upstream, self.server.netloc))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def cut(self) -> None:
        """No answer, and the connection is reset."""
        self.close_connection = True
        self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.connection.close()


_HOP = frozenset({"connection", "transfer-encoding", "keep-alive", "date"})


def refused(status: int, code: str) -> Fault:
    """Every request gets this status, in the words of S3 and Azure."""
    text = f'<?xml version="1.0"?><Error><Code>{code}</Code><Message>{code}</Message></Error>'.encode()
    headers = {"Content-Type": "application/xml", "Content-Length": str(len(text)), "x-ms-error-code": code}
    return lambda to: to.answer(status, headers, text) is None


def only(writes: Fault) -> Fault:
    """Spoils what changes something, and lets questions through."""
    return lambda to: to.command in ("PUT", "POST") and writes(to)


def cut(to: Handler) -> bool:
    to.cut()
    return True


def answer_lost(to: Handler) -> bool:
    """The service does what it was asked, and nobody hears of it."""
    to.ask()
    to.cut()
    return True


def first(number: int, fault: Fault) -> Fault:
    """Spoils the first `number` exchanges that the fault would spoil."""
    left = [number]

    def spoil(to: Handler) -> bool:
        if left[0] > 0 and fault(to):
            left[0] -= 1
            return True
        return False

    return spoil


def after(number: int, fault: Fault) -> Fault:
    """Lets the first `number` changing requests through."""
    seen = [0]

    def spoil(to: Handler) -> bool:
        if to.command in ("PUT", "POST"):
            seen[0] += 1
        return seen[0] > number and to.command in ("PUT", "POST") and fault(to)

    return spoil


@contextmanager
def http_proxy(upstream: str) -> Iterator[HttpProxy]:
    with HttpProxy(upstream) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True)
        thread.start()
        try:
            yield server
        finally:
            server.shutdown()
            thread.join(10)


@contextmanager
def tcp_proxy(port: int, passed: int | None, *, silent: bool) -> Iterator[int]:
    """The port of a proxy that passes `passed` bytes of the server (all if None) and then says nothing more, or cuts."""
    ends: list[socket.socket] = []

    def copy(source: socket.socket, to: socket.socket, left: int | None) -> None:
        try:
            while data := source.recv(65536):
                if left is not None:
                    data, left = data[:left], left - len(data[:left])
                to.sendall(data)
                if left == 0:
                    if not silent:
                        source.close()
                        to.shutdown(socket.SHUT_RDWR)
                    return
        except OSError:
            return

    def serve() -> None:
        while True:
            try:
                client, _ = listener.accept()
            except OSError:
                return
            server = socket.create_connection(("127.0.0.1", port))
            ends.extend((client, server))
            threading.Thread(target=copy, args=(client, server, None), daemon=True).start()
            threading.Thread(target=copy, args=(server, client, passed), daemon=True).start()

    with socket.create_server(("127.0.0.1", 0)) as listener:
        thread = threading.Thread(target=serve, daemon=True)
        thread.start()
        try:
            yield listener.getsockname()[1]
        finally:
            listener.shutdown(socket.SHUT_RDWR)
            thread.join(10)
            for end in ends:
                end.close()
