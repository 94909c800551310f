"""Opening a results URL: the checked address, the range, the redirects, the refusals."""

from __future__ import annotations

import http.client
import re
import time
from dataclasses import dataclass
from email.utils import parsedate_to_datetime
from typing import NoReturn
from urllib.parse import quote, urljoin, urlsplit

from keen_pipeline.client import backoff
from keen_pipeline.client.address import Address, checked, is_private_host, split_url
from keen_pipeline.client.body import ResultsBody
from keen_pipeline.client.connection import Channel, Connector, channel_of, refuse_proxy, translated
from keen_pipeline.client.document import why_not_csv
from keen_pipeline.client.refusals import LARGEST_REFUSAL_BYTES, Subject, refusal, service_words
from keen_pipeline.client.scrub import Credential, Scrubber
from keen_pipeline.client.transport import origin
from keen_pipeline.errors import (
    ExtractionTooLargeError,
    KeenPipelineError,
    RateLimitedError,
    RequestRejectedError,
    ResultsExpiredError,
    ServiceUnavailableError,
    TransferError,
    UnreadableAnswerError,
)
from keen_pipeline.extraction import SecretUrl
from keen_pipeline.ports import Clock

MOST_REDIRECTS = 5
_CONTENT_RANGE = re.compile(r"bytes (\d{1,18})-(\d{1,18})/(\d{1,18}|\*)")
_STRONG_AFTER_SECONDS = 1.0
"""RFC 9110, 8.8.2.2: a Last-Modified is strong if the answer's Date is at least one second later."""
_URL_CHARACTERS = "%/:=&?~#+!$,;'@()*[]"


@dataclass(frozen=True)
class _Asked:
    """What is wanted of a URL; the heads of all its redirects have `seconds` together, until `deadline` of time.monotonic."""

    offset: int
    validator: str | None
    subject: Subject | None
    seconds: float
    deadline: float


class ResultsOpener:
    """Opens results URLs for one client. The key goes along only to the service's own origin."""

    def __init__(
        self,
        base_url: str,
        credential: Credential,
        connector: Connector,
        *,
        allow_private: bool | None,
        clock: Clock,
        scrub: Scrubber,
    ) -> None:
        self._base_url = base_url
        self._credential = credential
        self._connector = connector
        self._allow_private = is_private_host(urlsplit(base_url).hostname or "") if allow_private is None else allow_private
        self._clock = clock
        self._scrub = scrub

    def open(self, secret: SecretUrl, *, offset: int, validator: str | None, subject: Subject | None = None) -> ResultsBody:
        """See `KeenClient.open_results`. `subject`: the URL is a query of the API itself, which says what is wrong with it."""
        url = secret.reveal()
        limits = self._connector.limits
        seconds = min(max(limits.total, limits.read), limits.transfer)
        asked = _Asked(offset, validator, subject, seconds, time.monotonic() + seconds)
        for _ in range(MOST_REDIRECTS + 1):
            parts, place = split_url(url)
            by_proxy = self._connector.proxies.of(place) is not None
            address = checked(place, allow_private=self._allow_private, by_proxy=by_proxy, seconds=limits.connect)
            path = quote((parts.path or "/") + ("?" + parts.query if parts.query else ""), safe=_URL_CHARACTERS, errors="replace")
            answer = self._request(url, path, address, asked)
            if isinstance(answer, ResultsBody):
                return answer
            url = _redirected(url, answer)
        raise UnreadableAnswerError(f"results: the URL redirects more than {MOST_REDIRECTS} times in a row")

    # The answer's body, or the Location of a redirect.
    def _request(self, url: str, path: str, address: Address, asked: _Asked) -> ResultsBody | str:
        limits = self._connector.limits
        connection = self._connector.connect(address, min(limits.connect, asked.deadline - time.monotonic()))
        channel = channel_of(connection)
        channel.limit(asked.seconds, asked.deadline)
        answer: ResultsBody | str = ""
        try:
            with translated(address.host, lambda why: TransferError(f"results: {address.host} gave no whole answer ({why})")):
                line, extra = self._connector.target(address, path)
                connection.request("GET", line, headers=self._headers(url, asked) | extra)
                response = connection.getresponse()
                if line != path:
                    refuse_proxy(response.status, self._connector.proxies.of(address))
                answer = self._answer(response, channel, address.host, asked)
            if isinstance(answer, ResultsBody):
                self._check_content(response, answer)
                channel.limit(limits.transfer)
        except BaseException:
            channel.end()
            raise
        if not isinstance(answer, ResultsBody):
            channel.end()
        return answer

    def _headers(self, url: str, asked: _Asked) -> dict[str, str]:
        headers = {"Accept": "text/csv, */*;q=0.5", "Accept-Encoding": "gzip, identity;q=0.9", "Connection": "close"}
        if asked.offset and asked.validator:
            headers["Range"] = f"bytes={asked.offset}-"
            headers["If-Range"] = asked.validator
        if self._credential.key and origin(url) == origin(self._base_url):
            headers["Authorization"] = self._credential.key
        return headers

    def _answer(self, response: http.client.HTTPResponse, channel: Channel, host: str, asked: _Asked) -> ResultsBody | str:
        status = response.status
        if asked.subject is not None and status >= 400:
            raise self._refused_query(response, asked.subject)
        if status in (301, 302, 303, 307, 308) and response.headers.get("Location"):
            return str(response.headers["Location"])
        if status not in (200, 206):
            self._refuse(response)
        encoding = (response.headers.get("Content-Encoding") or "identity").strip().lower()
        if encoding not in ("identity", "gzip", "x-gzip"):
            raise UnreadableAnswerError(f"results: the Content-Encoding {self._scrub(encoding)!r} was not asked for")
        start, total = _extent(response, asked.offset)
        found = strong_validator(response.headers)
        if start and found is not None and found != asked.validator:
            raise TransferError("results: the file changed between two requests, though the service sent its rest")
        kept = found or (asked.validator if start else None)
        return ResultsBody(response, channel, host, start=start, total=total, validator=kept)

    def _check_content(self, response: http.client.HTTPResponse, body: ResultsBody) -> None:
        head, whole = (b"", False) if body.start else body.head()
        reason = why_not_csv(response.headers.get("Content-Type") or "", head, whole)
        if reason is not None:
            said = self._scrub(head.decode("utf-8", "replace"))
            raise UnreadableAnswerError(
                f"results: {self._scrub(reason)[:100]} came instead of a CSV (HTTP {response.status}): {said}"
            )

    def _refused_query(self, response: http.client.HTTPResponse, subject: Subject) -> KeenPipelineError:
        retry_after = backoff.parse_retry_after(response.headers.get("Retry-After"), self._clock.now())
        body = response.read(LARGEST_REFUSAL_BYTES)
        if response.status == 504:  # the service's own time limit: it would be as long the next time
            return ExtractionTooLargeError(f"{subject}: the service could not answer in time (HTTP 504)")
        return refusal(response.status, body, subject, self._credential, self._scrub, retry_after)

    def _refuse(self, response: http.client.HTTPResponse) -> NoReturn:
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
        message, _, known = service_words(response.read(LARGEST_REFUSAL_BYTES))
        said = self._scrub(message)
        if known and status >= 400:
            raise RequestRejectedError(f"results: refused (HTTP {status}): {said}", status=status)
        raise UnreadableAnswerError(f"results: unexpected answer (HTTP {status}): {said}")


def _redirected(url: str, location: str) -> str:
    try:
        # http.client reads a head as Latin-1; what isn't ASCII in it is UTF-8.
        target = urljoin(url, location.encode("latin-1", "replace").decode("utf-8", "replace"))
    except ValueError:
        raise UnreadableAnswerError("results: the URL redirects to what is no URL") from None
    if url.lower().startswith("https:") and not target.lower().startswith("https:"):
        raise UnreadableAnswerError("results: the URL redirects from https to an insecure address; it was not followed")
    return target


def _extent(response: http.client.HTTPResponse, offset: int) -> tuple[int, int | None]:
    """Offset of the body's first byte, and the length of the whole file when the service said it."""
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
        return str(etag) if etag.startswith('"') and etag.isascii() and etag.isprintable() else None
    modified, answered = headers.get("Last-Modified"), headers.get("Date")
    if not modified or not answered:
        return None
    try:
        age = (parsedate_to_datetime(answered) - parsedate_to_datetime(modified)).total_seconds()
    except (TypeError, ValueError, OverflowError):
        return None
    return str(modified) if age >= _STRONG_AFTER_SECONDS else None
