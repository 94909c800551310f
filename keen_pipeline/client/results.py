"""Opening a results URL: the checked address, the range, the redirects, the refusals."""

from __future__ import annotations

import http.client
import re
import socket
import ssl
import threading
from dataclasses import dataclass
from email.utils import parsedate_to_datetime
from urllib.parse import urljoin, urlsplit

from keen_pipeline.client import backoff
from keen_pipeline.client.address import Address, check_results_address, is_public, resolve
from keen_pipeline.client.body import ResultsBody
from keen_pipeline.client.refusals import Subject, refusal
from keen_pipeline.client.scrub import Credential, Scrubber
from keen_pipeline.client.transport import origin
from keen_pipeline.errors import (
    ConfigurationError,
    ExtractionTooLargeError,
    KeenPipelineError,
    ProtocolError,
    RateLimitedError,
    RequestRejectedError,
    ResultsExpiredError,
    ServiceUnavailableError,
    TransferError,
)
from keen_pipeline.extraction import SecretUrl
from keen_pipeline.ports import Clock

MOST_REDIRECTS = 5
_CONTENT_RANGE = re.compile(r"bytes (\d{1,18})-(\d{1,18})/(\d{1,18}|\*)")
_STRONG_AFTER_SECONDS = 1.0
"""RFC 9110, 8.8.2.2: a Last-Modified is strong where the answer's Date is at least one second later."""


class _PinnedConnection(http.client.HTTPConnection):
    """A connection to the addresses that were checked, whatever the name resolves to by now."""

    def __init__(self, address: Address, context: ssl.SSLContext, connect_timeout: float, read_timeout: float) -> None:
        super().__init__(address.host, address.port, timeout=read_timeout)
        self.default_port = 443 if address.secure else 80  # the Host header leaves a default port out
        self._address = address
        self._context = context
        self._connect_timeout = connect_timeout
        self._read_timeout = read_timeout

    def connect(self) -> None:
        """Try each checked address in turn; TLS is verified against the host's name."""
        failure: OSError = OSError("no address")
        for ip in self._address.ips:
            try:
                plain = socket.create_connection((ip, self._address.port), timeout=self._connect_timeout)
            except OSError as error:
                failure = error
                continue
            plain.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            self.sock = self._context.wrap_socket(plain, server_hostname=self._address.host) if self._address.secure else plain
            self.sock.settimeout(self._read_timeout)
            return
        raise failure


@dataclass(frozen=True)
class _Limits:
    """Seconds."""

    connect: float
    read: float
    transfer: float


class ResultsOpener:
    """Opens results URLs for one client. The key goes along only to the service's own origin."""

    def __init__(
        self,
        base_url: str,
        credential: Credential,
        *,
        connect_timeout: float,
        read_timeout: float,
        transfer_timeout: float,
        allow_private: bool | None,
        clock: Clock,
        scrub: Scrubber,
        context: ssl.SSLContext,
    ) -> None:
        self._base_url = base_url
        self._credential = credential
        self._limits = _Limits(connect_timeout, read_timeout, transfer_timeout)
        self._allow_private = allow_private
        self._clock = clock
        self._scrub = scrub
        self._context = context

    def open(self, secret: SecretUrl, *, offset: int, validator: str | None, subject: Subject | None = None) -> ResultsBody:
        """See `KeenClient.open_results`. `subject`: the URL is a query of the API itself, which says what is wrong with it."""
        url = secret.reveal()
        for _ in range(MOST_REDIRECTS + 1):
            address = check_results_address(url, allow_private=self._private_allowed())
            answer = self._request(url, address, offset, validator, subject)
            if isinstance(answer, ResultsBody):
                return answer
            url = self._redirected(url, answer)
        raise ProtocolError(f"the results URL redirects more than {MOST_REDIRECTS} times in a row")

    def _private_allowed(self) -> bool:
        if self._allow_private is not None:
            return self._allow_private
        parts = urlsplit(self._base_url)
        host = parts.hostname or ""
        return not all(is_public(ip) for ip in resolve(host, parts.port or 443))

    def _redirected(self, url: str, location: str) -> str:
        target = urljoin(url, location)
        if url.startswith("https:") and not target.startswith("https:"):
            raise ProtocolError("the results URL redirects from https to an insecure address; it was not followed")
        return target

    # The answer's body, or the Location of a redirect.
    def _request(
        self, url: str, address: Address, offset: int, validator: str | None, subject: Subject | None
    ) -> ResultsBody | str:
        connection = _PinnedConnection(address, self._context, self._limits.connect, self._limits.read)
        try:
            connection.connect()
        except ssl.SSLCertVerificationError as error:
            raise ConfigurationError(
                f"results: the TLS certificate of {address.host} is not trusted ({error.verify_message})"
            ) from None
        except OSError as error:
            raise ServiceUnavailableError(f"results: no connection to {address.host} ({type(error).__name__})") from None
        sock = connection.sock
        deadline = threading.Timer(self._limits.transfer, _shut, (sock,))
        deadline.daemon = True
        deadline.start()
        answer: ResultsBody | str = ""
        try:
            parts = urlsplit(url)
            path = (parts.path or "/") + ("?" + parts.query if parts.query else "")
            connection.request("GET", path, headers=self._headers(url, offset, validator))
            response = connection.getresponse()
            if subject is not None and response.status >= 400:
                raise self._refused_query(response, subject)
            answer = self._answer(response, sock, deadline, offset, validator)
        except (OSError, http.client.HTTPException, ValueError) as error:
            raise TransferError(f"results: {address.host} did not answer whole headers ({type(error).__name__})") from None
        finally:
            if not isinstance(answer, ResultsBody):
                deadline.cancel()
                sock.close()
                connection.close()
        return answer

    def _headers(self, url: str, offset: int, validator: str | None) -> dict[str, str]:
        headers = {"Accept": "text/csv, */*;q=0.5", "Accept-Encoding": "gzip, identity;q=0.9", "Connection": "close"}
        if offset and validator:
            headers["Range"] = f"bytes={offset}-"
            headers["If-Range"] = validator
        if self._credential.key and origin(url) == origin(self._base_url):
            headers["Authorization"] = self._credential.key
        return headers

    def _answer(
        self, response: http.client.HTTPResponse, sock: socket.socket, deadline: threading.Timer, offset: int, validator: str | None
    ) -> ResultsBody | str:
        status = response.status
        if status in (301, 302, 303, 307, 308) and response.headers.get("Location"):
            return str(response.headers["Location"])
        if status not in (200, 206):
            self._refuse(response)
        encoding = (response.headers.get("Content-Encoding") or "identity").strip().lower()
        if encoding not in ("identity", "gzip", "x-gzip"):
            raise ProtocolError(f"results: the Content-Encoding {self._scrub(encoding)!r} was not asked for")
        start, total = _extent(response, offset)
        found = strong_validator(response.headers)
        if start and found is not None and found != validator:
            raise TransferError("results: the file changed between two requests, though the service sent its rest")
        kept = found or (validator if start else None)
        return ResultsBody(response, sock, deadline, start=start, total=total, validator=kept)

    def _refused_query(self, response: http.client.HTTPResponse, subject: Subject) -> KeenPipelineError:
        retry_after = backoff.parse_retry_after(response.headers.get("Retry-After"), self._clock.now())
        body = response.read(65536)
        if response.status == 504:  # the service's own time limit: it would be as long the next time
            return ExtractionTooLargeError(f"{subject}: the service could not answer in time (HTTP 504)")
        return refusal(response.status, body, subject, self._credential, self._scrub, retry_after)

    def _refuse(self, response: http.client.HTTPResponse) -> None:
        status = response.status
        retry_after = backoff.parse_retry_after(response.headers.get("Retry-After"), self._clock.now())
        if status in (401, 403, 404, 410):
            raise ResultsExpiredError(f"results: the URL is no longer valid (HTTP {status})")
        if status == 429:
            raise RateLimitedError("results: too many requests (HTTP 429)", retry_after=retry_after)
        if status == 416:
            raise TransferError("results: the service has fewer bytes than it announced before (HTTP 416)")
        if status >= 500 or status in (408, 425):
            raise ServiceUnavailableError(f"results: the service failed (HTTP {status})", retry_after=retry_after)
        if status >= 400:
            said = self._scrub(response.read(1024).decode("utf-8", "replace"))
            raise RequestRejectedError(f"results: refused (HTTP {status}): {said}", status=status)
        raise ProtocolError(f"results: unexpected answer (HTTP {status})")


def _extent(response: http.client.HTTPResponse, offset: int) -> tuple[int, int | None]:
    """Offset of the body's first byte, and the length of the whole file where the service said it."""
    if response.status == 200:
        return 0, response.length
    match = _CONTENT_RANGE.fullmatch(response.headers.get("Content-Range", "").strip())
    if match is None or int(match[1]) != offset:
        raise TransferError("results: the service sent another range than the one asked for")
    total = None if match[3] == "*" else int(match[3])
    if total is not None and int(match[2]) + 1 != total:
        raise TransferError("results: the service sent a part of the range asked for")
    return offset, total


def strong_validator(headers: http.client.HTTPMessage) -> str | None:
    """What If-Range may name: a strong ETag, or else a Last-Modified that is at least a second older than the answer."""
    etag = headers.get("ETag")
    if etag:
        return str(etag) if etag.startswith('"') else None
    modified, answered = headers.get("Last-Modified"), headers.get("Date")
    if not modified or not answered:
        return None
    try:
        age = (parsedate_to_datetime(answered) - parsedate_to_datetime(modified)).total_seconds()
    except (TypeError, ValueError):
        return None
    return str(modified) if age >= _STRONG_AFTER_SECONDS else None


def _shut(sock: socket.socket) -> None:
    """End a connection whose time is up: the blocked read of the other thread returns."""
    try:
        sock.shutdown(socket.SHUT_RDWR)
    except OSError:
        return  # already closed by its owner
