"""The ASGI application: all routes, errors as JSON, one log line and one count per request."""

from __future__ import annotations

import logging
import time

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from keen_pipeline.errors import KeenPipelineError
from keen_pipeline.service.application import Service
from keen_pipeline.service.http import routes_operations, routes_v2, routes_v3
from keen_pipeline.service.http.messages import error_answer

_log = logging.getLogger("keen_pipeline.service.requests")


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

        path = scope["path"]
        if path not in ("/healthz", "/metrics"):
            self._service.last_request = began
        self._service.open_requests += 1
        try:
            await self._app(scope, receive, observe)
        except Exception:
            status = status or 500  # Starlette answers it further out
            raise
        finally:
            seconds = time.monotonic() - began
            self._service.open_requests -= 1
            self._service.metrics.requests.labels(scope["method"], str(status)).inc()
            self._service.metrics.request_seconds.observe(seconds)
            fields = {"method": scope["method"], "path": path[:300], "status": status, "bytes": sent, "seconds": round(seconds, 4)}
            _log.info("request", extra=fields)


async def on_known_error(request: Request, error: Exception) -> Response:
    """An error that a request can cause."""
    return error_answer(error)


async def on_disconnect(request: Request, error: Exception) -> Response:
    """The client left, or stopped to speak HTTP, in the middle of a body: nobody gets this answer, the log and the metrics do."""
    return error_answer(HTTPException(400, "the request ended before its body did"))


async def on_unknown_error(request: Request, error: Exception) -> Response:
    """The service's own fault; Starlette raises it again, and the server logs it."""
    return error_answer(error)


def make_app(service: Service) -> Starlette:
    """The application over a service."""
    handlers = {
        KeenPipelineError: on_known_error,
        HTTPException: on_known_error,
        ClientDisconnect: on_disconnect,
        Exception: on_unknown_error,
    }
    app = Starlette(
        routes=[*routes_operations.ROUTES, *routes_v2.ROUTES, *routes_v3.ROUTES],
        exception_handlers=handlers,
    )
    app.add_middleware(RequestLog, service=service)
    app.router.redirect_slashes = False
    app.state.service = service
    return app
