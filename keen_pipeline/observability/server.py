"""The exporter over HTTP: /metrics for Prometheus, /healthz for whoever restarts it."""

from __future__ import annotations

import errno
import logging
import socket
import sys
from collections.abc import Iterable
from contextlib import suppress
from socketserver import TCPServer
from threading import BoundedSemaphore
from typing import TYPE_CHECKING, Any
from wsgiref.simple_server import WSGIRequestHandler, make_server

from prometheus_client import make_wsgi_app
from prometheus_client.exposition import ThreadingWSGIServer

from keen_pipeline.errors import ConfigurationError, ServiceUnavailableError
from keen_pipeline.observability.exporter import PipelineMetrics

if TYPE_CHECKING:
    from _typeshed.wsgi import StartResponse, WSGIApplication, WSGIEnvironment

# A client that sends nothing for so long is not listened to any more.
_CLIENT_SECONDS = 10
# Connections at once, each of which has a thread: scrapers, probes, a person. One more is closed at once.
MOST_CLIENTS = 64
_log = logging.getLogger(__name__)


class _Handler(WSGIRequestHandler):
    timeout = _CLIENT_SECONDS

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the base class's name
        """Nothing for each scrape; what goes wrong is told by the metrics' own log."""


class _Server(ThreadingWSGIServer):
    request_queue_size = MOST_CLIENTS
    _places = BoundedSemaphore(MOST_CLIENTS)

    def process_request(self, request: Any, client_address: Any) -> None:
        if not self._places.acquire(blocking=False):
            self.shutdown_request(request)
            return
        try:
            super().process_request(request, client_address)
        except BaseException:  # no thread could be started
            self._places.release()
            raise

    def process_request_thread(self, request: Any, client_address: Any) -> None:
        try:
            super().process_request_thread(request, client_address)
        finally:
            self._places.release()

    def handle_error(self, request: Any, client_address: Any) -> None:
        if not isinstance(sys.exception(), OSError):  # a client that says nothing, or leaves, is nobody's fault
            _log.error("a scrape failed", exc_info=True)

    def server_bind(self) -> None:
        """Bind without a look-up of the host's name, which may take seconds."""
        TCPServer.server_bind(self)
        self.server_name, self.server_port = str(self.server_address[0]), int(self.server_address[1])
        self.setup_environ()


def serve(metrics: PipelineMetrics, host: str, port: int) -> None:
    """Serve until Ctrl-C, as which the command line takes SIGTERM too.

    Prints `listening on http://HOST:PORT` on stdout once it accepts; port 0: a free one.

    Raises ConfigurationError if the address can't be had.
    """
    with _bind(metrics, host, port) as server, suppress(KeyboardInterrupt):
        shown = f"[{host}]" if ":" in host else host
        sys.stdout.write(f"listening on http://{shown}:{server.server_port}\n")
        sys.stdout.flush()
        server.serve_forever()


def _bind(metrics: PipelineMetrics, host: str, port: int) -> _Server:
    class Server(_Server):
        address_family = socket.AF_INET6 if ":" in host else socket.AF_INET

    try:
        return make_server(host, port, make_app(metrics), server_class=Server, handler_class=_Handler)
    except OSError as error:
        if error.errno == errno.EADDRINUSE:
            raise ConfigurationError(f"metrics: port {port} on {host} is in use; choose another with --port") from None
        raise ConfigurationError(f"metrics: can't listen on {host} port {port} ({error.strerror or error})") from None


def make_app(metrics: PipelineMetrics) -> WSGIApplication:
    """The WSGI application of `/metrics` (text or OpenMetrics, gzip if it is accepted) and `/healthz` (200, or 503 and why)."""
    exposition: WSGIApplication = make_wsgi_app(metrics.registry)

    def app(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        path = environ["PATH_INFO"]
        if path == "/metrics":
            return exposition(environ, start_response)
        status, text = _healthz(metrics) if path == "/healthz" else ("404 Not Found", "there are /metrics and /healthz")
        body = f"{text}\n".encode()
        start_response(status, [("Content-Type", "text/plain; charset=utf-8"), ("Content-Length", str(len(body)))])
        return [body]

    return app


def _healthz(metrics: PipelineMetrics) -> tuple[str, str]:
    try:
        metrics.statistics()
    except ServiceUnavailableError as error:
        return "503 Service Unavailable", str(error)
    return "200 OK", "ok"
