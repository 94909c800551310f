"""What a storage can do, which one a root URI names, and what such a URI means."""

from __future__ import annotations

import importlib
import logging
import os
import re
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from datetime import timedelta
from typing import Any, BinaryIO, cast
from urllib.parse import unquote, urlsplit

from keen_pipeline.errors import ConfigurationError, KeenPipelineError
from keen_pipeline.landing.storages.errors import cleaned, for_a_person, unavailable
from keen_pipeline.landing.transfer.direct import TemporaryFile

Fence = Callable[[], None]
"""Called immediately before a new file becomes visible; if it raises a KeenPipelineError, nothing does."""
Leftover = tuple[str, float, Callable[[], object]]
"""URI or path, Unix time of the last write, and what removes it, which raises FileNotFoundError when it is gone."""
Options = Mapping[str, Any]
"""By name, those that are set and right; `keen_pipeline/docs/destinations.md` says what each means."""


_log = logging.getLogger(__name__)


_KINDS = {
    "file": ("local", "LocalStorage", ()),
    "s3": ("s3", "S3Storage", ("endpoint", "region")),
    "gs": ("gcs", "GcsStorage", ("endpoint", "project")),
    "azure": ("azure", "AzureStorage", ("endpoint", "account")),
    "sftp": ("sftp", "SftpStorage", ("known_hosts", "key_file", "timeout_seconds")),
}
"""By scheme: module and extra, its class, the options that it takes."""


def no_fence() -> None:
    """Nothing to prove."""


class Storage(ABC):
    """Where files lie. A file appears whole, by `publish` or `write`, or not at all.

    Every method raises ConfigurationError when a person has to change something, and RetryableError when the same call may go
    through later; the first line of each names the storage and the path.
    """

    _failures: tuple[type[Exception], ...] = (OSError,)
    """What its client raises, which `_error` translates."""

    def __init__(self, root: str, options: Options) -> None:
        self._root, self._options = root, options

    def stage(self, target: str) -> AbstractContextManager[BinaryIO]:
        """An empty, unbuffered, seekable file for the bytes that shall lie at `target`; gone at the end."""
        return cast("AbstractContextManager[BinaryIO]", TemporaryFile())

    @abstractmethod
    def publish(self, stage: BinaryIO, target: str, *, fence: Fence = no_fence) -> None:
        """Make the staged bytes the file at `target`, in one step, for which they need not have been staged."""

    def write(self, target: str, data: bytes) -> None:
        """A small file, in one step."""
        with self.stage(target) as stage:
            stage.write(data)
            self.publish(stage, target)

    @abstractmethod
    def size(self, target: str) -> int | None:
        """In bytes; None if there is no file."""

    @abstractmethod
    def open(self, target: str) -> BinaryIO:
        """A binary reader of the file as it is stored, of this version alone. Raises FileNotFoundError."""

    @abstractmethod
    def remove(self, target: str) -> None:
        """Remove one file; nothing happens when there is none."""

    @abstractmethod
    def files(self, folder: str) -> Iterator[tuple[str, int]]:
        """URI and bytes of each file below the URI `folder`, in any order, as they are found; staged files are none, and neither is
        what lies behind a symbolic link. Nothing is found in a folder that isn't there.
        """

    def remove_leftovers(self, older_than: timedelta) -> list[str]:
        """Remove what crashed landings left and nobody has written to for `older_than`, by this machine's clock; returns its URIs
        or paths. What this user may not remove stays.
        """
        oldest = time.time() - older_than.total_seconds()
        removed = []
        with self._translated(self._root):
            for uri, written, remove in self._leftovers():
                if written < oldest:
                    try:
                        remove()
                        removed.append(uri)
                        _log.info("removed %s, which a landing that died has left", uri)
                    except FileNotFoundError:
                        pass  # its landing ended, or another process was quicker
                    except self._failures as error:
                        refused = self._error(error, uri)
                        if not isinstance(refused, ConfigurationError):
                            raise
                        _log.warning("what a landing that died has left stays: %s", refused)
        return sorted(removed)

    def _leftovers(self) -> Iterator[Leftover]:
        """Those that only this package can have made."""
        return iter(())

    @contextmanager
    def _translated(self, target: str) -> Iterator[None]:
        """Errors of the client as ours; `from None`, as their texts may hold whole requests."""
        try:
            yield
        except KeenPipelineError:
            raise
        except self._failures as error:
            raise self._error(error, target) from None

    def _error(self, error: Exception, target: str) -> KeenPipelineError:
        """By what the caller does next: fix the configuration, or try again."""
        return unavailable(target, error)


def normal_root(uri: str) -> str:
    """The root as every target begins with it: a path for a local folder (`file://` too), else the URI; no slash at its end.

    `~` at the beginning of a path is a home folder. Raises ConfigurationError for an empty root, one with a key or password in it
    (an SFTP user's name may stand there), and one that could be read in two ways.
    """
    uri = uri.strip()
    if not uri:
        raise ConfigurationError("destination: it is empty; name a folder or a URI")
    if not uri.isprintable():
        raise for_a_person(uri, "it holds a character that can't be printed")
    if "://" not in uri:
        if re.match(r"(?:[sS]3|gs|azure|sftp|file):", uri):
            raise for_a_person(uri, "it is neither a path nor a URI", "Write scheme://..., or ./ before a folder of this name.")
        return home(uri).rstrip("/") or "/"
    scheme, _, rest = uri.partition("://")
    uri = f"{scheme.lower()}://{rest}"
    parts = urlsplit(uri)
    if "@" in parts.netloc and (parts.scheme != "sftp" or parts.password is not None):
        raise ConfigurationError(f"destination: no keys in the URI ({parts.scheme}://***@...); use the environment")
    if "?" in rest or "#" in rest:
        mend = "Keys and options go elsewhere; in a name of file:// write %3F and %23 for them."
        raise for_a_person(f"{parts.scheme}://{parts.netloc}{parts.path}", "a query (? or #) in the URI", mend)
    if parts.scheme == "file" and rest:
        return _path_of(uri, parts.netloc, unquote(parts.path))
    if not parts.netloc:
        raise for_a_person(uri, "it names no bucket, container or host")
    if {".", "..", "~"} & set(rest.split("/")):
        raise for_a_person(uri, "`.`, `..` and `~` mean nothing there", "Write the whole path.")
    return uri.rstrip("/")


def _path_of(uri: str, host: str, path: str) -> str:
    if host.startswith("~"):
        return os.path.normpath(home(host + path))
    if host not in ("", "localhost"):
        mend = f"Write file:///{host}{path} for the folder at the root, or ./{host}{path} for the one in the folder you are in."
        raise for_a_person(uri, f"{host} is where a host name is expected", mend)
    if not path.isprintable():
        raise for_a_person(uri, "it holds a character that can't be printed")
    return os.path.normpath(home(path.removeprefix("/") if path.startswith("/~") else path))


def home(path: str) -> str:
    """A local path without its `~`. Raises ConfigurationError for a user that has no home."""
    expanded = os.path.expanduser(path)  # noqa: PTH111 - a `~` that stands for nothing is told by its staying
    if path.startswith("~") and expanded == path:
        raise for_a_person(path, "there is no such user's home folder", "Write the whole path.")
    return expanded


def open_storage(root: str, transport: Mapping[str, object]) -> Storage:
    """The storage of a normal root. Raises ConfigurationError for an unknown scheme, a missing extra or an unknown option."""
    scheme = urlsplit(root).scheme if "://" in root else "file"
    if scheme not in _KINDS:
        known = ", ".join(f"{known}://" for known in _KINDS)
        raise for_a_person(root, f"{cleaned(scheme)}:// is not supported", f"Use a local folder, or one of {known}.")
    name, made, takes = _KINDS[scheme]
    if unknown := sorted(set(transport) - set(takes)):
        raise ConfigurationError(
            f"destination {root}: unknown transport options {', '.join(unknown)}; it takes {', '.join(takes) or 'none'}"
        )
    options = {option: _option(option, value, root) for option, value in transport.items() if value is not None}
    try:
        # Heavy, and only there with the extra.
        module = importlib.import_module(f"keen_pipeline.landing.storages.{name}")
    except ImportError as error:
        raise ConfigurationError(f"destination {root}: needs the {name} extra: pip install 'keen_pipeline[{name}]'") from error
    storage: Storage = getattr(module, made)(root, options)
    return storage


def _option(name: str, value: object, root: str) -> str | float:
    where = f"destination {root}: transport option {name}"
    if name == "timeout_seconds":
        try:
            seconds = float(value)  # type: ignore[arg-type]
        except (TypeError, ValueError):
            raise ConfigurationError(f"{where} must be a number of seconds, not {value!r}") from None
        if not 1 <= seconds <= 3600:
            raise ConfigurationError(f"{where} must lie between 1 and 3600, not {value!r}")
        return seconds
    if not isinstance(value, str) or not value.strip():
        raise ConfigurationError(f"{where} must be text, not {value!r}")
    if name == "endpoint":
        if not value.startswith(("http://", "https://")) or "@" in value or "?" in value:
            raise ConfigurationError(f"{where} must be an http:// or https:// address without keys in it")
        return value.rstrip("/")
    return value
