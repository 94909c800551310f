"""What is here: the versions of the API, the project in each of them, the browser page, health and metrics."""

from __future__ import annotations

from functools import lru_cache
from importlib.resources import files
from typing import Any

from prometheus_client import CONTENT_TYPE_LATEST
from starlette.responses import Response

from keen_pipeline.service.credentials import FILE_NAME
from keen_pipeline.service.http.answers import JsonResponse
from keen_pipeline.service.http.lanes import HEALTH, RECORDS
from keen_pipeline.service.http.operation import READ, WRITE, Call, Operation
from keen_pipeline.service.http.resources.queries import KINDS
from keen_pipeline.service.http.schemas import json_of, ref

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
_LOOPBACK = ("127.0.0.1", "::1", "localhost")


async def root(call: Call) -> Response:
    """The page for a browser, the versions of the API for everybody else."""
    if "text/html" in call.request.headers.get("accept", ""):
        return Response(_page().replace("{{keys}}", _where_keys_are(call)), media_type="text/html", headers=_PAGE_HEADERS)
    versions = [{"url": f"{call.base_url}/{v}", "is_public": True, "version": v} for v in ("2.0", "3.0")]
    return JsonResponse(versions, headers={"Vary": "Accept"})


@lru_cache(maxsize=1)
def _page() -> str:
    return files(__package__).joinpath("page.html").read_text(encoding="utf-8")


def _where_keys_are(call: Call) -> str:
    """The path of the file with the keys, for somebody on this machine alone: it tells where things lie.

    A page of another origin may be read on this machine too, under a name of its own as well.
    """
    request, config = call.request, call.service.config
    near = request.client is not None and request.client.host in _LOOPBACK and request.url.hostname in _LOOPBACK
    if not near or "origin" in request.headers or config.public_url is not None:
        return f"{FILE_NAME} in the service's data folder"
    path = str((config.data / FILE_NAME).resolve())
    return path.replace("&", "&amp;").replace("<", "&lt;")


async def health(call: Call) -> Response:
    """Answers while the service can read its database, and its data folder is where it was."""
    waiting = await call.run(HEALTH, call.service.records.count_waiting)
    call.service.backend.check()
    project, folder = call.service.credentials.project_id, call.service.folder
    return JsonResponse({"status": "ok", "project_id": project, "folder": folder, "extractions_waiting": waiting})


async def metrics(call: Call) -> Response:
    text = await call.run(HEALTH, call.service.metrics.text)
    return Response(text, headers={"Content-Type": CONTENT_TYPE_LATEST})


async def version(call: Call) -> Response:
    return JsonResponse({"projects_resource_url": f"{call.base_url}{call.operation.path}/projects"})


async def projects(call: Call) -> Response:
    return JsonResponse([await _project(call)])


async def project(call: Call) -> Response:
    return JsonResponse(await _project(call))


async def queries(call: Call) -> Response:
    return JsonResponse((await _project(call))["queries"])


async def _project(call: Call) -> dict[str, Any]:
    names = await call.run(RECORDS, call.service.store.names)
    collections = [{"url": call.collection_url(name), "name": name} for name in names]
    root, identity = call.project_url, call.service.credentials.project_id
    if call.version == "v2":
        return {"api_key": call.key, "_id": identity, "url": root, "collections": collections}
    return {
        "id": identity,
        "name": identity,
        "url": root,
        "events_url": f"{root}/events",
        "events": collections,
        "queries_url": f"{root}/queries",
        "queries": [{"url": f"{root}/queries/{kind}", "name": kind} for kind in KINDS],
    }


_TEXT = {"schema": {"type": "string"}}
_VERSIONS = {**json_of(ref("Versions")), "text/html": _TEXT}


def _of_version(path: str, one: str, many: str) -> list[Operation]:
    keys = (READ, WRITE)
    return [
        Operation("GET", path, version, "Where the projects are", json_of(ref("Version")), keys=None),
        Operation("GET", f"{path}/projects", projects, "The project, in a list", json_of(ref(many)), keys=keys),
        Operation("GET", f"{path}/projects/{{project}}", project, "The project", json_of(ref(one)), keys=keys),
    ]


OPERATIONS = [
    Operation("GET", "/", root, "The versions; a page for browsers", _VERSIONS, keys=None),
    Operation("GET", "/healthz", health, "Whether the service works", json_of(ref("Health")), keys=None),
    Operation("GET", "/metrics", metrics, "Prometheus metrics", {"text/plain": _TEXT}, keys=None),
    *_of_version("/2.0", "Project2", "Projects2"),
    *_of_version("/3.0", "Project3", "Projects3"),
    Operation("GET", "/3.0/projects/{project}/queries", queries, "The queries", json_of(ref("Links")), keys=(READ, WRITE)),
]
