"""The one place where an HTTP status and the service's words become an error of this package."""

from __future__ import annotations

import http.client
import json
import math
import re
import zlib
from datetime import datetime, timezone
from email.message import Message
from email.utils import parsedate_to_datetime

from keen_pipeline import errors
from keen_pipeline.client.scrub import Credential, Scrubber
from keen_pipeline.gunzip import unzipped

LARGEST_REFUSAL_BYTES = 64 * 1024
"""How much of an error's body is read."""
DEFAULT_REFUSAL_SECONDS = 60.0
"""How long Keen refuses every request after a 429 that does not say it: the next minute."""
LONGEST_REFUSAL_SECONDS = 3600.0
"""A Retry-After beyond this is taken as this; a broken clock at the service must not stop a pipeline for a year."""


def body_of(response: http.client.HTTPResponse) -> bytes:
    """What can be read of a refusal's body, unzipped; its status says enough without it."""
    try:
        data = response.read(LARGEST_REFUSAL_BYTES)
        return unzipped(data, LARGEST_REFUSAL_BYTES)[0] if data.startswith(b"\x1f\x8b") else data
    except (OSError, http.client.HTTPException, ValueError, zlib.error):
        return b""


def retry_after(headers: Message, now: datetime) -> float | None:
    """Seconds to wait from `now` (aware UTC), of a Retry-After header in either form (seconds, HTTP-date).

    None when the header is missing or unreadable. Never negative, never above LONGEST_REFUSAL_SECONDS.
    """
    text = headers.get("Retry-After", "")
    try:
        seconds = float(text)
    except ValueError:
        try:
            moment = parsedate_to_datetime(text)
        except (TypeError, ValueError, OverflowError):
            return None
        # An HTTP-date is GMT by definition, even if `-0000` made the parser leave the zone out.
        moment = moment if moment.tzinfo else moment.replace(tzinfo=timezone.utc)
        seconds = (moment - now).total_seconds()
    return min(max(seconds, 0.0), LONGEST_REFUSAL_SECONDS) if math.isfinite(seconds) else None


def service_words(body: bytes) -> tuple[str, str, bool]:
    """The service's `(message, error_code)` of an error body, and whether it is Keen's JSON; else the whole text and ""."""
    text = body[:LARGEST_REFUSAL_BYTES].decode("utf-8", "replace")
    try:
        answer = json.loads(text)
    except (ValueError, RecursionError):
        return text, "", False
    if not isinstance(answer, dict):
        return text, "", False
    message = answer.get("message") or answer.get("error")
    code = answer.get("error_code")
    known = isinstance(message, str) or isinstance(code, str)
    return str(message or text), str(code or ""), known


def refusal(
    status: int, body: bytes, subject: str, credential: Credential, scrub: Scrubber, retry_after: float | None
) -> errors.KeenPipelineError:
    """Translate an HTTP answer with `status` >= 400 (or an unexpected 1xx or 3xx) into the error to raise."""
    message, code, known = service_words(body)
    said = f": {scrub(message)}" if message.strip() else ""
    http = f"HTTP {status}{' ' + scrub(code)[:100] if code else ''}"
    if status in (401, 403):
        return errors.AuthenticationError(
            f"{subject}: the service refused {credential.variable} ({http}){said}. Nothing was changed; set the key of this project"
        )
    if status == 402:
        return errors.PaymentRequiredError(f"{subject}: the service wants the project's plan paid or raised ({http}){said}")
    if status == 404 and known:
        return errors.NotFoundError(f"{subject}: not found ({http}){said}")
    if status == 429:
        wait = f"; try again in {retry_after:.0f} s" if retry_after is not None else ""
        return errors.RateLimitedError(f"{subject}: too many requests ({http}){said}{wait}", retry_after=retry_after)
    if status in (408, 425) or status >= 500:
        return errors.ServiceUnavailableError(f"{subject}: the service failed ({http}){said}", retry_after=retry_after)
    words = re.sub(r"(?<=[a-z])(?=[A-Z])", " ", f"{message}. {code}")  # also `QueryTooLargeError` has some
    if status == 413 or (known and 400 <= status < 500 and errors.says_too_large(words)):
        return errors.ExtractionTooLargeError(f"{subject}: too large ({http}){said}. Ask for a shorter timeframe or filter more")
    if known and 400 <= status < 500:
        return errors.RequestRejectedError(f"{subject}: refused ({http}){said}", status=status)
    return errors.UnreadableAnswerError(f"{subject}: not the service's documented answer ({http}){said}")
