"""The OpenAPI document, made from the table of operations. The suite sends thousands of generated requests and compares answers."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

from keen_pipeline.filters import Operator
from keen_pipeline.service.http.operation import Operation
from keen_pipeline.service.http.parameters import Parameter
from keen_pipeline.service.http.schemas import SCHEMAS, json_of, object_of, ref, refusal

_VARIABLE = re.compile(r"\{(\w+)\}")


def document(operations: Sequence[Operation], base_url: str, project_id: str) -> dict[str, Any]:
    """The document of the service at `base_url`, which holds one project."""
    paths: dict[str, dict[str, Any]] = {}
    for operation in operations:
        described = _described(operation)
        item = paths.setdefault(operation.path, {})
        item[operation.method.lower()] = described
        if operation.method == "GET":
            item["head"] = _head_of(described)
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
        "servers": [{"url": base_url}],
        "paths": paths,
        "components": {"schemas": {**SCHEMAS, "ProjectId": {"enum": [project_id]}}, "securitySchemes": security},
        "security": [{"header": []}, {"query": []}],
    }


def _described(operation: Operation) -> dict[str, Any]:
    success: dict[str, Any] = {"description": "Success"}
    if operation.answer is not None:
        success["content"] = dict(operation.answer)
    body = _body(operation)
    responses = {
        str(operation.status): success,
        **{str(code): refusal(code) for code in _refusals(operation)},
        **operation.responses,
    }
    described: dict[str, Any] = {"summary": operation.summary, "responses": responses}
    parameters = [_path_parameter(name) for name in _VARIABLE.findall(operation.path)]
    if operation.method != "POST":
        parameters += [_query_parameter(parameter) for parameter in operation.parameters if not parameter.hidden]
    if parameters:
        described["parameters"] = parameters
    if body is not None:
        described["requestBody"] = {"required": True, "content": json_of(body)}
    if operation.keys is None:
        described["security"] = []
    return described


def _refusals(operation: Operation) -> list[int]:
    codes = {400, 408, 431, 501, 503}  # the HTTP server's own, whatever the path, and what every request may run into
    if operation.keys is not None:
        codes |= {401, 404, 413, 504, 507}
    if operation.kind is not None:
        codes.add(429)
    return sorted(codes)


def _body(operation: Operation) -> dict[str, Any] | None:
    if operation.method != "POST":
        return None
    if operation.body is not None:
        return ref(operation.body)
    required = {p.name: p.schema for p in operation.parameters if p.required}
    return object_of(required, {p.name: p.schema for p in operation.parameters if not p.required and p.name != "analysis_type"})


def _head_of(described: dict[str, Any]) -> dict[str, Any]:
    """Where there is GET there is HEAD, with the same answers but for their bodies."""
    responses = {code: {k: v for k, v in answer.items() if k != "content"} for code, answer in described["responses"].items()}
    return {**described, "summary": f"{described['summary']} (headers alone)", "responses": responses}


def _query_parameter(parameter: Parameter) -> dict[str, Any]:
    schema = parameter.in_address or parameter.schema
    shown = {"content": json_of(schema)} if parameter.encoded else {"schema": schema}
    return {"name": parameter.name, "in": "query", "required": parameter.required, **shown}


def _path_parameter(name: str) -> dict[str, Any]:
    schemas = {"project": ref("ProjectId"), "collection": ref("Collection")}
    return {"name": name, "in": "path", "required": True, "schema": schemas.get(name, {"type": "string", "minLength": 1})}
