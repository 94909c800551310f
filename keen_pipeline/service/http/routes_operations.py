"""The resources outside of both versions: discovery, the browser page, results, health, metrics, the OpenAPI document."""

from __future__ import annotations

from functools import lru_cache
from importlib.resources import files

from prometheus_client import CONTENT_TYPE_LATEST
from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from keen_pipeline.service.http.download import result
from keen_pipeline.service.http.messages import JsonResponse, base_url
from keen_pipeline.service.http.openapi import document
from keen_pipeline.service.http.routes_v2 import service_of

VERSIONS = ("2.0", "3.0")

# The page carries its script and its style inside, and talks to this service only.
_PAGE_HEADERS = {
    "Content-Security-Policy": (
        "default-src 'none'; script-src 'unsafe-inline'; style-src 'unsafe-inline'; connect-src 'self'; base-uri 'none'"
    ),
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
    "Cache-Control": "no-store",
    "Vary": "Accept",
}


async def root(request: Request) -> Response:
    """`GET /`: the page for a browser, the versions of the API for everybody else."""
    if "text/html" in request.headers.get("accept", ""):
        return Response(_page(), media_type="text/html; charset=utf-8", headers=_PAGE_HEADERS)
    url = base_url(request)
    return JsonResponse([{"url": f"{url}/{v}", "is_public": True, "version": v} for v in VERSIONS], headers={"Vary": "Accept"})


@lru_cache(maxsize=1)
def _page() -> str:
    return files("keen_pipeline.service.http").joinpath("page.html").read_text(encoding="utf-8")


async def health(request: Request) -> Response:
    """`GET /healthz`: answers once the service can read its database."""
    service = service_of(request)
    waiting = await run_in_threadpool(service.records.waiting)
    return JsonResponse({"status": "ok", "project_id": service.credentials.project_id, "extractions_waiting": len(waiting)})


async def metrics(request: Request) -> Response:
    """`GET /metrics`: for Prometheus."""
    text = await run_in_threadpool(service_of(request).metrics.text)
    return Response(text, headers={"Content-Type": CONTENT_TYPE_LATEST})


async def openapi(request: Request) -> Response:
    """`GET /openapi.json`: this service, described."""
    return JsonResponse(document(base_url(request), service_of(request).credentials.project_id))


ROUTES = [
    Route("/", root),
    Route("/healthz", health),
    Route("/metrics", metrics),
    Route("/openapi.json", openapi),
    Route("/results/{extraction_id:str}.csv", result),
    Route("/results/{extraction_id:str}.csv.gz", result),
]
