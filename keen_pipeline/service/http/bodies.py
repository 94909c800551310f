"""What a request says: its body, whole and bounded, and its parameters, none of them unknown, given twice or without bound."""

from __future__ import annotations

import json
import math
import zlib
from collections.abc import Mapping, Set
from typing import Any

from starlette.requests import Request

from keen_pipeline.errors import InvalidInputError
from keen_pipeline.service.application import Service
from keen_pipeline.service.http.answers import BodyTooLargeError

_GZIP = 16 + zlib.MAX_WBITS
_OFTEN_ASKED = ("group_by", "interval", "order_by", "limit", "steps", "analyses", "zero_fill", "force_refresh")


async def read_body(request: Request) -> bytes:
    """The body as it was sent, unpacked later by `unpack`. Raises BodyTooLargeError before more than the limit is held,
    ServiceUnavailableError when the bodies of all requests hold what they may together."""
    service: Service = request.app.state.service
    limit = service.config.max_body_bytes
    announced = request.headers.get("content-length", "0")
    if announced.isdigit() and int(announced) > limit:
        raise BodyTooLargeError(f"the body has {announced} bytes, the limit is {limit}")
    chunks, size = [], 0
    async for chunk in request.stream():
        size += len(chunk)
        if size > limit:
            raise BodyTooLargeError(f"the body has more than {limit} bytes")
        service.pending_bodies.take(len(chunk))
        request.scope["state"]["body_bytes"] = size  # given back at the end of the request
        chunks.append(chunk)
    return b"".join(chunks)


def unpack(body: bytes, encoding: str, limit: int) -> bytes:
    """A body without its Content-Encoding. Raises InvalidInputError, BodyTooLargeError past `limit` bytes."""
    coding = encoding.strip().lower()
    if coding in ("", "identity"):
        return body
    if coding not in ("gzip", "x-gzip"):
        raise InvalidInputError("Content-Encoding: only gzip is known for a body", field="Content-Encoding")
    reader = zlib.decompressobj(_GZIP)
    try:
        unpacked = reader.decompress(body, limit + 1)
    except zlib.error:
        raise InvalidInputError("body: not gzip, as its Content-Encoding says", field="body") from None
    if len(unpacked) > limit:
        raise BodyTooLargeError(f"the body has more than {limit} bytes when unpacked")
    if not reader.eof or reader.unused_data:
        raise InvalidInputError("body: not one whole gzip stream", field="body")
    return unpacked


def parse_json(body: bytes, *, pairs: Any = None) -> Any:
    """Strict JSON in UTF-8. `pairs`: makes each object. Raises InvalidInputError."""
    try:
        return json.loads(body.decode("utf-8"), parse_constant=_refuse, parse_float=_finite, object_pairs_hook=pairs)
    except InvalidInputError:
        raise
    except (ValueError, RecursionError) as error:
        raise InvalidInputError(f"body: not valid JSON ({str(error)[:200] or type(error).__name__})", field="body") from None


def _refuse(word: str) -> float:
    raise ValueError(f"{word} is not JSON")


def _finite(text: str) -> float:
    number = float(text)
    if not math.isfinite(number):
        raise ValueError(f"{text[:20]} is outside the range of a double")
    return number


def query_parameters(request: Request, known: Set[str]) -> dict[str, Any]:
    """The parameters of a query string, without the key. Raises InvalidInputError for one that is unknown or given twice."""
    pairs = [(name, value) for name, value in request.query_params.multi_items() if name != "api_key"]
    parameters = _once(pairs)
    _check_known(parameters, known)
    return parameters


async def read_parameters(request: Request, known: Set[str]) -> dict[str, Any]:
    """The parameters of a query string and of the JSON object in the body, which only a POST must have.

    Raises InvalidInputError naming one that is unknown, given twice, or longer than the limit.
    """
    config = request.app.state.service.config
    parameters: dict[str, Any] = query_parameters(request, known)
    body = unpack(await read_body(request), request.headers.get("content-encoding", ""), config.max_body_bytes)
    if body or request.method == "POST":
        given = parse_json(body, pairs=_once)
        if not isinstance(given, dict):
            raise InvalidInputError("body: must be a JSON object", field="body")
        parameters = _once([*parameters.items(), *given.items()])
        _check_known(parameters, known)
    check_text(parameters)
    for name, value in parameters.items():
        size = len(value if isinstance(value, str) else json.dumps(value))
        if size > config.max_parameter_bytes:
            raise InvalidInputError(f"{name}: {size} bytes, the limit is {config.max_parameter_bytes}", field=name)
    return parameters


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    made: dict[str, Any] = {}
    for name, value in pairs:
        if name in made:
            raise InvalidInputError(f"{name[:80]}: given twice", field=name[:80])
        made[name] = value
    return made


def _check_known(parameters: Mapping[str, Any], known: Set[str]) -> None:
    unknown = sorted(set(parameters) - known)
    if not unknown:
        return
    name = unknown[0][:80]
    if name in _OFTEN_ASKED:
        raise InvalidInputError(f"{name}: this service does not offer {name}", field=name)
    listed = f"known are {', '.join(sorted(known))}" if known else "none is"
    raise InvalidInputError(f"{name}: this parameter is not known here; {listed}", field=name)


def check_text(value: object) -> None:
    """Raises InvalidInputError for half of a surrogate pair in a text inside of a JSON value: it is no character."""
    try:
        json.dumps(value, ensure_ascii=False).encode()
    except UnicodeEncodeError:
        raise InvalidInputError("body: holds half of a surrogate pair, which is no character", field="body") from None
