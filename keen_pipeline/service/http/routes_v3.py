"""The resources of API v3.0 under `/3.0`, but for its queries."""

from __future__ import annotations

from typing import Any
from urllib.parse import quote

from starlette.responses import RedirectResponse, Response

from keen_pipeline.errors import InvalidInputError
from keen_pipeline.service.application import Service
from keen_pipeline.service.events import analyses
from keen_pipeline.service.events.query import Where, where
from keen_pipeline.service.http.answers import JsonResponse
from keen_pipeline.service.http.beacon import GIF, checked_redirect, decode_event
from keen_pipeline.service.http.openapi_schemas import LATE, NOTHING_FOUND, json_of, ref
from keen_pipeline.service.http.operation import MASTER, READ, WRITE, Call, Operation
from keen_pipeline.service.http.outcomes import store_batch, store_one
from keen_pipeline.service.http.parameters import BEACON, SELECTING
from keen_pipeline.service.http.queries import KINDS
from keen_pipeline.service.http.routes_v2 import version
from keen_pipeline.service.storage.store import Snapshot


async def projects(call: Call) -> Response:
    """The one project of this service, in a list."""
    return JsonResponse([await _project(call)])


async def project(call: Call) -> Response:
    """The project with its collections and its queries."""
    return JsonResponse(await _project(call))


async def _project(call: Call) -> dict[str, Any]:
    names = await call.records(call.service.store.names)
    root, identity = call.project_url, call.service.credentials.project_id
    return {
        "id": identity,
        "name": identity,
        "url": root,
        "events_url": f"{root}/events",
        "events": [{"url": f"{root}/events/{quote(name, safe='')}", "name": name} for name in names],
        "queries_url": f"{root}/queries",
        "queries": [{"url": f"{root}/queries/{kind}", "name": kind} for kind in KINDS],
    }


async def add_event(call: Call) -> Response:
    """Store one event."""
    body = await call.body()
    await call.ingest(lambda: store_one(call.service, call.collection, body(), "v3"))
    return JsonResponse({"created": True}, status_code=201)


async def add_events(call: Call) -> Response:
    """Store many events of many collections; each has its own result."""
    body = await call.body()
    return JsonResponse(await call.ingest(lambda: store_batch(call.service, body())))


async def all_schemas(call: Call) -> Response:
    """The collections with the types of their properties."""
    service, root = call.service, call.project_url
    return JsonResponse(await call.query(lambda: [_schema(service, name, root) for name in service.store.names()]))


async def one_schema(call: Call) -> Response:
    """One collection with the types of its properties; with `data`, an event in the address of an image."""
    if "data" in call.parameters:
        return await _beacon(call)
    call.allow(READ)
    for name in ("redirect", "modified", "c"):
        if name in call.parameters:
            raise InvalidInputError(f"{name}: this belongs to an image beacon, which has its event in data", field=name)
    return JsonResponse(await call.query(lambda: _schema(call.service, call.collection, call.project_url)))


async def _beacon(call: Call) -> Response:
    call.allow(WRITE)
    if call.request.method == "HEAD":
        raise InvalidInputError("data: HEAD stores nothing; use GET", field="data")
    target = call.parameters.get("redirect")
    if target is not None:
        target = checked_redirect(target, call.service.config.redirect_hosts)
    body = decode_event(call.parameters["data"])
    await call.ingest(lambda: store_one(call.service, call.collection, body, "v3"))
    headers = {"Cache-Control": "no-store"}
    if target is not None:
        return RedirectResponse(target, status_code=302, headers=headers)
    return Response(GIF, media_type="image/gif", headers=headers)


def _schema(service: Service, name: str, root: str) -> dict[str, Any]:
    with service.store.snapshot(name) as snapshot:
        properties = {p: analyses.inferred_type(counts) for p, counts in analyses.schema(snapshot, "v3").items()}
    return {"name": name, "url": f"{root}/events/{quote(name, safe='')}", "properties": properties}


async def delete_events(call: Call) -> Response:
    """Delete the events of a timeframe that pass the filters; without either all of them."""
    service, parameters = call.service, call.parameters

    def delete() -> None:
        filters, timeframe = service.filters(parameters), service.window(parameters)

        with service.select(call.collection, filters, timeframe) as selection:
            meant = selection.filters
            _ = selection.where  # refused here, before anything is deleted

        def condition(snapshot: Snapshot) -> Where:
            return where(snapshot.columns, meant, timeframe)

        service.store.delete(call.collection, condition)

    await call.delete(delete)
    return Response(status_code=204)


_PROJECT = "/3.0/projects/{project}"
_EVENTS = f"{_PROJECT}/events"
_ONE = f"{_EVENTS}/{{collection}}"
_SCHEMAS = json_of({"type": "array", "items": ref("Schema3")})
_BATCH = json_of(ref("Outcomes"))
_PIXEL = {"image/gif": {"schema": {"type": "string", "format": "binary"}}}
_SCHEMA_OR_PIXEL = {**json_of(ref("Schema3")), **_PIXEL}
_REDIRECT = {"302": {"description": "An image beacon with `redirect`"}}

OPERATIONS = [
    Operation("GET", "/3.0", version, "Where the projects are", json_of(ref("Version")), keys=None),
    Operation("GET", "/3.0/projects", projects, "The project", json_of(ref("Projects3")), errors=(401,), keys=(READ, WRITE)),
    Operation("GET", _PROJECT, project, "The project", json_of(ref("Project3")), errors=NOTHING_FOUND, keys=(READ, WRITE)),
    Operation("GET", _EVENTS, all_schemas, "Schemas of all collections", _SCHEMAS, errors=LATE),
    Operation("POST", _EVENTS, add_events, "Add events", _BATCH, errors=LATE, body="Batch", keys=(WRITE,)),
    Operation(
        "GET",
        _ONE,
        one_schema,
        "Schema of a collection; with `data`, an image beacon",
        _SCHEMA_OR_PIXEL,
        errors=LATE,
        parameters=BEACON,
        keys=(READ, WRITE),
        responses=_REDIRECT,
    ),
    Operation(
        "POST", _ONE, add_event, "Add an event", json_of(ref("Created")), status=201, errors=LATE, body="Event3", keys=(WRITE,)
    ),
    Operation("DELETE", _ONE, delete_events, "Delete events", status=204, errors=LATE, parameters=SELECTING, keys=(MASTER,)),
]
