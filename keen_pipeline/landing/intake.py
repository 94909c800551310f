"""One run of bytes from the first to the last: decoded, verified, hashed, encoded, written to the stage."""

from __future__ import annotations

import hashlib
import queue
from collections.abc import Callable
from typing import BinaryIO

from keen_pipeline.errors import VerificationError
from keen_pipeline.extraction import Encoding
from keen_pipeline.landing.decode import GzipDecoder
from keen_pipeline.landing.encode import new_encoder
from keen_pipeline.landing.lane import BUFFERS, CHUNK_BYTES, Chunk, Lane
from keen_pipeline.landing.masking import LONGEST_RECORD_BYTES, Masker
from keen_pipeline.landing.verify import CsvVerifier
from keen_pipeline.ports import ResultsStream

READ_BYTES = 256 * 1024


class Intake:
    """Takes the raw body in order. `received` counts its bytes as they are sent, `bytes` those of the CSV. After `finish()`
    all facts stand: `bytes`, `sha256`, `records`, of the CSV as it came, and `columns`, of what is written: with a `masker`
    something else.

    The verifier works in the caller's thread, piece by piece as they are read. Hash and file work beside it; they release the
    interpreter's lock, yet want it back in between, and get it while the caller reads: so reads are short (READ_BYTES). They
    share a thread where the file is written as it comes, since each more thread waits for that lock too.
    """

    def __init__(self, stage: BinaryIO, encoding: Encoding, content_encoding: str, masker: Masker | None = None) -> None:
        self.received = 0
        self.bytes = 0
        self._stage = stage
        self._decoder = None if content_encoding == "identity" else GzipDecoder()
        self._verifier = CsvVerifier()
        self._refusal: VerificationError | None = None
        self._hash = hashlib.sha256()
        self._encoder = new_encoder(encoding)
        self._masker = masker
        self._buffers: queue.SimpleQueue[bytearray] = queue.SimpleQueue()
        for _ in range(BUFFERS):
            self._buffers.put(bytearray(CHUNK_BYTES))
        works: list[tuple[Callable[[bytes | bytearray], object], ...]] = [(self._hash.update, self._write)]
        if encoding is not Encoding.CSV:
            works = [(self._hash.update,), (self._write,)]
        self._lanes = [Lane("-".join(work.__name__.strip("_") for work in part), _steps(part)) for part in works]

    def pull(self, stream: ResultsStream) -> bool:
        """Take the next bytes of `stream`, up to a buffer's length; False at its end.

        Raises what the stream raises (what came before is taken), TransferError (a damaged content coding) or OSError.
        What the verifier refuses is raised by `finish`: a gzip's check sum may say that the transfer was at fault, and what is
        kept aside shall be the whole file.
        """
        buffer = self._buffers.get()
        filled, got = 0, 1
        try:
            with memoryview(buffer) as view:
                while got and filled < len(buffer):
                    got = stream.readinto(view[filled : filled + READ_BYTES])
                    filled += got
        finally:
            self.received += filled
            self._hand_over(buffer, filled)
        return got > 0

    def finish(self) -> None:
        """The body is over. Raises as `feed`, and VerificationError where the CSV is not whole; the stage holds all that came."""
        if self._decoder is not None:
            self._decoder.finish()
        for lane in self._lanes:
            lane.close()
        if self._masker is not None:
            _write_all(self._stage, self._encoder.encode(self._masker.finish()))
        _write_all(self._stage, self._encoder.finish())
        if self._refusal is not None:
            raise self._refusal
        self._verifier.finish()
        if self._masker is not None and self._masker.stopped:
            raise VerificationError(f"it can't be masked: a record is longer than {LONGEST_RECORD_BYTES} bytes")

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
        """Of the header that is written."""
        return self._verifier.columns if self._masker is None else self._masker.columns

    @property
    def masked(self) -> dict[str, str]:
        """By column of the mask what was done to it: a method's word, or `absent`."""
        return {} if self._masker is None else self._masker.masked | dict.fromkeys(self._masker.absent, "absent")

    def _hand_over(self, buffer: bytearray, length: int) -> None:
        if self._decoder is None:
            self._verify(buffer, length)
        if self._decoder is None and length == len(buffer):
            self._queue(buffer)
            return
        raw = bytes(memoryview(buffer)[:length])
        self._buffers.put(buffer)
        if self._decoder is None:
            self._queue(raw)
            return
        for data in self._decoder.decode(raw):
            self._verify(data)
            self._queue(data)

    def _verify(self, data: bytes | bytearray, length: int | None = None) -> None:
        if self._refusal is None:
            try:
                self._verifier.feed(data, length)
            except VerificationError as refusal:
                self._refusal = refusal

    def _queue(self, data: bytes | bytearray) -> None:
        self.bytes += len(data)
        chunk = Chunk(data, len(self._lanes), self._buffers.put)
        for lane in self._lanes:
            lane.put(chunk)

    def _write(self, data: bytes | bytearray) -> None:
        _write_all(self._stage, self._encoder.encode(data if self._masker is None else self._masker.feed(data)))


def _steps(works: tuple[Callable[[bytes | bytearray], object], ...]) -> Callable[[Chunk], None]:
    def run(chunk: Chunk) -> None:
        try:
            for work in works:
                work(chunk.data)
        finally:
            chunk.done()

    return run


def _write_all(stage: BinaryIO, data: bytes | bytearray) -> None:
    view = memoryview(data)
    while view:
        view = view[stage.write(view) :]
