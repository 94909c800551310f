"""The schemas of the OpenAPI document."""

from __future__ import annotations

from typing import Any

from keen_pipeline.filters import MAX_CONDITIONS, Operator
from keen_pipeline.service.events.incoming import MAX_ID_CHARACTERS, MAX_KEY_CHARACTERS

_STRING: dict[str, Any] = {"type": "string"}
_INTEGER: dict[str, Any] = {"type": "integer"}
_COUNTS: dict[str, Any] = {"type": "object", "additionalProperties": {"type": "integer", "minimum": 1}}
_TYPES: dict[str, Any] = {
    "type": "object",
    "additionalProperties": {"enum": ["string", "num", "bool", "null", "array", "object", "datetime"]},
}

ERRORS = {
    400: "A parameter or the body is wrong; `field` names it",
    401: "The key is missing, wrong, or not the one that this resource needs",
    403: "The URL has expired",
    404: "There is no such project, collection, extraction or result",
    408: "The request took too long to arrive",
    413: "The body is over the limit",
    429: "Too many requests, extractions that wait, or mails; Retry-After says in how many seconds to ask again",
    431: "The request line and the headers are over 1 MiB",
    501: "The transfer coding is not known",
    503: "The service has no thread, memory or connection free now, or is shutting down",
    504: "The query took too long",
    507: "The service's disk is full",
}


def ref(name: str) -> dict[str, Any]:
    return {"$ref": f"#/components/schemas/{name}"}


def json_of(schema: dict[str, Any]) -> dict[str, Any]:
    return {"application/json": {"schema": schema}}


def refusal(code: int) -> dict[str, Any]:
    answer: dict[str, Any] = {"description": ERRORS[code], "content": json_of(ref("Error"))}
    if code in (429, 503, 507):
        answer["headers"] = {"Retry-After": {"required": True, "schema": {"type": "integer", "minimum": 1}}}
    return answer


def object_of(required: dict[str, Any], optional: dict[str, Any] | None = None) -> dict[str, Any]:
    """The schema of an object that has these properties and no others."""
    return {
        "type": "object",
        "properties": {**required, **(optional or {})},
        "required": list(required),
        "additionalProperties": False,
    }


def _strings(*names: str) -> dict[str, Any]:
    return dict.fromkeys(names, _STRING)


def _list(items: dict[str, Any]) -> dict[str, Any]:
    return {"type": "array", "items": items}


_SCALAR: dict[str, Any] = {"type": ["string", "number", "boolean", "null"]}
_POINT: dict[str, Any] = {
    "type": "array",
    "prefixItems": [{"type": "number", "minimum": -180, "maximum": 180}, {"type": "number", "minimum": -90, "maximum": 90}],
    "minItems": 2,
    "maxItems": 2,
}
# What each operator takes; see `keen_pipeline.filters`.
_OPERANDS: list[tuple[tuple[Operator, ...], dict[str, Any]]] = [
    ((Operator.EQ, Operator.NE), _SCALAR),
    ((Operator.LT, Operator.GT), {"type": ["string", "number"]}),
    ((Operator.LTE, Operator.GTE), {"type": "number"}),
    ((Operator.EXISTS,), {"type": "boolean"}),
    ((Operator.IN,), _list(_SCALAR)),
    ((Operator.CONTAINS, Operator.NOT_CONTAINS), _STRING),
    ((Operator.REGEX,), {"type": "string", "description": "RE2"}),
    ((Operator.WITHIN,), object_of({"coordinates": _POINT, "max_distance_miles": {"type": "number", "minimum": 0}})),
]
_MOMENTS = (Operator.EQ, Operator.NE, Operator.LT, Operator.GT, Operator.LTE, Operator.GTE)


def _condition(operators: tuple[Operator, ...], value: dict[str, Any], name: dict[str, Any]) -> dict[str, Any]:
    return object_of({"property_name": name, "operator": {"enum": [o.value for o in operators]}, "property_value": value})


NAME = {"type": "string", "minLength": 1, "pattern": r"\S"}
_KEY = {"type": "string", "minLength": 1, "maxLength": MAX_KEY_CHARACTERS}
_INSTANT = {"type": "string", "format": "date-time"}
_SERVICE = {"timestamp": _INSTANT, "created_at": _INSTANT, "id": {"type": "string", "minLength": 1, "maxLength": MAX_ID_CHARACTERS}}

_LINK = object_of(_strings("url", "name"))

SCHEMAS: dict[str, Any] = {
    "Error": object_of(_strings("message", "error_code"), _strings("field")),
    "Collection": {"type": "string", "pattern": r"^[A-Za-z0-9][A-Za-z0-9_:+/\-]{0,63}$"},
    "Timezone": {
        "anyOf": [{"enum": ["UTC", "Europe/Berlin", "US/Pacific"]}, {"type": "integer", "minimum": -86399, "maximum": 86399}]
    },
    "RelativeTimeframe": {
        "type": "string",
        "pattern": r"^(today|yesterday|(this|last|previous)_([1-9]\d?_)?(minute|hour|day|week|month|year)s?)$",
    },
    "Timeframe": {
        "anyOf": [
            ref("RelativeTimeframe"),
            object_of({"start": _INSTANT, "end": _INSTANT}),
        ]
    },
    "Filters": {"type": "array", "items": ref("Filter"), "maxItems": MAX_CONDITIONS},
    # Longer ones belong into the body of a POST: an address has its limit too.
    "FiltersInAddress": {"type": "array", "items": ref("Filter"), "maxItems": 10},
    "Filter": {"anyOf": [ref("Condition"), object_of({"operator": {"const": "or"}, "operands": ref("Operands")})]},
    "Operands": {"type": "array", "items": ref("Condition"), "minItems": 1, "maxItems": 10},
    "Condition": {
        "anyOf": [
            *(_condition(operators, value, NAME) for operators, value in _OPERANDS),
            _condition(_MOMENTS, _INSTANT, {"enum": ["keen.timestamp", "keen.created_at", "header:timestamp"]}),
        ]
    },
    "Versions": _list(object_of({**_strings("url", "version"), "is_public": {"type": "boolean"}})),
    "Version": object_of(_strings("projects_resource_url")),
    "Health": object_of({"status": {"const": "ok"}, "project_id": _STRING, "folder": _INTEGER, "extractions_waiting": _INTEGER}),
    "Project2": object_of({**_strings("api_key", "_id", "url"), "collections": ref("Links")}),
    "Projects2": _list(ref("Project2")),
    "Project3": object_of(
        {**_strings("id", "name", "url", "events_url", "queries_url"), "events": ref("Links"), "queries": ref("Links")}
    ),
    "Links": _list(_LINK),
    "Projects3": _list(ref("Project3")),
    "Created": object_of({"created": {"const": True}}),
    "Event2": object_of(
        {"body": {"type": "object", "minProperties": 1, "propertyNames": {**_KEY, "not": {"const": "keen"}}}},
        {"header": object_of({}, _SERVICE)},
    ),
    "Event3": {
        "type": "object",
        "minProperties": 1,
        "propertyNames": _KEY,
        "properties": {"keen": {"type": "object", "properties": _SERVICE, "propertyNames": _KEY}},
    },
    "Batch": {"type": "object", "additionalProperties": _list(ref("Event3"))},
    "Outcomes": {
        "type": "object",
        "additionalProperties": _list(
            object_of({"success": {"type": "boolean"}}, {"error": object_of(_strings("name", "description"))})
        ),
    },
    "Schema2": object_of(
        {
            **_strings("name", "url"),
            "property_names": _list(_STRING),
            "inferred_property_types": _TYPES,
            "properties": {
                "type": "object",
                "additionalProperties": object_of(
                    {"num_appearances": {"type": "integer", "minimum": 1}, "type_appearances": _COUNTS}
                ),
            },
            "urls": object_of(_strings("extractions")),
        }
    ),
    "Schema3": object_of({**_strings("name", "url"), "properties": _TYPES}),
    "Schemas3": _list(object_of({**_strings("name", "url"), "properties": _TYPES}, {"error": ref("Error")})),
    "Email": {"type": "string", "pattern": r"^[a-z]{1,20}@[a-z]{1,20}\.example$"},
    "Extraction": object_of(
        {"_id": _STRING, "status": {"enum": ["not started", "complete", "failed"]}},
        {
            **_strings("results_url", "message", "created_at", "finished_at"),
            "events": {"type": "integer", "minimum": 0},
            "bytes": {"type": "integer", "minimum": 0},
            "filters": _list({"type": "object"}),
            "timeframe": object_of(_strings("start", "end")),
        },
    ),
    "Extractions": object_of({"results": _list(ref("Extraction"))}),
    "CountResult": object_of({"result": {"type": "integer", "minimum": 0}}),
    "UniqueResult": object_of({"result": {"type": "array"}}),
    "UniqueResults": object_of({"results": {"type": "array"}}),
    "FigureResult": object_of({"result": {"type": ["number", "null"]}}),
    "ExtractionResult": object_of({"result": {"anyOf": [_list({"type": "object"}), _STRING]}}),
}
