"""Event collections: the properties of their events, and the removal of events. How events come in stands in `events`."""

from __future__ import annotations

import json
import logging
from dataclasses import replace
from typing import Any

from starlette.responses import Response

from keen_pipeline.errors import ExtractionTooLargeError, InvalidInputError, RetryableError
from keen_pipeline.service.cancellation import RequestCancelledError
from keen_pipeline.service.events import analyses
from keen_pipeline.service.http.answers import JsonResponse, dump_json, error_answer
from keen_pipeline.service.http.lanes import DELETE, QUERY
from keen_pipeline.service.http.operation import MASTER, READ, WRITE, Call, Operation
from keen_pipeline.service.http.parameters import BEACON, SELECTING
from keen_pipeline.service.http.resources.events import beacon
from keen_pipeline.service.http.schemas import json_of, ref

MOST_AWAY = 3
_log = logging.getLogger(__name__)


async def schema(call: Call) -> Response:
    return JsonResponse(await call.run(QUERY, lambda: _schema(call, call.collection)))


async def schemas(call: Call) -> Response:
    """The same of every collection. One that can't be read is listed with its error in place of its properties.

    If none can be read, or several can't now, the last one's error is raised: a storage that is away is waited for each time.
    """
    limit = call.service.config.max_answer_bytes

    def run() -> str:
        names, shown, size = call.service.store.names(), list[str](), 0
        broken: list[Exception] = []
        for name in names:
            try:
                shown.append(dump_json(_schema(call, name)))
            except RequestCancelledError:
                raise
            except Exception as error:
                _log.exception("a collection can't be read", extra={"collection": name})
                broken.append(error)
                if sum(isinstance(one, RetryableError) for one in broken) > MOST_AWAY:
                    raise
                answer = json.loads(bytes(error_answer(error).body))
                shown.append(dump_json({"name": name, "url": call.collection_url(name), "properties": {}, "error": answer}))
            size += len(shown[-1].encode())
            if size > limit:
                raise ExtractionTooLargeError(
                    f"the schemas are too large: more than {limit} bytes; ask for one collection at a time"
                )
        if broken and len(broken) == len(names):
            raise broken[-1]
        return f"[{','.join(shown)}]"

    return Response(await call.run(QUERY, run), media_type="application/json")


async def schema_or_beacon(call: Call) -> Response:
    """The same of one collection; with `data`, an event in the address of an image."""
    if "data" in call.parameters:
        return await beacon(call)
    call.allow(READ)
    for name in ("redirect", "modified", "c"):
        if name in call.parameters:
            raise InvalidInputError(f"{name}: this belongs to an image beacon, which has its event in data", field=name)
    return await schema(call)


def _schema(call: Call, name: str) -> dict[str, Any]:
    with call.service.store.snapshot(name) as snapshot:
        found = analyses.schema(snapshot, call.version)
    types = {path: analyses.inferred_type(counts) for path, counts in found.items()}
    url = call.collection_url(name)
    if call.version == "v3":
        return {"name": name, "url": url, "properties": types}
    return {
        "name": name,
        "url": url,
        "property_names": list(found),
        "inferred_property_types": types,
        "properties": {p: {"num_appearances": sum(counts.values()), "type_appearances": counts} for p, counts in found.items()},
        "urls": {"extractions": f"{url}/_extract"},
    }


async def delete_events(call: Call) -> Response:
    """Delete the events of a timeframe that pass the filters; without either all of them."""
    service, parameters = call.service, call.parameters

    def delete() -> None:
        with service.select(call.collection, parameters) as selection:  # refused here, before anything is deleted
            for name, meant in (("timeframe", selection.timeframe), ("filters", selection.filters)):
                if name in parameters and not meant:
                    raise InvalidInputError(f"{name}: is empty; leave it out to delete every event", field=name)
            service.store.delete(call.collection, lambda snapshot: replace(selection, snapshot=snapshot))

    await call.run(DELETE, delete)
    return Response(status_code=204)


_EVENTS = "/3.0/projects/{project}/events"
_ONE = f"{_EVENTS}/{{collection}}"
_PIXEL = {"image/gif": {"schema": {"type": "string", "format": "binary"}}}

OPERATIONS = [
    Operation("GET", "/2.0/projects/{project}/{collection}", schema, "The schema of a collection", json_of(ref("Schema2"))),
    Operation("GET", _EVENTS, schemas, "Schemas of all collections", json_of(ref("Schemas3"))),
    Operation(
        "GET",
        _ONE,
        schema_or_beacon,
        "Schema of a collection; with `data`, an image beacon",
        {**json_of(ref("Schema3")), **_PIXEL},
        parameters=BEACON,
        keys=(READ, WRITE),
        responses={"302": {"description": "An image beacon with `redirect`"}},
    ),
    Operation("DELETE", _ONE, delete_events, "Delete events", status=204, parameters=SELECTING, keys=(MASTER,)),
]
