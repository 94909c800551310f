"""The queries of API v3.0 under `/3.0/projects/<id>/queries`: analyses, and extractions at once or by mail."""

from __future__ import annotations

import gzip
import math
from collections.abc import Callable, Mapping
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import duckdb
from starlette.responses import Response

from keen_pipeline.errors import ExtractionTooLargeError, InvalidInputError
from keen_pipeline.service.addresses import checked_email
from keen_pipeline.service.application import Service
from keen_pipeline.service.events import analyses
from keen_pipeline.service.extractions.csv_export import Selection, count, write_csv
from keen_pipeline.service.extractions.records import Shape
from keen_pipeline.service.http.answers import dump_json
from keen_pipeline.service.http.openapi_schemas import LIMITED, json_of, ref
from keen_pipeline.service.http.operation import Call, Operation
from keen_pipeline.service.http.parameters import (
    EVENT_COLLECTION,
    EXTRACTING,
    PERCENTILE,
    SELECTING,
    SENT_BY_CLIENTS,
    TARGET,
    check_analysis_type,
    property_name,
    property_names,
    whole_number,
)
from keen_pipeline.service.http.sizes import check_events, unique_values
from keen_pipeline.service.limits import EXTRACTIONS, QUERIES
from keen_pipeline.service.names import check_event_collection, literal_name

KINDS = ("count", "count_unique", "select_unique", *analyses.FIGURES, "extraction")


def _target(selection: Selection, parameters: Mapping[str, Any]) -> str:
    return literal_name(property_name(parameters.get("target_property"), "target_property"), selection.snapshot.columns)


def _figure(kind: str, cursor: duckdb.DuckDBPyConnection, selection: Selection, parameters: Mapping[str, Any]) -> Any:
    share = _percentile(parameters.get("percentile")) if kind == "percentile" else 50
    found = analyses.figure(cursor, selection, kind, _target(selection, parameters), share)
    if isinstance(found, float) and not math.isfinite(found):
        raise InvalidInputError("target_property: the result is outside the range of a double", field="target_property")
    return found


def _percentile(value: object) -> float:
    try:
        share = float(value)  # type: ignore[arg-type]  # anything but a number or its text ends in the error below
    except (TypeError, ValueError):
        share = math.nan
    if not 0 <= share <= 100 or isinstance(value, bool):
        raise InvalidInputError("percentile: must be a number from 0 to 100", field="percentile")
    return share


def _analyse(kind: str, call: Call, cursor: duckdb.DuckDBPyConnection, selection: Selection) -> Any:
    if kind == "count":
        return count(cursor, selection)
    if kind in ("count_unique", "select_unique"):
        values = unique_values(cursor, selection, _target(selection, call.parameters), call.service.config.max_answer_bytes)
        return values if kind == "select_unique" else len(values)
    return _figure(kind, cursor, selection, call.parameters)


async def analysis(call: Call) -> Response:
    """One analysis; its kind is the end of the path."""
    kind, service, parameters = call.operation.path.rsplit("/", 1)[1], call.service, call.parameters
    check_analysis_type(parameters.get("analysis_type"), kind)

    def run() -> str:
        name = check_event_collection(parameters.get("event_collection"))
        with (
            service.select(name, service.filters(parameters), service.window(parameters)) as selection,
            service.engine.query() as cursor,
        ):
            return dump_json({"result": _analyse(kind, call, cursor, selection)})

    return Response(await call.query(run), media_type="application/json")


async def extraction(call: Call) -> Response:
    """The events at once, or, with an address, by mail."""
    service, parameters = call.service, call.parameters
    check_analysis_type(parameters.get("analysis_type"), "extraction")
    name = check_event_collection(parameters.get("event_collection"))
    if parameters.get("content_encoding") not in (None, "", "gzip"):
        raise InvalidInputError("content_encoding: only gzip is known", field="content_encoding")
    packed = parameters.get("content_encoding") == "gzip"
    as_csv = _wants_csv(parameters.get("content_type"))
    latest = whole_number(parameters.get("latest"), "latest", 10**12)
    names = property_names(parameters.get("property_names"))
    if checked_email(parameters, service.config.mail_to) is not None:
        if parameters.get("content_type") == "application/json":
            raise InvalidInputError("content_type: a file for an e-mail is text/csv", field="content_type")
        shape = Shape(latest, tuple(names) if names is not None else None, packed)
        await call.query(lambda: service.create_extraction(name, parameters, names="v3", shape=shape))
        return Response(
            dump_json({"result": "Processing. Check the specified email for the extraction results."}), media_type=_JSON
        )
    write = _csv if as_csv else _json

    def run() -> bytes:
        body = _extract(service, name, parameters, latest, names, write)
        return gzip.compress(body, compresslevel=1, mtime=0) if packed else body

    # In gzip because it was asked for by name, whatever the client's headers say.
    headers = {"Content-Encoding": "gzip"} if packed else None
    return Response(await call.events(run), media_type="text/csv; charset=utf-8" if as_csv else _JSON, headers=headers)


_JSON = "application/json"


def _wants_csv(content_type: object) -> bool:
    if content_type in (None, "", _JSON):
        return False
    if content_type == "text/csv":
        return True
    raise InvalidInputError("content_type: must be application/json or text/csv", field="content_type")


Writer = Callable[[duckdb.DuckDBPyConnection, Selection, "int | None", "list[str] | None"], bytes]


def _extract(
    service: Service, name: str, parameters: Mapping[str, Any], latest: int | None, names: list[str] | None, write: Writer
) -> bytes:
    config = service.config
    with (
        service.select(name, service.filters(parameters), service.window(parameters)) as selection,
        service.engine.query() as cursor,
    ):
        wanted = count(cursor, selection)
        if latest is not None:
            wanted = min(wanted, latest)
        if wanted > config.max_sync_events:
            raise ExtractionTooLargeError(
                f"the extraction is too large: {wanted} events, at most {config.max_sync_events} at once;"
                " shorten the timeframe or give an email"
            )
        known = selection.snapshot.columns
        paths = analyses.paths_of(selection, [literal_name(one, known) for one in names]) if names is not None else None
        if wanted * config.max_event_bytes > config.max_answer_bytes:
            check_events(cursor, selection, latest, paths, config.max_answer_bytes)
        return write(cursor, selection, latest, paths)


def _csv(cursor: duckdb.DuckDBPyConnection, selection: Selection, latest: int | None, paths: list[str] | None) -> bytes:
    with TemporaryDirectory(prefix="keen-extraction-") as folder:
        target = Path(folder) / "events.csv"
        write_csv(cursor, selection, target, paths, latest=latest)
        return target.read_bytes()


def _json(cursor: duckdb.DuckDBPyConnection, selection: Selection, latest: int | None, paths: list[str] | None) -> bytes:
    return dump_json({"result": analyses.events(cursor, selection, latest=latest, paths=paths)}).encode()


_ANSWERS = {
    "count": "CountResult",
    "count_unique": "CountResult",
    "select_unique": "UniqueResult",
    "extraction": "ExtractionResult",
}


def _operations(kind: str) -> list[Operation]:
    answer = json_of(ref(_ANSWERS.get(kind, "FigureResult")))
    if kind == "extraction":
        answer = {**answer, "text/csv": {"schema": {"type": "string"}}}  # or its gzip form, as the header Content-Encoding says
    more = EXTRACTING if kind == "extraction" else SELECTING if kind == "count" else (*SELECTING, TARGET)
    parameters = (EVENT_COLLECTION, *more, *((PERCENTILE,) if kind == "percentile" else ()), *SENT_BY_CLIENTS)
    handler, limit = (extraction, EXTRACTIONS) if kind == "extraction" else (analysis, QUERIES)
    path = f"/3.0/projects/{{project}}/queries/{kind}"
    return [
        Operation(method, path, handler, kind, answer, errors=LIMITED, parameters=parameters, kind=limit)
        for method in ("GET", "POST")
    ]


OPERATIONS = [operation for kind in KINDS for operation in _operations(kind)]
