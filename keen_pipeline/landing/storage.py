"""Which storage a root URI names, and which transport options it takes."""

from __future__ import annotations

import os
from collections.abc import Mapping
from contextlib import AbstractContextManager
from datetime import timedelta
from typing import Any, BinaryIO, Protocol
from urllib.parse import unquote, urlsplit

from keen_pipeline.errors import ConfigurationError
from keen_pipeline.landing.local import LocalStorage

SUPPORTED_SCHEMES = ("file", "s3")


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

    Raises ConfigurationError for an empty root or one with a password in it.
    """
    if not uri.strip():
        raise ConfigurationError("destination: KEEN_PIPELINE_DESTINATION is empty")
    parts = urlsplit(uri)
    if "://" not in uri:
        return uri.rstrip("/") or "/"
    if "@" in parts.netloc:
        raise ConfigurationError(
            f"destination: no keys in the URI ({parts.scheme}://***@...); use the environment or transport options"
        )
    if parts.scheme == "file":
        return os.path.normpath(unquote(parts.path))
    return uri.rstrip("/")


def open_storage(root: str, transport: Mapping[str, Any]) -> Storage:
    """The storage of a normal root. Raises ConfigurationError for an unknown scheme, a missing extra or an unknown option."""
    scheme = urlsplit(root).scheme if "://" in root else "file"
    if scheme not in SUPPORTED_SCHEMES:
        raise ConfigurationError(
            f"destination {root}: {scheme}:// is not supported; use a local folder, or one of "
            + ", ".join(f"{known}://" for known in SUPPORTED_SCHEMES)
        )
    if scheme == "file":
        _refuse_unknown(transport, (), root)
        return LocalStorage(root)
    try:
        # Heavy (boto3), and only there with the extra.
        import smart_open.s3
        from smart_open.utils import inspect_kwargs

        from keen_pipeline.landing.s3 import S3Storage
    except ImportError as error:
        raise ConfigurationError(f"destination {root}: needs the s3 extra: pip install 'keen_pipeline[s3]'") from error
    _refuse_unknown(transport, tuple(inspect_kwargs(smart_open.s3.open)), root)
    return S3Storage(root, transport)


def _refuse_unknown(transport: Mapping[str, Any], known: tuple[str, ...], root: str) -> None:
    # smart_open only logs an option it does not know, and a misspelt endpoint would write to another place.
    unknown = sorted(set(transport) - set(known))
    if unknown:
        options = f"it takes {', '.join(known)}" if known else "it takes none"
        raise ConfigurationError(f"destination {root}: unknown transport options {', '.join(unknown)}; {options}")
