"""One run of bytes from the first to the last: decoded, verified, hashed, encoded, written to the stage."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from typing import BinaryIO

from keen_pipeline.collection import Encoding
from keen_pipeline.errors import ExtractionTooLargeError, VerificationError
from keen_pipeline.landing.csv.masking import LONGEST_RECORD_BYTES, Masker
from keen_pipeline.landing.csv.verify import CsvVerifier
from keen_pipeline.landing.transfer.decode import GzipDecoder
from keen_pipeline.landing.transfer.direct import AlignedBuffer
from keen_pipeline.landing.transfer.encode import new_encoder
from keen_pipeline.landing.transfer.lane import CHUNK_BYTES, Buffers, Chunk, Lane
from keen_pipeline.landing.transfer.packed import PackedWriter, write_all
from keen_pipeline.ports import ResultsStream

READ_BYTES = 256 * 1024
MAX_RESULT_BYTES = 100 * 10**9
"""Of one result. A day of more events is better split, and a service that never ends must not fill a disk."""


class Intake:
    """Takes the raw body in order. `received` counts its bytes as they are sent, `bytes` those of the CSV. After `finish()`
    all facts stand: `bytes`, `sha256`, `records`, of the CSV as it came, and `columns`, of what is written: with a `masker`
    something else.

    The caller's thread reads. Verifier, hash and file work beside it in a thread each, and so does what compresses or masks; all
    release the interpreter's lock for most of their time, and are given a megabyte at once, so that they seldom wait for it.
    """

    def __init__(
        self,
        stage: BinaryIO,
        encoding: Encoding,
        content_encoding: str,
        masker: Masker | None = None,
        max_result_bytes: int = MAX_RESULT_BYTES,
    ) -> None:
        self._most = max_result_bytes
        self.received = 0
        self.bytes = 0
        self._stage = stage
        self._decoder = None if content_encoding == "identity" else GzipDecoder()
        self._verifier = CsvVerifier()
        self._refusal: VerificationError | None = None
        self._hash = hashlib.sha256()
        self._encoder = new_encoder(encoding)
        self._masker = masker
        self._buffers = Buffers()
        # What is neither compressed nor masked goes to the file from the buffers it came in.
        plain = encoding is Encoding.CSV and masker is None
        self._packed = None if plain else PackedWriter(stage)
        self._lanes = [
            _lane("verify", self._verify),
            _lane("hash", lambda chunk: self._hash.update(chunk.data)),
            _lane("write" if plain else "encode", self._write),
        ]

    def pull(self, stream: ResultsStream) -> bool:
        """Take the next bytes of `stream`, up to a buffer's length; False at its end.

        Raises what the stream raises (what came before is taken), TransferError (a damaged content coding), ExtractionTooLargeError
        or OSError.
        What the verifier refuses is raised by `finish`: a gzip's check sum may say that the transfer was at fault, and what is
        kept aside should be the whole file.
        """
        buffer = self._buffers.take()
        filled, got = 0, 1
        try:
            while got and filled < CHUNK_BYTES:
                got = stream.readinto(buffer.view[filled : filled + READ_BYTES])
                filled += got
        finally:
            self.received += filled
            self._hand_over(buffer, filled)
        check_size(self.received, self._most)
        return got > 0

    def finish(self) -> None:
        """The body is over. Raises as `feed`, and VerificationError when the CSV is not whole; the stage holds all that came."""
        if self._decoder is not None:
            self._decoder.finish()
        for lane in self._lanes:
            lane.close()
        if self._packed is not None:
            if self._masker is not None:
                self._packed.write(self._encoder.encode(self._masker.finish()))
            self._packed.write(self._encoder.finish())
            self._packed.finish()
        if self._refusal is not None:
            raise self._refusal
        self._verifier.finish()
        if self._masker is not None and self._masker.stopped:
            raise VerificationError(f"it can't be masked: a record is longer than {LONGEST_RECORD_BYTES} bytes")

    def stop(self) -> None:
        """End the threads. Can be called again."""
        for lane in self._lanes:
            lane.stop()
        if self._packed is not None:
            self._packed.stop()
        self._buffers.leave()

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
        """Of the header that is written."""
        return self._verifier.columns if self._masker is None else self._masker.columns

    @property
    def masked(self) -> dict[str, str]:
        """By column of the mask what was done to it: a method's word, or `absent`."""
        return {} if self._masker is None else self._masker.masked | dict.fromkeys(self._masker.absent, "absent")

    def _hand_over(self, buffer: AlignedBuffer, length: int) -> None:
        if self._decoder is None:
            self._queue(buffer.memory, buffer.start, buffer.start + length, lambda: self._buffers.give(buffer))
            return
        raw = bytes(buffer.view[:length])
        self._buffers.give(buffer)
        for data in self._decoder.decode(raw):
            self._queue(data, 0, len(data), _nothing)

    def _queue(self, memory: bytes | bytearray, start: int, end: int, free: Callable[[], None]) -> None:
        self.bytes += end - start
        check_size(self.bytes, self._most)
        chunk = Chunk(memory, start, end, len(self._lanes), free)
        for lane in self._lanes:
            lane.put(chunk)

    def _verify(self, chunk: Chunk) -> None:
        if self._refusal is None:
            try:
                self._verifier.feed(chunk.memory, chunk.start, chunk.end)
            except VerificationError as refusal:
                self._refusal = refusal

    def _write(self, chunk: Chunk) -> None:
        if self._packed is None:
            write_all(self._stage, chunk.data)
        else:
            data = chunk.data if self._masker is None else self._masker.feed(chunk.data)
            self._packed.write(self._encoder.encode(data))


def check_size(size: int | None, most: int) -> None:
    """Raises ExtractionTooLargeError for a result of more than `most` bytes."""
    if size is not None and size > most:
        raise ExtractionTooLargeError(f"the results are longer than {most:,} bytes (max_result_bytes). Ask for a shorter timeframe")


def _lane(name: str, work: Callable[[Chunk], None]) -> Lane[Chunk]:
    def run(chunk: Chunk) -> None:
        try:
            work(chunk)
        finally:
            chunk.done()

    return Lane(name, run, Chunk.done)


def _nothing() -> None:
    """Bytes in no buffer of the landing have none to give back."""
