"""One API call: send, wait, repeat when that is safe, decode. Nothing here knows what a call is about."""

from __future__ import annotations

import collections
import http.client
import json
import logging
import math
import random
import time
import zlib
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlencode, urlsplit

from keen_pipeline import errors
from keen_pipeline.client.address import redirected, split_url
from keen_pipeline.client.connection import Connection, Connector, Response, translated
from keen_pipeline.client.refusals import DEFAULT_REFUSAL_SECONDS, body_of, refusal, retry_after
from keen_pipeline.client.scrub import Credential, Scrubber, clean
from keen_pipeline.client.wire import Answer, Reader, WrongShape
from keen_pipeline.gunzip import unzipped
from keen_pipeline.ports import Clock, RateLimiter

log = logging.getLogger(__name__)

MOST_TRIES = 4
"""How often one call is sent at most, the first time included."""
FIRST_WAIT_SECONDS = 0.5
LONGEST_WAIT_SECONDS = 20.0
"""Before a further try: doubling from the first to this, with jitter of a half."""
MOST_REDIRECTS = 3
LARGEST_ANSWER_BYTES = 64 * 1024 * 1024
"""An answer of the API is held in memory; 64 MiB are some 200,000 listed extractions. As sent, and as unzipped."""
_MOST_IDLE = 8


@dataclass(frozen=True)
class _Call:
    """One request as often as it is sent. `budget_wait`: seconds to wait for the requests a minute at most."""

    method: str
    url: str
    data: bytes | None
    subject: str
    credential: Credential
    budget_wait: float = math.inf


def check_base_url(base_url: str) -> str:
    """Return `base_url` without a trailing slash. Raises InvalidInputError when it is not a plain http(s) URL."""
    base_url = base_url.strip()
    try:
        parts = urlsplit(base_url)
        plain = parts.scheme in ("http", "https") and parts.hostname and parts.port != 0 and base_url.isprintable()
        (parts.hostname or "").encode("idna")
    except ValueError:
        plain = False
    if not plain or " " in base_url:
        raise errors.InvalidInputError("KEEN_BASE_URL: expected http://HOST or https://HOST", field="KEEN_BASE_URL")
    if "@" in parts.netloc or parts.query or parts.fragment:
        raise errors.InvalidInputError("KEEN_BASE_URL: no user, password, query or fragment belongs here", field="KEEN_BASE_URL")
    return base_url.rstrip("/")


class ApiTransport:
    """Sends the calls of one project to one service, over kept connections. Safe to share between threads."""

    def __init__(self, base_url: str, connector: Connector, *, limiter: RateLimiter | None, clock: Clock, scrub: Scrubber) -> None:
        self.base_url = base_url
        self._place = split_url(base_url)[1]
        self._connector = connector
        self._read_timeout, self._total_timeout = connector.limits.read, connector.limits.total
        self._limiter = limiter
        self._clock = clock
        self._scrub = scrub
        self._idle: collections.deque[Connection] = collections.deque()

    def close(self) -> None:
        with suppress(IndexError):
            while True:
                self._idle.pop().channel.end()

    def get(self, path: str, read: Reader[Answer], subject: str, key: Credential, params: Mapping[str, Any]) -> Answer:
        """GET `path`; every value of `params` but text goes out as JSON. Repeated with growing waits on failures that may pass."""
        return self._decode(self._repeat(_Call("GET", self.url(path, params), None, subject, key)), read, subject)

    def post(
        self, path: str, body: Any, read: Reader[Answer], subject: str, key: Credential, *, budget_wait: float = math.inf
    ) -> Answer:
        """POST `body` as JSON. Sent once; again only when no connection came up, so that nothing is created twice.

        `budget_wait`: seconds to wait for the requests a minute, if that is less than the time limit of a call.
        """
        call = _Call("POST", self.base_url + path, _json(body, "body").encode(), subject, key, budget_wait)
        return self._decode(self._repeat(call), read, subject)

    def url(self, path: str, params: Mapping[str, Any]) -> str:
        texts = {name: value if isinstance(value, str) else _json(value, name) for name, value in params.items()}
        query = urlencode(texts, errors="replace")
        return self.base_url + path + ("?" + query if query else "")

    def take_one(self) -> None:
        """Take one from the requests a minute, for a request that somebody else sends. Raises RateLimitedError."""
        if self._limiter is not None:
            self._limiter.acquire(timeout=self._total_timeout)

    def rest(self, retry_after: float | None) -> None:
        """The service refused a request (429): nobody sends another for so many seconds."""
        if self._limiter is not None:
            self._limiter.refuse_until(DEFAULT_REFUSAL_SECONDS if retry_after is None else retry_after)

    def _repeat(self, call: _Call) -> bytes:
        if not call.credential.key:
            raise errors.AuthenticationError(
                f"{call.subject}: {call.credential.variable} is not set; nothing was requested. Set it to the project's key"
            )
        deadline = time.monotonic() + self._total_timeout
        longest, tries_left = FIRST_WAIT_SECONDS, MOST_TRIES
        while True:
            tries_left -= 1
            try:
                return self._once(call, deadline)
            except errors.RetryableError as error:
                unread = isinstance(error, errors.UnreadableAnswerError)
                repeatable = isinstance(error, errors.UnreachableError) or (call.method == "GET" and not unread)
                wait = max(longest * random.uniform(0.5, 1.0), error.retry_after or 0.0)  # noqa: S311 - spreads load, protects nothing
                longest = min(longest * 2, LONGEST_WAIT_SECONDS)
                if not repeatable or not tries_left or time.monotonic() + wait >= deadline:
                    raise
                log.info("waiting %.1f s before the next of %d tries left: %s", wait, tries_left, error)
                self._clock.sleep(wait)

    def _once(self, call: _Call, deadline: float) -> bytes:
        if self._limiter is not None:
            # What is sent has time to be answered: an answer that comes after the deadline would be one more orphan.
            answering = min(self._read_timeout, self._total_timeout / 2)
            self._limiter.acquire(timeout=min(call.budget_wait, max(0.0, deadline - time.monotonic() - answering)))
        url = call.url
        for _ in range(MOST_REDIRECTS + 1):
            response, body = self._exchange(call, url, deadline)
            status = response.status
            if 200 <= status < 300:
                return body
            if response.location is not None:
                if call.method != "GET":  # which may have done what was asked
                    mend = "Set KEEN_BASE_URL to the address that it redirects to"
                    raise errors.UnreadableAnswerError(f"{call.subject}: the service redirects (HTTP {status}). {mend}")
                url = self._redirected(url, response.location, call.subject)
                continue
            wait = retry_after(response.headers, self._clock.now())
            if status == 429:
                wait = DEFAULT_REFUSAL_SECONDS if wait is None else wait
                self.rest(wait)
            raise refusal(status, body, call.subject, call.credential, self._scrub, wait)
        raise errors.UnreadableAnswerError(f"{call.subject}: more than {MOST_REDIRECTS} redirects in a row")

    def _exchange(self, call: _Call, url: str, deadline: float) -> tuple[Response, bytes]:
        headers = {"Authorization": str(call.credential.key), "Accept": "application/json", "Accept-Encoding": "gzip"}
        if call.data is not None:
            headers["Content-Type"] = "application/json"
        connection = self._connection(call, deadline)
        kept = False
        try:
            connection.channel.limit(self._total_timeout, deadline)
            host = self._place.host
            with translated(host, errors.ServiceUnavailableError, f"{call.subject}: {host} gave no whole answer"):
                response = connection.ask(call.method, split_url(url)[0], headers, call.data)
                body = _body(response, call.subject) if 200 <= response.status < 300 else body_of(response)
            kept = call.method == "GET" and connection.sock is not None and response.isclosed()
        finally:
            if kept and len(self._idle) < _MOST_IDLE:
                self._idle.append(connection)
            else:
                connection.channel.end()
        return response, body

    # A kept connection may be closed by the service at the moment it is used again, and then nobody knows what became of a POST: it
    # gets a connection of its own.
    def _connection(self, call: _Call, deadline: float) -> Connection:
        with suppress(IndexError):  # there is none, or another thread was quicker
            while call.method == "GET":
                kept = self._idle.pop()
                if kept.channel.is_idle():
                    return kept
                kept.channel.end()
        try:
            return self._connector.connect(self._place, deadline - time.monotonic())
        except errors.KeenPipelineError as error:
            error.args = (f"{call.subject}: {error}",)
            raise

    def _redirected(self, url: str, location: str, subject: str) -> str:
        target = redirected(url, location, f"{subject}: the service")
        # The key goes in a header of every request, so another origin may not have the request at all.
        if split_url(target, f"{subject}: what the service redirects to")[1] != self._place:
            raise errors.ConfigurationError(
                f"{subject}: the service redirects to another host, which must not see the key. "
                "Set KEEN_BASE_URL to the service's own address"
            )
        return target

    def _decode(self, body: bytes, read: Reader[Answer], subject: str) -> Answer:
        try:
            return read(json.loads(body), self._scrub)
        except WrongShape as error:
            reason = self._scrub(str(error))
        except (ValueError, ArithmeticError, LookupError, TypeError, RecursionError):
            reason = "not JSON"
        excerpt = self._scrub(body[:1024].decode("utf-8", "replace"))
        raise errors.UnreadableAnswerError(f"{subject}: not the documented answer ({reason}): {excerpt!r}")


def _json(value: Any, name: str) -> str:
    try:
        return json.dumps(value, separators=(",", ":"), allow_nan=False)
    except (ValueError, TypeError, RecursionError):
        raise errors.InvalidInputError(f"{name}: JSON can't hold it (NaN, or an unknown kind of value)", field=name) from None


def _body(response: Response, subject: str) -> bytes:
    """The whole body, unzipped. Raises UnreadableAnswerError, IncompleteRead."""
    body, whole = response.read(LARGEST_ANSWER_BYTES + 1), True
    if response.length and len(body) <= LARGEST_ANSWER_BYTES:
        raise http.client.IncompleteRead(b"")
    if response.encoding in ("gzip", "x-gzip"):
        try:
            body, whole = unzipped(body, LARGEST_ANSWER_BYTES + 1)
        except zlib.error:
            raise http.client.IncompleteRead(b"") from None
    elif response.encoding != "identity":
        raise errors.UnreadableAnswerError(
            f"{subject}: the answer has a Content-Encoding that was not asked for: {clean(response.encoding, 50)}"
        )
    if len(body) > LARGEST_ANSWER_BYTES:
        raise errors.UnreadableAnswerError(f"{subject}: the answer is longer than {LARGEST_ANSWER_BYTES} bytes")
    if not whole:
        raise http.client.IncompleteRead(b"")
    return body
