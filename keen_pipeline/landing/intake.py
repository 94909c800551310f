"""One run of bytes from the first to the last: decoded, verified, hashed, encoded, written to the stage."""

from __future__ import annotations

import hashlib
from typing import BinaryIO

from keen_pipeline.errors import VerificationError
from keen_pipeline.extraction import Encoding
from keen_pipeline.landing.decode import GzipDecoder
from keen_pipeline.landing.encode import new_encoder
from keen_pipeline.landing.lane import Lane
from keen_pipeline.landing.verify import CsvVerifier


class Intake:
    """Takes the raw body in order. After `finish()` its facts stand: `bytes`, `sha256`, `records`, `columns`.

    The verifier works in the caller's thread, between two reads; hash and file have their own threads, which leave the
    interpreter's lock alone while they work.
    """

    def __init__(self, stage: BinaryIO, encoding: Encoding, content_encoding: str) -> None:
        self.bytes = 0
        self._stage = stage
        self._decoder = None if content_encoding == "identity" else GzipDecoder()
        self._verifier = CsvVerifier()
        self._refusal: VerificationError | None = None
        self._hash = hashlib.sha256()
        self._encoder = new_encoder(encoding)
        self._lanes = (Lane("hash", self._hash.update), Lane("write", self._write))

    def feed(self, raw: bytes) -> None:
        """Take the next raw bytes. Raises TransferError (a damaged content coding) or OSError.

        What the verifier refuses is raised by `finish`: a gzip's check sum may say that the transfer was at fault, and what is
        kept aside shall be the whole file.
        """
        for data in (raw,) if self._decoder is None else self._decoder.decode(raw):
            self.bytes += len(data)
            for lane in self._lanes:
                lane.put(data)
            self._verify(data)

    def finish(self) -> None:
        """The body is over. Raises as `feed`, and VerificationError where the CSV is not whole; the stage holds all that came."""
        if self._decoder is not None:
            self._decoder.finish()
        for lane in self._lanes:
            lane.close()
        _write_all(self._stage, self._encoder.finish())
        if self._refusal is not None:
            raise self._refusal
        self._verifier.finish()

    def stop(self) -> None:
        """End the threads. Can be called again."""
        for lane in self._lanes:
            lane.stop()

    @property
    def sha256(self) -> str:
        """Of the CSV, hexadecimal."""
        return self._hash.hexdigest()

    @property
    def records(self) -> int:
        """Without the header."""
        return self._verifier.records

    @property
    def columns(self) -> tuple[str, ...]:
        """Of the header."""
        return self._verifier.columns

    def _verify(self, data: bytes) -> None:
        if self._refusal is None:
            try:
                self._verifier.feed(data)
            except VerificationError as refusal:
                self._refusal = refusal

    def _write(self, data: bytes) -> None:
        _write_all(self._stage, self._encoder.encode(data))


def _write_all(stage: BinaryIO, data: bytes) -> None:
    view = memoryview(data)
    while view:
        view = view[stage.write(view) :]
