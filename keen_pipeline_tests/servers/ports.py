"""Ports for servers that tests start."""

from __future__ import annotations

import random
import socket


def free_ports(number: int) -> list[int]:
    """Ports that nobody listens on at the moment."""
    # All held at once, so that no two are the same; below 32768 nobody gets them as outgoing ports meanwhile.
    sockets = []
    start = random.SystemRandom().randrange(20000, 30000)
    for port in range(start, start + 2000):
        sock = socket.socket()
        try:
            sock.bind(("127.0.0.1", port))
        except OSError:
            sock.close()
            continue
        sockets.append(sock)
        if len(sockets) == number:
            break
    ports = [sock.getsockname()[1] for sock in sockets]
    for sock in sockets:
        sock.close()
    return ports


def free_port() -> int:
    """One of them."""
    return free_ports(1)[0]
