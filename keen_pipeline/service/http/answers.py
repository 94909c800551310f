"""Answers: compact JSON, and errors as a JSON body with `message` and `error_code`, and `field` if one parameter is to blame."""

from __future__ import annotations

import errno
import json
import math
import sqlite3
from typing import Any

import duckdb
from starlette.exceptions import HTTPException
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
from keen_pipeline.service.storage.engine import QueryTimeoutError

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
        """The bytes of a JSON value."""
        return dump_json(content).encode()


dump_json = json.JSONEncoder(ensure_ascii=False, allow_nan=False, separators=(",", ":")).encode

_CODES: list[tuple[type[Exception], int, str]] = [
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
_FULL, _SHORT = "the service has no room left on its disk", "the service is short of memory or of open files; send this again"
_FULL_NUMBERS = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
_SHORT_NUMBERS = (errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.EAGAIN)
_FULL_WORDS = ("no space left", "disk is full", "disk quota", "file too large")
_SHORT_WORDS = ("too many open files", "cannot allocate memory", "database is locked", "unable to open database")


def error_answer(error: Exception) -> Response:
    """The answer to any error: those that a request may cause, those of a machine that is full, else the service's own fault."""
    if isinstance(error, HTTPException):
        body = {"message": error.detail, "error_code": _HTTP_CODES.get(error.status_code, "HttpError")}
        return JsonResponse(body, status_code=error.status_code, headers=error.headers)
    for kind, status, code in _CODES:
        if isinstance(error, kind):
            return _known(error, status, code)
    return _shortage(error) or JsonResponse(
        {"message": "the service failed; see its log", "error_code": "InternalServerError"}, status_code=500
    )


def _known(error: Exception, status: int, code: str) -> Response:
    # A message may quote what was sent, half of a surrogate pair included.
    text = str(error)[:MAX_MESSAGE_CHARACTERS].encode("utf-8", "replace").decode()
    field = getattr(error, "field", None)
    code = "InvalidCollectionNameError" if field == "collection" else getattr(error, "code", code)
    body = {"message": text, "error_code": code}
    if field:
        body["field"] = field.encode("utf-8", "replace").decode()
    after = getattr(error, "retry_after", None)
    if after is None and status == 503:
        after = RETRY_SECONDS
    return JsonResponse(body, status_code=status, headers={"Retry-After": str(math.ceil(after))} if after is not None else None)


def _shortage(error: Exception) -> Response | None:
    """What a full disk, or too little memory or too few descriptors, make of a request; None for any other error."""
    words = str(error).lower() if isinstance(error, (duckdb.Error, sqlite3.Error)) else ""
    number = error.errno if isinstance(error, OSError) else None
    if number in _FULL_NUMBERS or any(word in words for word in _FULL_WORDS):
        status, message, code, after = 507, _FULL, "InsufficientStorageError", STORAGE_RETRY_SECONDS
    elif (
        number in _SHORT_NUMBERS
        or isinstance(error, (MemoryError, duckdb.OutOfMemoryException))
        or any(word in words for word in _SHORT_WORDS)
    ):
        status, message, code, after = 503, _SHORT, "ServiceUnavailableError", RETRY_SECONDS
    else:
        return None
    return JsonResponse({"message": message, "error_code": code}, status_code=status, headers={"Retry-After": str(after)})


def is_shortage(error: Exception) -> bool:
    """Whether the same request may go through later, on a machine that has room again."""
    return isinstance(error, RetryableError) or _shortage(error) is not None
