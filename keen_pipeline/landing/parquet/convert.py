"""A verified CSV as Parquet, typed by what Keen says of its properties, with every value as it was.

What column a type makes, and which cells fit it, stands in `types`. An empty cell is null, and JSON's null too (`null` without
quotes); in quotes both are text. One cell that does not fit, and its column is text in this file and all later ones. The file's
key-value metadata say of what it was made: `keen_pipeline.sha256`, `.records` and `.bytes` of the CSV, `.columns` its header,
`.text_columns` the columns that stayed text although Keen has another type for them.

A long CSV is converted beside its download, and what that made counts only once the whole is proven.
"""

from __future__ import annotations

import threading
from collections.abc import Mapping
from concurrent.futures import Future, ThreadPoolExecutor, wait
from contextlib import nullcontext
from types import TracebackType
from typing import BinaryIO, cast

from keen_pipeline.errors import ConfigurationError, VerificationError
from keen_pipeline.landing.parquet.cells import release_memory
from keen_pipeline.landing.parquet.source import CsvBody, UnreadableError, read_header
from keen_pipeline.landing.parquet.types import STRING, WORDS, kind_of
from keen_pipeline.landing.parquet.write import Columns, MisfitError, write_file
from keen_pipeline.landing.storages.errors import of_temporary_folder
from keen_pipeline.landing.transfer.intake import Intake
from keen_pipeline.landing.transfer.workers import copy

EARLY_BYTES = 8 * 1024 * 1024
"""Of CSV that have come before it is converted beside the download; a shorter one is converted at once when it is proven."""
CONVERSIONS = 2
"""Of long files beside their downloads, and as many of those that are proven, in one process, whatever the number of landings:
each holds some 60 MiB and keeps two processors busy. They don't share their places, or a slow download would hold up a proven file.
"""
_INSTANTS = ("header:timestamp", "keen.timestamp")
_early_places = threading.BoundedSemaphore(CONVERSIONS)
_late_places = threading.BoundedSemaphore(CONVERSIONS)


class Conversion:
    """Makes Parquet, in the empty file `target`, of the CSV that is written to `body`.

    `types`: Keen's type by property; `earlier_types`: Arrow's word for a column's type in earlier files of the collection, the
    widest if they differ.
    """

    def __init__(self, target: BinaryIO, types: Mapping[str, str], earlier_types: Mapping[str, str] | None = None) -> None:
        self._target = target
        self._types = types
        self._earlier_types = earlier_types or {}
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="landing-parquet")
        self._early: Future[tuple[str, ...]] | None = None
        self.stored_bytes = 0
        self.stored_sha256 = ""
        self._csv = CsvBody(self._grown, self.stop)

    @property
    def body(self) -> BinaryIO:
        """An empty, unbuffered file for the CSV, without a name, in this machine's temporary folder."""
        return cast("BinaryIO", self._csv)

    def finish(self, proven: Intake) -> tuple[str, ...]:
        """The CSV is whole and proven: write the rest of the Parquet file, of `stored_bytes` and `stored_sha256` then.

        Returns the type of each column of the CSV, in Arrow's words.

        Raises VerificationError if a reader of Parquet would not see the same records, ConfigurationError if a record is
        too long for it, OSError of either file.
        """
        self._csv.end(proven)
        if self._early is None:
            with _late_places if self._csv.size >= EARLY_BYTES else nullcontext():
                types = self._convert()
        else:
            types = self._early.result()
        if self._csv.size >= EARLY_BYTES:
            release_memory()
        return types

    def stop(self) -> None:
        """What was made of the CSV is worth nothing; it can still be read from `body`. Can be called again."""
        self._csv.stop()
        if self._early is not None:
            wait([self._early])
        self._early = None

    def restore(self, target: BinaryIO) -> None:
        """Make `target` the CSV that came, instead of what was made of it."""
        self.stop()
        with of_temporary_folder():
            self._csv.seek(0)
            target.seek(0)
            target.truncate()
            copy(self.body, target)

    def __enter__(self) -> Conversion:
        return self

    def __exit__(self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None) -> None:
        self.stop()
        self._thread.shutdown()
        self._csv.close()

    def _grown(self) -> None:
        if self._early is None:
            if self._csv.size >= EARLY_BYTES and _early_places.acquire(blocking=False):
                self._early = self._thread.submit(self._convert_early)
        elif self._early.done():
            self._early.result()  # before the end it ends by an exception only, such as a full disk

    def _convert_early(self) -> tuple[str, ...]:
        try:
            return self._convert()
        finally:
            _early_places.release()

    def _convert(self) -> tuple[str, ...]:
        try:
            columns, start = read_header(self._csv)
            kinds = [self._kind(name) for name in columns]
            others = {name: self._kind(name) for name in self._others(columns)}
            while True:
                self._target.seek(0)
                self._target.truncate()
                # Text for want of a better type is not worth a word; text against Keen's own word is.
                asked = [kind_of(self._types.get(name, STRING), None) for name in columns]
                text = [name for name, kind, wish in zip(columns, kinds, asked, strict=True) if kind != wish]
                try:
                    written = write_file(self._csv, start, self._target, Columns(columns, kinds, text, others))
                except MisfitError as misfit:
                    for number, kind in misfit.kinds.items():
                        kinds[number] = kind
                else:
                    self.stored_bytes, self.stored_sha256 = written.tell(), written.sha256()
                    return tuple(WORDS[kind] for kind in kinds)
        except (VerificationError, UnreadableError) as error:
            self._csv.proven()  # or it isn't CSV at all, which only the verifier can tell: its word comes first
            if isinstance(error, VerificationError):
                raise
            raise ConfigurationError(f"can't be written as Parquet ({error}); use encoding csv for this collection") from None

    def _kind(self, name: str) -> str:
        return kind_of(self._types.get(name, STRING), self._earlier_types.get(name))

    def _others(self, columns: tuple[str, ...]) -> list[str]:
        """The collection's columns that a CSV does not have, as far as they are known; the instant first, as in Keen's CSV."""
        known = {*self._types, *self._earlier_types}.difference(columns)
        if not columns and not known:
            known = {_INSTANTS[0]}  # DuckDB and Spark read no Parquet without a column, and every event has this one
        return sorted(known, key=lambda name: (name not in _INSTANTS, name))
