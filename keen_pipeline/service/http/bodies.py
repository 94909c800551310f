"""The body of a request: whole, bounded, unpacked, and strict JSON."""

from __future__ import annotations

import json
import math
import zlib
from collections.abc import Callable
from functools import partial
from typing import Any

from starlette.requests import Request

from keen_pipeline.errors import InvalidInputError
from keen_pipeline.gunzip import unzipped
from keen_pipeline.service.application import Service
from keen_pipeline.service.http.answers import BodyTooLargeError

MAX_CONTAINERS = 500_000
"""Lists and objects of one body: no other thread runs while they are made, which takes half a second."""


async def read_body(request: Request, limit: int) -> Callable[[], bytes]:
    """Read a body of at most `limit` bytes as it was sent; what is returned gives it without its Content-Encoding, and takes time.

    Raises BodyTooLargeError before more than the limit is held, ServiceUnavailableError when the bodies of all requests hold what
    they may together; what is returned raises InvalidInputError, BodyTooLargeError.
    """
    service: Service = request.app.state.service
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
    return partial(_unpack, b"".join(chunks), request.headers.get("content-encoding", ""), limit)


def _unpack(body: bytes, encoding: str, limit: int) -> bytes:
    coding = encoding.strip().lower()
    if coding in ("", "identity"):
        return body
    if coding not in ("gzip", "x-gzip"):
        raise InvalidInputError("Content-Encoding: only gzip is known for a body", field="Content-Encoding")
    try:
        unpacked, whole = unzipped(body, limit + 1)
    except zlib.error:
        raise InvalidInputError("body: not gzip, as its Content-Encoding says", field="body") from None
    if len(unpacked) > limit:
        raise BodyTooLargeError(f"the body has more than {limit} bytes when unpacked")
    if not whole:
        raise InvalidInputError("body: a gzip that ends before its end", field="body")
    return unpacked


def parse_json(body: bytes, *, pairs: Any = None) -> Any:
    """JSON in UTF-8. `pairs`: makes each object. Raises InvalidInputError, BodyTooLargeError.

    A number outside the range of a double is infinite, and NaN, which some clients write, is what it says: whoever reads the value
    refuses it, so that it takes no other event along.
    """
    if body.count(b"[") + body.count(b"{") > MAX_CONTAINERS:
        raise BodyTooLargeError(f"the body has more than {MAX_CONTAINERS} lists and objects")
    try:
        text = body.decode("utf-8-sig")  # .NET's writers begin with a byte order mark
        try:
            return json.loads(text, object_pairs_hook=pairs)
        except ValueError as error:
            if type(error) is not ValueError:
                raise
            # The digits of a whole number are too many for Python.
            return json.loads(text, object_pairs_hook=pairs, parse_int=_short)
    except InvalidInputError:
        raise
    except (ValueError, RecursionError) as error:
        raise InvalidInputError(f"body: not valid JSON ({str(error)[:200] or type(error).__name__})", field="body") from None


def _short(digits: str) -> float:
    return int(digits) if len(digits) < 400 else math.inf
