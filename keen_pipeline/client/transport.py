"""One API call: send, wait, repeat where that is safe, decode. Nothing here knows what a call is about."""

from __future__ import annotations

import json
import math
import ssl
import time
from collections.abc import Callable, Mapping
from typing import Any, TypeVar
from urllib.parse import urlencode, urljoin, urlsplit

import urllib3
from urllib3.exceptions import ConnectTimeoutError, HTTPError, NewConnectionError

from keen_pipeline.client import backoff
from keen_pipeline.client.refusals import Subject, missing_key, refusal
from keen_pipeline.client.scrub import Credential, Scrubber
from keen_pipeline.client.wire import WrongShape
from keen_pipeline.errors import (
    ConfigurationError,
    InvalidInputError,
    KeenPipelineError,
    ProtocolError,
    RetryableError,
    ServiceUnavailableError,
    UnreachableError,
)
from keen_pipeline.ports import Clock, RateLimiter

MOST_TRIES = 4
"""How often one call is sent at most, the first time included."""
MOST_REDIRECTS = 3
LARGEST_ANSWER_BYTES = 64 * 1024 * 1024
"""An answer of the API is held in memory; 64 MiB are some 200,000 listed extractions."""
_READ_BYTES = 64 * 1024

Answer = TypeVar("Answer")


def check_base_url(base_url: str) -> str:
    """Return `base_url` without a trailing slash. Raises InvalidInputError where it is not a plain http(s) URL."""
    parts = urlsplit(base_url)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise InvalidInputError("KEEN_BASE_URL: expected http://HOST or https://HOST", field="KEEN_BASE_URL")
    if parts.username or parts.password or parts.query or parts.fragment:
        raise InvalidInputError("KEEN_BASE_URL: no user, password, query or fragment belongs here", field="KEEN_BASE_URL")
    return base_url.rstrip("/")


class ApiTransport:
    """Sends the calls of one project to one service, over kept connections. Safe to share between threads.

    Time limits in seconds: `connect_timeout` for a connection, `read_timeout` for each wait for bytes, `total_timeout` for a
    whole call with its repetitions.
    """

    def __init__(
        self,
        base_url: str,
        *,
        connect_timeout: float,
        read_timeout: float,
        total_timeout: float,
        limiter: RateLimiter | None,
        clock: Clock,
        scrub: Scrubber,
        context: ssl.SSLContext,
    ) -> None:
        self.base_url = check_base_url(base_url)
        self._timeout = urllib3.Timeout(connect=connect_timeout, read=read_timeout)
        self._read_timeout, self._total_timeout = read_timeout, total_timeout
        self._limiter = limiter
        self._clock = clock
        self._scrub = scrub
        self._context = context
        self._pool = self._new_pool()

    def __repr__(self) -> str:
        return f"ApiTransport({self.base_url})"

    def close(self) -> None:
        """Close the kept connections."""
        self._pool.clear()

    def _new_pool(self) -> urllib3.PoolManager:
        return urllib3.PoolManager(num_pools=4, maxsize=8, ssl_context=self._context, retries=False)

    def get(
        self,
        path: str,
        read: Callable[[Any], Answer],
        subject: Subject,
        credential: Credential,
        params: Mapping[str, Any] | None = None,
    ) -> Answer:
        """GET `path`; every value of `params` but text goes out as JSON. Repeated with growing waits on failures that may pass."""
        return self._decode(self._repeat("GET", self.url(path, params or {}), None, subject, credential), read, subject)

    def url(self, path: str, params: Mapping[str, Any]) -> str:
        """The address of a GET."""
        query = urlencode({name: value if isinstance(value, str) else json.dumps(value) for name, value in params.items()})
        return self.base_url + path + ("?" + query if query else "")

    def take_one(self) -> None:
        """Take one from the requests a minute, for a request that somebody else sends. Raises RateLimitedError."""
        if self._limiter is not None:
            self._limiter.acquire(timeout=self._total_timeout)

    def rest(self, retry_after: float | None) -> None:
        """The service refused a request (429): nobody sends another for so many seconds."""
        if self._limiter is not None:
            self._limiter.refuse_until(backoff.DEFAULT_REFUSAL_SECONDS if retry_after is None else retry_after)

    def post(
        self,
        path: str,
        body: Any,
        read: Callable[[Any], Answer],
        subject: Subject,
        credential: Credential,
        *,
        budget_wait: float = math.inf,
    ) -> Answer:
        """POST `body` as JSON. Sent once; again only where no connection came up, so that nothing is created twice.

        `budget_wait`: seconds to wait for the requests a minute, where that is less than the time limit of a call.
        """
        data = json.dumps(body, separators=(",", ":"), allow_nan=False).encode()
        return self._decode(self._repeat("POST", self.base_url + path, data, subject, credential, budget_wait), read, subject)

    def _repeat(
        self, method: str, url: str, data: bytes | None, subject: Subject, credential: Credential, budget_wait: float = math.inf
    ) -> bytes:
        if not credential.key:
            raise missing_key(credential, subject)
        deadline = time.monotonic() + self._total_timeout
        waits = backoff.waits()
        tries_left = MOST_TRIES
        while True:
            tries_left -= 1
            try:
                return self._once(method, url, data, subject, credential, deadline, budget_wait)
            except RetryableError as error:
                repeatable = method == "GET" or isinstance(error, UnreachableError)
                wait = max(next(waits), error.retry_after or 0.0)
                if not repeatable or not tries_left or time.monotonic() + wait >= deadline:
                    raise
                self._clock.sleep(wait)

    def _once(
        self,
        method: str,
        url: str,
        data: bytes | None,
        subject: Subject,
        credential: Credential,
        deadline: float,
        budget_wait: float,
    ) -> bytes:
        if self._limiter is not None:
            # What is sent has time to be answered: an answer that comes after the deadline would be one more orphan.
            answering = min(self._read_timeout, self._total_timeout / 2)
            self._limiter.acquire(timeout=min(budget_wait, max(0.0, deadline - time.monotonic() - answering)))
        for _ in range(MOST_REDIRECTS + 1):
            status, headers, body = self._exchange(method, url, data, subject, credential, deadline)
            if 200 <= status < 300:
                return body
            if status in (301, 302, 303, 307, 308) and method == "GET" and "location" in headers:
                url = self._redirected(url, headers["location"], subject)
                continue
            raise self._refused(status, headers, body, subject, credential)
        raise ProtocolError(f"{subject}: more than {MOST_REDIRECTS} redirects in a row")

    def _redirected(self, url: str, location: str, subject: Subject) -> str:
        target = urljoin(url, location)
        # The key goes in a header of every request, so another origin may not have the request at all.
        if origin(target) != origin(url):
            raise ConfigurationError(
                f"{subject}: the service redirects to another host, which must not see the key. "
                "Set KEEN_BASE_URL to the service's own address"
            )
        return target

    def _refused(
        self, status: int, headers: Mapping[str, str], body: bytes, subject: Subject, credential: Credential
    ) -> KeenPipelineError:
        retry_after = backoff.parse_retry_after(headers.get("retry-after"), self._clock.now())
        if status == 429:
            retry_after = backoff.DEFAULT_REFUSAL_SECONDS if retry_after is None else retry_after
            self.rest(retry_after)
        return refusal(status, body, subject, credential, self._scrub, retry_after)

    def _exchange(
        self, method: str, url: str, data: bytes | None, subject: Subject, credential: Credential, deadline: float
    ) -> tuple[int, Mapping[str, str], bytes]:
        headers = {"Authorization": str(credential.key), "Accept": "application/json", "Accept-Encoding": "gzip"}
        if data is not None:
            headers["Content-Type"] = "application/json"
        # A kept connection may be closed by the service at the moment it is used again, and then nobody knows what became of a
        # POST: it gets a connection of its own.
        pool = self._pool if method == "GET" else self._new_pool()
        try:
            response = pool.request(
                method, url, body=data, headers=headers, timeout=self._timeout, redirect=False, retries=False, preload_content=False
            )
            try:
                body = self._body(response, subject, deadline)
            except BaseException:
                response.close()  # half read: nobody may get this connection from the pool
                raise
            response.release_conn()
        except HTTPError as error:
            raise self._unreachable(error, subject) from None
        finally:
            if pool is not self._pool:
                pool.clear()
        return response.status, response.headers, body

    def _body(self, response: urllib3.BaseHTTPResponse, subject: Subject, deadline: float) -> bytes:
        pieces = bytearray()
        while piece := response.read1(_READ_BYTES, decode_content=True):
            pieces += piece
            if len(pieces) > LARGEST_ANSWER_BYTES:
                raise ProtocolError(f"{subject}: the answer is longer than {LARGEST_ANSWER_BYTES} bytes")
            if time.monotonic() > deadline:
                raise ServiceUnavailableError(f"{subject}: the answer took longer than {self._total_timeout:g} s")
        return bytes(pieces)

    def _unreachable(self, error: HTTPError, subject: Subject) -> KeenPipelineError:
        """Translate urllib3's error. `from None` above: its text holds the whole query, and its chain the request's headers."""
        host = urlsplit(self.base_url).netloc
        cause: BaseException | None = error
        while cause is not None:
            if isinstance(cause, ssl.SSLCertVerificationError):
                return ConfigurationError(f"{subject}: the TLS certificate of {host} is not trusted ({cause.verify_message})")
            cause = cause.__cause__ or cause.__context__ or next((a for a in cause.args if isinstance(a, BaseException)), None)
        reason = self._scrub(type(error).__name__)
        if isinstance(error, (NewConnectionError, ConnectTimeoutError)):
            return UnreachableError(f"{subject}: no connection to {host} ({reason})")
        return ServiceUnavailableError(
            f"{subject}: the connection to {host} broke or timed out before the answer was whole ({reason})"
        )

    def _decode(self, body: bytes, read: Callable[[Any], Answer], subject: Subject) -> Answer:
        try:
            return read(json.loads(body))
        except WrongShape as error:
            reason = str(error)
        except (ValueError, RecursionError):
            reason = "not JSON"
        excerpt = self._scrub(body[:1024].decode("utf-8", "replace"))
        raise ProtocolError(f"{subject}: not the documented answer ({reason}): {excerpt!r}")


def origin(url: str) -> tuple[str, str, int]:
    """Scheme, host and port: what decides whether a request may carry the key."""
    parts = urlsplit(url)
    try:
        port = parts.port
    except ValueError:
        port = -1
    return (
        parts.scheme.lower(),
        (parts.hostname or "").lower(),
        port if port is not None else {"http": 80, "https": 443}.get(parts.scheme, -1),
    )
