"""HTTP, shared by both versions: keys, parameters, bodies and error answers.

Every error is a JSON body with `message` and `error_code`, and `field` where one parameter is to blame.
"""

from __future__ import annotations

import hmac
import json
import math
from collections.abc import Mapping
from typing import Any

from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response

from keen_pipeline.collection import check_collection_name
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
from keen_pipeline.service.credentials import Credentials
from keen_pipeline.service.storage.engine import QueryTimeoutError

MAX_MESSAGE_CHARACTERS = 1000
READ, WRITE, MASTER = "read", "write", "master"


class BodyTooLargeError(KeenPipelineError):
    """The body of a request is over the limit (HTTP 413)."""


class JsonResponse(Response):
    """Compact JSON in UTF-8."""

    media_type = "application/json"

    def render(self, content: Any) -> bytes:
        """The bytes of a JSON value."""
        return json.dumps(content, ensure_ascii=False, allow_nan=False, separators=(",", ":")).encode()


def authorize(request: Request, *purposes: str) -> str:
    """Check project and key; returns the key. `purposes`: which keys open the resource; the master key opens all.

    Raises NotFoundError for another project, AuthenticationError for a missing or wrong key.
    """
    credentials: Credentials = request.app.state.service.credentials
    if request.path_params.get("project", credentials.project_id) != credentials.project_id:
        raise NotFoundError("there is no such project here")
    given = request.query_params.get("api_key") or request.headers.get("authorization", "")
    if not given:
        raise AuthenticationError("no API key was given; send it in the Authorization header")
    matched = None
    # Every key is compared, and in constant time, so that the answer's timing tells nothing.
    for purpose, key in ((READ, credentials.read_key), (WRITE, credentials.write_key), (MASTER, credentials.master_key)):
        if hmac.compare_digest(key.encode(), given.encode("utf-8", "replace")):
            matched = purpose
    if matched is None:
        raise AuthenticationError("the API key is wrong for this project")
    if matched != MASTER and matched not in purposes:
        wanted = " or ".join([*purposes, MASTER] if MASTER not in purposes else [MASTER])
        raise AuthenticationError(f"this resource needs the {wanted} key, not the {matched} key")
    return given


def collection_of(request: Request) -> str:
    """The collection in the path. Raises InvalidInputError for an illegal name."""
    return check_collection_name(request.path_params["collection"])


def base_url(request: Request) -> str:
    """Root of this service as the caller, or the configured proxy, knows it."""
    public: str | None = request.app.state.service.config.public_url
    return (public or str(request.base_url)).rstrip("/")


async def read_body(request: Request) -> bytes:
    """The body. Raises BodyTooLargeError before more than the limit is held."""
    limit: int = request.app.state.service.config.max_body_bytes
    announced = request.headers.get("content-length", "0")
    if announced.isdigit() and int(announced) > limit:
        raise BodyTooLargeError(f"the body has {announced} bytes, the limit is {limit}")
    chunks, size = [], 0
    async for chunk in request.stream():
        size += len(chunk)
        if size > limit:
            raise BodyTooLargeError(f"the body has more than {limit} bytes")
        chunks.append(chunk)
    return b"".join(chunks)


def parse_json(body: bytes) -> Any:
    """Strict JSON in UTF-8. Raises InvalidInputError."""
    try:
        return json.loads(body.decode("utf-8"), parse_constant=_refuse, parse_float=_finite)
    except (ValueError, RecursionError) as error:
        raise InvalidInputError(f"body: not valid JSON ({str(error)[:200] or type(error).__name__})", field="body") from None


def _refuse(word: str) -> float:
    raise ValueError(f"{word} is not JSON")


def _finite(text: str) -> float:
    number = float(text)
    if not math.isfinite(number):
        raise ValueError(f"{text[:20]} is outside the range of a double")
    return number


async def read_parameters(request: Request, known: frozenset[str]) -> Mapping[str, Any]:
    """Parameters of a query string, or of the JSON object of a POST. Raises InvalidInputError for an unknown one."""
    parameters: dict[str, Any] = {k: v for k, v in request.query_params.items() if k != "api_key"}
    if request.method == "POST":
        body = parse_json(await read_body(request))
        if not isinstance(body, dict):
            raise InvalidInputError("body: must be a JSON object", field="body")
        parameters.update(body)
    check_text(parameters)
    unknown = sorted(set(parameters) - known)
    if unknown:
        raise InvalidInputError(
            f"{unknown[0][:80]}: this parameter is not known here; known are {', '.join(sorted(known))}", field=unknown[0][:80]
        )
    return parameters


def check_text(value: object) -> None:
    """Raises InvalidInputError where a text inside of a JSON value holds half of a surrogate pair, which is no character."""
    try:
        json.dumps(value, ensure_ascii=False).encode()
    except UnicodeEncodeError:
        raise InvalidInputError("body: holds half of a surrogate pair, which is no character", field="body") from None


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
_HTTP_CODES = {404: "ResourceNotFoundError", 405: "MethodNotAllowedError"}


def error_answer(error: Exception) -> Response:
    """The answer to an error that a request may cause; anything else is the service's own fault (500)."""
    if isinstance(error, HTTPException):
        body = {"message": error.detail, "error_code": _HTTP_CODES.get(error.status_code, "HttpError")}
        return JsonResponse(body, status_code=error.status_code, headers=error.headers)
    for kind, status, code in _CODES:
        if isinstance(error, kind):
            # A message may quote what was sent, half of a surrogate pair included.
            text = str(error)[:MAX_MESSAGE_CHARACTERS].encode("utf-8", "replace").decode()
            field = getattr(error, "field", None)
            body = {"message": text, "error_code": "InvalidCollectionNameError" if field == "collection" else code}
            if field:
                body["field"] = field.encode("utf-8", "replace").decode()
            after = getattr(error, "retry_after", None)
            return JsonResponse(
                body, status_code=status, headers={"Retry-After": str(math.ceil(after))} if after is not None else None
            )
    return JsonResponse({"message": "the service failed; see its log", "error_code": "InternalServerError"}, status_code=500)
