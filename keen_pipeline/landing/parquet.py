"""A verified CSV as Parquet, typed by what Keen says of its properties, with every value as it was.

What column a type makes, and which cells fit it, stands in `parquet_cells`. An empty cell is null, and JSON's null too (`null`
without quotes); in quotes both are text. One cell that does not fit, and its column stays text in this file. The file's
key-value metadata say of what it was made: `keen_pipeline.sha256`, `.records` and `.bytes` of the CSV, `.columns` its header,
`.text_columns` the columns that stayed text although Keen has another type for them.

A long CSV is converted beside its download, and what that made counts only once the whole is proven.
"""

from __future__ import annotations

import os
import tempfile
import threading
from collections.abc import Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from contextlib import nullcontext
from types import TracebackType
from typing import BinaryIO, cast

from keen_pipeline.errors import ConfigurationError, VerificationError
from keen_pipeline.landing.parquet_cells import arrow_type
from keen_pipeline.landing.parquet_feed import CsvBody, Facts, Feed, StoppedError
from keen_pipeline.landing.parquet_file import write_file
from keen_pipeline.landing.parquet_rows import LongRecordError, MisfitError
from keen_pipeline.landing.verify import LONGEST_HEADER_BYTES, CsvVerifier

EARLY_BYTES = 8 * 1024 * 1024
"""Of CSV that have come before it is converted beside the download; a shorter one is converted at once when it is proven."""
CONVERSIONS = 2
"""Of long files beside their downloads, and as many of those that are proven, in one process, whatever the number of landings:
each holds some 60 MiB and keeps two processors busy. They don't share their places, or a slow download would hold up a proven file.
"""
BLOCK_BYTES = (1024 * 1024, 16 * 1024 * 1024, 128 * 1024 * 1024)
"""Of CSV parsed at once; the larger ones only where a record is longer than the first."""
_HEADER_BYTES = 64 * 1024

_early_places = threading.BoundedSemaphore(CONVERSIONS)
_late_places = threading.BoundedSemaphore(CONVERSIONS)


class Conversion:
    """Makes Parquet, in the empty file `target`, of the CSV that is written to `body`. `types`: Keen's type by property."""

    def __init__(self, target: BinaryIO, types: Mapping[str, str]) -> None:
        self._target = target
        self._types = types
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="landing-parquet")
        self._early: Future[tuple[str, ...] | None] | None = None
        self._size = 0
        with tempfile.TemporaryFile(buffering=0) as file:
            self._csv = CsvBody(os.dup(file.fileno()), self._grown, self._begun_anew)
        self._feed = Feed(self._csv.fileno())

    @property
    def body(self) -> BinaryIO:
        """An empty, unbuffered file for the CSV, without a name, in this machine's temporary folder."""
        return cast("BinaryIO", self._csv)

    def finish(self, facts: Facts) -> tuple[str, ...]:
        """The CSV is whole and proven: write the rest of the Parquet file. Returns the type of each column, in Arrow's words.

        Raises VerificationError where a reader of Parquet would not see the same records, ConfigurationError where a record is
        too long for it, OSError of either file.
        """
        self._feed.end(facts)
        if self._early is None:
            with _late_places if self._size >= EARLY_BYTES else nullcontext():
                types = self._convert(self._feed)
        else:
            types = self._early.result()
        assert types is not None, "nobody stops a landing that is being finished"
        return types

    def stop(self) -> None:
        """What was made of the CSV is worth nothing; it can still be read from `body`. Can be called again."""
        self._feed.stop()
        if self._early is not None:
            wait([self._early])
        self._early = None

    def __enter__(self) -> Conversion:
        return self

    def __exit__(self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None) -> None:
        self.stop()
        self._thread.shutdown()
        self._csv.close()

    def _grown(self, size: int) -> None:
        self._size = size
        self._feed.grow(size)
        if self._early is None:
            if size >= EARLY_BYTES and _early_places.acquire(blocking=False):
                self._early = self._thread.submit(self._convert_early, self._feed)
        elif self._early.done():
            self._early.result()  # before the end it ends by an exception only, such as a full disk

    def _begun_anew(self) -> None:
        self.stop()
        self._size = 0
        self._feed = Feed(self._csv.fileno())

    def _convert_early(self, feed: Feed) -> tuple[str, ...] | None:
        try:
            return self._convert(feed)
        finally:
            _early_places.release()

    def _convert(self, feed: Feed) -> tuple[str, ...] | None:
        """The column types, or None where it was stopped."""
        try:
            columns = _header(feed)
            asked = [self._types.get(name, "string") for name in columns]
            kinds = list(asked)
            blocks = iter(BLOCK_BYTES)
            block = next(blocks)
            while True:
                self._target.seek(0)
                self._target.truncate()
                # Text for want of a better type is not worth a word; text against Keen's own word is.
                text = [name for name, kind, wish in zip(columns, kinds, asked, strict=True) if kind != wish]
                try:
                    write_file(feed, self._target, columns, kinds, text, block)
                except MisfitError as misfit:
                    for number, kind in misfit.kinds.items():
                        kinds[number] = kind
                except LongRecordError as error:
                    # Or it is no CSV at all, which only the verifier can tell: its word comes first.
                    feed.proven()
                    block = next(blocks, 0)
                    if not block:
                        raise ConfigurationError(
                            f"can't be written as Parquet ({error}); use encoding csv for this collection"
                        ) from None
                else:
                    return tuple(str(arrow_type(kind)) for kind in kinds)
        except StoppedError:
            return None


def _header(feed: Feed) -> Sequence[str]:
    """The columns, as the first bytes have them, or as they are proven where those don't tell."""
    verifier = CsvVerifier()
    never = threading.Event()
    at = 0
    try:
        while not verifier.columns and at <= LONGEST_HEADER_BYTES and not feed.ended:
            piece = feed.read(at, _HEADER_BYTES, never)
            verifier.feed(piece)
            at += len(piece)
    except VerificationError:
        return feed.proven().columns
    return verifier.columns if verifier.columns else feed.proven().columns
