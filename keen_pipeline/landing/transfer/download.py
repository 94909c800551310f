"""The whole body, over as many connections as it takes: resumed if the server can, begun again if it can't."""

from __future__ import annotations

import logging
import random
import time
from collections.abc import Callable
from typing import BinaryIO

from keen_pipeline.collection import Encoding
from keen_pipeline.errors import RetryableError, TransferError
from keen_pipeline.landing.csv.masking import Masker
from keen_pipeline.landing.transfer.intake import DamagedContentError, Intake, check_size
from keen_pipeline.ports import ResultsSource, ResultsStream

log = logging.getLogger(__name__)

MOST_FAILURES = 5
"""Failures in a row without a new byte; the last one is raised."""
MOST_CONNECTIONS = 50
"""Of one landing in all, so that a body that comes byte by byte has an end."""
FIRST_WAIT_SECONDS = 0.2
LONGEST_WAIT_SECONDS = 30.0
"""A longer wish of the service (Retry-After) is the caller's to wait for; the landing gives up at once."""


class Download:
    """One file's transfer into `stage` (unbuffered, seekable), as a context manager; `run` returns the Intake with its facts.

    `new_masker`: makes what the bytes go through before they are written, a fresh one when the transfer begins again. `came`: the
    Intake of all bytes, once they are here, whatever they are. `check`: called before each wait for bytes, may raise.
    """

    def __init__(
        self,
        source: ResultsSource,
        stage: BinaryIO,
        encoding: Encoding,
        new_masker: Callable[[], Masker] | None = None,
        *,
        check: Callable[[], object] = lambda: None,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self._new_masker = new_masker
        self._source = source
        self._stage = stage
        self._encoding = encoding
        self._sleep, self._check = sleep, check
        self._intake: Intake | None = None
        self._furthest = 0
        self._validator: str | None = None
        self._total: int | None = None
        self._content_encoding = "identity"
        self.came: Intake | None = None

    def run(self) -> Intake:
        """Transfer until the body is whole.

        Raises VerificationError (the stage then holds all that came), ExtractionTooLargeError, TransferError or another
        RetryableError when the tries are used up, what the source raises, and at once what the stage raises.
        """
        failures = connections = 0
        while True:
            connections += 1
            before = self._furthest
            try:
                return self._connection()
            except RetryableError as error:
                if self._intake is not None:
                    if self._intake.failed:
                        raise
                    self._furthest = max(self._furthest, self._intake.received)
                failures = 1 if self._furthest > before else failures + 1
                if failures == MOST_FAILURES - 1:
                    self._validator = None  # the last try is for the whole file: maybe it is its rest that can't be had
                backoff = min(FIRST_WAIT_SECONDS * 2 ** (failures - 1), LONGEST_WAIT_SECONDS) * random.uniform(0.5, 1.0)  # noqa: S311 - spreads load
                wait = max(error.retry_after or 0.0, backoff)
                if failures >= MOST_FAILURES or connections >= MOST_CONNECTIONS or wait > LONGEST_WAIT_SECONDS:
                    raise
                log.info("%r: waiting %.1f s after failure %d at byte %d: %s", self._source, wait, failures, self._furthest, error)
                self._sleep(wait)

    def __enter__(self) -> Download:
        return self

    def __exit__(self, *exc_info: object) -> None:
        if self._intake is not None:
            self._intake.stop()

    def _connection(self) -> Intake:
        received = self._intake.received if self._intake is not None else 0
        offset, validator = (received, self._validator) if received and self._validator else (0, None)
        self._check()
        with self._source.open(offset=offset, validator=validator) as stream:
            intake = self._resume(stream)
            try:
                while intake.pull(stream):
                    pass
                self._check_length(intake.received)
                self.came = intake
                intake.finish()
            except DamagedContentError:
                self._validator = None  # its decoder can't go on: from the first byte
                self.came = None
                raise
        return intake

    def _resume(self, stream: ResultsStream) -> Intake:
        """The intake that goes on if `stream` is the rest of the same file, else a fresh one on an empty stage."""
        same = self._intake is not None and stream.encoding == self._content_encoding and self._total in (None, stream.total)
        check_size(stream.total)
        if same and self._intake is not None and stream.start == self._intake.received and stream.start > 0:
            self._total = stream.total
            log.info("%r: resuming at byte %d of %s", self._source, stream.start, stream.total or "an unknown number")
            return self._intake
        if stream.start != 0:
            self._validator = None
            raise TransferError("the rest of the results doesn't have the form of their beginning")
        if self._intake is not None:
            why = "no part could be asked for" if self._validator is None else "another file or no part came"
            log.info("%r: beginning again after %d bytes: %s", self._source, self._intake.received, why)
            self._intake.stop()
        self._stage.seek(0)
        self._stage.truncate()
        self._intake = Intake(self._stage, self._encoding, stream.encoding, self._new_masker and self._new_masker(), self._check)
        self._validator, self._total, self._content_encoding = stream.validator, stream.total, stream.encoding
        return self._intake

    def _check_length(self, received: int) -> None:
        if self._total is not None and received != self._total:
            raise DamagedContentError(f"{received} bytes came of the {self._total} announced")
