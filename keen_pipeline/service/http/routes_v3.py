"""The resources of API v3.0 under `/3.0/projects/<id>`."""

from __future__ import annotations

import gzip
from collections.abc import Callable, Mapping
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any
from urllib.parse import quote

import duckdb
from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from keen_pipeline.collection import check_collection_name
from keen_pipeline.errors import ExtractionTooLargeError, InvalidInputError, NotFoundError
from keen_pipeline.service.application import Service, checked_email
from keen_pipeline.service.events import analyses
from keen_pipeline.service.events.query import Where, where
from keen_pipeline.service.extractions.csv_export import Selection, count, write_csv
from keen_pipeline.service.extractions.records import Shape
from keen_pipeline.service.http.messages import (
    MASTER,
    READ,
    WRITE,
    JsonResponse,
    authorize,
    base_url,
    collection_of,
    parse_json,
    read_body,
    read_parameters,
)
from keen_pipeline.service.http.routes_v2 import count_request, property_name, property_names_in, service_of
from keen_pipeline.service.limits import EXTRACTIONS, QUERIES
from keen_pipeline.service.storage.store import Snapshot

_SELECTING = frozenset({"event_collection", "filters", "timeframe", "timezone"})
_EXTRACTING = _SELECTING | {"latest", "email", "email_address", "property_names", "content_type", "content_encoding"}
MAX_PROPERTY_NAMES = 1000


async def add_event(request: Request) -> Response:
    """`POST /events/<collection>`: store one event."""
    authorize(request, WRITE)
    name = collection_of(request)
    event = parse_json(await read_body(request))
    await run_in_threadpool(service_of(request).add_event, name, event, version="v3")
    return JsonResponse({"created": True}, status_code=201)


async def add_events(request: Request) -> Response:
    """`POST /events`: store many events of many collections; each has its own result."""
    authorize(request, WRITE)
    service = service_of(request)
    body = await read_body(request)

    def store() -> dict[str, list[dict[str, Any]]]:
        batch = parse_json(body)
        if not isinstance(batch, dict):
            raise InvalidInputError("body: must be an object of lists of events by collection", field="body")
        for name, events in batch.items():
            check_collection_name(name)
            if not isinstance(events, list):
                raise InvalidInputError(f"{name}: must be a list of events", field=name)
        return {name: [_outcome(problem) for problem in service.add_events(name, events)] for name, events in batch.items()}

    return JsonResponse(await run_in_threadpool(store))


def _outcome(problem: InvalidInputError | None) -> dict[str, Any]:
    if problem is None:
        return {"success": True}
    description = str(problem).encode("utf-8", "replace").decode()
    return {"success": False, "error": {"name": "InvalidEventError", "description": description}}


async def all_schemas(request: Request) -> Response:
    """`GET /events`: the collections with the types of their properties."""
    authorize(request, READ)
    service = service_of(request)
    root = f"{base_url(request)}/3.0/projects/{service.credentials.project_id}"
    return JsonResponse(await run_in_threadpool(lambda: [_schema(service, name, root) for name in service.store.names()]))


async def one_schema(request: Request) -> Response:
    """`GET /events/<collection>`: one collection with the types of its properties."""
    authorize(request, READ)
    service, name = service_of(request), collection_of(request)
    root = f"{base_url(request)}/3.0/projects/{service.credentials.project_id}"
    return JsonResponse(await run_in_threadpool(_schema, service, name, root))


def _schema(service: Service, name: str, root: str) -> dict[str, Any]:
    with service.store.snapshot(name) as snapshot:
        properties = {p: analyses.inferred_type(counts) for p, counts in analyses.schema(snapshot, "v3").items()}
    return {"name": name, "url": f"{root}/events/{quote(name)}", "properties": properties}


async def delete_events(request: Request) -> Response:
    """`DELETE /events/<collection>`: delete the events of a timeframe that pass the filters."""
    authorize(request, MASTER)
    service, name = service_of(request), collection_of(request)
    parameters = await read_parameters(request, frozenset({"filters", "timeframe", "timezone"}))

    def delete() -> None:
        filters, timeframe = service.filters(parameters), service.window(parameters)

        def condition(snapshot: Snapshot) -> Where:
            return where(snapshot.columns, filters, timeframe)

        with service.select(name, filters, timeframe) as selection:
            _ = selection.where  # refused here, before anything is deleted
        service.store.delete(name, condition)

    await run_in_threadpool(delete)
    return Response(status_code=204)


Analysis = Callable[[duckdb.DuckDBPyConnection, Selection, Mapping[str, Any]], Any]


def _figure(name: str) -> Analysis:
    def run(cursor: duckdb.DuckDBPyConnection, selection: Selection, parameters: Mapping[str, Any]) -> Any:
        percentile = _percentile(parameters.get("percentile")) if name == "percentile" else 50
        return analyses.figure(cursor, selection, name, _target(parameters), percentile)

    return run


def _target(parameters: Mapping[str, Any]) -> str:
    return property_name(parameters.get("target_property"), "target_property")


def _percentile(value: object) -> float:
    try:
        number = float(value)  # type: ignore[arg-type]  # whatever is no number ends in the error below
    except (TypeError, ValueError):
        number = -1.0
    if isinstance(value, bool) or not 0 <= number <= 100:
        raise InvalidInputError("percentile: must be a number from 0 to 100", field="percentile")
    return number


_TARGET = _SELECTING | {"target_property"}
ANALYSES: dict[str, tuple[frozenset[str], Analysis]] = {
    "count": (_SELECTING, lambda cursor, selection, _: count(cursor, selection)),
    "count_unique": (_TARGET, lambda cursor, selection, p: len(analyses.unique_values(cursor, selection, _target(p)))),
    "select_unique": (_TARGET, lambda cursor, selection, p: analyses.unique_values(cursor, selection, _target(p))),
    **{name: (_TARGET | ({"percentile"} if name == "percentile" else set()), _figure(name)) for name in analyses.FIGURES},
}


async def analysis(request: Request) -> Response:
    """`GET` or `POST /queries/<type>`: one analysis."""
    authorize(request, READ)
    kind = request.path_params["type"]
    if kind not in ANALYSES:
        raise NotFoundError(f"there is no analysis {kind!r}; there are {', '.join([*ANALYSES, 'extraction'])}")
    service = service_of(request)
    await count_request(service, QUERIES)
    known, run = ANALYSES[kind]
    parameters = await read_parameters(request, known)

    def work() -> Any:
        name = check_collection_name(parameters.get("event_collection"))
        with (
            service.select(name, service.filters(parameters), service.window(parameters)) as selection,
            service.engine.query() as cursor,
        ):
            return run(cursor, selection, parameters)

    return JsonResponse({"result": await run_in_threadpool(work)})


async def extraction(request: Request) -> Response:
    """`GET` or `POST /queries/extraction`: the events at once, or, with an address, by mail."""
    authorize(request, READ)
    service = service_of(request)
    await count_request(service, EXTRACTIONS)
    parameters = await read_parameters(request, _EXTRACTING)
    name = check_collection_name(parameters.get("event_collection"))
    if parameters.get("content_encoding") not in (None, "", "gzip"):
        raise InvalidInputError("content_encoding: only gzip is known", field="content_encoding")
    packed = parameters.get("content_encoding") == "gzip"
    as_csv = _wants_csv(parameters.get("content_type"))
    if checked_email(parameters) is not None:
        if parameters.get("content_type") == "application/json":
            raise InvalidInputError("content_type: a file for an e-mail is text/csv", field="content_type")
        names = _names(parameters.get("property_names"))
        shape = Shape(_latest(parameters.get("latest")), tuple(names) if names is not None else None, packed)
        await run_in_threadpool(service.create_extraction, name, parameters, names="v3", shape=shape)
        return JsonResponse({"result": "Processing. Check the specified email for the extraction results."})
    if as_csv:
        body = await run_in_threadpool(_extract, service, name, parameters, _csv)
        answer = Response(body, media_type="text/csv; charset=utf-8")
    else:
        answer = JsonResponse({"result": await run_in_threadpool(_extract, service, name, parameters, _json)})
    return await run_in_threadpool(_gzipped, answer) if packed else answer


def _gzipped(answer: Response) -> Response:
    """The answer with its body in gzip, asked for by name, whatever the client's headers say."""
    headers = {"Content-Encoding": "gzip"}
    return Response(gzip.compress(answer.body, compresslevel=1, mtime=0), media_type=answer.media_type, headers=headers)


def _wants_csv(content_type: object) -> bool:
    if content_type in (None, "", "application/json"):
        return False
    if content_type == "text/csv":
        return True
    raise InvalidInputError("content_type: must be application/json or text/csv", field="content_type")


def _extract(service: Service, name: str, parameters: Mapping[str, Any], write: Callable[..., Any]) -> Any:
    latest = _latest(parameters.get("latest"))
    names = _names(parameters.get("property_names"))
    limit = service.config.max_sync_events
    with (
        service.select(name, service.filters(parameters), service.window(parameters)) as selection,
        service.engine.query() as cursor,
    ):
        wanted = count(cursor, selection)
        if min(wanted, latest if latest is not None else wanted) > limit:
            raise ExtractionTooLargeError(
                f"the extraction is too large: {wanted} events, at most {limit} at once; shorten the timeframe or give an email"
            )
        paths = analyses.paths_of(selection, names) if names is not None else None
        return write(cursor, selection, latest=latest, paths=paths)


def _csv(cursor: duckdb.DuckDBPyConnection, selection: Selection, *, latest: int | None, paths: list[str] | None) -> bytes:
    with TemporaryDirectory(prefix="keen-extraction-") as folder:
        target = Path(folder) / "events.csv"
        write_csv(cursor, selection, target, paths, latest=latest)
        return target.read_bytes()


def _json(
    cursor: duckdb.DuckDBPyConnection, selection: Selection, *, latest: int | None, paths: list[str] | None
) -> list[dict[str, Any]]:
    return analyses.events(cursor, selection, latest=latest, paths=paths)


def _latest(value: object) -> int | None:
    if value is None or value == "":
        return None
    text = str(value)
    if (
        isinstance(value, (str, int))
        and not isinstance(value, bool)
        and text.isascii()
        and text.isdigit()
        and 1 <= int(text[:13]) <= 10**12
    ):
        return int(text)
    raise InvalidInputError("latest: must be a whole number of at least 1", field="latest")


def _names(value: object) -> list[str] | None:
    if value is None or value == "":
        return None
    value = property_names_in(value)
    if isinstance(value, str):
        value = [value]
    if (
        not isinstance(value, list)
        or not value
        or len(value) > MAX_PROPERTY_NAMES
        or not all(isinstance(n, str) and n for n in value)
    ):
        raise InvalidInputError("property_names: must be a JSON array of property names", field="property_names")
    return list(dict.fromkeys(value))


_PROJECT = "/3.0/projects/{project}"

ROUTES = [
    Route(f"{_PROJECT}/events", all_schemas),
    Route(f"{_PROJECT}/events", add_events, methods=["POST"]),
    Route(f"{_PROJECT}/events/{{collection}}", one_schema),
    Route(f"{_PROJECT}/events/{{collection}}", add_event, methods=["POST"]),
    Route(f"{_PROJECT}/events/{{collection}}", delete_events, methods=["DELETE"]),
    Route(f"{_PROJECT}/queries/extraction", extraction, methods=["GET", "POST"]),
    Route(f"{_PROJECT}/queries/{{type}}", analysis, methods=["GET", "POST"]),
]
