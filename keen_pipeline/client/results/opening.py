"""Opening a results URL: the checked address, the range, the redirects, the refusals."""

from __future__ import annotations

import http.client
import re
import time
from contextlib import ExitStack
from dataclasses import dataclass

from keen_pipeline import errors
from keen_pipeline.client.address import Address, checked, redirected, split_url
from keen_pipeline.client.connection import Channel, Connector, Response, translated
from keen_pipeline.client.refusals import body_of, refusal, retry_after
from keen_pipeline.client.results.body import ResultsBody
from keen_pipeline.client.results.document import why_not_csv, words_of
from keen_pipeline.client.scrub import Credential, Scrubber
from keen_pipeline.extraction import SecretUrl
from keen_pipeline.ports import Clock

MOST_REDIRECTS = 5
_CONTENT_RANGE = re.compile(r"bytes (\d{1,18})-(\d{1,18})/(\d{1,18}|\*)")


@dataclass(frozen=True)
class ResultsOpener:
    """Opens results URLs for one client. The key goes along only to the service's own origin."""

    base_url: str
    credential: Credential
    connector: Connector
    allow_private: bool
    clock: Clock
    scrub: Scrubber

    def open(self, secret: SecretUrl, *, offset: int, validator: str | None, subject: str | None = None) -> ResultsBody:
        """See `KeenClient.open_results`. `subject`: the URL is a query of the API itself, which says what is wrong with it."""
        url = secret.reveal()
        limits = self.connector.limits
        seconds = min(max(limits.total, limits.read), limits.transfer)
        deadline = time.monotonic() + seconds  # for the heads of all redirects together
        for _ in range(MOST_REDIRECTS + 1):
            path, place = split_url(url)
            if self.scrub(place.host) != place.host:  # others chose it, and messages name it
                raise errors.UnreadableAnswerError("the results URL names a host that is too long, or holds what nobody may see")
            by_proxy = self.connector.proxies.of(place) is not None
            address = checked(place, allow_private=self.allow_private, by_proxy=by_proxy, seconds=limits.connect)
            with ExitStack() as stack:
                connection = self.connector.connect(address, min(limits.connect, deadline - time.monotonic()))
                stack.callback(connection.channel.end)
                connection.channel.limit(seconds, deadline)
                with translated(place.host, errors.TransferError, f"results: {place.host} gave no whole answer"):
                    response = connection.ask("GET", path, self._headers(place, offset, validator))
                    if not response.location and response.status not in (200, 206):
                        raise self._refused(response, subject)
                if response.location:
                    target = redirected(url, response.location)
                    if url.lower().startswith("https:") and not target.lower().startswith("https:"):
                        insecure = "results: the URL redirects from https to an insecure address; it was not followed"
                        raise errors.UnreadableAnswerError(insecure)
                    url = target
                    continue
                body = self._body(response, connection.channel, place.host, offset, validator)
                connection.channel.limit(limits.transfer)
                stack.pop_all()
                return body
        raise errors.UnreadableAnswerError(f"results: the URL redirects more than {MOST_REDIRECTS} times in a row")

    def _headers(self, place: Address, offset: int, validator: str | None) -> dict[str, str]:
        headers = {"Accept": "text/csv, */*;q=0.5", "Accept-Encoding": "gzip, identity;q=0.9", "Connection": "close"}
        if offset and validator:
            headers["Range"] = f"bytes={offset}-"
            headers["If-Range"] = validator
        if self.credential.key and place == split_url(self.base_url)[1]:
            headers["Authorization"] = self.credential.key
        return headers

    def _body(self, response: Response, channel: Channel, host: str, offset: int, validator: str | None) -> ResultsBody:
        if response.encoding not in ("identity", "gzip", "x-gzip"):
            raise errors.UnreadableAnswerError(f"results: the Content-Encoding {self.scrub(response.encoding)!r} was not asked for")
        start, total = _extent(response, offset)
        found = strong_validator(response.headers)
        if start and found is not None and found != validator:
            raise errors.TransferError("results: the file changed between two requests, though the service sent its rest")
        kept = found or (validator if start else None)
        body = ResultsBody(response, channel, host, start=start, total=total, validator=kept)
        head, whole = (b"", False) if body.start else body.head()
        reason = why_not_csv(response.headers.get("Content-Type") or "", head, whole)
        if reason is not None:
            said = f": {self.scrub(words_of(reason, head))}".rstrip(": ")
            raise errors.UnreadableAnswerError(
                f"results: {self.scrub(reason)[:100]} came instead of a CSV (HTTP {response.status}){said}"
            )
        return body

    def _refused(self, response: Response, subject: str | None) -> errors.KeenPipelineError:
        status, body = response.status, body_of(response)
        wait = retry_after(response.headers, self.clock.now())
        if subject is not None:
            if status == 504:  # the service's own time limit: it would be as long the next time
                return errors.ExtractionTooLargeError(f"{subject}: the service could not answer in time (HTTP 504)")
            return refusal(status, body, subject, self.credential, self.scrub, wait)
        if status in (401, 403, 404, 410):
            return errors.ResultsExpiredError(f"results: the URL is no longer valid (HTTP {status})")
        if status == 416:
            return errors.TransferError("results: the service has fewer bytes than it announced before (HTTP 416)")
        return refusal(status, body, "results", self.credential, self.scrub, wait)


def _extent(response: Response, offset: int) -> tuple[int, int | None]:
    """Offset of the body's first byte, and the length of the whole file when the service said it."""
    if response.status == 200:
        return 0, response.length
    match = _CONTENT_RANGE.fullmatch(response.headers.get("Content-Range", "").strip())
    if match is None or int(match[1]) != offset:
        raise errors.TransferError("results: the service sent a different range than requested")
    # A part that may not be the last one (`*`) would be taken for the end of the file.
    if match[3] == "*" or int(match[2]) + 1 != int(match[3]):
        raise errors.TransferError("results: the service sent only a part of the requested range")
    return offset, int(match[3])


def strong_validator(headers: http.client.HTTPMessage) -> str | None:
    """What If-Range may name: a strong ETag. A Last-Modified has seconds only, so that it may stand for two files."""
    etag = headers.get("ETag") or ""
    return etag if etag.startswith('"') and etag.isascii() and etag.isprintable() else None
