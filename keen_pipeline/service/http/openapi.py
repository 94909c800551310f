"""The OpenAPI document of the service. The suite sends thousands of generated requests and compares the answers with it."""

from __future__ import annotations

from functools import lru_cache
from typing import Any

from keen_pipeline.filters import Operator
from keen_pipeline.service.http.openapi_schemas import SCHEMAS

_ERRORS = {
    400: "A parameter or the body is wrong; `field` names it",
    401: "The key is missing, wrong, or not the one that this resource needs",
    404: "There is no such project, collection, extraction or result",
    413: "The body is over the limit",
    429: "Too many requests, or too many extractions waiting; Retry-After says in how many seconds to ask again",
    431: "The request line and the headers are over 1 MiB",
    501: "The transfer coding is not known",
    503: "The service is shutting down",
    504: "The query took too long",
}
# What the HTTP server itself refuses, whatever the path.
_MALFORMED = (400, 431, 501)
_COMMON = (400, 401, 404)
_LIMITED = (*_COMMON, 429, 503, 504)


def document(base_url: str, project_id: str) -> dict[str, Any]:
    """The document of the service at `base_url`, which holds one project."""
    components = {**_document()["components"], "schemas": {**SCHEMAS, "ProjectId": {"enum": [project_id]}}}
    return {**_document(), "components": components, "servers": [{"url": base_url}]}


@lru_cache(maxsize=1)
def _document() -> dict[str, Any]:
    security = {
        "header": {"type": "apiKey", "in": "header", "name": "Authorization"},
        "query": {"type": "apiKey", "in": "query", "name": "api_key"},
    }
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "Keen Data Extraction API, embedded",
            "version": "3.0",
            "description": f"Filters: {', '.join(o.value for o in Operator)}, and `or` groups. Timeframes are half-open.",
        },
        "paths": {path: _with_head(item) for path, item in {**_operations(), **_v2(), **_v3()}.items()},
        "components": {"schemas": SCHEMAS, "securitySchemes": security},
        "security": [{"header": []}, {"query": []}],
    }


def _ref(name: str) -> dict[str, Any]:
    return {"$ref": f"#/components/schemas/{name}"}


def _json(schema: dict[str, Any]) -> dict[str, Any]:
    return {"application/json": {"schema": schema}}


def _operation(
    summary: str,
    answer: dict[str, Any] | None,
    *,
    status: int = 200,
    errors: tuple[int, ...] = _COMMON,
    parameters: tuple[dict[str, Any], ...] = (),
    body: dict[str, Any] | None = None,
    open_to_all: bool = False,
) -> dict[str, Any]:
    """One operation; `answer` is the content of its success."""
    success: dict[str, Any] = {"description": "Success"}
    if answer is not None:
        success["content"] = answer
    refusals = {str(code): _refusal(code) for code in sorted({*errors, *_MALFORMED})}
    operation: dict[str, Any] = {"summary": summary, "responses": {str(status): success, **refusals}}
    if parameters:
        operation["parameters"] = list(parameters)
    if body is not None:
        operation["requestBody"] = {"required": True, "content": _json(body)}
        operation["responses"]["413"] = _refusal(413)
    if open_to_all:
        operation["security"] = []
    return operation


def _refusal(code: int) -> dict[str, Any]:
    answer: dict[str, Any] = {"description": _ERRORS[code], "content": _json(_ref("Error"))}
    if code == 429:
        answer["headers"] = {"Retry-After": {"required": True, "schema": {"type": "integer", "minimum": 1}}}
    return answer


def _with_head(item: dict[str, Any]) -> dict[str, Any]:
    """The operations of a path; where there is GET there is HEAD, with the same answers but for their bodies."""
    if "get" not in item:
        return item
    responses = {code: {k: v for k, v in answer.items() if k != "content"} for code, answer in item["get"]["responses"].items()}
    return {**item, "head": {**item["get"], "summary": f"{item['get']['summary']} (headers alone)", "responses": responses}}


def _query(name: str, schema: dict[str, Any], *, required: bool = False) -> dict[str, Any]:
    return {"name": name, "in": "query", "required": required, "schema": schema}


def _encoded(name: str, schema: dict[str, Any]) -> dict[str, Any]:
    """A query parameter that holds JSON."""
    return {"name": name, "in": "query", "required": False, "content": {"application/json": {"schema": schema}}}


def _path(name: str) -> dict[str, Any]:
    schemas = {"project": _ref("ProjectId"), "collection": _ref("Collection")}
    return {"name": name, "in": "path", "required": True, "schema": schemas.get(name, {"type": "string", "minLength": 1})}


_SELECTING = (
    _encoded("filters", _ref("FiltersInAddress")),
    _query("timeframe", _ref("RelativeTimeframe")),
    _query("timezone", _ref("Timezone")),
)


def _operations() -> dict[str, Any]:
    versions = {**_json(_ref("Versions")), "text/html": {"schema": {"type": "string"}}}
    text = {"schema": {"type": "string"}}
    signed = (_path("extraction_id"), _query("expires", {"type": "string"}), _query("signature", {"type": "string"}))
    result = _operation(
        "A result, by a signed URL; Range and If-Range work",
        {"text/csv": text},
        errors=(401, 404),
        parameters=signed,
        open_to_all=True,
    )
    number, word = {"schema": {"type": "integer", "minimum": 0}}, {"required": True, "schema": {"type": "string"}}
    result["responses"]["200"]["headers"] = {
        "ETag": word,
        "Accept-Ranges": {"schema": {"const": "bytes"}},
        "Content-Length": number,
    }
    result["responses"] |= {
        "206": {
            "description": "The asked range",
            "headers": {"ETag": word, "Content-Range": word, "Content-Length": {**number, "required": True}},
            "content": {"text/csv": text},
        },
        "304": {"description": "Not modified", "headers": {"ETag": word}},
        "403": {"description": "The URL has expired", "content": _json(_ref("Error"))},
        "416": {"description": "No such range"},
    }
    packed = _operation(
        "A result as a gzip file, by a signed URL",
        {"application/gzip": {"schema": {"type": "string", "format": "binary"}}},
        errors=(401, 404),
        parameters=signed,
        open_to_all=True,
    )
    packed["responses"] |= {"403": {"description": "The URL has expired", "content": _json(_ref("Error"))}}
    return {
        "/": {"get": _operation("The versions; a page for browsers", versions, errors=(), open_to_all=True)},
        "/healthz": {"get": _operation("Whether the service works", _json(_ref("Health")), errors=(), open_to_all=True)},
        "/metrics": {"get": _operation("Prometheus metrics", {"text/plain": text}, errors=(), open_to_all=True)},
        "/openapi.json": {"get": _operation("This document", _json({"type": "object"}), errors=(), open_to_all=True)},
        "/results/{extraction_id}.csv": {"get": result},
        "/results/{extraction_id}.csv.gz": {"get": packed},
    }


def _v2() -> dict[str, Any]:
    project, collection = _path("project"), _path("collection")
    where = (project, collection)
    unique = _query("distinct_property", {"type": "string", "minLength": 1}, required=True)
    counted = _query("unique_property", {"type": "string", "minLength": 1}, required=True)
    extractions = {
        "post": _operation(
            "Create an extraction", _json(_ref("Extraction")), errors=_LIMITED, parameters=where, body=_ref("NewExtraction")
        ),
        "get": _operation("Extractions of a collection", _json(_ref("Extractions")), errors=_LIMITED, parameters=where),
    }
    one = _operation("One extraction", _json(_ref("Extraction")), errors=_LIMITED, parameters=(*where, _path("extraction_id")))
    root = "/2.0/projects/{project}/{collection}"
    paths: dict[str, Any] = {
        "/2.0": {"get": _operation("Where the projects are", _json(_ref("Version2")), errors=(), open_to_all=True)},
        "/2.0/projects": {"get": _operation("The project", _json({"type": "array", "items": _ref("Project")}), errors=(401,))},
        "/2.0/projects/{project}": {"get": _operation("The project", _json(_ref("Project")), parameters=(project,))},
        root: {
            "get": _operation("The schema of a collection", _json(_ref("Schema2")), errors=(*_COMMON, 503), parameters=where),
            "post": _operation(
                "Add an event", _json(_ref("Created")), status=201, errors=(*_COMMON, 503), parameters=where, body=_ref("Event2")
            ),
        },
        f"{root}/_count": {
            "get": _operation("Count", _json(_ref("CountResult")), errors=_LIMITED, parameters=(*where, *_SELECTING)),
        },
        f"{root}/_count_unique": {
            "get": _operation(
                "Count unique values", _json(_ref("CountResult")), errors=_LIMITED, parameters=(*where, *_SELECTING, counted)
            ),
        },
        f"{root}/_select_unique": {
            "get": _operation(
                "Unique values", _json(_ref("UniqueResults")), errors=_LIMITED, parameters=(*where, *_SELECTING, unique)
            ),
        },
    }
    for name in ("_extract", "_extracts"):
        paths[f"{root}/{name}"] = extractions
        paths[f"{root}/{name}/{{extraction_id}}"] = {"get": one}
    return paths


def _v3() -> dict[str, Any]:
    project, collection = _path("project"), _path("collection")
    root = "/3.0/projects/{project}"
    one = (project, collection)
    late = (*_COMMON, 503, 504)
    schemas = _json({"type": "array", "items": _ref("Schema3")})
    paths: dict[str, Any] = {
        f"{root}/events": {
            "get": _operation("Schemas of all collections", schemas, errors=late, parameters=(project,)),
            "post": _operation("Add events", _json(_ref("Outcomes")), errors=late, parameters=(project,), body=_ref("Batch")),
        },
        f"{root}/events/{{collection}}": {
            "get": _operation("Schema of a collection", _json(_ref("Schema3")), errors=late, parameters=one),
            "post": _operation(
                "Add an event", _json(_ref("Created")), status=201, errors=late, parameters=one, body=_ref("Event3")
            ),
            "delete": _operation("Delete events", None, status=204, errors=late, parameters=(*one, *_SELECTING)),
        },
    }
    for kind in (
        "count",
        "count_unique",
        "select_unique",
        "sum",
        "minimum",
        "maximum",
        "average",
        "median",
        "percentile",
        "extraction",
    ):
        paths[f"{root}/queries/{kind}"] = _analysis(kind, project)
    return paths


def _analysis(kind: str, project: dict[str, Any]) -> dict[str, Any]:
    answers = {
        "count": "CountResult",
        "count_unique": "CountResult",
        "select_unique": "UniqueResult",
        "extraction": "ExtractionResult",
    }
    answer = _json(_ref(answers.get(kind, "FigureResult")))
    if kind == "extraction":
        answer["text/csv"] = {"schema": {"type": "string"}}  # with content_encoding, in gzip as the header Content-Encoding says
    parameters = [project, _query("event_collection", _ref("Collection"), required=True), *_SELECTING]
    if kind not in ("count", "extraction"):
        parameters.append(_query("target_property", {"type": "string", "minLength": 1}, required=True))
    if kind == "percentile":
        parameters.append(_query("percentile", {"type": "number", "minimum": 0, "maximum": 100}, required=True))
    if kind == "extraction":
        parameters.append(_query("latest", {"type": "integer", "minimum": 1, "maximum": 10**12}))
        parameters.append(_query("content_type", {"enum": ["application/json", "text/csv"]}))
        parameters.append(_query("content_encoding", {"const": "gzip"}))
        parameters.append(_encoded("property_names", {"type": "array", "items": {"type": "string", "minLength": 1}, "minItems": 1}))
    names = {"extraction": "ExtractionQuery", "count": "CountQuery", "percentile": "PercentileQuery"}
    return {
        "get": _operation(kind, answer, errors=_LIMITED, parameters=tuple(parameters)),
        "post": _operation(kind, answer, errors=_LIMITED, parameters=(project,), body=_ref(names.get(kind, "PropertyQuery"))),
    }
