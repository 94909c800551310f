"""Queries: analyses of the events of one collection, in both versions. Extractions stand in `extractions`."""

from __future__ import annotations

import math
from typing import Any

import duckdb
from starlette.responses import Response

from keen_pipeline.errors import InvalidInputError
from keen_pipeline.service.events import analyses
from keen_pipeline.service.extractions.csv_export import Selection, count
from keen_pipeline.service.http.answers import dump_json
from keen_pipeline.service.http.lanes import EVENTS, QUERY
from keen_pipeline.service.http.operation import Call, Operation
from keen_pipeline.service.http.parameters import (
    DISTINCT,
    EVENT_COLLECTION,
    PERCENTILE,
    SELECTING,
    SENT_BY_CLIENTS,
    TARGET,
    UNIQUE,
    Parameter,
    check_analysis_type,
    property_name,
)
from keen_pipeline.service.http.schemas import json_of, ref
from keen_pipeline.service.limits import QUERIES

_ANALYSES = ("count", "count_unique", "select_unique", *analyses.FIGURES)
KINDS = (*_ANALYSES, "extraction")
"""The queries of v3.0."""


async def analysis(call: Call) -> Response:
    """One analysis; its kind is the end of the path."""
    kind = call.operation.path.rpartition("/")[2].removeprefix("_")
    check_analysis_type(call.parameters.get("analysis_type"), kind)
    name = "results" if (call.version, kind) == ("v2", "select_unique") else "result"

    def run() -> str:
        with call.service.query(call.collection, call.parameters, call.version) as (cursor, selection):
            return dump_json({name: _result(kind, call, cursor, selection)})

    lane = EVENTS if kind == "select_unique" else QUERY  # many values are put together in memory, as events are
    return Response(await call.run(lane, run), media_type="application/json")


def _result(kind: str, call: Call, cursor: duckdb.DuckDBPyConnection, selection: Selection) -> Any:
    if kind == "count":
        return count(cursor, selection)
    (field,) = (parameter.name for parameter in call.operation.parameters if parameter in (TARGET, UNIQUE, DISTINCT))
    target = property_name(call.parameters[field], field)
    if kind == "count_unique":
        return analyses.count_unique(cursor, selection, target)
    if kind == "select_unique":
        return analyses.unique_values(cursor, selection, target, call.service.config.max_answer_bytes)
    share = _percentile(call.parameters["percentile"]) if kind == "percentile" else 50
    return analyses.figure(cursor, selection, kind, target, share)


def _percentile(value: Any) -> float:
    try:
        share = float(value)
    except (TypeError, ValueError, OverflowError):
        share = math.nan
    if not 0 <= share <= 100 or isinstance(value, bool):
        raise InvalidInputError("percentile: must be a number from 0 to 100", field="percentile")
    return share


def _answer(kind: str, version: int) -> dict[str, Any]:
    if kind == "select_unique":
        return json_of(ref("UniqueResults" if version == 2 else "UniqueResult"))
    return json_of(ref("CountResult" if kind in ("count", "count_unique") else "FigureResult"))


def _of_v2(kind: str, *target: Parameter) -> Operation:
    path, parameters = f"/2.0/projects/{{project}}/{{collection}}/_{kind}", (*SELECTING, *target)
    return Operation("GET", path, analysis, kind, _answer(kind, 2), parameters=parameters, kind=QUERIES)


def _of_v3(method: str, kind: str) -> Operation:
    target = () if kind == "count" else (TARGET,)
    parameters = (EVENT_COLLECTION, *SELECTING, *target, *((PERCENTILE,) if kind == "percentile" else ()), *SENT_BY_CLIENTS)
    path = f"/3.0/projects/{{project}}/queries/{kind}"
    return Operation(method, path, analysis, kind, _answer(kind, 3), parameters=parameters, kind=QUERIES)


OPERATIONS = [
    _of_v2("count"),
    _of_v2("count_unique", UNIQUE),
    _of_v2("select_unique", DISTINCT),
    *(_of_v3(method, kind) for kind in _ANALYSES for method in ("GET", "POST")),
]
