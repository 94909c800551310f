"""Runs one service: binds the port, takes the data folder, serves until a signal, stops in order."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import gc
import json
import logging
import os
import resource
import signal
import socket
import sys
import threading
import time
from collections.abc import Iterator
from datetime import datetime
from functools import partial
from typing import Any, cast

import click
import uvicorn

from keen_pipeline.errors import ConfigurationError, KeenPipelineError
from keen_pipeline.service import embedded
from keen_pipeline.service.application import Service
from keen_pipeline.service.config import ServiceConfig
from keen_pipeline.service.credentials import FILE_NAME as CREDENTIALS_FILE
from keen_pipeline.service.endpoint import announced, exclusive, unused
from keen_pipeline.service.http.app import make_app
from keen_pipeline.service.http.server.connections import Connections
from keen_pipeline.service.http.server.protocol import BoundedProtocol
from keen_pipeline.service.storage.places import ObjectStore
from keen_pipeline.timeframe import UTC

SHUTDOWN_SECONDS = 5
# Longer than proxies and pollers wait between two requests: a request that meets the end of its connection is lost.
KEEP_ALIVE_SECONDS = 75
BACKLOG = 256  # connections accepted in one go, so that there are descriptors for them
DESCRIPTORS = 65_536
_LOOPBACK = ("127.0.0.1", "::1", "localhost")
MAX_HEAD_BYTES = 1024 * 1024  # GET queries carry their filters in the URL
_STANDARD_FIELDS = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime", "color_message"}


def serve(config: ServiceConfig, objects: ObjectStore | None = None, results: ObjectStore | None = None) -> None:
    """Serve until SIGTERM or SIGINT (or the configured idle time, or the end of standard input).

    `objects`: the configured storage. `results`: the one at the results URI.

    Prints `listening on http://HOST:PORT` once requests are accepted. Requests in flight get five seconds to end.
    Raises ConfigurationError for a port or a data folder in use, before anything is read or written.
    """
    os.umask(0o077)  # events, results, addresses and keys are the owner's alone
    gc.set_threshold(50_000, 20, 100)  # the usual one makes a large body's JSON ten times as slow, while all other threads wait
    descriptors = raise_descriptor_limit()
    with _bind(config.host, config.port) as listener, exclusive(config.data):
        if (found := embedded.find(config.data)) is not None:  # two of them would write into the same logs
            raise ConfigurationError(
                f"service: {config.data} is in use by the service at {found.base_url}, whose lock was removed; stop it first"
            )
        configure_logging()
        host, port = listener.getsockname()[:2]
        shown = f"[{host}]" if ":" in host else host
        reachable = {"0.0.0.0": "127.0.0.1", "::": "[::1]"}.get(host, shown)  # noqa: S104 - compared, not bound
        service = Service(config, f"http://{reachable}:{port}", objects, results)
        try:
            with announced(config.data, service.local_url, service.credentials.project_id):
                places = Connections(min(config.max_connections, descriptors // 2), config.max_connections_per_address)
                _Server(service, f"http://{shown}:{port}", places).run(sockets=[listener])
        finally:
            service.close()


def raise_descriptor_limit() -> int:
    """Raise the soft limit of open files as far as the hard one and need go; returns what there is now."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = DESCRIPTORS if hard == resource.RLIM_INFINITY else min(DESCRIPTORS, hard)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
        return wanted
    return DESCRIPTORS if soft == resource.RLIM_INFINITY else soft


def _bind(host: str, port: int) -> socket.socket:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    # asyncio turns Nagle's algorithm off only if the protocol is named; else each answer may wait 40 ms for an acknowledgement.
    listener = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((host, port))
        # Without a backlog two services could bind one address under SO_REUSEADDR; listening settles who has it.
        listener.listen(1024)
    except OSError as error:
        listener.close()
        if error.errno == errno.EADDRINUSE:
            raise ConfigurationError(f"service: port {port} on {host} is in use; choose another with --port") from None
        raise ConfigurationError(f"service: can't listen on {host} port {port} ({error.strerror or error})") from None
    return listener


class _Server(uvicorn.Server):
    """uvicorn, which also says when it accepts, and stops when idle or when standard input ends."""

    def __init__(self, service: Service, address: str, places: Connections) -> None:
        config = service.config
        one = partial(BoundedProtocol, places=places, head_seconds=config.head_seconds, stalled_seconds=config.stalled_seconds)
        super().__init__(
            uvicorn.Config(
                make_app(service),
                log_config=None,
                access_log=False,  # its lines would hold query strings, and those may hold keys
                lifespan="off",
                server_header=False,
                timeout_graceful_shutdown=SHUTDOWN_SECONDS,
                timeout_keep_alive=KEEP_ALIVE_SECONDS,
                http=cast(
                    "type[asyncio.Protocol]", one
                ),  # called as the class would be; whatever else is installed: one parser, one limit
                ws="none",
                loop="asyncio",
                backlog=BACKLOG,
                h11_max_incomplete_event_size=MAX_HEAD_BYTES,
            )
        )
        self._service = service
        self._address = address
        self._places = places

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Stop in order on SIGTERM and SIGINT, and then return; uvicorn's own would raise the signal again and end the process."""
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        before = {number: signal.signal(number, self.handle_exit) for number in (signal.SIGTERM, signal.SIGINT)}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Start to accept, then say so."""
        await super().startup(sockets)
        # As bytes: a folder may have a name that the terminal's encoding has not.
        click.echo(os.fsencode("".join(f"{line}\n" for line in self._greeting())), nl=False)
        if self._service.config.stop_with_stdin:
            # A daemon, as a read of standard input can't be cancelled and must not hold up the end.
            threading.Thread(target=self._wait_for_stdin, name="stdin", daemon=True).start()

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Wait for the requests in flight; what would be cut off is cancelled a moment earlier, so that it is answered."""
        cancel = threading.Thread(target=self._service.cancel, name="cancel", daemon=True)
        asyncio.get_running_loop().call_later(SHUTDOWN_SECONDS * 0.8, cancel.start)
        await super().shutdown(sockets)

    def _greeting(self) -> Iterator[str]:
        credentials, config = self._service.credentials, self._service.config
        yield f"project {credentials.project_id}"
        yield f"listening on {self._address}"
        keys = config.data / CREDENTIALS_FILE
        if keys.exists():
            yield f"keys in {keys.resolve()}"
        if config.host in _LOOPBACK:
            # Behind the hash the key reaches the page and no server and no proxy; what isn't a terminal is kept as a log.
            yield f"open {self._address}/#key={credentials.read_key}" if sys.stdout.isatty() else f"open {self._address}/"

    def _wait_for_stdin(self) -> None:
        while os.read(0, 4096):
            pass
        with unused(self._service.config.data):  # whoever comes from now on starts one of his own, once this process is gone
            self.should_exit = True
            threading.Event().wait()

    async def on_tick(self, counter: int) -> bool:
        """Called ten times a second; true ends the service."""
        if counter % 10 == 0:
            self._places.look()
        return await super().on_tick(counter) or (counter % 10 == 0 and self._is_idle())

    def _is_idle(self) -> bool:
        limit = self._service.config.idle_exit_seconds
        if limit is None or self._service.open_requests or time.monotonic() - self._service.last_request < limit:
            return False
        try:
            return not self._service.records.count_waiting()
        except KeenPipelineError:  # the database is away; nobody knows
            return False


class JsonFormatter(logging.Formatter):
    """One JSON object a line: time (UTC), level, logger, message, and the fields that a call gives as `extra`."""

    def format(self, record: logging.LogRecord) -> str:
        line: dict[str, Any] = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
        }
        line.update({k: v for k, v in vars(record).items() if k not in _STANDARD_FIELDS})
        if record.exc_info:
            line["error"] = self.formatException(record.exc_info)
        return json.dumps(line, ensure_ascii=True, default=str)


def configure_logging() -> None:
    """Structured lines on standard error, for this process."""
    handler = logging.StreamHandler()
    handler.setFormatter(JsonFormatter())
    logging.basicConfig(level=logging.INFO, handlers=[handler], force=True)
