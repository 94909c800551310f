"""The one table of operations: what is not in it is not answered. Routes, parameters, `Allow` and OpenAPI come from it."""

from __future__ import annotations

from starlette.responses import Response

from keen_pipeline.service.http.answers import JsonResponse
from keen_pipeline.service.http.openapi import document
from keen_pipeline.service.http.operation import Call, Operation
from keen_pipeline.service.http.resources import collections, discovery, events, extractions, queries, results
from keen_pipeline.service.http.schemas import json_of

# Keen has them, and this service says so instead of a bare "not found".
_ABSENT = {
    "datasets": "cached datasets",
    "keys": "access keys",
    "access_keys": "access keys",
    "saved_queries": "saved queries",
}


async def openapi(call: Call) -> Response:
    return JsonResponse(document(OPERATIONS, call.base_url, call.service.credentials.project_id))


OPERATIONS: tuple[Operation, ...] = (
    Operation("GET", "/openapi.json", openapi, "This document", json_of({"type": "object"}), keys=None),
    *discovery.OPERATIONS,
    *events.OPERATIONS,
    *collections.OPERATIONS,
    *queries.OPERATIONS,
    *extractions.OPERATIONS,
    *results.OPERATIONS,
)


def not_found_message(path: str) -> str:
    """What to say of a path that no operation has."""
    parts = path.split("/")
    kind = parts[4] if len(parts) > 4 and parts[1] == "3.0" and parts[2] == "projects" else ""
    if kind == "queries" and len(parts) > 5:
        offered = ", ".join(queries.KINDS)
        what = "saved queries are" if parts[5] == "saved" else f"the query {parts[5][:40]!r} is"
        return f"{what} not offered by this service; there are {offered}"
    if kind == "events" and len(parts) > 6 and parts[6] == "properties":
        return "properties of a collection are not resources of this service; the schema of the collection lists them"
    if kind in _ABSENT:
        return f"{_ABSENT[kind]} are not offered by this service"
    return "there is no such resource; /openapi.json lists those that there are"
