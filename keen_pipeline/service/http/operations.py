"""The one table of operations: what is not in it is not answered. Routes, parameters, `Allow` and OpenAPI come from it."""

from __future__ import annotations

from collections.abc import Sequence

from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route
from starlette.types import Receive, Scope, Send

from keen_pipeline.service.http import queries, routes_operations, routes_v2, routes_v3
from keen_pipeline.service.http.answers import JsonResponse
from keen_pipeline.service.http.openapi import document
from keen_pipeline.service.http.operation import Call, Operation

# Keen has them, and this service says so instead of a bare "not found".
_ABSENT = {
    "datasets": "cached datasets",
    "keys": "access keys",
    "access_keys": "access keys",
    "saved_queries": "saved queries",
}


async def openapi(call: Call) -> Response:
    """This service, described."""
    return JsonResponse(document(OPERATIONS, call.base_url, call.service.credentials.project_id))


OPERATIONS: tuple[Operation, ...] = (
    *routes_operations.OPERATIONS,
    Operation("GET", "/openapi.json", openapi, "This document", {"application/json": {"schema": {"type": "object"}}}, keys=None),
    *routes_v2.OPERATIONS,
    *routes_v3.OPERATIONS,
    *queries.OPERATIONS,
)


class Resource:
    """One path: answers its operations, HEAD with GET's, OPTIONS with `Allow`, and refuses any other method with it."""

    def __init__(self, operations: Sequence[Operation]) -> None:
        self._operations = {operation.method: operation for operation in operations}
        if "GET" in self._operations:
            self._operations["HEAD"] = self._operations["GET"]
        self.allow = ", ".join(sorted([*self._operations, "OPTIONS"]))

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        operation = self._operations.get(scope["method"])
        if operation is not None:
            call = Call(Request(scope, receive, send), operation)
            await call.prepare()
            answer = await operation.handler(call)
        elif scope["method"] == "OPTIONS":
            answer = Response(status_code=204, headers={"Allow": self.allow})
        else:
            raise HTTPException(405, "this resource does not take this method", headers={"Allow": self.allow})
        await answer(scope, receive, send)


def routes() -> list[Route]:
    """One for each path of the table, in its order."""
    paths: dict[str, list[Operation]] = {}
    for operation in OPERATIONS:
        paths.setdefault(operation.path, []).append(operation)
    return [Route(path, Resource(operations)) for path, operations in paths.items()]


def not_found_message(path: str) -> str:
    """What to say of a path that no operation has."""
    parts = path.split("/")
    kind = parts[4] if len(parts) > 4 and parts[1] == "3.0" and parts[2] == "projects" else ""
    if kind == "queries" and len(parts) > 5:
        offered = ", ".join(queries.KINDS)
        if parts[5] == "saved":
            return f"saved queries are not offered by this service; there are {offered}"
        return f"the query {parts[5][:40]!r} is not offered by this service; there are {offered}"
    if kind in _ABSENT:
        return f"{_ABSENT[kind]} are not offered by this service"
    return "there is no such resource; /openapi.json lists those that there are"
