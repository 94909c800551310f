"""The resources of API v2.0 under `/2.0`."""

from __future__ import annotations

import json
from datetime import datetime
from typing import Any
from urllib.parse import quote

from starlette.responses import Response

from keen_pipeline.errors import NotFoundError
from keen_pipeline.service.events import analyses
from keen_pipeline.service.extractions.csv_export import count
from keen_pipeline.service.extractions.records import COMPLETE, Extraction, Listed
from keen_pipeline.service.http.answers import JsonResponse
from keen_pipeline.service.http.openapi_schemas import LATE, LIMITED, NOTHING_FOUND, json_of, ref
from keen_pipeline.service.http.operation import READ, WRITE, Call, Operation
from keen_pipeline.service.http.outcomes import store_one
from keen_pipeline.service.http.parameters import DISTINCT, EMAILS, LIMIT, SELECTING, UNIQUE, property_name, whole_number
from keen_pipeline.service.http.sizes import unique_values
from keen_pipeline.service.limits import EXTRACTIONS, QUERIES
from keen_pipeline.timeframe import UTC, format_instant


async def version(call: Call) -> Response:
    """Where the projects are."""
    return JsonResponse({"projects_resource_url": f"{call.base_url}{call.operation.path}/projects"})


async def projects(call: Call) -> Response:
    """The one project of this service, in a list."""
    return JsonResponse([await _project(call)])


async def project(call: Call) -> Response:
    """The project with its collections. `api_key` is the key that the caller gave."""
    return JsonResponse(await _project(call))


async def _project(call: Call) -> dict[str, Any]:
    names = await call.records(call.service.store.names)
    found = [{"url": f"{call.project_url}/{quote(name, safe='')}", "name": name} for name in names]
    return {"api_key": call.key, "_id": call.service.credentials.project_id, "url": call.project_url, "collections": found}


async def add_event(call: Call) -> Response:
    """Store one event."""
    body = await call.body()
    await call.ingest(lambda: store_one(call.service, call.collection, body(), "v2"))
    return JsonResponse({"created": True}, status_code=201)


async def collection(call: Call) -> Response:
    """The properties of the events and their types."""

    def read() -> dict[str, dict[str, int]]:
        with call.service.store.snapshot(call.collection) as snapshot:
            return analyses.schema(snapshot, "v2")

    appearances = await call.query(read)
    properties = {p: {"num_appearances": sum(counts.values()), "type_appearances": counts} for p, counts in appearances.items()}
    url = f"{call.project_url}/{quote(call.collection, safe='')}"
    body = {
        "name": call.collection,
        "url": url,
        "property_names": list(appearances),
        "inferred_property_types": {p: analyses.inferred_type(counts) for p, counts in appearances.items()},
        "properties": properties,
        "urls": {"extractions": f"{url}/_extract"},
    }
    return JsonResponse(body)


async def create_extraction(call: Call) -> Response:
    """Queue an extraction; answers `not started` at once."""
    made = await call.query(lambda: call.service.create_extraction(call.collection, call.parameters, names="v2"))
    return JsonResponse(_shown(call, made))


async def list_extractions(call: Call) -> Response:
    """The extractions of the collection with their statuses, oldest first: all of them up to the limit."""
    config, name = call.service.config, call.collection
    most = whole_number(call.parameters.get("limit"), "limit", 100_000)
    most = config.listed if most is None else min(most, config.listed)

    def read() -> list[dict[str, Any]]:
        found = call.service.records.of_collection(name, most, config.max_answer_bytes // 8)
        if not found and name not in call.service.store.names():
            raise NotFoundError(f"there is no event collection {name!r}")
        return [_listed(call, extraction) for extraction in found]

    return JsonResponse({"results": await call.records(read)})


async def extraction(call: Call) -> Response:
    """One extraction, with `results_url` once it is complete."""
    found = await call.records(lambda: call.service.records.get(call.variable("extraction_id")))
    if found is None or found.collection != call.collection:
        raise NotFoundError("there is no such extraction of this collection (any more)")
    return JsonResponse(_shown(call, found))


def _shown(call: Call, extraction: Extraction) -> dict[str, Any]:
    window = extraction.timeframe.to_wire() if extraction.timeframe is not None else None
    return _body(call, extraction, [condition.to_wire() for condition in extraction.filters], window)


def _listed(call: Call, extraction: Listed) -> dict[str, Any]:
    filters = json.loads(extraction.filters) if extraction.filters is not None else None
    bounds = {"start": extraction.start_time, "end": extraction.end_time} if extraction.start_time is not None else None
    return _body(call, extraction, filters, bounds)


def _body(call: Call, extraction: Extraction | Listed, filters: Any, window: Any) -> dict[str, Any]:
    body: dict[str, Any] = {"_id": extraction.id, "status": extraction.status}
    if extraction.status == COMPLETE:
        body["results_url"] = call.service.results.url(call.base_url, extraction.id)
    if extraction.message:
        body["message"] = extraction.message[:1000]
    # Beyond the documented fields: by them a client whose POST was answered to nobody finds what it made.
    body["created_at"] = format_instant(datetime.fromtimestamp(extraction.created, UTC))
    if filters is not None:
        body["filters"] = filters
    if window is not None:
        body["timeframe"] = window
    if extraction.finished is not None:
        body["finished_at"] = format_instant(datetime.fromtimestamp(int(extraction.finished), UTC))
    for name in ("events", "bytes"):
        if getattr(extraction, name) is not None:
            body[name] = getattr(extraction, name)
    return body


async def count_events(call: Call) -> Response:
    """The number of events that an extraction would hold."""
    service, parameters = call.service, call.parameters

    def run() -> int:
        with (
            service.select(call.collection, service.filters(parameters), service.window(parameters), "v2") as selection,
            service.engine.query() as cursor,
        ):
            return count(cursor, selection)

    return JsonResponse({"result": await call.query(run)})


async def count_unique(call: Call) -> Response:
    """The number of unique values of `unique_property`."""
    return JsonResponse({"result": len(await _unique(call, "unique_property"))})


async def select_unique(call: Call) -> Response:
    """The unique values of `distinct_property`."""
    return JsonResponse({"results": await _unique(call, "distinct_property")})


async def _unique(call: Call, field: str) -> list[Any]:
    service, parameters = call.service, call.parameters
    target = property_name(parameters.get(field), field)

    def run() -> list[Any]:
        with (
            service.select(call.collection, service.filters(parameters), service.window(parameters), "v2") as selection,
            service.engine.query() as cursor,
        ):
            return unique_values(cursor, selection, target, service.config.max_answer_bytes)

    return await call.query(run)


_PROJECT = "/2.0/projects/{project}"
_COLLECTION = f"{_PROJECT}/{{collection}}"
_CREATED = json_of(ref("Created"))
_RESULT = json_of(ref("CountResult"))


def _extractions(name: str) -> list[Operation]:
    path, one, many = f"{_COLLECTION}/{name}", json_of(ref("Extraction")), json_of(ref("Extractions"))
    create = (*SELECTING, *EMAILS)
    return [
        Operation(
            "POST", path, create_extraction, "Create an extraction", one, errors=LIMITED, parameters=create, kind=EXTRACTIONS
        ),
        Operation("GET", path, list_extractions, "Extractions of it", many, errors=LIMITED, parameters=(LIMIT,), kind=EXTRACTIONS),
        Operation("GET", f"{path}/{{extraction_id}}", extraction, "One extraction", one, errors=LIMITED, kind=EXTRACTIONS),
    ]


def _query(name: str, handler: Any, summary: str, answer: Any, *more: Any) -> Operation:
    parameters = (*SELECTING, *more)
    return Operation("GET", f"{_COLLECTION}/{name}", handler, summary, answer, errors=LIMITED, parameters=parameters, kind=QUERIES)


OPERATIONS = [
    Operation("GET", "/2.0", version, "Where the projects are", json_of(ref("Version")), keys=None),
    Operation("GET", "/2.0/projects", projects, "The project", json_of(ref("Projects2")), errors=(401,), keys=(READ, WRITE)),
    Operation("GET", _PROJECT, project, "The project", json_of(ref("Project2")), errors=NOTHING_FOUND, keys=(READ, WRITE)),
    Operation("GET", _COLLECTION, collection, "The schema of a collection", json_of(ref("Schema2")), errors=LATE),
    Operation("POST", _COLLECTION, add_event, "Add an event", _CREATED, status=201, errors=LATE, body="Event2", keys=(WRITE,)),
    *_extractions("_extract"),
    *_extractions("_extracts"),
    _query("_count", count_events, "Count", _RESULT),
    _query("_count_unique", count_unique, "Count unique values", _RESULT, UNIQUE),
    _query("_select_unique", select_unique, "Unique values", json_of(ref("UniqueResults")), DISTINCT),
]
