"""Events coming in: one, many, or one in the address of an image; and what became of each of them, in Keen's words.

Keen's Java and iOS clients take an event out of their queue when it is stored, or refused with InvalidCollectionNameError,
InvalidPropertyNameError or InvalidPropertyValueError; any other answer makes them send it again.
"""

from __future__ import annotations

import base64
import binascii
import logging
import re
from collections.abc import Collection, Mapping
from typing import Any
from urllib.parse import unquote, urlsplit

from starlette.responses import RedirectResponse, Response

from keen_pipeline.errors import InvalidInputError
from keen_pipeline.service.application import Service
from keen_pipeline.service.events.incoming import MAX_KEY_CHARACTERS, MAX_PROPERTIES
from keen_pipeline.service.http.answers import BodyTooLargeError, InvalidEventError, JsonResponse, as_text, error_answer
from keen_pipeline.service.http.bodies import parse_json, read_body
from keen_pipeline.service.http.lanes import INGEST
from keen_pipeline.service.http.operation import WRITE, Call, Operation
from keen_pipeline.service.http.schemas import json_of, ref
from keen_pipeline.service.names import check_event_collection

COLLECTION_NAME, PROPERTY_NAME, PROPERTY_VALUE = (
    "InvalidCollectionNameError",
    "InvalidPropertyNameError",
    "InvalidPropertyValueError",
)
LATER = "ServiceUnavailableError"
MAX_EVENTS, MAX_COLLECTIONS = 100_000, 5000
"""In one request: a result may be longer than its event, and a new collection takes some 10 ms of the disk."""
PIXEL = base64.b64decode("R0lGODlhAQABAIAAAAAAAP///yH5BAEAAAAALAAAAAABAAEAAAIBRAA7")
"""One transparent pixel, a GIF."""

_TARGET = re.compile(r"https?://[!-\[\]-~]+")
_log = logging.getLogger(__name__)


async def add_event(call: Call) -> Response:
    body = await read_body(call.request, call.service.config.max_body_bytes)
    await call.run(INGEST, lambda: _store_one(call, body()))
    return JsonResponse({"created": True}, status_code=201)


async def add_events(call: Call) -> Response:
    """Store many events of many collections; each has its own result."""
    body = await read_body(call.request, call.service.config.max_body_bytes)
    return JsonResponse(await call.run(INGEST, lambda: store_batch(call.service, body())))


async def beacon(call: Call) -> Response:
    """Store the event in the address of an image, for pages and mails that can do no more than show one; answers a pixel."""
    call.allow(WRITE)
    if call.request.method == "HEAD":
        raise InvalidInputError("data: HEAD stores nothing; use GET", field="data")
    target = call.parameters.get("redirect")
    if target is not None:
        target = _checked_redirect(target, call.service.config.redirect_hosts)
    body = _decoded(call.parameters["data"])
    await call.run(INGEST, lambda: _store_one(call, body))
    headers = {"Cache-Control": "no-store"}
    if target is not None:
        return RedirectResponse(target, status_code=302, headers=headers)
    return Response(PIXEL, media_type="image/gif", headers=headers)


def _store_one(call: Call, body: bytes) -> None:
    event = parse_json(body)
    try:
        call.service.add_event(call.collection, event, version=call.version)
    except InvalidInputError as error:
        raise InvalidEventError(str(error), field=error.field, code=_error_name(event)) from None


def store_batch(service: Service, body: bytes) -> dict[str, list[dict[str, Any]]]:
    """Store many events of many collections, and say what became of each: nothing that is wrong takes anything else along.

    Raises InvalidInputError for a body that is no such batch, BodyTooLargeError for too many events. When no collection's events
    could be stored now, the last one's error is raised.
    """
    members: list[tuple[str, Any]] = []

    def note(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        nonlocal members
        members = pairs  # at last those of the whole, in which a collection may stand twice
        return dict(pairs)

    if not isinstance(parse_json(body, pairs=note), dict):
        raise InvalidInputError("body: must be an object of lists of events by collection", field="body")
    batch: dict[str, list[Any]] = {}
    for name, events in members:
        if not isinstance(events, list):
            raise InvalidInputError(f"{name[:80]}: must be a list of events", field=name[:80])
        batch.setdefault(name, []).extend(events)
    for number, most, what in ((sum(map(len, batch.values())), MAX_EVENTS, "events"), (len(batch), MAX_COLLECTIONS, "collections")):
        if number > most:
            raise BodyTooLargeError(f"the body has {number} {what}, the limit is {most}; send fewer at once")
    outcomes: dict[str, list[dict[str, Any]]] = {}
    held_up: list[Exception] = []
    for name, events in batch.items():
        try:
            outcomes[as_text(name)] = _store_collection(service, name, events) if events else []
        except Exception as error:  # noqa: BLE001 - what is stored of other collections must not be sent again
            if error_answer(error).status_code == 500:
                _log.exception("events not stored", extra={"collection": as_text(name[:80])})
            held_up.append(error)
            outcomes[as_text(name)] = [_refused(LATER, "not stored now; send it again")] * len(events)
    if held_up and len(held_up) == sum(map(bool, batch.values())):
        raise held_up[-1]
    return outcomes


def _store_collection(service: Service, name: str, events: list[Any]) -> list[dict[str, Any]]:
    try:
        problems = service.add_events(check_event_collection(name), events)
    except InvalidInputError as error:
        return [_refused(COLLECTION_NAME, str(error))] * len(events)
    return [
        {"success": True} if problem is None else _refused(_error_name(event), str(problem))
        for event, problem in zip(events, problems, strict=True)
    ]


def _refused(name: str, description: str) -> dict[str, Any]:
    return {"success": False, "error": {"name": name, "description": as_text(description)}}


def _error_name(event: object) -> str:
    """Keen's name for what is wrong with a refused event: one of its property names, else a value."""
    names = 0
    waiting = [event] if isinstance(event, Mapping) else []
    while waiting:
        for name, value in waiting.pop().items():
            names += 1
            if not 1 <= len(name) <= MAX_KEY_CHARACTERS or as_text(name) != name or names > MAX_PROPERTIES:
                return PROPERTY_NAME
            if isinstance(value, Mapping):
                waiting.append(value)
    return PROPERTY_VALUE


def _decoded(data: object) -> bytes:
    """The JSON text of base64: usual or url-safe, its padding there or not, percent-encoded once or twice.

    Raises InvalidInputError.
    """
    if not isinstance(data, str) or not data:
        raise InvalidInputError("data: must be the base64 of an event's JSON", field="data")
    text = unquote(data) if "%" in data else data
    text = text.replace("-", "+").replace("_", "/").replace(" ", "+").rstrip("=")  # a plus that nobody encoded arrives as a blank
    try:
        return base64.b64decode(text + "=" * (-len(text) % 4), validate=True)
    except (binascii.Error, ValueError):
        raise InvalidInputError("data: not base64", field="data") from None


def _checked_redirect(target: object, hosts: Collection[str]) -> str:
    """The address to redirect to. Raises InvalidInputError for one that leads to no host of the configuration's."""
    problem = InvalidInputError(
        "redirect: only http and https addresses of the hosts in KEEN_PIPELINE_SERVICE_REDIRECT_HOSTS are allowed", field="redirect"
    )
    if not isinstance(target, str) or not _TARGET.fullmatch(target):
        raise problem
    try:
        parts = urlsplit(target)
        host = (parts.hostname or "").lower()
    except ValueError:
        raise problem from None
    if parts.username is not None or host not in {one.lower() for one in hosts}:
        raise problem
    return target


_CREATED = json_of(ref("Created"))


def _one(path: str, body: str) -> Operation:
    return Operation("POST", path, add_event, "Add an event", _CREATED, status=201, body=body, keys=(WRITE,))


_EVENTS = "/3.0/projects/{project}/events"

OPERATIONS = [
    _one("/2.0/projects/{project}/{collection}", "Event2"),
    _one(f"{_EVENTS}/{{collection}}", "Event3"),
    Operation("POST", _EVENTS, add_events, "Add events", json_of(ref("Outcomes")), body="Batch", keys=(WRITE,)),
]
