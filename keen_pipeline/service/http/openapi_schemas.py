"""The schemas of the OpenAPI document."""

from __future__ import annotations

from typing import Any

from keen_pipeline.filters import MAX_CONDITIONS, Operator
from keen_pipeline.service.events.incoming import MAX_ID_CHARACTERS, MAX_KEY_CHARACTERS

_STRING: dict[str, Any] = {"type": "string"}
_COUNTS: dict[str, Any] = {"type": "object", "additionalProperties": {"type": "integer", "minimum": 1}}
_TYPE: dict[str, Any] = {"enum": ["string", "num", "bool", "null", "array", "object", "datetime"]}


def _ref(name: str) -> dict[str, Any]:
    return {"$ref": f"#/components/schemas/{name}"}


def _object(required: dict[str, Any], optional: dict[str, Any] | None = None, *, closed: bool = True) -> dict[str, Any]:
    return {
        "type": "object",
        "properties": {**required, **(optional or {})},
        "required": list(required),
        "additionalProperties": not closed,
    }


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
    ((Operator.WITHIN,), _object({"coordinates": _POINT, "max_distance_miles": {"type": "number", "minimum": 0}})),
]


_MOMENTS = (Operator.EQ, Operator.NE, Operator.LT, Operator.GT, Operator.LTE, Operator.GTE)


def _condition(operators: tuple[Operator, ...], value: dict[str, Any], name: dict[str, Any]) -> dict[str, Any]:
    return _object({"property_name": name, "operator": {"enum": [o.value for o in operators]}, "property_value": value})


_SELECTING = {"filters": _ref("Filters"), "timeframe": _ref("Timeframe"), "timezone": _ref("Timezone")}
_QUERY = {"event_collection": _ref("Collection")}
_NAME = {"type": "string", "minLength": 1, "pattern": r"\S"}
_KEY = {"type": "string", "minLength": 1, "maxLength": MAX_KEY_CHARACTERS}
_INSTANT = {"type": "string", "format": "date-time"}
_SERVICE = {"timestamp": _INSTANT, "created_at": _INSTANT, "id": {"type": "string", "minLength": 1, "maxLength": MAX_ID_CHARACTERS}}

SCHEMAS: dict[str, Any] = {
    "Error": _object({"message": _STRING, "error_code": _STRING}, {"field": _STRING}),
    "Collection": {"type": "string", "pattern": r"^[A-Za-z0-9][A-Za-z0-9_\-]{0,63}$"},
    "Timezone": {
        "anyOf": [{"enum": ["UTC", "Europe/Berlin", "US/Pacific"]}, {"type": "integer", "minimum": -86399, "maximum": 86399}]
    },
    "RelativeTimeframe": {
        "type": "string",
        "pattern": r"^(today|yesterday|(this|last|previous)_([1-9]\d?_)?(minute|hour|day|week|month|year)s?)$",
    },
    "Timeframe": {
        "anyOf": [
            _ref("RelativeTimeframe"),
            _object({"start": {"type": "string", "format": "date-time"}, "end": {"type": "string", "format": "date-time"}}),
        ]
    },
    "Filters": {"type": "array", "items": _ref("Filter"), "maxItems": MAX_CONDITIONS},
    # Longer ones belong into the body of a POST: an address has its limit too.
    "FiltersInAddress": {"type": "array", "items": _ref("Filter"), "maxItems": 10},
    "Filter": {"anyOf": [_ref("Condition"), _object({"operator": {"const": "or"}, "operands": _ref("Operands")})]},
    "Operands": {"type": "array", "items": _ref("Condition"), "minItems": 1, "maxItems": 10},
    "Condition": {
        "anyOf": [
            *(_condition(operators, value, _NAME) for operators, value in _OPERANDS),
            _condition(_MOMENTS, _INSTANT, {"enum": ["keen.timestamp", "keen.created_at", "header:timestamp"]}),
        ]
    },
    "Versions": _list(_object({"url": _STRING, "is_public": {"type": "boolean"}, "version": _STRING})),
    "Version2": _object({"projects_resource_url": _STRING}),
    "Health": _object({"status": {"const": "ok"}, "project_id": _STRING, "extractions_waiting": {"type": "integer"}}),
    "Project": _object(
        {"api_key": _STRING, "_id": _STRING, "url": _STRING, "collections": _list(_object({"url": _STRING, "name": _STRING}))}
    ),
    "Created": _object({"created": {"const": True}}),
    "Event2": _object(
        {"body": {"type": "object", "minProperties": 1, "propertyNames": {**_KEY, "not": {"const": "keen"}}}},
        {"header": _object({}, _SERVICE)},
    ),
    "Event3": {
        "type": "object",
        "minProperties": 1,
        "propertyNames": _KEY,
        "properties": {"keen": {"type": "object", "properties": _SERVICE, "propertyNames": _KEY}},
    },
    "Batch": {"type": "object", "additionalProperties": _list(_ref("Event3"))},
    "Outcomes": {
        "type": "object",
        "additionalProperties": _list(
            _object({"success": {"type": "boolean"}}, {"error": _object({"name": _STRING, "description": _STRING})})
        ),
    },
    "Schema2": _object(
        {
            "name": _STRING,
            "url": _STRING,
            "property_names": _list(_STRING),
            "inferred_property_types": {"type": "object", "additionalProperties": _TYPE},
            "properties": {
                "type": "object",
                "additionalProperties": _object(
                    {"num_appearances": {"type": "integer", "minimum": 1}, "type_appearances": _COUNTS}
                ),
            },
            "urls": _object({"extractions": _STRING}),
        }
    ),
    "Schema3": _object({"name": _STRING, "url": _STRING, "properties": {"type": "object", "additionalProperties": _TYPE}}),
    "NewExtraction": _object({}, {**_SELECTING, "email": {"type": "string", "format": "email"}, "email_address": _STRING}),
    "Extraction": _object(
        {"_id": _STRING, "status": {"enum": ["not started", "complete", "failed"]}},
        {
            "results_url": _STRING,
            "message": _STRING,
            "created_at": _STRING,
            "filters": _list({"type": "object"}),
            "timeframe": _object({"start": _STRING, "end": _STRING}),
        },
    ),
    "Extractions": _object({"results": _list(_ref("Extraction"))}),
    "CountResult": _object({"result": {"type": "integer", "minimum": 0}}),
    "UniqueResult": _object({"result": {"type": "array"}}),
    "UniqueResults": _object({"results": {"type": "array"}}),
    "FigureResult": _object({"result": {"type": ["number", "null"]}}),
    "ExtractionResult": _object({"result": {"anyOf": [_list({"type": "object"}), _STRING]}}),
    "CountQuery": _object(_QUERY, _SELECTING),
    "PropertyQuery": _object({**_QUERY, "target_property": _NAME}, _SELECTING),
    "PercentileQuery": _object(
        {**_QUERY, "target_property": _NAME, "percentile": {"type": "number", "minimum": 0, "maximum": 100}}, _SELECTING
    ),
    "ExtractionQuery": _object(
        _QUERY,
        {
            **_SELECTING,
            "latest": {"type": "integer", "minimum": 1, "maximum": 10**12},
            "email": {"type": "string", "format": "email"},
            "email_address": _STRING,
            "property_names": {"type": "array", "items": _NAME, "minItems": 1},
            "content_type": {"enum": ["application/json", "text/csv"]},
            "content_encoding": {"const": "gzip"},
        },
    ),
}
