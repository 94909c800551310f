"""The ASGI application: the table's routes, errors as JSON, CORS, one log line and one count per request."""

from __future__ import annotations

import logging
import time
from urllib.parse import quote, unquote

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware.cors import CORSMiddleware
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from keen_pipeline.errors import KeenPipelineError
from keen_pipeline.service.application import Service
from keen_pipeline.service.http.answers import error_answer
from keen_pipeline.service.http.lanes import Lanes
from keen_pipeline.service.http.operations import not_found_message, routes

_log = logging.getLogger("keen_pipeline.service.requests")
_PREFLIGHT_SECONDS = 86_400


class RequestLog:
    """Logs and counts every request. Only the path is logged: query strings may hold keys and signatures."""

    def __init__(self, app: ASGIApp, service: Service) -> None:
        self._app = app
        self._service = service

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        began, status, sent = time.monotonic(), 0, 0

        async def observe(message: Message) -> None:
            nonlocal status, sent
            if message["type"] == "http.response.start":
                status = message["status"]
            elif message["type"] == "http.response.body":
                sent += len(message.get("body", b""))
            await send(message)

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
    return "/".join(quote(unquote(segment, errors="replace"), safe="") for segment in raw.decode("ascii").split("/"))


class Framing:
    """Refuses a request that says its length in two ways: two servers in a row may read two different requests."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        names = {name for name, _ in scope["headers"]} if scope["type"] == "http" else set()
        if b"content-length" in names and b"transfer-encoding" in names:
            refused = HTTPException(400, "Content-Length and Transfer-Encoding exclude each other", {"Connection": "close"})
            await error_answer(refused)(scope, receive, send)
            return
        await self._app(scope, receive, send)


async def on_known_error(request: Request, error: Exception) -> Response:
    """An error that a request can cause."""
    if isinstance(error, HTTPException) and error.status_code == 404:
        error = HTTPException(404, not_found_message(request.scope["path"]))
    return error_answer(error)


async def on_disconnect(request: Request, error: Exception) -> Response:
    """The client left, or stopped to speak HTTP, in the middle of a body: nobody gets this answer, the log and the metrics do."""
    return error_answer(HTTPException(400, "the request ended before its body or its answer did"))


async def on_unknown_error(request: Request, error: Exception) -> Response:
    """The machine is full, or the service's own fault; Starlette raises it again, and the server logs it."""
    return error_answer(error)


def make_app(service: Service) -> ASGIApp:
    """The application over a service."""
    handlers = {
        KeenPipelineError: on_known_error,
        HTTPException: on_known_error,
        ClientDisconnect: on_disconnect,
        Exception: on_unknown_error,
    }
    app = Starlette(routes=routes(), exception_handlers=handlers)
    app.router.redirect_slashes = False
    app.state.service = service
    app.state.lanes = Lanes()
    # A key comes with each request and no cookie does, so any page may ask; outside of everything, so that errors say so too.
    shared = CORSMiddleware(
        Framing(app),
        allow_origins=["*"],
        allow_methods=["GET", "HEAD", "POST", "DELETE", "OPTIONS"],
        allow_headers=["*"],
        expose_headers=["Retry-After", "ETag", "Content-Range", "Content-Length"],
        max_age=_PREFLIGHT_SECONDS,
    )
    return RequestLog(shared, service)
