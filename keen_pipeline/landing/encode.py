"""How the landed file is written: Keen's CSV as it is, or compressed. The same CSV gives the same bytes."""

from __future__ import annotations

import zlib
from types import ModuleType
from typing import Protocol

from keen_pipeline.errors import ConfigurationError
from keen_pipeline.extraction import Encoding
from keen_pipeline.landing import parquet

GZIP_LEVEL = 1
"""Measured on CSV: level 6 is four times slower for a quarter less size; a landing shall not wait for it."""
ZSTD_LEVEL = 3
"""Zstandard's own default."""


class Encoder(Protocol):
    """Bytes of the CSV in, bytes of the file out."""

    def encode(self, data: bytes | bytearray) -> bytes | bytearray:
        """The file's next bytes, possibly none yet."""
        ...

    def finish(self) -> bytes:
        """The file's last bytes."""
        ...


class _Plain:
    def encode(self, data: bytes | bytearray) -> bytes | bytearray:
        return data

    def finish(self) -> bytes:
        return b""


class _Gzip:
    def __init__(self) -> None:
        # 16: a gzip header, which zlib writes with time 0 and no name.
        self._compressor = zlib.compressobj(GZIP_LEVEL, zlib.DEFLATED, 16 + zlib.MAX_WBITS)

    def encode(self, data: bytes | bytearray) -> bytes | bytearray:
        return self._compressor.compress(data)

    def finish(self) -> bytes:
        return self._compressor.flush()


class _Zstd:
    def __init__(self) -> None:
        zstd = _zstd()
        options = {zstd.CompressionParameter.compression_level: ZSTD_LEVEL, zstd.CompressionParameter.checksum_flag: 1}
        self._compressor = zstd.ZstdCompressor(options=options)

    def encode(self, data: bytes | bytearray) -> bytes | bytearray:
        return bytes(self._compressor.compress(data))

    def finish(self) -> bytes:
        return bytes(self._compressor.flush())


def check_encoding(encoding: Encoding) -> None:
    """Raises ConfigurationError where files can't be written so here."""
    if encoding is Encoding.CSV_ZST:
        _zstd()
    if encoding is Encoding.PARQUET:
        parquet.check_installed()


def new_encoder(encoding: Encoding) -> Encoder:
    """A fresh encoder for one file. Not for parquet, which is made of the whole CSV once it is proven."""
    check_encoding(encoding)
    kinds: dict[Encoding, type[Encoder]] = {Encoding.CSV: _Plain, Encoding.CSV_GZ: _Gzip, Encoding.CSV_ZST: _Zstd}
    return kinds[encoding]()


def _zstd() -> ModuleType:
    try:
        from backports import zstd
    except ImportError:
        raise ConfigurationError("encoding csv.zst needs the package backports.zstd: pip install backports.zstd") from None
    return zstd
