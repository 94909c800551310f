"""The ASGI application: the table's routes, errors as JSON, CORS, one log line and one count per request."""

from __future__ import annotations

import logging
import re
import time
from collections.abc import Sequence
from urllib.parse import quote, unquote

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware.cors import CORSMiddleware
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.routing import Route
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from keen_pipeline.errors import KeenPipelineError
from keen_pipeline.service.application import Service
from keen_pipeline.service.http.answers import error_answer
from keen_pipeline.service.http.lanes import Lanes
from keen_pipeline.service.http.operation import Call, Operation
from keen_pipeline.service.http.operations import OPERATIONS, not_found_message

_log = logging.getLogger("keen_pipeline.service.requests")
_PREFLIGHT_SECONDS = 86_400
_ABSOLUTE = re.compile(rb"https?://(?:[^/@]*@)?([^/]*)", re.IGNORECASE)
_MAX_PATH_BYTES = 4096
"""Of a path that is looked at, which takes time; every resource that there is has a shorter one."""


def make_app(service: Service) -> ASGIApp:
    # What isn't known is the machine's, or the service's own fault: Starlette raises it again, and the server logs it.
    known = (KeenPipelineError, HTTPException, ClientDisconnect, Exception)
    app = Starlette(routes=routes(), exception_handlers=dict.fromkeys(known, _on_error))
    app.router.redirect_slashes = False
    app.state.service = service
    app.state.lanes = Lanes()
    # A key comes with each request and no cookie does, so any page may ask; outside of everything, so that errors say so too.
    shared = CORSMiddleware(
        _one_length(app),
        allow_origins=["*"],
        allow_methods=["*"],
        allow_headers=["*"],
        expose_headers=["Retry-After", "ETag", "Content-Range", "Content-Length"],
        max_age=_PREFLIGHT_SECONDS,
    )
    return RequestLog(shared, service)


async def _on_error(request: Request, error: Exception) -> Response:
    if isinstance(error, HTTPException) and error.status_code == 404:
        error = HTTPException(404, not_found_message(request.scope["path"]))
    return error_answer(error)


def routes() -> list[Route]:
    paths: dict[str, list[Operation]] = {}
    for operation in OPERATIONS:
        paths.setdefault(operation.path, []).append(operation)
    return [Route(path, Resource(operations)) for path, operations in paths.items()]


class Resource:
    """One path: answers its operations, HEAD with GET's, OPTIONS with `Allow`, and refuses any other method with it."""

    def __init__(self, operations: Sequence[Operation]) -> None:
        self._operations = {operation.method: operation for operation in operations}
        if "GET" in self._operations:
            self._operations["HEAD"] = self._operations["GET"]
        self.allow = ", ".join(sorted([*self._operations, "OPTIONS"]))

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        operation = self._operations.get(scope["method"])
        if operation is not None:
            call = Call(Request(scope, receive, send), operation)
            await call.prepare()
            answer = await operation.handler(call)
        elif scope["method"] == "OPTIONS":
            answer = Response(status_code=204, headers={"Allow": self.allow})
        else:
            raise HTTPException(405, "this resource does not accept this method", headers={"Allow": self.allow})
        await answer(scope, receive, send)


def _one_length(app: ASGIApp) -> ASGIApp:
    """Refuse a request that says its length in two ways: two servers in a row may read two different requests."""

    refusal = HTTPException(400, "Content-Length and Transfer-Encoding exclude each other", {"Connection": "close"})

    async def serve(scope: Scope, receive: Receive, send: Send) -> None:
        twice = {b"content-length", b"transfer-encoding"} <= {name for name, _ in scope["headers"]}
        await (error_answer(refusal) if twice else app)(scope, receive, send)

    return serve


class RequestLog:
    """Logs and counts every request. Only the path is logged: query strings may hold keys and signatures."""

    def __init__(self, app: ASGIApp, service: Service) -> None:
        self._app = app
        self._service = service

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        began, status, sent = time.monotonic(), 0, 0

        async def observe(message: Message) -> None:
            nonlocal status, sent
            if message["type"] == "http.response.start":
                status = message["status"]
            elif message["type"] == "http.response.body":
                sent += len(message.get("body", b""))
            await send(message)

        if absolute := _ABSOLUTE.match(scope["raw_path"]):
            # RFC 9112, 3.2.2: as for a proxy, and then the host is the target's, whatever the header says.
            scope["raw_path"] = scope["raw_path"][absolute.end() :] or b"/"
            scope["headers"] = [*(pair for pair in scope["headers"] if pair[0] != b"host"), (b"host", absolute[1])]
        scope["path"] = path = canonical_path(scope["raw_path"])
        state = scope.setdefault("state", {})
        if path not in ("/healthz", "/metrics"):
            self._service.last_request = began
        self._service.open_requests += 1
        try:
            await self._app(scope, receive, observe)
        except Exception:
            status = status or 500
            raise
        finally:
            seconds = time.monotonic() - began
            self._service.open_requests -= 1
            self._service.pending_bodies.release(state.get("body_bytes", 0))
            self._service.metrics.request_finished(scope["method"], status, seconds)
            fields = {
                "method": scope["method"][:20],
                "path": path[:300],
                "status": status,
                "bytes": sent,
                "seconds": round(seconds, 4),
            }
            _log.info("request", extra=fields)


def canonical_path(raw: bytes) -> str:
    """The path with each of its segments percent-encoded in one way, so that a slash inside of a name stays inside of it."""
    text = raw[:_MAX_PATH_BYTES].decode("ascii")
    return "/".join(quote(unquote(segment, errors="replace"), safe="") for segment in text.split("/"))
