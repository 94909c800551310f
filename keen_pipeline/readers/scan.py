"""Some landed files as one Arrow dataset: columns united by name, each of one type, read where and when they are asked for."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from itertools import groupby
from pathlib import Path
from typing import Any

from keen_pipeline.collection import Encoding
from keen_pipeline.errors import ConfigurationError, InvalidInputError
from keen_pipeline.landing import FileDestination as Destination
from keen_pipeline.readers.copies import LocalCopies, gone
from keen_pipeline.readers.files import LandedFile
from keen_pipeline.readers.types import arrow_type, pyarrow

BLOCK_BYTES = 4 * 1024 * 1024
"""Of CSV parsed at once: a record must fit in it. Keen takes events up to 900 kB."""
BATCH_RECORDS = 64 * 1024
BATCHES_AHEAD = 4
FILES_AHEAD = 2


class Scan:
    """A dataset of `files` with the columns of `types`, in that order; a column that a file lacks is null there.

    Copies of remote files are made here, and last as long as the object, `close()` or the process.
    Raises ConfigurationError where a file is gone, InvalidInputError for a header that names a column twice.
    """

    def __init__(self, destination: Destination, files: Sequence[LandedFile], types: Mapping[str, str]) -> None:
        pa = pyarrow()
        self.schema: Any = pa.schema([pa.field(name, arrow_type(word)) for name, word in types.items()])
        self._types = types
        # A file without events may lack even its header; it has nothing to give.
        self._files = [file for file in files if file.records]
        for file in self._files:
            _check_header(file)
        self._copies = LocalCopies(destination, self._files, types)
        self.dataset: Any = self._dataset(list(zip(self._files, self._copies.paths, strict=True)))

    def close(self) -> None:
        """Remove the copies; the dataset can't be read any more."""
        self._copies.close()

    def table(self) -> Any:
        """Everything as a pyarrow Table. Raises ConfigurationError naming the partition and the column of a misfit."""
        try:
            return self.dataset.to_table()
        except (pyarrow().ArrowInvalid, OSError) as error:
            raise self._explained(error) from None

    def batches(self, columns: Sequence[str] | None = None, *, records: int = BATCH_RECORDS) -> Iterator[Any]:
        """Record batches of at most `records`, in the order of the files; memory is bounded by a few of them.

        Raises as `table` does.
        """
        wanted = None if columns is None else list(columns)
        ahead = {"batch_readahead": BATCHES_AHEAD, "fragment_readahead": FILES_AHEAD}
        try:
            yield from self.dataset.scanner(columns=wanted, batch_size=records, **ahead).to_batches()
        except (pyarrow().ArrowInvalid, OSError) as error:
            raise self._explained(error) from None

    def _dataset(self, paths: Sequence[tuple[LandedFile, str]]) -> Any:
        from pyarrow import dataset, fs

        if not paths:
            return dataset.dataset(self.schema.empty_table())
        # Neighbours of one format in one dataset, so that the order of the partitions stays.
        parts = [
            dataset.FileSystemDataset.from_paths(
                [path for _, path in group],
                schema=self.schema,
                format=dataset.ParquetFileFormat() if is_parquet else _csv_format(),
                filesystem=fs.LocalFileSystem(),
            )
            for is_parquet, group in groupby(paths, key=lambda one: one[0].encoding is Encoding.PARQUET)
        ]
        return parts[0] if len(parts) == 1 else dataset.dataset(parts)

    def _explained(self, error: Exception) -> ConfigurationError:
        """Which partition and column it was, found by reading them one by one: only an error pays for that."""
        for file, path in zip(self._files, self._copies.paths, strict=True):
            if not Path(path).is_file():
                return gone(file)
            alone = self._dataset([(file, path)])
            for name, word in self._types.items():
                reason = _misfit(alone, name)
                if reason is not None:
                    return ConfigurationError(
                        f"{file.collection}[{file.partition_key}]: a cell of {name} is not of the column's type {word} ({reason}); "
                        f"read it as it stands: types={{{name!r}: {'bytes' if word == 'string' else 'string'!r}}}"
                    )
        return ConfigurationError(f"landed files can't be read: {error}")


def _check_header(file: LandedFile) -> None:
    twice = sorted({name for name in file.columns if file.columns.count(name) > 1})
    if twice:
        raise InvalidInputError(
            f"{file.collection}[{file.partition_key}]: two columns are called {twice[0]}; read the file by its URI", field="columns"
        )


def _misfit(dataset: Any, column: str) -> str | None:
    try:
        for _ in dataset.scanner(columns=[column]).to_batches():
            pass
    except pyarrow().ArrowInvalid as error:
        return str(error).splitlines()[0]
    return None


def _csv_format() -> Any:
    from pyarrow import csv, dataset

    converting = csv.ConvertOptions(
        null_values=["", "null"],
        strings_can_be_null=True,
        quoted_strings_can_be_null=False,
        true_values=["true"],
        false_values=["false"],
    )
    # The suffix of a path says its compression to Arrow too.
    return dataset.CsvFileFormat(
        parse_options=csv.ParseOptions(newlines_in_values=True, ignore_empty_lines=False),
        default_fragment_scan_options=dataset.CsvFragmentScanOptions(
            convert_options=converting, read_options=csv.ReadOptions(block_size=BLOCK_BYTES)
        ),
    )
