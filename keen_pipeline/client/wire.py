"""Keen's JSON answers, read in every documented form. Pure; a wrong shape raises WrongShape with the reason."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, TypeVar

from keen_pipeline.client import scrub
from keen_pipeline.client.address import split_url
from keen_pipeline.errors import UnreadableAnswerError
from keen_pipeline.extraction import Asked, RemoteExtraction, RemoteStatus, SecretUrl
from keen_pipeline.filters import Filter
from keen_pipeline.timeframe import Timeframe, parse_instant

LONGEST_ID = 256
"""Characters of an extraction's id."""
LONGEST_NAME = 256
"""Characters of a collection's or a property's name; what is longer is cut."""
Clean = Callable[[str], str]
"""What takes secrets, control characters and excess length out of the service's words."""
Answer = TypeVar("Answer")
Reader = Callable[[Any, Clean], Answer]
"""Makes of an answer's JSON what it means. Raises WrongShape."""


class WrongShape(ValueError):  # noqa: N818 - never leaves the client: the transport turns it into UnreadableAnswerError
    """An answer that is JSON, yet not the documented form."""


def read_extraction(answer: Any, clean: Clean) -> RemoteExtraction:
    """One extraction: `{"_id", "status", "results_url"?}`. A complete one must carry its results URL."""
    found = _extraction(_identity(answer, clean), answer, clean)
    if found.status is RemoteStatus.COMPLETE and found.results_url is None:
        raise WrongShape("a complete extraction without `results_url`")
    return found


def _extraction(identity: str, fields: Mapping[str, Any], clean: Clean) -> RemoteExtraction:
    if "status" not in fields:
        raise WrongShape("an extraction without `status`")
    message = fields.get("message", fields.get("error"))
    return RemoteExtraction(
        extraction_id=identity,
        status=RemoteStatus.from_wire(fields["status"]),
        results_url=_results_url(fields.get("results_url")),
        message=None if message is None else clean(str(message)),
        asked=lambda: _asked(fields),
    )


def _identity(answer: Any, clean: Clean) -> str:
    fields = _mapping(answer)
    identity = fields.get("_id", fields.get("id"))
    if isinstance(identity, bool) or not isinstance(identity, (str, int)) or not str(identity).strip():
        raise WrongShape("an extraction without `_id`")
    identity = str(identity)
    if len(identity) > LONGEST_ID or clean(identity) != identity or identity in (".", ".."):
        raise WrongShape(f"an extraction whose `_id` has over {LONGEST_ID} characters, or what no URL or message can hold")
    return identity


def _results_url(url: Any) -> SecretUrl | None:
    if not url:
        return None
    try:
        split_url(str(url))
    except UnreadableAnswerError:
        raise WrongShape("`results_url` is not http(s) with a host") from None
    return SecretUrl(str(url))


def _asked(fields: Mapping[str, Any]) -> Asked | None:
    """What was asked and when, of a service that says it; None when a part is missing or has another form."""
    try:
        window, filters = fields["timeframe"], fields["filters"]
        return Asked(
            parse_instant(fields["created_at"]),
            Timeframe(parse_instant(window["start"]), parse_instant(window["end"])),
            tuple(Filter.from_wire(one) for one in filters),
        )
    except (LookupError, TypeError, AttributeError, ValueError, ArithmeticError):
        return None


def read_extractions(answer: Any, clean: Clean) -> dict[str, RemoteExtraction]:
    """The list resource: an array, or an object whose `results` (or `result`, `extractions`) is one.

    An entry without a readable id makes the whole list unreadable, as nobody knows what it leaves out. One with an id whose rest is
    not readable is not finished yet, and its `message` says why. A complete one may leave its results URL to the single answer.
    """
    listed = answer
    if isinstance(answer, Mapping):
        listed = next((answer[key] for key in ("results", "result", "extractions") if key in answer), None)
    if not isinstance(listed, list):
        raise WrongShape("no list of extractions under `results`")
    found = {}
    for one in listed:
        identity = _identity(one, clean)
        try:
            found[identity] = _extraction(identity, one, clean)
        except WrongShape as error:
            found[identity] = RemoteExtraction(
                identity, RemoteStatus.PENDING, message=f"the service's entry is unreadable: {error}"
            )
    return found


def read_count(answer: Any, _: Clean) -> int:
    """`{"result": n}` with a whole number n >= 0 that a database can hold."""
    number = _result(answer)
    # What isn't finite is not within the bounds either.
    if isinstance(number, bool) or not isinstance(number, (int, float)) or not 0 <= number < 2**63 or number != int(number):
        raise WrongShape("`result` is not a count")
    return int(number)


def read_values(answer: Any, _: Clean) -> list[object]:
    """`{"results": [...]}` (or `result`)."""
    return _list(_result(answer))


def read_collections(answer: Any, _: Clean) -> list[str]:
    """The names of a project resource's `collections` (v2.0), or of the schema list (v3.0), sorted."""
    listed = _list(answer.get("collections") if isinstance(answer, Mapping) else answer)
    names = [_mapping(one).get("name") for one in listed]
    if not all(isinstance(name, str) and name for name in names):
        raise WrongShape("a collection without `name`")
    return sorted(_name(name) for name in names)


def read_property_types(answer: Any, _: Clean) -> dict[str, str]:
    """The schema resource's `inferred_property_types`; `string`, which all are, when `type_appearances` name several types."""
    fields = _mapping(answer)
    details = fields.get("properties")
    types = {}
    for name, kind in _types(fields.get("inferred_property_types")).items():
        known = details.get(name) if isinstance(details, Mapping) else None
        appearances = known.get("type_appearances") if isinstance(known, Mapping) else None
        seen = {one for one, times in appearances.items() if times} - {"null"} if isinstance(appearances, Mapping) else {kind}
        types[_name(name)] = kind if seen <= {kind} else "string"
    return types


def read_schema(answer: Any, _: Clean) -> dict[str, str]:
    """The type by property of v3.0's schema resource, `{"properties": {"a.b": "num"}}`."""
    return {_name(name): kind for name, kind in _types(_mapping(answer).get("properties")).items()}


def read_outcomes(answer: Any, clean: Clean) -> dict[str, list[str | None]]:
    """The batch answer: for each collection and event None if it was stored, else the service's reason."""
    return {_name(name): [_outcome(one, clean) for one in _list(outcomes)] for name, outcomes in _mapping(answer).items()}


def _outcome(answer: Any, clean: Clean) -> str | None:
    fields = _mapping(answer)
    if fields.get("success") is True:
        return None
    error = fields.get("error")
    if isinstance(error, Mapping):
        return clean(f"{error.get('name', 'error')}: {error.get('description', '')}".strip(": "))
    return clean(str(error or "refused without a reason"))


def _types(answer: Any) -> dict[str, str]:
    types = _mapping(answer)
    for name, kind in types.items():
        if not isinstance(kind, str):
            raise WrongShape(f"the type of {name} is not a word")
    return {name: _name(kind) for name, kind in types.items()}


def _name(text: Any) -> str:
    return scrub.clean(str(text), LONGEST_NAME)


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
