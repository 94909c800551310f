"""The resources of API v2.0 under `/2.0`."""

from __future__ import annotations

from datetime import datetime
from typing import Any
from urllib.parse import quote

from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from keen_pipeline.errors import InvalidInputError, NotFoundError
from keen_pipeline.service.application import Service
from keen_pipeline.service.events import analyses
from keen_pipeline.service.extractions.csv_export import count
from keen_pipeline.service.extractions.records import COMPLETE, Extraction
from keen_pipeline.service.http.messages import (
    READ,
    WRITE,
    JsonResponse,
    authorize,
    base_url,
    check_text,
    collection_of,
    parse_json,
    read_body,
    read_parameters,
)
from keen_pipeline.service.limits import EXTRACTIONS, QUERIES
from keen_pipeline.timeframe import UTC, format_instant

_SELECTING = frozenset({"filters", "timeframe", "timezone"})
_CREATING = _SELECTING | {"email", "email_address"}


def service_of(request: Request) -> Service:
    """The service behind a request."""
    service: Service = request.app.state.service
    return service


async def count_request(service: Service, kind: str) -> None:
    """Count one request where requests are limited. Raises RateLimitedError."""
    if service.config.requests_per_minute is not None:
        await run_in_threadpool(service.count_request, kind)


async def version(request: Request) -> Response:
    """`GET /2.0`: where the projects are."""
    return JsonResponse({"projects_resource_url": f"{base_url(request)}/2.0/projects"})


async def projects(request: Request) -> Response:
    """`GET /2.0/projects`: the one project of this service, in a list."""
    key = authorize(request, READ, WRITE)
    return JsonResponse([await run_in_threadpool(_project, request, key)])


async def project(request: Request) -> Response:
    """`GET /2.0/projects/<id>`: the project with its collections. `api_key` is the key that the caller gave."""
    return JsonResponse(await run_in_threadpool(_project, request, authorize(request, READ, WRITE)))


def _project(request: Request, key: str) -> dict[str, Any]:
    service = service_of(request)
    root = _project_url(request)
    found = [{"url": f"{root}/{quote(name)}", "name": name} for name in service.store.names()]
    return {"api_key": key, "_id": service.credentials.project_id, "url": root, "collections": found}


def _project_url(request: Request) -> str:
    return f"{base_url(request)}/2.0/projects/{service_of(request).credentials.project_id}"


async def add_event(request: Request) -> Response:
    """`POST /2.0/projects/<id>/<collection>`: store one event."""
    authorize(request, WRITE)
    collection = collection_of(request)
    event = parse_json(await read_body(request))
    await run_in_threadpool(service_of(request).add_event, collection, event, version="v2")
    return JsonResponse({"created": True}, status_code=201)


async def collection(request: Request) -> Response:
    """`GET /2.0/projects/<id>/<collection>`: the properties of the events and their types."""
    authorize(request, READ)
    name = collection_of(request)
    service = service_of(request)

    def read() -> dict[str, dict[str, int]]:
        with service.store.snapshot(name) as snapshot:
            return analyses.schema(snapshot, "v2")

    appearances = await run_in_threadpool(read)
    properties = {p: {"num_appearances": sum(counts.values()), "type_appearances": counts} for p, counts in appearances.items()}
    url = f"{_project_url(request)}/{quote(name)}"
    body = {
        "name": name,
        "url": url,
        "property_names": list(appearances),
        "inferred_property_types": {p: analyses.inferred_type(counts) for p, counts in appearances.items()},
        "properties": properties,
        "urls": {"extractions": f"{url}/_extract"},
    }
    return JsonResponse(body)


async def create_extraction(request: Request) -> Response:
    """`POST .../_extract`: queue an extraction; answers `not started` at once."""
    authorize(request, READ)
    service = service_of(request)
    await count_request(service, EXTRACTIONS)
    parameters = await read_parameters(request, _CREATING)
    made = await run_in_threadpool(service.create_extraction, collection_of(request), parameters, names="v2")
    return JsonResponse(_shown(request, made))


async def list_extractions(request: Request) -> Response:
    """`GET .../_extract`: every extraction of the collection with its status."""
    authorize(request, READ)
    service = service_of(request)
    await count_request(service, EXTRACTIONS)
    name = collection_of(request)
    found = await run_in_threadpool(service.records.of_collection, name)
    if not found and name not in await run_in_threadpool(service.store.names):
        raise NotFoundError(f"there is no event collection {name!r}")
    shown = [_shown(request, extraction) for extraction in found]
    return JsonResponse({"results": shown})


async def extraction(request: Request) -> Response:
    """`GET .../_extract/<extraction_id>`: one extraction, with `results_url` once it is complete."""
    authorize(request, READ)
    service = service_of(request)
    await count_request(service, EXTRACTIONS)
    found = await run_in_threadpool(service.records.get, request.path_params["extraction_id"])
    if found is None or found.collection != collection_of(request):
        raise NotFoundError("there is no such extraction of this collection (any more)")
    return JsonResponse(_shown(request, found))


def _shown(request: Request, extraction: Extraction) -> dict[str, Any]:
    body: dict[str, Any] = {"_id": extraction.id, "status": extraction.status}
    if extraction.status == COMPLETE:
        body["results_url"] = service_of(request).results.url(base_url(request), extraction.id)
    if extraction.message:
        body["message"] = extraction.message
    # Beyond the documented fields: by them a client whose POST was answered to nobody finds what it made.
    body["created_at"] = format_instant(datetime.fromtimestamp(extraction.created, UTC))
    body["filters"] = [condition.to_wire() for condition in extraction.filters]
    if extraction.timeframe is not None:
        body["timeframe"] = extraction.timeframe.to_wire()
    return body


async def count_events(request: Request) -> Response:
    """`GET .../_count`: the number of events that an extraction would hold."""
    parameters = await _query(request, _SELECTING)
    service, name = service_of(request), collection_of(request)

    def run() -> int:
        with (
            service.select(name, service.filters(parameters), service.window(parameters)) as selection,
            service.engine.query() as cursor,
        ):
            return count(cursor, selection)

    return JsonResponse({"result": await run_in_threadpool(run)})


async def count_unique(request: Request) -> Response:
    """`GET .../_count_unique`: the number of unique values of `unique_property`."""
    parameters = await _query(request, _SELECTING | {"unique_property"})
    return JsonResponse({"result": len(await _unique(request, parameters, "unique_property"))})


async def select_unique(request: Request) -> Response:
    """`GET .../_select_unique`: the unique values of `distinct_property`."""
    parameters = await _query(request, _SELECTING | {"distinct_property"})
    return JsonResponse({"results": await _unique(request, parameters, "distinct_property")})


async def _query(request: Request, known: frozenset[str]) -> dict[str, Any]:
    authorize(request, READ)
    await count_request(service_of(request), QUERIES)
    return dict(await read_parameters(request, known))


async def _unique(request: Request, parameters: dict[str, Any], field: str) -> list[Any]:
    service, name = service_of(request), collection_of(request)
    target = property_name(parameters.get(field), field)

    def run() -> list[Any]:
        with (
            service.select(name, service.filters(parameters), service.window(parameters)) as selection,
            service.engine.query() as cursor,
        ):
            return analyses.unique_values(cursor, selection, target)

    return await run_in_threadpool(run)


def property_name(value: object, field: str) -> str:
    """One property name: the name, or the JSON array of one. Raises InvalidInputError."""
    value = property_names_in(value)
    if isinstance(value, list) and len(value) == 1:
        value = value[0]
    if not isinstance(value, str) or not value:
        raise InvalidInputError(f"{field}: must be the name of one property", field=field)
    return value


def property_names_in(value: object) -> object:
    """The list that the text of a parameter holds as JSON. Any other text is a name itself, one that starts with `[` too."""
    if isinstance(value, str) and value.lstrip().startswith("["):
        try:
            found = parse_json(value.encode())
        except InvalidInputError:
            return value
        check_text(found)
        return found
    return value


_COLLECTION = "/2.0/projects/{project}/{collection}"

ROUTES = [
    Route("/2.0", version),
    Route("/2.0/projects", projects),
    Route("/2.0/projects/{project}", project),
    *(Route(f"{_COLLECTION}/{name}", create_extraction, methods=["POST"]) for name in ("_extract", "_extracts")),
    *(Route(f"{_COLLECTION}/{name}", list_extractions) for name in ("_extract", "_extracts")),
    *(Route(f"{_COLLECTION}/{name}/{{extraction_id}}", extraction) for name in ("_extract", "_extracts")),
    Route(f"{_COLLECTION}/_count", count_events),
    Route(f"{_COLLECTION}/_count_unique", count_unique),
    Route(f"{_COLLECTION}/_select_unique", select_unique),
    Route(_COLLECTION, collection),
    Route(_COLLECTION, add_event, methods=["POST"]),
]
