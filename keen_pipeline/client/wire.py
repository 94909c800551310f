"""Keen's JSON answers, read in every documented form. Pure; a wrong shape raises WrongShape with the reason."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from keen_pipeline.errors import InvalidInputError
from keen_pipeline.extraction import RemoteExtraction, RemoteStatus, SecretUrl
from keen_pipeline.filters import Filter
from keen_pipeline.timeframe import Timeframe, parse_instant


class WrongShape(ValueError):  # noqa: N818 - never leaves the client: the transport turns it into ProtocolError
    """An answer that is JSON, yet not the documented form."""


def read_extraction(answer: Any) -> RemoteExtraction:
    """One extraction: `{"_id", "status", "results_url"?}`. A complete one must carry its results URL."""
    fields = _mapping(answer)
    identity = fields.get("_id", fields.get("id"))
    if isinstance(identity, bool) or not isinstance(identity, (str, int)) or not str(identity).strip():
        raise WrongShape("an extraction without `_id`")
    if "status" not in fields:
        raise WrongShape("an extraction without `status`")
    status = RemoteStatus.from_wire(fields["status"])
    url = fields.get("results_url")
    if url is not None and not isinstance(url, str):
        raise WrongShape("`results_url` is not a string")
    if status is RemoteStatus.COMPLETE and not url:
        raise WrongShape("a complete extraction without `results_url`")
    message = fields.get("message", fields.get("error"))
    return RemoteExtraction(
        extraction_id=str(identity),
        status=status,
        results_url=SecretUrl(url) if url else None,
        message=None if message is None else str(message),
        **_asked(fields),
    )


def _asked(fields: Mapping[str, Any]) -> dict[str, Any]:
    """What was asked and when, of a service that says it; nothing where a part is missing or has another form."""
    try:
        window, filters = fields["timeframe"], fields["filters"]
        return {
            "created_at": parse_instant(fields["created_at"]),
            "timeframe": Timeframe(parse_instant(window["start"]), parse_instant(window["end"])),
            "filters": tuple(Filter.from_wire(one) for one in filters),
        }
    except (KeyError, TypeError, AttributeError, InvalidInputError):
        return {}


def read_extractions(answer: Any) -> dict[str, RemoteExtraction]:
    """The list resource: an array, or an object whose `results` (or `result`, `extractions`) is one."""
    listed = answer
    if isinstance(answer, Mapping):
        listed = next((answer[key] for key in ("results", "result", "extractions") if key in answer), None)
    if not isinstance(listed, list):
        raise WrongShape("no list of extractions under `results`")
    found = (read_extraction(one) for one in listed)
    return {extraction.extraction_id: extraction for extraction in found}


def read_count(answer: Any) -> int:
    """`{"result": n}` with a whole number n >= 0."""
    number = _result(answer)
    if isinstance(number, bool) or not isinstance(number, (int, float)) or number < 0 or number != int(number):
        raise WrongShape("`result` is not a count")
    return int(number)


def read_values(answer: Any) -> list[object]:
    """`{"results": [...]}` (or `result`)."""
    values = _result(answer)
    if not isinstance(values, list):
        raise WrongShape("`results` is not a list")
    return values


def read_collections(answer: Any) -> list[str]:
    """The names of a project resource's `collections` (v2.0), or of the schema list (v3.0), sorted."""
    listed = answer.get("collections") if isinstance(answer, Mapping) else answer
    if not isinstance(listed, list):
        raise WrongShape("no list of collections")
    names = [_mapping(one).get("name") for one in listed]
    if not all(isinstance(name, str) and name for name in names):
        raise WrongShape("a collection without `name`")
    return sorted(str(name) for name in names)


def read_property_types(answer: Any) -> dict[str, str]:
    """The schema resource's `inferred_property_types`; `string`, which all are, where `type_appearances` name several types."""
    fields = _mapping(answer)
    inferred = _mapping(fields.get("inferred_property_types"))
    details = fields.get("properties")
    types = {}
    for name, kind in inferred.items():
        if not isinstance(kind, str):
            raise WrongShape(f"the type of {name} is not a word")
        known = details.get(name) if isinstance(details, Mapping) else None
        appearances = known.get("type_appearances") if isinstance(known, Mapping) else None
        seen = {one for one, times in appearances.items() if times} - {"null"} if isinstance(appearances, Mapping) else {kind}
        types[str(name)] = kind if seen <= {kind} else "string"
    return types


def read_schema(answer: Any) -> dict[str, str]:
    """The type by property of v3.0's schema resource, `{"properties": {"a.b": "num"}}`."""
    types = _mapping(_mapping(answer).get("properties"))
    for name, kind in types.items():
        if not isinstance(kind, str):
            raise WrongShape(f"the type of {name} is not a word")
    return {str(name): str(kind) for name, kind in types.items()}


def read_outcomes(answer: Any) -> dict[str, list[str | None]]:
    """The batch answer: for each collection and event None where it was stored, else the service's reason."""
    return {name: [_outcome(one) for one in _list(outcomes)] for name, outcomes in _mapping(answer).items()}


def _outcome(answer: Any) -> str | None:
    fields = _mapping(answer)
    if fields.get("success") is True:
        return None
    error = fields.get("error")
    if isinstance(error, Mapping):
        return f"{error.get('name', 'error')}: {error.get('description', '')}".strip(": ")
    return str(error or "refused without a reason")


def _result(answer: Any) -> Any:
    fields = _mapping(answer)
    for key in ("result", "results"):
        if key in fields:
            return fields[key]
    raise WrongShape("no `result`")


def _mapping(answer: Any) -> Mapping[str, Any]:
    if not isinstance(answer, Mapping):
        raise WrongShape(f"an object was expected, not {type(answer).__name__}")
    return answer


def _list(answer: Any) -> list[Any]:
    if not isinstance(answer, list):
        raise WrongShape(f"a list was expected, not {type(answer).__name__}")
    return answer
