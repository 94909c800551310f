"""Answers: compact JSON, and errors as a JSON body with `message` and `error_code`, and `field` if one parameter is to blame."""

from __future__ import annotations

import errno
import json
import math
from collections.abc import Mapping
from typing import Any

import duckdb
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect
from starlette.responses import Response

from keen_pipeline.errors import (
    AuthenticationError,
    ExtractionTooLargeError,
    InvalidInputError,
    KeenPipelineError,
    NotFoundError,
    RateLimitedError,
    ResultsExpiredError,
    RetryableError,
)
from keen_pipeline.service.storage.engine import DiskFullError, QueryTimeoutError, is_disk_full

MAX_MESSAGE_CHARACTERS = 1000
RETRY_SECONDS, STORAGE_RETRY_SECONDS = 1, 60


class BodyTooLargeError(KeenPipelineError):
    """The body of a request is over the limit (HTTP 413)."""


class InvalidEventError(InvalidInputError):
    """An event is refused. `code`: Keen's name for it, by which its clients stop sending the event again."""

    def __init__(self, message: str, *, field: str | None, code: str) -> None:
        super().__init__(message, field=field)
        self.code = code


class JsonResponse(Response):
    """Compact JSON in UTF-8."""

    media_type = "application/json"

    def render(self, content: Any) -> bytes:
        return dump_json(content).encode()


dump_json = json.JSONEncoder(ensure_ascii=False, allow_nan=False, separators=(",", ":")).encode

_CODES: list[tuple[type[Exception], int, str]] = [
    (DiskFullError, 507, "InsufficientStorageError"),
    (InvalidInputError, 400, "InvalidParameterError"),
    (AuthenticationError, 401, "InvalidApiKeyError"),
    (NotFoundError, 404, "ResourceNotFoundError"),
    (BodyTooLargeError, 413, "RequestTooLargeError"),
    (ExtractionTooLargeError, 400, "ExtractionTooLargeError"),
    (RateLimitedError, 429, "TooManyRequestsError"),
    (ResultsExpiredError, 403, "ResultsExpiredError"),
    (QueryTimeoutError, 504, "QueryTimeoutError"),
    (RetryableError, 503, "ServiceUnavailableError"),
]
_HTTP_CODES = {400: "InvalidRequestError", 404: "ResourceNotFoundError", 405: "MethodNotAllowedError"}
_RETRY_SECONDS = {503: RETRY_SECONDS, 507: STORAGE_RETRY_SECONDS}


def error_answer(error: Exception) -> Response:
    """The answer to any error: those that a request may cause, those of a machine that is full, else the service's own fault."""
    if isinstance(error, ClientDisconnect):
        # The client left, or stopped to speak HTTP, in the middle of a body: nobody gets this answer, the log and the metrics do.
        error = HTTPException(400, "the request ended before its body or its answer did")
    if isinstance(error, HTTPException):
        return refused(error.status_code, _HTTP_CODES.get(error.status_code, "HttpError"), error.detail, headers=error.headers)
    for kind, status, code in _CODES:
        if isinstance(error, kind):
            field, after = getattr(error, "field", None), getattr(error, "retry_after", None)
            name = "InvalidCollectionNameError" if field == "collection" else getattr(error, "code", code)
            return refused(status, name, str(error), field=field, after=after)
    if is_disk_full(error):
        return refused(507, "InsufficientStorageError", "the service has no room left on its disk")
    if _is_short(error):
        return refused(503, "ServiceUnavailableError", "the service is short of memory or of open files; send this again")
    # The server closes the connection of what it did not expect.
    return refused(500, "InternalServerError", "the service failed; see its log", headers={"Connection": "close"})


def refused(
    status: int,
    code: str,
    message: str,
    *,
    field: str | None = None,
    after: float | None = None,
    headers: Mapping[str, str] | None = None,
) -> Response:
    body = {"message": as_text(message[:MAX_MESSAGE_CHARACTERS]), "error_code": code}
    if field:
        body["field"] = as_text(field)
    after = _RETRY_SECONDS.get(status) if after is None else after
    retry = {"Retry-After": str(math.ceil(after))} if after is not None else {}
    return JsonResponse(body, status_code=status, headers={**(headers or {}), **retry})


def as_text(text: str) -> str:
    """What an answer can hold of a text that may quote what was sent, half of a surrogate pair included."""
    return text.encode("utf-8", "replace").decode()


def _is_short(error: Exception) -> bool:
    if isinstance(error, OSError):
        return error.errno in (errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.EAGAIN)
    if isinstance(error, (MemoryError, duckdb.OutOfMemoryException)):
        return True
    return isinstance(error, duckdb.Error) and any(
        words in str(error).lower() for words in ("too many open files", "cannot allocate memory")
    )
