"""The file that says where the service of a data folder listens, and the lock that keeps a second one out."""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

from keen_pipeline.errors import ConfigurationError
from keen_pipeline.service.credentials import make_private, write_private

FILE_NAME = "endpoint.json"
LOCK_NAME = "lock"


@dataclass(frozen=True)
class Announcement:
    """What a running service writes into its data folder: where it listens, its process, its project."""

    url: str
    pid: int
    project_id: str


def read_announcement(data: Path) -> Announcement | None:
    """What stands in a data folder; the process may be gone. None where there is nothing that can be read."""
    try:
        return Announcement(**json.loads((data / FILE_NAME).read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError):
        return None


def lock(descriptor: int) -> None:
    """Lock an open file for this process; the system gives it back however the process ends. Raises OSError if another has it."""
    import fcntl  # the command line's help needs none of it, and Windows has none

    fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)


@contextlib.contextmanager
def exclusive(data: Path) -> Iterator[None]:
    """Hold the data folder for this process. Raises ConfigurationError naming the service that holds it."""
    make_private(data)
    descriptor = os.open(data / LOCK_NAME, os.O_RDWR | os.O_CREAT, 0o600)
    try:
        try:
            lock(descriptor)
        except OSError:
            raise ConfigurationError(f"service: {data} is in use by {_holder(data)}; stop it or choose another --data") from None
        yield
    finally:
        os.close(descriptor)


def is_held(data: Path) -> bool:
    """Whether a service holds the data folder, or is about to."""
    try:
        descriptor = os.open(data / LOCK_NAME, os.O_RDWR)
    except FileNotFoundError:
        return False
    try:
        lock(descriptor)
    except OSError:
        return True
    finally:
        os.close(descriptor)
    return False


def _holder(data: Path) -> str:
    found = read_announcement(data)
    return f"the service at {found.url} (process {found.pid})" if found else "another service that is starting or stopping"


@contextlib.contextmanager
def announced(data: Path, url: str, project_id: str) -> Iterator[None]:
    """Write `endpoint.json` while the block runs."""
    path = data / FILE_NAME
    write_private(path, json.dumps(asdict(Announcement(url, os.getpid(), project_id))) + "\n")
    try:
        yield
    finally:
        path.unlink(missing_ok=True)
