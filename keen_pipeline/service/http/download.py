"""`GET /results/<extraction_id>.csv`: the bytes of a result, by signed URL.

Content-Length, ETag, Range with If-Range, HEAD; gzip where the client asks for it and for no range (then chunked, under an ETag of
its own, as the compressed bytes are another representation).
"""

from __future__ import annotations

import zlib
from collections.abc import Iterator
from itertools import chain

from starlette.concurrency import run_in_threadpool
from starlette.responses import FileResponse, Response, StreamingResponse

from keen_pipeline.errors import NotFoundError
from keen_pipeline.service.extractions.records import Extraction
from keen_pipeline.service.extractions.results import CHUNK_BYTES
from keen_pipeline.service.http.operation import Call

_GZIP = 16 + zlib.MAX_WBITS
_LEVEL = 1  # the network is the slow part


class ResultFile(FileResponse):
    """A result in the folder: Range, If-Range, HEAD and Content-Length by Starlette."""

    chunk_size = CHUNK_BYTES


async def result(call: Call) -> Response:
    """The file behind a signed URL; no key needed."""
    service, request = call.service, call.request
    extraction_id = call.variable("extraction_id")
    query = request.query_params
    service.results.check(extraction_id, query.get("expires", ""), query.get("signature", ""))
    record = await call.records(lambda: _kept(call, extraction_id))
    if record is None or record.bytes is None:
        raise NotFoundError("this result is no longer kept; ask for a new extraction")
    if call.operation.path.endswith(".gz"):
        return await run_in_threadpool(_packed, call, record.result, record.bytes)
    compressed = "range" not in request.headers and _accepts_gzip(request.headers.get("accept-encoding", ""))
    etag = f'"{extraction_id}{"-gzip" if compressed else ""}"'  # a result never changes under its id
    headers = {
        "ETag": etag,
        "Cache-Control": "private, no-transform",
        "X-Content-Type-Options": "nosniff",
        "Vary": "Accept-Encoding",
    }
    if etag in [tag.strip() for tag in request.headers.get("if-none-match", "").split(",")]:
        return Response(status_code=304, headers=headers)
    if compressed:
        headers["Content-Encoding"] = "gzip"
        chunks = await run_in_threadpool(_chunks, call, record.result, 0, record.bytes)
        return StreamingResponse(_gzipped(chunks), media_type="text/csv", headers=headers)
    if not service.results.is_remote:
        return ResultFile(service.results.path(record.result), media_type="text/csv", headers=headers)
    return await run_in_threadpool(_remote, call, record.result, record.bytes, headers)


def _kept(call: Call, extraction_id: str) -> Extraction | None:
    """The record of a result that is still there."""
    record, results = call.service.records.get(extraction_id), call.service.results
    return record if record is not None and (results.is_remote or results.path(record.result).is_file()) else None


def _accepts_gzip(accepted: str) -> bool:
    """Only where the client names gzip itself, with a weight that is not zero."""
    for part in accepted.lower().split(","):
        name, _, weight = part.partition(";")
        if name.strip() == "gzip":
            return weight.strip().removeprefix("q=").strip("0.") != "" or not weight.strip()
    return False


def _packed(call: Call, name: str, size: int) -> Response:
    """The result as a `.csv.gz` file, as the mail of an extraction with `content_encoding=gzip` links it."""
    headers = {"ETag": f'"{name}.gz"', "Cache-Control": "private, no-transform", "X-Content-Type-Options": "nosniff"}
    chunks = _chunks(call, name, 0, size)
    return StreamingResponse(_gzipped(chunks), media_type="application/gzip", headers=headers)


def _chunks(call: Call, name: str, start: int, end: int) -> Iterator[bytes]:
    """Bytes `start` to `end`; nothing for HEAD. The first are read at once, so that a lost result gets its 404."""
    if call.request.method == "HEAD":
        return iter(())
    chunks = call.service.results.read(name, start, end - start)
    return chain([next(chunks, b"")], chunks)


def _gzipped(chunks: Iterator[bytes]) -> Iterator[bytes]:
    """The gzip form; zlib writes no time into its header, so the same result gives the same bytes."""
    packer = zlib.compressobj(_LEVEL, zlib.DEFLATED, _GZIP)
    for chunk in chunks:
        if packed := packer.compress(chunk):
            yield packed
    yield packer.flush()


def _remote(call: Call, name: str, size: int, headers: dict[str, str]) -> Response:
    """A result at the results URI, whole or one range of it."""
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
    """The half-open range of a single-range header; an empty one where it lies past the end, None where it is no such header."""
    unit, _, spec = text.partition("=")
    first, dash, last = spec.strip().partition("-")
    digits = [d for d in (first, last) if d]
    if unit.strip() != "bytes" or not dash or not digits or not all(d.isascii() and d.isdigit() and len(d) < 20 for d in digits):
        return None
    if not first:
        return max(0, size - int(last)), size
    return int(first), min(int(last) + 1, size) if last else size
