"""Finds, starts and stops a service in a process of its own. Standard library only, and cheap to import."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO

from keen_pipeline.errors import ConfigurationError, ServiceUnavailableError
from keen_pipeline.service.credentials import load_credentials, make_private
from keen_pipeline.service.endpoint import is_held, is_used, read_announcement, used
from keen_pipeline.settings import SHARED_VARIABLES

PING_SECONDS = 2.0
START_SECONDS = 30.0
STOP_SECONDS = 15.0
IDLE_EXIT_SECONDS = 600
_POLL_SECONDS = 0.05
_MAX_ERROR_CHARACTERS = 2000
_MAX_LOG_BYTES = 10 * 1024 * 1024

_used_here: Counter[Path] = Counter()
"""By data folder, how often this process counts as a user of its service."""
_for_life = contextlib.ExitStack()


@dataclass(frozen=True)
class Endpoint:
    """A running service: its address, its project, and the keys from its data folder. Keys never show themselves."""

    base_url: str
    project_id: str
    read_key: str = field(repr=False)
    write_key: str = field(repr=False)
    master_key: str = field(repr=False)


def find(data: Path) -> Endpoint | None:
    """The service that runs on a data folder, None if none answers within two seconds."""
    return _find(data)[0]


def _find(data: Path) -> tuple[Endpoint | None, int | None]:
    """The same, and its process id."""
    written = read_announcement(data)
    if written is None or not written.url.startswith("http://"):
        return None, None
    # Another folder's service may have the address by now, or this folder may be a copy of the one that is served there.
    if _health_at(written.url) != (written.project_id, data.stat().st_ino):
        return None, None
    credentials = load_credentials(data)
    if credentials is None:
        return None, None
    keys = credentials.read_key, credentials.write_key, credentials.master_key
    return Endpoint(written.url, written.project_id, *keys), written.pid


def _health_at(url: str) -> tuple[object, object] | None:
    # A proxy of the environment must not stand between two processes of one machine.
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    try:
        with opener.open(f"{url}/healthz", timeout=PING_SECONDS) as answer:
            health = json.load(answer)
            return health["project_id"], health["folder"]
    except (OSError, ValueError, KeyError, TypeError):
        return None


class EmbeddedService:
    """A service started by `start`; ends with `stop`, with its `with` block, or with this process."""

    def __init__(self, process: subprocess.Popen[bytes], endpoint: Endpoint, log: IO[bytes]) -> None:
        self._process = process
        self._log = log
        self.endpoint = endpoint

    @property
    def pid(self) -> int:
        return self._process.pid

    def stop(self) -> None:
        """End the service: SIGTERM, and SIGKILL after fifteen seconds. Safe to repeat."""
        _end(self._process)
        self._log.close()

    def leave(self, data: Path) -> None:
        """End the service unless somebody else uses it, with whom it ends then."""
        _close_stdin(self._process)
        if not _ended(data, lambda: self._process.poll() is None):
            _end(self._process)
        self._log.close()

    def __enter__(self) -> EmbeddedService:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.stop()


@contextlib.contextmanager
def shared(data: Path) -> Iterator[Endpoint]:
    """The service of a data folder for the block's time: the one that runs, or one that is started and ends with its last user.

    Of several processes that ask at once all get the same one. Raises as `start` does.
    """
    with contextlib.ExitStack() as left, used(data, STOP_SECONDS), _using(data):
        found = find(data)
        if found is None:
            service = start(data, others=True)
            left.callback(service.leave, data)
            found = service.endpoint
        else:
            left.callback(_leave, data)
        yield found


def _leave(data: Path) -> None:
    """Wait for the end of a service that this process did not start, if it was the last one that used it."""
    written = read_announcement(data)
    if written is not None and written.ends_with_users:
        _ended(data, lambda: is_held(data))


@contextlib.contextmanager
def _using(data: Path) -> Iterator[None]:
    _used_here[data] += 1
    try:
        yield
    finally:
        _used_here[data] -= 1


def _ended(data: Path, runs: Callable[[], bool]) -> bool:
    """Wait for the end of a service unless somebody uses it; False if it goes on for fifteen seconds all the same."""
    deadline = time.monotonic() + STOP_SECONDS
    while runs() and not is_used(data):
        if time.monotonic() > deadline:
            return False
        time.sleep(_POLL_SECONDS)
    return True


def start(
    data: Path, *, port: int = 0, options: Sequence[str] = (), env: Mapping[str, str] | None = None, others: bool = False
) -> EmbeddedService:
    """Start a service as a child in a process group of its own and wait until it answers.

    `port` 0: a free one. `options`: further arguments of `keen-pipeline serve`, for example `["--extraction-delay", "2"]`.
    `env`: the child's whole environment; None: this process's, without a shared storage, so that the folder is all it has.
    `others`: if another process was faster, the answer is its service.
    The child also ends when this process does, however it ends.
    Raises ConfigurationError with the child's own words if it gives up, ServiceUnavailableError after 30 seconds.
    """
    log = tempfile.TemporaryFile()  # noqa: SIM115 - it lives as long as the child
    options = ["--port", str(port), "--stop-with-stdin", *options]
    process = None
    try:
        process = _child(data, options, _environment() if env is None else dict(env), subprocess.PIPE, log)
        return EmbeddedService(process, _await(process, data, log, others=others), log)
    except BaseException:
        if process is not None:
            _end(process)
        log.close()
        raise


def ensure(data: Path) -> Endpoint:
    """The service that runs on a data folder; if none does, one is started that outlives this process.

    It ends after ten minutes without requests and open extractions. Of several processes that ask at once all get the same one.
    Raises ConfigurationError, ServiceUnavailableError as `start` does.
    """
    path = data / "service.log"
    if path.exists() and path.stat().st_size > _MAX_LOG_BYTES:
        os.truncate(path, 0)  # a service that has been asked for months still writes to it
    found = find(data)
    if found is not None and not _used_here[data]:
        _used_here[data] += 1
        _for_life.enter_context(used(data, STOP_SECONDS))  # it may be a command's, which ends with the last who uses it
        found = find(data)
    if found is not None:
        return found
    make_private(data)
    with open(path, "a+b", opener=lambda name, flags: os.open(name, flags, 0o600)) as log:
        options = ["--port", "0", "--idle-exit", str(IDLE_EXIT_SECONDS)]
        began = log.seek(0, os.SEEK_END)
        process = _child(data, options, _environment(), subprocess.DEVNULL, log)
        return _await(process, data, log, began, others=True)


def _child(data: Path, options: Sequence[str], env: Mapping[str, str], stdin: int, log: IO[bytes]) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-m", "keen_pipeline", "serve", "--data", str(data), *options]
    return subprocess.Popen(  # noqa: S603 - our own module
        command, stdin=stdin, stdout=subprocess.DEVNULL, stderr=log, env=env, start_new_session=True
    )


def _await(process: subprocess.Popen[bytes], data: Path, log: IO[bytes], began: int = 0, *, others: bool = False) -> Endpoint:
    """Wait until the child itself answers; with `others` the service of another process will do, and then the child is ended.

    `began`: the position in `log` behind which its words stand.
    """
    deadline = time.monotonic() + START_SECONDS
    while time.monotonic() < deadline:
        # Asked in this order: one that loses the race for the folder ends, and then the winner is found or still holds it.
        ended = process.poll() is not None
        found, pid = _find(data)
        if found is not None and (others or pid == process.pid):
            if pid != process.pid:
                _end(process)  # it lost the race; a slow one would not know, and serve an empty house once the winner ends
            return found
        if ended and not (others and is_held(data)):
            raise ConfigurationError(f"the embedded service on {data} did not start: {_words(log, began)}")
        time.sleep(_POLL_SECONDS)
    _end(process)
    raise ServiceUnavailableError(f"the embedded service on {data} did not answer within {START_SECONDS:g} s: {_words(log, began)}")


def _environment() -> dict[str, str]:
    """This process's, without what makes a service one of several: sample events and tries belong in nobody's shared storage."""
    return {name: value for name, value in os.environ.items() if name not in SHARED_VARIABLES}


def _words(log: IO[bytes], began: int = 0) -> str:
    """Why a child ended, in its own words, or the last lines that it wrote to standard error."""
    log.seek(max(began, log.seek(0, os.SEEK_END) - _MAX_ERROR_CHARACTERS))
    return log.read().decode("utf-8", "replace").rpartition("keen-pipeline: ")[2].strip() or "it said nothing"


def _close_stdin(process: subprocess.Popen[bytes]) -> None:
    if process.stdin is not None:
        with contextlib.suppress(OSError):  # a child that is gone has closed its end
            process.stdin.close()


def _end(process: subprocess.Popen[bytes]) -> None:
    _close_stdin(process)
    if process.poll() is None:
        process.terminate()
        try:
            process.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            with contextlib.suppress(ProcessLookupError):  # gone between the two calls
                os.killpg(process.pid, signal.SIGKILL)
            process.wait(STOP_SECONDS)
