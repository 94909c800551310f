"""A landed or given file as the CSV or NDJSON it holds: compressed by gzip or Zstandard, of any number of members or frames."""

from __future__ import annotations

import gzip
import sys
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from types import ModuleType
from typing import BinaryIO, cast

from keen_pipeline.errors import ConfigurationError


def zstandard() -> ModuleType:
    """Python's own module from 3.14 on, before that its backport. Raises ConfigurationError if there is none."""
    try:
        if sys.version_info >= (3, 14):
            from compression import zstd
        else:
            from backports import zstd
    except ImportError:
        raise ConfigurationError("csv.zst needs the package backports.zstd: pip install backports.zstd") from None
    return zstd


@contextmanager
def decompressed(file: BinaryIO, name: str) -> Iterator[BinaryIO]:
    """What `file` holds, by the suffix of its `name`: `.gz`, `.zst`, or as it is.

    Reading raises OSError (EOFError: it is cut) if it is damaged, whatever the library's own word for it.
    """
    if name.endswith(".gz"):
        with gzip.GzipFile(fileobj=file) as source:
            yield cast("BinaryIO", _Translated(source, (zlib.error,)))
    elif name.endswith(".zst"):
        zstd = zstandard()
        with zstd.ZstdFile(file) as source:
            yield cast("BinaryIO", _Translated(source, (zstd.ZstdError,)))
    else:
        yield file


class _Translated:
    """A reader whose library's own errors are OSErrors."""

    def __init__(self, source: BinaryIO | gzip.GzipFile, errors: tuple[type[Exception], ...]) -> None:
        self._source = source
        self._errors = errors

    def read(self, size: int = -1) -> bytes:
        try:
            return self._source.read(size)
        except self._errors as error:
            raise OSError(f"the compressed file is damaged ({error})") from None
