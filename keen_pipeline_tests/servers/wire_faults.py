"""Behaviours of a fault server below the level of an answer: heads, tunnels, pieces, bytes that are no HTTP."""

from __future__ import annotations

import selectors
import socket
import ssl

from keen_pipeline_tests.servers.faults import Behaviour, Exchange


def trickle(piece: int, every: float) -> Behaviour:
    """The file in pieces of so many bytes, `every` so many seconds; ranges and If-Range honoured."""

    def answer(to: Exchange) -> None:
        rest = to.ranged()
        for at in range(0, len(rest), piece):
            to.sock.sendall(rest[at : at + piece])
            if every and to.server.ending.wait(every):
                return

    return answer


def head_drip(every: float) -> Behaviour:
    """A head whose lines come one by one and have no end."""

    def answer(to: Exchange) -> None:
        to.sock.sendall(b"HTTP/1.1 200 OK\r\nX-Drip: ")
        while not to.server.ending.wait(every):
            to.sock.sendall(b"x")

    return answer


def endless_continue() -> Behaviour:
    """`100 Continue` for ever, as fast as they are taken."""

    def answer(to: Exchange) -> None:
        while not to.server.ending.is_set():
            to.sock.sendall(b"HTTP/1.1 100 Continue\r\n\r\n" * 100)

    return answer


def endless_early_hints() -> Behaviour:
    """`103 Early Hints` for ever."""

    def answer(to: Exchange) -> None:
        while not to.server.ending.is_set():
            to.sock.sendall(b"HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n" * 100)

    return answer


def hinted(then: Behaviour, *interim: str) -> Behaviour:
    """Interim answers before the real one."""

    def answer(to: Exchange) -> None:
        for status in interim:
            to.sock.sendall(f"HTTP/1.1 {status}\r\nLink: </style.css>; rel=preload\r\n\r\n".encode())
        then(to)

    return answer


def raw(data: bytes) -> Behaviour:
    """These bytes, whatever they are, and the end."""

    def answer(to: Exchange) -> None:
        to.sock.sendall(data)

    return answer


def relay(port: int, every: float = 0.0) -> Behaviour:
    """What a proxy does with a CONNECT: bytes to and from 127.0.0.1:`port`, whatever host was named.

    `every`: seconds between two bytes of the answer; 0 gives them as they come.
    """

    def answer(to: Exchange) -> None:
        to.sock.sendall(b"HTTP/1.1 200 Connection established\r\n\r\n")
        near = to.sock
        with socket.create_connection(("127.0.0.1", port)) as far, selectors.DefaultSelector() as readable:
            readable.register(near, selectors.EVENT_READ, near)
            readable.register(far, selectors.EVENT_READ, far)
            while True:
                waiting = isinstance(near, ssl.SSLSocket) and near.pending()
                for one in [near] if waiting else [key.data for key, _ in readable.select(10)]:
                    data = one.recv(65536)
                    if not data:
                        return
                    if one is near or not every:
                        (far if one is near else near).sendall(data)
                        continue
                    for at in range(len(data)):
                        near.sendall(data[at : at + 1])
                        if to.server.ending.wait(every):
                            return

    return answer


def part_of_rest(total: str | None = None) -> Behaviour:
    """A 206 that ends with a record before the end; `total`: what it says of the file's length."""

    def answer(to: Exchange) -> None:
        start, end = to.wanted(), to.body.index(b"\r\n7000,") + 2
        extent = f"bytes {start}-{end - 1}/{total or len(to.body)}"
        to.head("206 Partial Content", ETag='"one"', Content_Length=end - start, Content_Range=extent)
        to.sock.sendall(to.body[start:end])

    return answer


def rest_of_another(offset: int) -> Behaviour:
    """The range that was asked for, of a file that has changed."""

    def answer(to: Exchange) -> None:
        rest = to.body[offset:].upper()
        extent = f"bytes {offset}-{len(to.body) - 1}/{len(to.body)}"
        to.head("206 Partial Content", ETag='"two"', Content_Length=len(rest), Content_Range=extent)
        to.sock.sendall(rest)

    return answer
