"""Storing events, and what became of each of them, in Keen's words.

Keen's Java and iOS clients take an event out of their queue when it is stored, or refused with InvalidCollectionNameError,
InvalidPropertyNameError or InvalidPropertyValueError; any other answer makes them send it again.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from keen_pipeline.errors import InvalidInputError
from keen_pipeline.service.application import Service
from keen_pipeline.service.events.incoming import MAX_KEY_CHARACTERS, MAX_PROPERTIES
from keen_pipeline.service.http.answers import InvalidEventError, is_shortage
from keen_pipeline.service.http.bodies import check_text, parse_json
from keen_pipeline.service.names import check_event_collection

COLLECTION_NAME, PROPERTY_NAME, PROPERTY_VALUE = (
    "InvalidCollectionNameError",
    "InvalidPropertyNameError",
    "InvalidPropertyValueError",
)
LATER = "ServiceUnavailableError"

Outcomes = dict[str, list[dict[str, Any]]]


def store_one(service: Service, collection: str, body: bytes, version: str) -> None:
    """Store one event. Raises InvalidEventError, and InvalidInputError for what is no JSON."""
    event = parse_json(body)
    try:
        if may_hold_surrogates(body):
            _check_event_text(event)
        service.add_event(collection, event, version=version)
    except InvalidInputError as error:
        raise InvalidEventError(str(error), field=error.field, code=error_name(event)) from None


def store_batch(service: Service, body: bytes) -> Outcomes:
    """Store many events of many collections, and say what became of each: nothing that is wrong takes anything else along.

    Raises InvalidInputError for a body that is no such batch. When nothing at all could be stored because the machine is full,
    its error is raised.
    """
    batch = parse_json(body)
    if not isinstance(batch, dict):
        raise InvalidInputError("body: must be an object of lists of events by collection", field="body")
    for name, events in batch.items():
        if not isinstance(events, list):
            shown = name[:80].encode("utf-8", "replace").decode()
            raise InvalidInputError(f"{shown}: must be a list of events", field=shown)
    doubtful = may_hold_surrogates(body)
    outcomes: Outcomes = {}
    shortage: Exception | None = None
    held_up = 0
    for name, events in batch.items():
        shown = name.encode("utf-8", "replace").decode()
        try:
            outcomes[shown] = _store_collection(service, name, events, doubtful)
        except Exception as error:
            if not is_shortage(error):
                raise
            shortage = error
            held_up += 1
            outcomes[shown] = [_refused(LATER, "not stored now; send it again")] * len(events)
    if shortage is not None and held_up == len(batch):
        raise shortage
    return outcomes


def _store_collection(service: Service, name: str, events: list[Any], doubtful: bool) -> list[dict[str, Any]]:
    try:
        check_event_collection(name)
    except InvalidInputError as error:
        return [_refused(COLLECTION_NAME, str(error))] * len(events)
    wrong: dict[int, InvalidInputError] = {}
    if doubtful:
        for index, event in enumerate(events):
            try:
                _check_event_text(event)
            except InvalidInputError as error:
                wrong[index] = error
    good = [event for index, event in enumerate(events) if index not in wrong] if wrong else events
    problems = iter(service.add_events(name, good))
    found = (wrong[index] if index in wrong else next(problems) for index in range(len(events)))
    return [
        {"success": True} if problem is None else _refused(error_name(event), str(problem))
        for event, problem in zip(events, found, strict=True)
    ]


def _refused(name: str, description: str) -> dict[str, Any]:
    text = description.encode("utf-8", "replace").decode()
    return {"success": False, "error": {"name": name, "description": text}}


def may_hold_surrogates(body: bytes) -> bool:
    """Whether a JSON text may hold half of a surrogate pair: only as an escape, since UTF-8 has none. Most hold none."""
    return b"\\ud" in body or b"\\uD" in body


def _check_event_text(event: object) -> None:
    try:
        check_text(event)
    except InvalidInputError:
        raise InvalidInputError("event: holds half of a surrogate pair, which is no character", field="event") from None
    except RecursionError:
        raise InvalidInputError("event: nested too deep", field="event") from None


def error_name(event: object) -> str:
    """Keen's name for what is wrong with a refused event: one of its property names, else a value."""
    names = 0
    waiting = [event] if isinstance(event, Mapping) else []
    while waiting:
        for name, value in waiting.pop().items():
            names += 1
            if not 1 <= len(name) <= MAX_KEY_CHARACTERS or not _is_text(name) or names > MAX_PROPERTIES:
                return PROPERTY_NAME
            if isinstance(value, Mapping):
                waiting.append(value)
    return PROPERTY_VALUE


def _is_text(name: str) -> bool:
    return not any("\ud800" <= character <= "\udfff" for character in name)
