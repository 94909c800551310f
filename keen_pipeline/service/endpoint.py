"""The file that says where the service of a data folder listens, the lock that keeps a second one out, and that of its users."""

from __future__ import annotations

import contextlib
import json
import math
import os
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from keen_pipeline.errors import ConfigurationError
from keen_pipeline.service.credentials import load_credentials, make_private, write_private

FILE_NAME = "endpoint.json"
LOCK_NAME = "lock"
USERS_NAME = "users"
_POLL_SECONDS = 0.1
# There before the first start already, some on disks of their own.
_BESIDE = {LOCK_NAME, USERS_NAME, "service.log", "lost+found", "results"}


@dataclass(frozen=True)
class Announcement:
    """What a running service writes into its data folder: where it listens, its process, its project.

    `ends_with_users`: whoever started it has left, and it ends as soon as nobody uses it.
    """

    url: str
    pid: int
    project_id: str
    ends_with_users: bool = False


def read_announcement(data: Path) -> Announcement | None:
    """What stands in a data folder; the process may be gone. None if there is nothing that can be read."""
    try:
        return Announcement(**json.loads((data / FILE_NAME).read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError):
        return None


@contextlib.contextmanager
def locked(path: Path, refusal: Callable[[], str], *, shared: bool = False, patience_seconds: float = 0.0) -> Iterator[int]:
    """Hold a file for this process, or `shared` with others, and give its descriptor; the system gives it back however the process
    ends.

    Raises ConfigurationError, with the words of `refusal`, if another process holds it for longer than `patience_seconds`.
    """
    import fcntl  # the command line's help needs none of it, and Windows has none

    descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
    deadline = time.monotonic() + patience_seconds
    try:
        while True:
            try:
                fcntl.flock(descriptor, (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if time.monotonic() >= deadline:
                    raise ConfigurationError(refusal()) from None
            except OSError as error:
                raise ConfigurationError(f"{path}: the file system takes no locks ({error.strerror}); choose another one") from None
            time.sleep(_POLL_SECONDS)
        yield descriptor
    finally:
        os.close(descriptor)


@contextlib.contextmanager
def exclusive(data: Path) -> Iterator[None]:
    """Hold the data folder for this process. Raises ConfigurationError naming the service that holds it, or what else is in it."""
    _take(data)
    with locked(data / LOCK_NAME, lambda: f"service: {data} is in use by {_holder(data)}; stop it or choose another --data"):
        yield


@contextlib.contextmanager
def used(data: Path, patience_seconds: float) -> Iterator[None]:
    """Count as a user of the folder's service; a service that ends with its users lives as long as there is one.

    One that is just about to end is waited for. Raises ConfigurationError if that takes longer, or for a folder of somebody else.
    """
    _take(data)
    with locked(
        data / USERS_NAME, lambda: f"service: the one on {data} does not end", shared=True, patience_seconds=patience_seconds
    ):
        yield


def is_used(data: Path) -> bool:
    """Whether the folder's service has a user."""
    users = data / USERS_NAME
    return not _can_lock(users) and _can_lock(users, shared=True)  # the service that is about to end has it alone


@contextlib.contextmanager
def unused(data: Path) -> Iterator[None]:
    """Say that this process's service ends with its users, and wait for that, as long as it takes; it gets none in the block."""
    if (written := read_announcement(data)) is not None and written.pid == os.getpid():
        _announce(data, replace(written, ends_with_users=True))
    with locked(data / USERS_NAME, str, patience_seconds=math.inf):
        yield


def _take(data: Path) -> None:
    """Make the folder ours, closed to others. Not somebody else's: a service takes what it finds for its own, or its leftovers."""

    def names(folder: Path) -> set[str]:
        return {path.name for path in folder.iterdir() if path.name[0] != "."} - _BESIDE if folder.is_dir() else {"a file"}

    # A first start that was killed leaves half a file of credentials.
    there = {name for name in names(data) if names(data / name) and not name.endswith(".tmp")} if data.is_dir() else set()
    ours = bool({"layout.json", "state.db"} & there) or {"events", "log"} <= there or any(data.glob("events/*/_delta_log"))
    if there and not ours and load_credentials(data) is None:
        raise ConfigurationError(
            f"service: {data} holds other things, such as {min(there)}; choose an empty one (--data, KEEN_PIPELINE_SERVICE_DATA)"
        )
    make_private(data)


def is_held(data: Path) -> bool:
    """Whether a service holds the data folder, or is about to."""
    return (data / LOCK_NAME).exists() and not _can_lock(data / LOCK_NAME)


def _can_lock(path: Path, *, shared: bool = False) -> bool:
    try:
        with locked(path, str, shared=shared):
            return True
    except ConfigurationError:
        return False


def _holder(data: Path) -> str:
    found = read_announcement(data)
    return f"the service at {found.url} (process {found.pid})" if found else "another service that is starting or stopping"


@contextlib.contextmanager
def announced(data: Path, url: str, project_id: str) -> Iterator[None]:
    """Write `endpoint.json` while the block runs."""
    _announce(data, Announcement(url, os.getpid(), project_id))
    try:
        yield
    finally:
        (data / FILE_NAME).unlink(missing_ok=True)


def _announce(data: Path, announcement: Announcement) -> None:
    write_private(data / FILE_NAME, json.dumps(asdict(announcement)) + "\n")
