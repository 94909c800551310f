"""How the landed file is written: Keen's CSV as it is, or compressed. The same CSV gives the same bytes."""

from __future__ import annotations

import importlib.util
import zlib
from contextlib import suppress
from types import ModuleType
from typing import Any

from keen_pipeline.collection import Encoding
from keen_pipeline.errors import ConfigurationError
from keen_pipeline.landing.csv.stored import zstandard
from keen_pipeline.landing.transfer.workers import CHUNK_BYTES

GZIP_LEVEL = 1
"""Measured on CSV: level 6 is four times slower for a quarter less size; a landing must not wait for it."""
ZSTD_LEVEL = 1
"""For the same reason."""
ZSTD_WINDOW_LOG = 17
"""Looks back 128 KiB instead of 512, which stay in the processor's cache: an eighth faster, and CSV of events gets no larger."""
ZSTD_WORKERS = 2
"""Threads of its own; their number changes nothing in the bytes."""
_PIECE_BYTES = CHUNK_BYTES
"""What isal gets at once: its bytes depend on that, so it is the same however the transfer came. Shorter files are compressed by
zstd without threads of its own."""


class Encoder:
    """One file of csv.gz or csv.zst: bytes of the CSV in, those of the file out, possibly none yet; `finish` gives the last."""

    def __init__(self, encoding: Encoding) -> None:
        self._new_compressor = _gzip_compressor if encoding is Encoding.CSV_GZ else _zstd_compressor
        self._compressor: Any = None
        self._held = bytearray()

    def encode(self, data: bytes | memoryview) -> bytes:
        if not self._held and self._compressor is not None and len(data) == _PIECE_BYTES:
            return bytes(self._compressor.compress(data))
        self._held += data
        out = []
        while len(self._held) >= _PIECE_BYTES:
            self._compressor = self._compressor or self._new_compressor(True)
            out.append(self._compressor.compress(self._held[:_PIECE_BYTES]))
            del self._held[:_PIECE_BYTES]
        return b"".join(out)

    def finish(self) -> bytes:
        compressor = self._compressor or self._new_compressor(False)
        return bytes(compressor.compress(bytes(self._held)) + compressor.flush())


def _zstd_compressor(is_long: bool) -> Any:
    zstd = zstandard()
    parameter = zstd.CompressionParameter
    options = {
        parameter.compression_level: ZSTD_LEVEL,
        parameter.window_log: ZSTD_WINDOW_LOG,
        parameter.checksum_flag: 1,
        # Threads and their memory would cost a short file more than all the rest; a library without threads has a bound of 0.
        parameter.nb_workers: min(ZSTD_WORKERS, parameter.nb_workers.bounds()[1]) if is_long else 0,
    }
    return zstd.ZstdCompressor(options=options)


def check_encoding(encoding: Encoding) -> None:
    """Raises ConfigurationError when files can't be written so here."""
    if encoding is Encoding.CSV_ZST:
        zstandard()
    if encoding is Encoding.PARQUET and importlib.util.find_spec("pyarrow") is None:  # imported when a file is written
        raise ConfigurationError("encoding parquet needs its extra: pip install 'keen_pipeline[parquet]'")


def _gzip_compressor(_: bool) -> Any:
    """By isal if it is installed, three times as fast, else Python's own zlib; both write a header with time 0 and no name."""
    deflate: ModuleType = zlib
    with suppress(ImportError):
        from isal import isal_zlib as deflate
    return deflate.compressobj(GZIP_LEVEL, zlib.DEFLATED, 16 + zlib.MAX_WBITS)
