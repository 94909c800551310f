"""Connections to Keen and to its results: direct or by a proxy, and over at a moment that nothing can put off.

Python's own http.client on a socket of ours, since no HTTP library has a time limit for a whole answer: each of them starts waiting
again for every byte, so that a head that comes drop by drop, or an endless `100 Continue`, holds its caller forever.
"""

from __future__ import annotations

import errno
import http.client
import io
import math
import re
import socket
import ssl
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from typing import Any, cast

from keen_pipeline.client.address import Address, resolve
from keen_pipeline.client.proxy import Proxies, Proxy
from keen_pipeline.errors import ConfigurationError, KeenPipelineError, UnreachableError

_BUFFER_BYTES = 64 * 1024


@dataclass(frozen=True)
class TimeLimits:
    """Seconds: for a connection, for each wait for bytes, for one call or a results answer's head, for a whole results transfer."""

    connect: float
    read: float
    total: float
    transfer: float


@contextmanager
def translated(host: str, error: type[KeenPipelineError], broken: str) -> Iterator[None]:
    """Whatever the libraries below raise becomes `error`, which says what is `broken` and why, but for a certificate.

    `from None`, as their texts and chains may hold the request's headers and the whole URL.
    """
    try:
        yield
    except KeenPipelineError:
        raise
    except ssl.SSLCertVerificationError as refused:
        raise ConfigurationError(f"the TLS certificate of {host} is not trusted ({refused.verify_message})") from None
    except TimeoutError as late:
        raise error(f"{broken} ({late.strerror or 'no byte within the read time-out'})") from None
    except (OSError, http.client.HTTPException, ValueError, ArithmeticError, LookupError) as why:
        raise error(f"{broken} ({getattr(why, 'strerror', None) or type(why).__name__})") from None


class Channel(io.RawIOBase):
    """A socket whose every wait ends in time. http.client takes it for a socket, though it can't close it: `end` does."""

    def __init__(self, sock: Any, read_timeout: float) -> None:
        self._sock = sock
        self._read_timeout = read_timeout
        self._seconds = self._deadline = math.inf

    def limit(self, seconds: float, deadline: float | None = None) -> None:
        """Everything ends so many seconds from now, or at `deadline` (of time.monotonic), and then names those `seconds`."""
        self._seconds = seconds
        self._deadline = time.monotonic() + seconds if deadline is None else deadline

    def wait_at_most(self, read_timeout: float) -> None:
        self._read_timeout = read_timeout

    def sendall(self, data: Any) -> None:
        view = memoryview(data).cast("B")
        while view:
            view = view[self._timed(self._sock.send, view) :]

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        return self._timed(self._sock.recv_into, buffer)

    def makefile(self, mode: str, *_: object) -> io.BufferedReader:
        return io.BufferedReader(self, _BUFFER_BYTES)

    def close(self) -> None:
        """Nothing: http.client closes before the body is read."""

    def is_idle(self) -> bool:
        """Whether the other side has neither closed nor said anything."""
        from urllib3.util import wait_for_read

        return not wait_for_read(self._sock, 0)

    def end(self) -> None:
        """End the connection. Can be called again."""
        self._sock.close()

    def _timed(self, call: Callable[[memoryview], int], view: memoryview) -> int:
        left = self._deadline - time.monotonic()
        if left > 0:
            self._sock.settimeout(min(self._read_timeout, left))
            try:
                return call(view)
            except TimeoutError:
                if time.monotonic() < self._deadline:
                    raise
        raise TimeoutError(errno.ETIMEDOUT, f"the time limit of {self._seconds:g} s ran out")


class _Tunnel:
    """A proxy's TLS with another one in it, which waits again for every byte: a time-out holds for all from when it is set."""

    def __init__(self, sock: ssl.SSLSocket) -> None:
        self._sock = sock
        self.settimeout(sock.gettimeout() or 0.0)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._sock, name)

    def settimeout(self, seconds: float) -> None:
        self._end = time.monotonic() + seconds

    def recv(self, size: int) -> bytes:
        self._arm()
        return self._sock.recv(size)

    def sendall(self, data: bytes) -> None:
        self._arm()
        self._sock.sendall(data)

    def _arm(self) -> None:
        left = self._end - time.monotonic()
        if left <= 0:
            raise TimeoutError
        self._sock.settimeout(left)


class Response(http.client.HTTPResponse):
    """The final answer, its head checked: http.client takes a length that it can't read for none, and a cut for the end.

    Nor does it read what follows a line that is no header, such as the length.
    """

    @property
    def encoding(self) -> str:
        """Of the content, in lower case; `identity` for none."""
        return ",".join(self.headers.get_all("Content-Encoding", [])).strip().lower() or "identity"

    @property
    def location(self) -> str | None:
        """Where it redirects to; None when it doesn't."""
        return self.headers.get("Location") if self.status in (301, 302, 303, 307, 308) else None

    def begin(self) -> None:
        super().begin()
        while 100 < self.status < 200 and self.status != 101:  # such as 103 Early Hints
            self.headers = self.msg = None  # type: ignore[assignment] # or it would not begin again
            super().begin()
        if self.headers.get_payload() != "":
            raise OSError(errno.EBADMSG, "its head has a line that can't be read")
        lengths = {one.strip() for line in self.headers.get_all("Content-Length", []) for one in line.split(",")}
        coding = ",".join(self.headers.get_all("Transfer-Encoding", [])).lower()
        if coding:
            readable = self.chunked and coding == "chunked"
        else:
            readable = not lengths or (len(lengths) == 1 and re.fullmatch("[0-9]{1,18}", min(lengths)) is not None)
        if not readable:
            raise OSError(errno.EBADMSG, "its Content-Length or Transfer-Encoding can't be read")
        if lengths and self.length is None and not coding:  # the same one twice
            self.length = int(min(lengths))


class Connection(http.client.HTTPConnection):
    """To `place`, by `channel`; `proxy` is the one that gets plain requests, with the whole address."""

    response_class = Response

    def __init__(self, place: Address, sock: Any, read_timeout: float, proxy: Proxy | None = None) -> None:
        super().__init__(place.host, place.port)
        self.default_port = 443 if place.secure else 80  # the Host header leaves a default port out
        self.channel = Channel(sock, read_timeout)
        self.sock: Any = self.channel
        self._proxy = proxy

    def ask(self, method: str, path: str, headers: Mapping[str, str], data: bytes | None = None) -> Response:
        """Send a request; returns the head of its answer. Raises ConfigurationError when a proxy refuses the user."""
        if self._proxy is None:
            self.request(method, path, data, headers)
        else:
            host = f"[{self.host}]" if ":" in self.host else self.host
            port = "" if self.port == 80 else f":{self.port}"
            self.request(method, f"http://{host}{port}{path}", data, {**headers, **self._proxy.headers})
        response = cast("Response", self.getresponse())
        refuse_proxy(response.status, self._proxy)
        return response


@dataclass(frozen=True)
class Connector:
    """Opens connections by the environment's proxies."""

    limits: TimeLimits
    proxies: Proxies

    @cached_property
    def context(self) -> ssl.SSLContext:
        """The system's authorities, read at the first use: some 30 ms, which a client of a service without TLS can spare."""
        return ssl.create_default_context()

    def connect(self, place: Address, seconds: float) -> Connection:
        """A connection to `place.ips` or to what its name resolves to; `seconds` are left for it all.

        Raises UnreachableError (no request was sent), ConfigurationError for a certificate that is not trusted or a proxy.
        """
        deadline = time.monotonic() + seconds
        proxy = self.proxies.of(place)
        with translated(place.host, UnreachableError, f"no connection to {place.host}"):
            sock: Any = self._reach(place if proxy is None else Address(proxy.secure, proxy.host, proxy.port), deadline)
            try:
                if proxy is not None and proxy.secure:
                    with translated(proxy.host, UnreachableError, f"no connection to the proxy {proxy.host}"):
                        sock = self.context.wrap_socket(sock, server_hostname=proxy.host, suppress_ragged_eofs=False)
                if proxy is not None and place.secure:
                    self._tunnel(sock, place, proxy, deadline)
                if place.secure:
                    sock = self._secured(sock, place.host)
            except BaseException:
                sock.close()
                raise
        return Connection(place, sock, self.limits.read, None if place.secure else proxy)

    def _reach(self, place: Address, deadline: float) -> socket.socket:
        why = ""
        for ip in place.ips or resolve(place.host, place.port, deadline - time.monotonic()):
            timeout = min(self.limits.connect, max(0.001, deadline - time.monotonic()))
            try:
                sock = socket.create_connection((ip, place.port), timeout=timeout)
            except TimeoutError:
                why = f"no answer within {timeout:.3g} s"
            except OSError as error:
                why = error.strerror or type(error).__name__
            else:
                sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                return sock
        raise UnreachableError(f"no connection to {place.host} ({why})")

    def _secured(self, sock: Any, host: str) -> Any:
        # An end of TLS without its closing alert may be a cut, so it is an error and not the end of the file.
        if not isinstance(sock, ssl.SSLSocket):
            return self.context.wrap_socket(sock, server_hostname=host, suppress_ragged_eofs=False)
        from urllib3.util.ssltransport import SSLTransport  # TLS within a proxy's TLS, which Python's ssl can't

        return SSLTransport(_Tunnel(sock), self.context, server_hostname=host, suppress_ragged_eofs=False)  # type: ignore[arg-type]

    def _tunnel(self, sock: Any, place: Address, proxy: Proxy, deadline: float) -> None:
        host = f"[{place.host}]" if ":" in place.host else place.host
        connection = Connection(Address(proxy.secure, proxy.host, proxy.port), sock, self.limits.read)
        connection.channel.limit(min(self.limits.connect, deadline - time.monotonic()))
        status = connection.ask("CONNECT", f"{host}:{place.port}", headers=proxy.headers | {"Host": f"{host}:{place.port}"}).status
        refuse_proxy(status, proxy)
        if status != 200:
            raise UnreachableError(f"no connection to {place.host}: the proxy {proxy.host} refused it (HTTP {status})")
        sock.settimeout(min(self.limits.connect, max(0.001, deadline - time.monotonic())))


def refuse_proxy(status: int, proxy: Proxy | None) -> None:
    if status == 407 and proxy is not None:
        raise ConfigurationError(
            f"the proxy {proxy.host} refused its user and password (HTTP 407). Nothing was requested; set {proxy.variable}"
        )
