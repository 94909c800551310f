"""Extractions: those of v2.0, which are asked for and then polled, and v3.0's query, answered at once or by mail."""

from __future__ import annotations

import gzip
import json
import secrets
from datetime import datetime
from typing import Any

import duckdb
from starlette.responses import Response

from keen_pipeline.errors import ExtractionTooLargeError, InvalidInputError, NotFoundError
from keen_pipeline.service.addresses import checked_email
from keen_pipeline.service.events import analyses
from keen_pipeline.service.extractions.csv_export import Selection, count, write_csv
from keen_pipeline.service.extractions.records import COMPLETE, Extraction, Shape
from keen_pipeline.service.http.answers import JsonResponse, dump_json
from keen_pipeline.service.http.lanes import EVENTS, EXTRACT, LISTS, RECORDS
from keen_pipeline.service.http.operation import Call, Operation
from keen_pipeline.service.http.parameters import (
    EMAILS,
    EVENT_COLLECTION,
    EXTRACTING,
    LIMIT,
    SELECTING,
    SENT_BY_CLIENTS,
    check_analysis_type,
    property_names,
    whole_number,
)
from keen_pipeline.service.http.schemas import json_of, ref
from keen_pipeline.service.limits import EXTRACTIONS
from keen_pipeline.timeframe import UTC, format_instant

_JSON, _CSV = "application/json", "text/csv"


async def create_extraction(call: Call) -> Response:
    made = await call.run(EXTRACT, lambda: call.service.create_extraction(call.collection, call.parameters, names="v2"))
    return JsonResponse(_shown(call, made))


async def list_extractions(call: Call) -> Response:
    """The extractions of the collection with their statuses, oldest first: all of them up to the limit."""
    config, name = call.service.config, call.collection
    most = whole_number(call.parameters.get("limit"), "limit", 100_000)
    most = config.listed if most is None else min(most, config.listed)

    def read() -> str:
        found = call.service.records.of_collection(name, most, config.max_answer_bytes // 8)
        if not found and name not in call.service.store.names():
            raise NotFoundError(f"there is no event collection {name!r}")
        return dump_json({"results": [_shown(call, extraction) for extraction in found]})

    return Response(await call.run(LISTS, read), media_type=_JSON)


async def one_extraction(call: Call) -> Response:
    found = await call.run(RECORDS, lambda: call.service.records.get(call.variable("extraction_id")))
    if found is None or found.collection != call.collection:
        raise NotFoundError("there is no such extraction of this collection (any more)")
    return JsonResponse(_shown(call, found))


def _shown(call: Call, extraction: Extraction) -> dict[str, Any]:
    window = {"start": extraction.start_time, "end": extraction.end_time} if extraction.start_time is not None else None
    body: dict[str, Any] = {"_id": extraction.id, "status": extraction.status}
    if extraction.status == COMPLETE:
        body["results_url"] = call.service.results.url(call.base_url, extraction.id)
    finished = datetime.fromtimestamp(int(extraction.finished), UTC) if extraction.finished is not None else None
    # Beyond the documented fields: by them a client whose POST was answered to nobody finds what it made.
    more = {
        "message": extraction.message[:1000] if extraction.message else None,
        "created_at": format_instant(datetime.fromtimestamp(extraction.created, UTC)),
        "filters": json.loads(extraction.filters) if extraction.filters is not None else None,
        "timeframe": window,
        "finished_at": format_instant(finished) if finished is not None else None,
        "events": extraction.events,
        "bytes": extraction.bytes,
    }
    return body | {name: value for name, value in more.items() if value is not None}


async def extract_now(call: Call) -> Response:
    """The events at once, or, with an address, by mail."""
    service, parameters = call.service, call.parameters
    check_analysis_type(parameters.get("analysis_type"), "extraction")
    packed = _one_of(parameters, "content_encoding", "gzip") is not None
    content_type = _one_of(parameters, "content_type", _JSON, _CSV)
    latest = whole_number(parameters.get("latest"), "latest", 10**12)
    names = property_names(parameters.get("property_names"))
    if checked_email(parameters, service.config.mail_to) is not None:
        if call.request.method == "HEAD":
            raise InvalidInputError("email: HEAD asks for no mail; use GET or POST", field="email")
        if content_type == _JSON:
            raise InvalidInputError("content_type: a file for an e-mail is text/csv", field="content_type")
        shape = Shape(latest, tuple(names) if names is not None else None, packed)
        await call.run(EXTRACT, lambda: service.create_extraction(call.collection, parameters, names="v3", shape=shape))
        return JsonResponse({"result": "Processing. Check the specified email for the extraction results."})

    def run() -> bytes:
        body = _extract(call, latest, names, as_csv=content_type == _CSV)
        return gzip.compress(body, compresslevel=1, mtime=0) if packed else body

    # In gzip because it was asked for by name, whatever the client's headers say.
    headers = {"Content-Encoding": "gzip"} if packed else None
    media_type = "text/csv; charset=utf-8" if content_type == _CSV else _JSON
    return Response(await call.run(EVENTS, run), media_type=media_type, headers=headers)


def _one_of(parameters: dict[str, Any], name: str, *known: str) -> str | None:
    value = parameters.get(name)
    if value in (None, ""):
        return None
    if value not in known:
        raise InvalidInputError(f"{name}: must be {' or '.join(known)}", field=name)
    return str(value)


def _extract(call: Call, latest: int | None, names: list[str] | None, *, as_csv: bool) -> bytes:
    config = call.service.config
    with call.service.query(call.collection, call.parameters) as (cursor, selection):
        wanted = count(cursor, selection)
        if latest is not None:
            wanted = min(wanted, latest)
        if wanted > config.max_sync_events:
            raise ExtractionTooLargeError(
                f"the extraction is too large: {wanted} events, at most {config.max_sync_events} at once;"
                " shorten the timeframe or give an email"
            )
        paths = analyses.paths_of(selection, names) if names is not None else None
        if wanted * config.max_event_bytes > config.max_answer_bytes:
            analyses.check_size(cursor, selection, latest=latest, paths=paths, most_bytes=config.max_answer_bytes)
        if as_csv:
            return _csv(call, cursor, selection, latest, paths)
        return dump_json({"result": analyses.events(cursor, selection, latest=latest, paths=paths)}).encode()


def _csv(call: Call, cursor: duckdb.DuckDBPyConnection, selection: Selection, latest: int | None, paths: list[str] | None) -> bytes:
    target = call.service.results.part(secrets.token_hex(8))
    try:
        write_csv(cursor, selection, target, paths, latest=latest)
        return target.read_bytes()
    finally:
        target.unlink(missing_ok=True)


def _of_v2(name: str) -> list[Operation]:
    path, one, many = f"/2.0/projects/{{project}}/{{collection}}/{name}", json_of(ref("Extraction")), json_of(ref("Extractions"))
    create = (*SELECTING, *EMAILS)
    return [
        Operation("POST", path, create_extraction, "Create an extraction", one, parameters=create, kind=EXTRACTIONS),
        Operation("GET", path, list_extractions, "Extractions of it", many, parameters=(LIMIT,), kind=EXTRACTIONS),
        Operation("GET", f"{path}/{{extraction_id}}", one_extraction, "One extraction", one, kind=EXTRACTIONS),
    ]


# The text is gzip if the header Content-Encoding says so.
_NOW = {**json_of(ref("ExtractionResult")), _CSV: {"schema": {"type": "string"}}}
_PARAMETERS = (EVENT_COLLECTION, *EXTRACTING, *SENT_BY_CLIENTS)
_PATH = "/3.0/projects/{project}/queries/extraction"

OPERATIONS = [
    *_of_v2("_extract"),
    *_of_v2("_extracts"),
    *(
        Operation(method, _PATH, extract_now, "extraction", _NOW, parameters=_PARAMETERS, kind=EXTRACTIONS)
        for method in ("GET", "POST")
    ),
]
