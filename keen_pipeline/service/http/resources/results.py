"""`GET /results/<extraction_id>.csv`: the bytes of a result, by signed URL.

Content-Length, ETag, Range with If-Range, HEAD; gzip if the client asks for it and for no range (then chunked, under an ETag of
its own, as the compressed bytes are another representation).
"""

from __future__ import annotations

import re
import zlib
from collections.abc import Iterator
from itertools import chain
from typing import Any

from starlette.concurrency import run_in_threadpool
from starlette.responses import Response, StreamingResponse

from keen_pipeline.errors import NotFoundError
from keen_pipeline.service.extractions.records import Turn
from keen_pipeline.service.http.lanes import RECORDS
from keen_pipeline.service.http.operation import Call, Operation
from keen_pipeline.service.http.parameters import SIGNED
from keen_pipeline.service.http.schemas import refusal

_RANGE = re.compile(r"\s*bytes\s*=\s*([0-9]{0,19})-([0-9]{0,19})\s*")
_GZIP = 16 + zlib.MAX_WBITS
_LEVEL = 1  # the network is the slow part


async def result(call: Call) -> Response:
    """The file behind a signed URL, or its `.csv.gz` form; no key needed."""
    service, request = call.service, call.request
    extraction_id, query = call.variable("extraction_id"), dict(call.query)
    service.results.check(extraction_id, query.get("expires", ""), query.get("signature", ""))
    record = await call.run(RECORDS, lambda: service.records.get(extraction_id))
    if record is None or record.bytes is None:
        raise NotFoundError("this result is no longer kept; ask for a new extraction")
    name = Turn(record.id, record.turn).result
    as_file = call.operation.path.endswith(".gz")  # as the mail of an extraction with `content_encoding=gzip` links it
    coded = not as_file and "range" not in request.headers and _accepts_gzip(request.headers.get("accept-encoding", ""))
    etag = f'"{extraction_id}{".gz" if as_file else "-gzip" if coded else ""}"'  # a result never changes under its id
    headers = {
        "ETag": etag,
        "Cache-Control": "private, no-transform",
        "X-Content-Type-Options": "nosniff",
        "Vary": "Accept-Encoding",
    }
    if {etag, "*"} & {tag.strip().removeprefix("W/") for tag in request.headers.get("if-none-match", "").split(",")}:
        return Response(status_code=304, headers=headers)
    if as_file or coded:
        chunks = await run_in_threadpool(_chunks, call, name, 0, record.bytes)
        headers |= {"Content-Encoding": "gzip"} if coded else {}
        return StreamingResponse(_gzipped(chunks), media_type="text/csv" if coded else "application/gzip", headers=headers)
    return await run_in_threadpool(_plain, call, name, record.bytes, headers)


def _accepts_gzip(accepted: str) -> bool:
    """Only if the client names gzip itself, with a weight that is not zero."""
    for part in accepted.lower().split(","):
        name, _, weight = part.partition(";")
        if name.strip() == "gzip":
            return weight.strip().removeprefix("q=").strip("0.") != "" or not weight.strip()
    return False


def _plain(call: Call, name: str, size: int, headers: dict[str, str]) -> Response:
    start, end = 0, size
    request = call.request
    given = request.headers.get("range", "")
    wanted = _range(given, size) if given and request.headers.get("if-range", headers["ETag"]) == headers["ETag"] else None
    headers = {**headers, "Accept-Ranges": "bytes"}
    if wanted is not None:
        start, end = wanted
        if start >= end:
            return Response(status_code=416, headers={**headers, "Content-Range": f"bytes */{size}"})
        headers["Content-Range"] = f"bytes {start}-{end - 1}/{size}"
    headers["Content-Length"] = str(end - start)
    chunks = _chunks(call, name, start, end)
    return StreamingResponse(chunks, status_code=200 if wanted is None else 206, media_type="text/csv", headers=headers)


def _range(text: str, size: int) -> tuple[int, int] | None:
    """The half-open range of a single-range header; an empty one if it lies past the end, None if it is no such header."""
    found = _RANGE.fullmatch(text)
    if found is None or not any(found.groups()):
        return None
    first, last = found.groups()
    if not first:
        return max(0, size - int(last)), size
    if last and int(last) < int(first):
        return None
    return int(first), min(int(last) + 1, size) if last else size


def _chunks(call: Call, name: str, start: int, end: int) -> Iterator[bytes]:
    """Bytes `start` to `end`; nothing for HEAD. The first are read at once, so that a lost result gets its 404."""
    chunks = call.service.results.read(name, start, end - start)
    first = next(chunks, b"")
    return iter(()) if call.request.method == "HEAD" else chain([first], chunks)


def _gzipped(chunks: Iterator[bytes]) -> Iterator[bytes]:
    """The gzip form; zlib writes no time into its header, so the same result gives the same bytes."""
    packer = zlib.compressobj(_LEVEL, zlib.DEFLATED, _GZIP)
    for chunk in chunks:
        if packed := packer.compress(chunk):
            yield packed
    yield packer.flush()


_TEXT = {"text/csv": {"schema": {"type": "string"}}}
_PACKED = {"application/gzip": {"schema": {"type": "string", "format": "binary"}}}
_WORD = {"required": True, "schema": {"type": "string"}}
_NUMBER = {"schema": {"type": "integer", "minimum": 0}}
_ETAG = {"ETag": _WORD}
_REFUSED = {str(code): refusal(code) for code in (401, 403, 404)}
_RANGES: dict[str, Any] = {
    "200": {
        "description": "Success",
        "headers": {**_ETAG, "Accept-Ranges": {"schema": {"const": "bytes"}}, "Content-Length": _NUMBER},
        "content": _TEXT,
    },
    "206": {
        "description": "The asked range",
        "headers": {**_ETAG, "Content-Range": _WORD, "Content-Length": {**_NUMBER, "required": True}},
        "content": _TEXT,
    },
    "304": {"description": "Not modified", "headers": _ETAG},
    "416": {"description": "No such range"},
}


def _one(ending: str, summary: str, answer: dict[str, Any], more: dict[str, Any]) -> Operation:
    path, responses = f"/results/{{extraction_id}}{ending}", {**_REFUSED, **more}
    return Operation("GET", path, result, summary, answer, parameters=SIGNED, keys=None, responses=responses)


OPERATIONS = [
    _one(".csv", "A result, by a signed URL; Range and If-Range work", _TEXT, _RANGES),
    _one(".csv.gz", "A result as a gzip file, by a signed URL", _PACKED, {"304": _RANGES["304"]}),
]
