"""The file that says where the service of a data folder listens, the lock that keeps a second one out, and that of its users."""

from __future__ import annotations

import contextlib
import json
import os
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

from keen_pipeline.errors import ConfigurationError
from keen_pipeline.service.credentials import load_credentials, make_private, write_private

FILE_NAME = "endpoint.json"
LOCK_NAME = "lock"
USERS_NAME = "users"
_POLL_SECONDS = 0.1
_BESIDE = {
    LOCK_NAME,
    USERS_NAME,
    "service.log",
    "lost+found",
    "results",
}  # there before the first start already, some on disks of their own


@dataclass(frozen=True)
class Announcement:
    """What a running service writes into its data folder: where it listens, its process, its project."""

    url: str
    pid: int
    project_id: str


def read_announcement(data: Path) -> Announcement | None:
    """What stands in a data folder; the process may be gone. None if there is nothing that can be read."""
    try:
        return Announcement(**json.loads((data / FILE_NAME).read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError):
        return None


@contextlib.contextmanager
def locked(path: Path, refusal: Callable[[], str], *, shared: bool = False) -> Iterator[int]:
    """Hold a file for this process, or `shared` with others, and give its descriptor; the system gives it back however the process
    ends.

    Raises ConfigurationError, with the words of `refusal`, if another process holds it.
    """
    import fcntl  # the command line's help needs none of it, and Windows has none

    descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
    try:
        try:
            fcntl.flock(descriptor, (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | fcntl.LOCK_NB)
        except BlockingIOError:
            raise ConfigurationError(refusal()) from None
        except OSError as error:
            raise ConfigurationError(f"{path}: the file system takes no locks ({error.strerror}); choose another one") from None
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
    deadline = time.monotonic() + patience_seconds
    with contextlib.ExitStack() as stack:
        while True:
            try:
                stack.enter_context(locked(data / USERS_NAME, lambda: f"service: the one on {data} does not end", shared=True))
                break
            except ConfigurationError:
                if time.monotonic() >= deadline:
                    raise
            time.sleep(_POLL_SECONDS)
        yield


def is_used(data: Path) -> bool:
    """Whether the folder's service has a user."""
    for shared, answer in ((False, False), (True, True)):  # whoever could have it alone is alone
        with contextlib.suppress(ConfigurationError), locked(data / USERS_NAME, str, shared=shared):
            return answer
    return False  # the service has it: it ends


@contextlib.contextmanager
def unused(data: Path) -> Iterator[None]:
    """Wait until the folder's service has no user; it gets none in the block."""
    with contextlib.ExitStack() as stack:
        while True:
            try:
                stack.enter_context(locked(data / USERS_NAME, str))
                break
            except ConfigurationError:
                time.sleep(_POLL_SECONDS)
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
    if not (data / LOCK_NAME).exists():
        return False
    try:
        with locked(data / LOCK_NAME, str):
            return False
    except ConfigurationError:
        return True


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
