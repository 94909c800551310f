"""One run of bytes from the first to the last: decoded, verified, hashed, encoded, written to the stage."""

from __future__ import annotations

import hashlib
import zlib
from collections.abc import Callable
from typing import BinaryIO

from keen_pipeline.collection import ABSENT, Encoding
from keen_pipeline.errors import ExtractionTooLargeError, TransferError, VerificationError
from keen_pipeline.gunzip import Gunzip
from keen_pipeline.landing.csv.grammar import LONGEST_RECORD_BYTES
from keen_pipeline.landing.csv.masking import Masker
from keen_pipeline.landing.csv.verify import CsvVerifier
from keen_pipeline.landing.transfer.direct import AlignedBuffer
from keen_pipeline.landing.transfer.encode import Encoder
from keen_pipeline.landing.transfer.workers import BUFFERS, CHUNK_BYTES, BufferedFileWriter, Chunk, Workers, write_all
from keen_pipeline.ports import ResultsStream

READ_BYTES = 256 * 1024
MAX_RESULT_BYTES = 100 * 10**9
"""Of one result, as it is sent and as it is unzipped. A day of more events is better split, and a service that never ends must not
fill a disk."""


class DamagedContentError(TransferError):
    """The bytes came, yet they are not what they should be: going on behind them is no use."""


class Intake:
    """Takes the raw body in order. `received` counts its bytes as they are sent, `bytes` those of the CSV.

    After `finish()` all facts stand, as far as they are known of a CSV that it refuses: `bytes`, `sha256`, `records` (without the
    header), of the CSV as it came; `columns`, `stored_bytes` and `stored_sha256` of what is written; `masked`: by column of the
    mask what was done to it, a method's word or `absent`.

    The caller's thread reads. Verifier, hash and file work beside it in a thread each, and so does what compresses or masks; all
    release the interpreter's lock for most of their time, and are given a megabyte at once, so that they seldom wait for it.
    """

    def __init__(
        self,
        stage: BinaryIO,
        encoding: Encoding,
        content_encoding: str,
        masker: Masker | None = None,
        check: Callable[[], object] = lambda: None,
    ) -> None:
        self.received = self.bytes = self.records = self.stored_bytes = 0
        self.sha256 = self.stored_sha256 = ""
        self.columns: tuple[str, ...] = ()
        self.masked: dict[str, str] = {}
        self._stage, self._check = stage, check
        self._gunzip = None if content_encoding == "identity" else Gunzip()
        self._packed = AlignedBuffer(CHUNK_BYTES) if self._gunzip else None
        self._verifier = CsvVerifier()
        self._refusal: VerificationError | None = None
        self._hash = hashlib.sha256()
        self._masker = masker
        # What is neither compressed nor masked goes to the file from the buffers it came in.
        plain = encoding is Encoding.CSV and masker is None
        self._encoder = None if encoding is Encoding.CSV else Encoder(encoding)
        self._writer = None if plain else BufferedFileWriter(stage)
        last = {"write" if plain else "encode": self._write}
        self._workers = Workers(BUFFERS, verify=self._verify, hash=lambda chunk: self._hash.update(chunk.data), **last)

    def pull(self, stream: ResultsStream) -> bool:
        """Take the next bytes of `stream`, up to a buffer's length; False at its end.

        Raises what the stream or `check` raises (what came before is taken), TransferError (a damaged content coding),
        ExtractionTooLargeError or, with `failed` then, what the stage raises.
        What the verifier refuses is raised by `finish`: a gzip's check sum may say that the transfer was at fault, and what is
        kept aside should be the whole file.
        """
        buffer = self._packed or self._workers.buffer()
        filled, got = 0, 1
        try:
            while got and filled < CHUNK_BYTES:
                self._check()
                got = stream.readinto(buffer.view[filled : filled + READ_BYTES])
                filled += got
        finally:
            self.received += filled
            self._take(buffer, filled)
        check_size(self.received)
        return got > 0

    def finish(self) -> None:
        """The body is over. Raises as `pull`, and VerificationError when the CSV is not whole; the stage holds all that came."""
        if self._gunzip is not None and not self._gunzip.whole:
            raise DamagedContentError("the compressed results ended before their trailer")
        self._workers.close()
        if self._writer is not None:
            if self._masker is not None:
                self._encode(self._masker.finish())
            if self._encoder is not None:
                self._writer.write(self._encoder.finish())
            self._writer.finish()
        self.sha256 = self.stored_sha256 = self._hash.hexdigest()
        self.stored_bytes = self.bytes
        if self._writer is not None:
            self.stored_bytes, self.stored_sha256 = self._writer.tell(), self._writer.sha256()
        if self._masker is not None:
            self.masked = self._masker.masked | dict.fromkeys(self._masker.absent, ABSENT)
        if self._refusal is not None:
            raise self._refusal
        self._verifier.finish()
        self.records = self._verifier.records
        self.columns = self._verifier.columns if self._masker is None else self._masker.columns
        if self._masker is not None and self._masker.stopped:
            raise VerificationError(f"it can't be masked: a record is longer than {LONGEST_RECORD_BYTES} bytes")

    def stop(self) -> None:
        """End the threads. Can be called again."""
        self._workers.stop()
        if self._writer is not None:
            self._writer.stop()

    @property
    def failed(self) -> bool:
        """Whether the stage refused something: no further byte of any connection fixes that."""
        return self._workers.failed or (self._writer is not None and self._writer.failed)

    def _take(self, buffer: AlignedBuffer, length: int) -> None:
        if self._gunzip is None:
            self._put(Chunk(buffer.memory, buffer.start, buffer.start + length, buffer))
            return
        try:
            for data in self._gunzip.pieces(bytes(buffer.view[:length])):
                self._put(Chunk(data, 0, len(data)))
        except zlib.error as error:
            raise DamagedContentError(f"the compressed results are damaged ({error})") from None

    def _put(self, chunk: Chunk) -> None:
        self.bytes += chunk.end - chunk.start
        check_size(self.bytes)
        self._workers.put(chunk)

    def _verify(self, chunk: Chunk) -> None:
        if self._refusal is None:
            try:
                self._verifier.feed(chunk.memory, chunk.start, chunk.end)
            except VerificationError as refusal:
                self._refusal = refusal

    def _write(self, chunk: Chunk) -> None:
        if self._writer is None:
            write_all(self._stage, chunk.data)
        else:
            self._encode(chunk.data if self._masker is None else self._masker.feed(chunk.data))

    def _encode(self, data: bytes | memoryview) -> None:
        assert self._writer is not None
        self._writer.write(data if self._encoder is None else self._encoder.encode(data))


def check_size(size: int | None) -> None:
    """Raises ExtractionTooLargeError for a result of more than MAX_RESULT_BYTES."""
    if size is not None and size > MAX_RESULT_BYTES:
        raise ExtractionTooLargeError(
            f"the results are longer than {MAX_RESULT_BYTES:,} bytes, the most that one file may have. Ask for a shorter timeframe"
        )
