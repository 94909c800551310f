"""The resources outside of both versions: discovery, the browser page, results, health, metrics."""

from __future__ import annotations

from functools import lru_cache
from importlib.resources import files
from typing import Any

from prometheus_client import CONTENT_TYPE_LATEST
from starlette.responses import Response

from keen_pipeline.service.credentials import FILE_NAME
from keen_pipeline.service.http.answers import JsonResponse
from keen_pipeline.service.http.download import result
from keen_pipeline.service.http.lanes import HEALTH
from keen_pipeline.service.http.openapi_schemas import json_of, ref, refusal
from keen_pipeline.service.http.operation import Call, Operation
from keen_pipeline.service.http.parameters import SIGNED

VERSIONS = ("2.0", "3.0")

# The page carries its script and its style inside, talks to this service only, and stands in nobody's frame.
_PAGE_HEADERS = {
    "Content-Security-Policy": (
        "default-src 'none'; script-src 'unsafe-inline'; style-src 'unsafe-inline'; connect-src 'self'; base-uri 'none';"
        " form-action 'none'; frame-ancestors 'none'"
    ),
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
    "Cache-Control": "no-store",
    "Vary": "Accept",
}
_LOOPBACK = ("127.0.0.1", "::1")


async def root(call: Call) -> Response:
    """The page for a browser, the versions of the API for everybody else."""
    if "text/html" in call.request.headers.get("accept", ""):
        return Response(_page().replace("{{keys}}", _where_keys_are(call)), media_type="text/html", headers=_PAGE_HEADERS)
    versions = [{"url": f"{call.base_url}/{v}", "is_public": True, "version": v} for v in VERSIONS]
    return JsonResponse(versions, headers={"Vary": "Accept"})


@lru_cache(maxsize=1)
def _page() -> str:
    return files("keen_pipeline.service.http").joinpath("page.html").read_text(encoding="utf-8")


def _where_keys_are(call: Call) -> str:
    """The path of the file with the keys, for somebody on this machine alone: it tells where things lie."""
    client = call.request.client
    if client is None or client.host not in _LOOPBACK or call.service.config.public_url is not None:
        return f"{FILE_NAME} in the service's data folder"
    path = str((call.service.config.data / FILE_NAME).resolve())
    return path.replace("&", "&amp;").replace("<", "&lt;")


async def health(call: Call) -> Response:
    """Answers once the service can read its database."""
    waiting = await call.in_lane(HEALTH, call.service.records.count_waiting)
    return JsonResponse({"status": "ok", "project_id": call.service.credentials.project_id, "extractions_waiting": waiting})


async def metrics(call: Call) -> Response:
    """For Prometheus."""
    text = await call.in_lane(HEALTH, call.service.metrics.text)
    return Response(text, headers={"Content-Type": CONTENT_TYPE_LATEST})


_TEXT = {"schema": {"type": "string"}}
_WORD = {"required": True, "schema": {"type": "string"}}
_NUMBER = {"schema": {"type": "integer", "minimum": 0}}
_EXPIRED = {"403": refusal(403)}
_RANGES: dict[str, Any] = {
    "200": {"ETag": _WORD, "Accept-Ranges": {"schema": {"const": "bytes"}}, "Content-Length": _NUMBER},
    "206": {"ETag": _WORD, "Content-Range": _WORD, "Content-Length": {**_NUMBER, "required": True}},
    "304": {"ETag": _WORD},
}
_RESULT = {
    "200": {"description": "Success", "headers": _RANGES["200"], "content": {"text/csv": _TEXT}},
    "206": {"description": "The asked range", "headers": _RANGES["206"], "content": {"text/csv": _TEXT}},
    "304": {"description": "Not modified", "headers": _RANGES["304"]},
    "416": {"description": "No such range"},
    **_EXPIRED,
}
_VERSIONS = {**json_of(ref("Versions")), "text/html": _TEXT}
_PACKED = {"application/gzip": {"schema": {"type": "string", "format": "binary"}}}
_REFUSED = (401, 404)

OPERATIONS = [
    Operation("GET", "/", root, "The versions; a page for browsers", _VERSIONS, keys=None),
    Operation("GET", "/healthz", health, "Whether the service works", json_of(ref("Health")), errors=(503,), keys=None),
    Operation("GET", "/metrics", metrics, "Prometheus metrics", {"text/plain": _TEXT}, errors=(503,), keys=None),
    Operation(
        "GET",
        "/results/{extraction_id}.csv",
        result,
        "A result, by a signed URL; Range and If-Range work",
        {"text/csv": _TEXT},
        errors=_REFUSED,
        parameters=SIGNED,
        keys=None,
        responses=_RESULT,
    ),
    Operation(
        "GET",
        "/results/{extraction_id}.csv.gz",
        result,
        "A result as a gzip file, by a signed URL",
        _PACKED,
        errors=_REFUSED,
        parameters=SIGNED,
        keys=None,
        responses=_EXPIRED,
    ),
]
