"""Which storage a root URI names, and which transport options it takes."""

from __future__ import annotations

import importlib
import os
from collections.abc import Mapping
from contextlib import AbstractContextManager
from datetime import timedelta
from typing import Any, BinaryIO, NamedTuple, Protocol
from urllib.parse import unquote, urlsplit

from keen_pipeline.errors import ConfigurationError
from keen_pipeline.landing.storages.options import AzureOptions, GcsOptions, LocalOptions, S3Options, SftpOptions, read_options


class _Kind(NamedTuple):
    module: str
    storage: str
    options: type[Any]
    extra: str


_KINDS = {
    "file": _Kind("local", "LocalStorage", LocalOptions, ""),
    "s3": _Kind("s3", "S3Storage", S3Options, "s3"),
    "gs": _Kind("gcs", "GcsStorage", GcsOptions, "gcs"),
    "azure": _Kind("azure", "AzureStorage", AzureOptions, "azure"),
    "sftp": _Kind("sftp", "SftpStorage", SftpOptions, "sftp"),
}


class Storage(Protocol):
    """Where files lie. A file appears whole, by `publish` or `write`, or not at all."""

    def stage(self, target: str) -> AbstractContextManager[BinaryIO]:
        """An empty, unbuffered, seekable file for the bytes that shall lie at `target`; gone at the end."""
        ...

    def publish(self, stage: BinaryIO, target: str, *, elsewhere: bool = False) -> None:
        """Make the staged bytes the file at `target`, in one step; `elsewhere`: they were staged for another target."""
        ...

    def write(self, target: str, data: bytes) -> None:
        """A small file, in one step."""
        ...

    def size(self, target: str) -> int | None:
        """In bytes; None where there is no file."""
        ...

    def open(self, target: str) -> BinaryIO:
        """A binary reader of the file as it is stored. Raises FileNotFoundError."""
        ...

    def remove(self, target: str) -> None:
        """Remove one file; nothing happens where there is none."""
        ...

    def remove_leftovers(self, older_than: timedelta) -> list[str]:
        """Remove what crashed landings left; returns its URIs or paths."""
        ...


def normal_root(uri: str) -> str:
    """The root as every target begins with it: a path for a local folder (`file://` too), else the URI; no slash at its end.

    Raises ConfigurationError for an empty root or one with a key or password in it; an SFTP user's name may stand there.
    """
    if not uri.strip():
        raise ConfigurationError("destination: KEEN_PIPELINE_DESTINATION is empty")
    parts = urlsplit(uri)
    if "://" not in uri:
        return uri.rstrip("/") or "/"
    if "@" in parts.netloc and (parts.scheme != "sftp" or parts.password is not None):
        raise ConfigurationError(f"destination: no keys in the URI ({parts.scheme}://***@...); use the environment")
    if parts.scheme == "file":
        return os.path.normpath(unquote(parts.path))
    return uri.rstrip("/")


def is_supported(uri: str) -> bool:
    """Whether a root URI names a storage of this package."""
    return "://" not in uri or urlsplit(uri).scheme in _KINDS


def open_storage(root: str, transport: Mapping[str, object]) -> Storage:
    """The storage of a normal root. Raises ConfigurationError for an unknown scheme, a missing extra or an unknown option."""
    scheme = urlsplit(root).scheme if "://" in root else "file"
    if not is_supported(root):
        raise ConfigurationError(
            f"destination {root}: {scheme}:// is not supported; use a local folder, or one of "
            + ", ".join(f"{known}://" for known in _KINDS)
        )
    kind = _KINDS[scheme]
    options = read_options(kind.options, transport, root)
    try:
        # Heavy, and only there with the extra.
        module = importlib.import_module(f"keen_pipeline.landing.storages.{kind.module}")
    except ImportError as error:
        extra = f"pip install 'keen_pipeline[{kind.extra}]'"
        raise ConfigurationError(f"destination {root}: needs the {kind.extra} extra: {extra}") from error
    storage: Storage = getattr(module, kind.storage)(root, options)
    return storage
