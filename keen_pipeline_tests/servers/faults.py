"""A hostile web server on loopback: real sockets, and every way in which a results transfer can go wrong.

    with FaultServer(results=[cut(100), whole()], body=b"...") as server: ...

With `tls` it speaks TLS; as a proxy it answers requests for any host. More behaviours are in `wire_faults`.
Each request under `/results` takes the next behaviour of `results`, every other request the next of `api`; the last one of a
list stays. What was asked is in `server.requests`.
"""

from __future__ import annotations

import gzip
import json
import socket
import ssl
import struct
import threading
import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from types import TracebackType


@dataclass(frozen=True)
class Request:
    """One request as it came. Header names are in lower case."""

    method: str
    target: str
    headers: dict[str, str]
    body: bytes


@dataclass
class Exchange:
    """One connection with its request: what a behaviour answers to."""

    sock: socket.socket
    request: Request
    server: FaultServer
    etag: str = '"one"'

    @property
    def body(self) -> bytes:
        return self.server.body

    def wanted(self) -> int:
        """Offset that the client asks for, 0 where If-Range does not name this file."""
        value = self.request.headers.get("range", "")
        if not value or self.request.headers.get("if-range", self.etag) != self.etag:
            return 0
        return int(value.removeprefix("bytes=").removesuffix("-"))

    def head(self, status: str, **headers: object) -> None:
        headers = {"Connection": "close", **headers}
        lines = [f"HTTP/1.1 {status}", *(f"{name.replace('_', '-')}: {value}" for name, value in headers.items()), "", ""]
        self.sock.sendall("\r\n".join(lines).encode())

    def ranged(self, data: bytes | None = None, **headers: object) -> bytes:
        """Send the head of a whole or partial answer of `data` (the file); returns the body's bytes that belong to it."""
        data = self.body if data is None else data
        offset = self.wanted()
        rest = data[offset:]
        headers = {"ETag": self.etag, "Content_Length": len(rest), **headers}
        if offset:
            headers["Content_Range"] = f"bytes {offset}-{len(data) - 1}/{len(data)}"
        self.head("206 Partial Content" if offset else "200 OK", **headers)
        return rest


Behaviour = Callable[[Exchange], None]


def whole(etag: str = '"one"') -> Behaviour:
    """The file, ranges and If-Range honoured."""

    def answer(to: Exchange) -> None:
        to.etag = etag
        to.sock.sendall(to.ranged())

    return answer


def no_ranges() -> Behaviour:
    """The whole file from its beginning, whatever is asked; no validator."""

    def answer(to: Exchange) -> None:
        to.head("200 OK", Content_Length=len(to.body))
        to.sock.sendall(to.body)

    return answer


def cut(after: int) -> Behaviour:
    """The connection ends `after` bytes of the body, though more were announced."""

    def answer(to: Exchange) -> None:
        to.sock.sendall(to.ranged()[:after])

    return answer


def cut_without_validator(after: int) -> Behaviour:
    def answer(to: Exchange) -> None:
        to.head("200 OK", Content_Length=len(to.body))
        to.sock.sendall(to.body[:after])

    return answer


def reset(after: int) -> Behaviour:
    """As `cut`, with a TCP reset."""

    def answer(to: Exchange) -> None:
        to.sock.sendall(to.ranged()[:after])
        to.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))

    return answer


def reset_at_once() -> Behaviour:
    """A TCP reset before any answer."""

    def answer(to: Exchange) -> None:
        to.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))

    return answer


def stall(after: int) -> Behaviour:
    """No byte more after `after`, and the connection stays."""

    def answer(to: Exchange) -> None:
        to.sock.sendall(to.ranged()[:after])
        to.server.ending.wait()

    return answer


def stall_before_headers() -> Behaviour:
    def answer(to: Exchange) -> None:
        to.server.ending.wait()

    return answer


def drip(every: float) -> Behaviour:
    """One byte each `every` seconds, for ever or until the file is over: no read ever times out."""

    def answer(to: Exchange) -> None:
        for byte in to.ranged():
            to.sock.sendall(bytes([byte]))
            if to.server.ending.wait(every):
                return

    return answer


def generated(piece: bytes, times: int) -> Behaviour:
    """A header `a,b` and `piece` as often, never in memory as a whole."""

    def answer(to: Exchange) -> None:
        to.head("200 OK", Content_Length=4 + len(piece) * times)
        to.sock.sendall(b"a,b\n")
        for _ in range(times):
            to.sock.sendall(piece)

    return answer


def undelimited(bytes_sent: int | None = None) -> Behaviour:
    """Neither a length nor chunks: the end of the connection is the end of the body, wherever it is."""

    def answer(to: Exchange) -> None:
        to.head("200 OK", Content_Type="text/csv")
        to.sock.sendall(to.body[:bytes_sent])
        if isinstance(to.sock, ssl.SSLSocket) and bytes_sent is None:
            to.sock.settimeout(1)
            to.sock.unwrap()  # TLS tells an end from a cut by itself

    return answer


def announced(length_error: int) -> Behaviour:
    """A Content-Length that is wrong by `length_error` bytes; the whole file is sent."""

    def answer(to: Exchange) -> None:
        to.head("200 OK", Content_Length=len(to.body) + length_error, ETag='"one"')
        to.sock.sendall(to.body)

    return answer


def chunked(*, chunk: int = 1000, stop_after: int | None = None, size_line: bytes | None = None) -> Behaviour:
    """Chunked coding. `stop_after` chunks the connection ends, without the last chunk; `size_line` replaces the sizes."""

    def answer(to: Exchange) -> None:
        to.head("200 OK", Transfer_Encoding="chunked", ETag='"one"')
        for number, at in enumerate(range(0, len(to.body), chunk)):
            if number == stop_after:
                return
            piece = to.body[at : at + chunk]
            to.sock.sendall((size_line or b"%x;a=b" % len(piece)) + b"\r\n" + piece + b"\r\n")
        to.sock.sendall(b"0\r\nX-Trailer: 1\r\n\r\n")

    return answer


def gzipped(*, damage: int | None = None, lost: int = 0, members: int = 1, after: int | None = None) -> Behaviour:
    """Content-Encoding gzip, ranges honoured.

    `damage`: index of a byte to change; `lost`: bytes missing at the end, not announced either; `after`: where the
    connection ends.
    """

    def answer(to: Exchange) -> None:
        step = -(-len(to.body) // members) or 1
        data = bytearray(b"".join(gzip.compress(to.body[at : at + step], mtime=0) for at in range(0, len(to.body), step)))
        if damage is not None:
            data[damage] ^= 0xFF
        data = data[: len(data) - lost]
        to.sock.sendall(to.ranged(bytes(data), Content_Encoding="gzip")[:after])

    return answer


def gzip_bomb(size: int) -> Behaviour:
    """`size` bytes of one quoted field without an end, in a few kilobytes."""
    packer = zlib.compressobj(1, zlib.DEFLATED, 31)
    piece = b"x" * 1_000_000
    data = packer.compress(b'a\n"') + b"".join(packer.compress(piece) for _ in range(size // len(piece))) + packer.flush()

    def answer(to: Exchange) -> None:
        to.head("200 OK", Content_Encoding="gzip", Content_Length=len(data))
        to.sock.sendall(data)

    return answer


def status(code: int, body: bytes = b"", **headers: str) -> Behaviour:
    """An answer with this status."""

    def answer(to: Exchange) -> None:
        to.head(f"{code} Because", Content_Length=len(body), **headers)
        to.sock.sendall(body)

    return answer


def document(value: object, code: int = 200) -> Behaviour:
    """A JSON answer."""
    return status(code, json.dumps(value).encode(), Content_Type="application/json")


def page() -> Behaviour:
    """A login page with status 200, as captive portals send it."""
    return status(200, b"\n<!DOCTYPE html><html><body>Please log in</body></html>", Content_Type="text/html")


def redirect(location: str, code: int = 302) -> Behaviour:
    return status(code, Location=location)


def changed(body: bytes) -> Behaviour:
    """From now on the file is another one, with another ETag."""

    def answer(to: Exchange) -> None:
        to.server.body = body
        whole('"two"')(to)

    return answer


def wrong_range() -> Behaviour:
    """A 206 of another range than the one asked for."""

    def answer(to: Exchange) -> None:
        to.head("206 Partial Content", ETag='"one"', Content_Length=5, Content_Range=f"bytes 1-5/{len(to.body)}")
        to.sock.sendall(to.body[1:6])

    return answer


@dataclass
class FaultServer:
    """Serves until the `with` block ends."""

    results: Sequence[Behaviour] = ()
    api: Sequence[Behaviour] = ()
    body: bytes = b""
    tls: ssl.SSLContext | None = None
    requests: list[Request] = field(default_factory=list)
    ending: threading.Event = field(default_factory=threading.Event)

    def __enter__(self) -> FaultServer:
        self._listener = socket.create_server(("127.0.0.1", 0), backlog=64)
        self._lock = threading.Lock()
        self._next = {"results": 0, "api": 0}
        self._open: set[socket.socket] = set()
        self._threads = [threading.Thread(target=self._accept, daemon=True)]
        self._threads[0].start()
        return self

    def __exit__(self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None) -> None:
        self.ending.set()
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        with self._lock:
            for sock in self._open:
                try:
                    socket.socket.shutdown(sock, socket.SHUT_RDWR)
                except OSError:
                    continue  # the client was quicker
        for thread in list(self._threads):
            thread.join(10)
        assert not any(thread.is_alive() for thread in self._threads)

    @property
    def port(self) -> int:
        return int(self._listener.getsockname()[1])

    @property
    def url(self) -> str:
        return f"http{'s' if self.tls else ''}://127.0.0.1:{self.port}"

    @property
    def results_url(self) -> str:
        return f"{self.url}/results/file.csv?signature=s3cr3t"

    def asked(self, prefix: str) -> list[Request]:
        """The requests whose target begins so."""
        return [request for request in self.requests if request.target.startswith(prefix)]

    def _accept(self) -> None:
        while True:
            try:
                sock, _ = self._listener.accept()
            except OSError:
                return
            with self._lock:
                if self.ending.is_set():  # nobody would close it
                    sock.close()
                    return
                self._open.add(sock)
            thread = threading.Thread(target=self._serve, args=(sock,), daemon=True)
            self._threads.append(thread)
            thread.start()

    def _serve(self, sock: socket.socket) -> None:
        try:
            if self.tls is not None:
                sock = self._wrapped(sock)
            request = _read(sock)
            if request is None:
                return
            kind = "results" if "/results" in request.target.split("?")[0] else "api"
            with self._lock:
                self.requests.append(request)
                behaviours = self.results if kind == "results" else self.api
                behaviour = behaviours[min(self._next[kind], len(behaviours) - 1)]
                self._next[kind] += 1
            behaviour(Exchange(sock, request, self))
        except (BrokenPipeError, ConnectionResetError, ssl.SSLError, TimeoutError):
            return  # the client has gone, as some behaviours make it
        finally:
            with self._lock:
                self._open.discard(sock)
            sock.close()

    def _wrapped(self, sock: socket.socket) -> socket.socket:
        assert self.tls is not None
        with self._lock:
            self._open.discard(sock)
            secure = self.tls.wrap_socket(sock, server_side=True, do_handshake_on_connect=False)
            self._open.add(secure)
        secure.do_handshake()
        return secure


def _read(sock: socket.socket) -> Request | None:
    data = b""
    while b"\r\n\r\n" not in data:
        piece = sock.recv(65536)
        if not piece:
            return None
        data += piece
    head, _, body = data.partition(b"\r\n\r\n")
    first, *lines = head.decode("latin-1").split("\r\n")
    headers = {name.strip().lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
    while len(body) < int(headers.get("content-length", 0)):
        body += sock.recv(65536)
    method, target, _ = first.split(" ")
    return Request(method, target, headers, body)
