"""Some landed files as one Arrow dataset: columns united by name, each of one type, read where and when they are asked for."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import cached_property
from itertools import groupby
from typing import Any

from keen_pipeline.collection import Encoding
from keen_pipeline.errors import ConfigurationError, InvalidInputError
from keen_pipeline.landing import FileDestination
from keen_pipeline.readers.copies import MOST_CHARACTERS, LocalCopies, readable
from keen_pipeline.readers.files import LandedFile
from keen_pipeline.readers.numbers import NotANumberError, Numbers, numbers_of
from keen_pipeline.readers.types import KEENS_NUMBER, arrow_type, pyarrow

BLOCK_BYTES = 4 * 1024 * 1024
"""Of CSV parsed at once: a record must fit in it. Keen takes events up to 900 kB."""
BATCH_RECORDS = 64 * 1024
BATCHES_AHEAD = 4
FILES_AHEAD = 2

Placed = tuple[LandedFile, str]
"""A file, and the path where it can be read."""


class Scan:
    """A dataset of `files` with the columns of `words`, in that order; a column that a file lacks is null there.

    Copies of remote files are made here, and last as long as the object, `close()` or the process; columns of Keen's numbers are
    read here once, to find the type that holds them.
    Raises ConfigurationError if a file is gone or a number is none, InvalidInputError for a header that names a column twice.
    """

    def __init__(self, destination: FileDestination, files: Sequence[LandedFile], words: Mapping[str, str]) -> None:
        # A file without events may lack even its header; it has nothing to give.
        self._files = [file for file in files if file.landing.records]
        for file in self._files:
            _check_header(file)
        self._copies = LocalCopies(destination, self._files, words)
        self.numbers: Mapping[str, Numbers] = {}
        self.retype(words)

    def retype(self, words: Mapping[str, str]) -> None:
        """Give the columns the types of other words, before anything was read of them. Raises as the making does."""
        self.words = words
        self.schema: Any = pyarrow().schema(list(self._types().items()))

    @cached_property
    def _placed(self) -> list[Placed]:
        """Raises ConfigurationError if a cell of a Parquet file is not of its column's type."""
        paths = list(self._copies.paths)
        for number, file in enumerate(self._files):
            with readable(file):
                if file.request.encoding is Encoding.PARQUET and _must_be_converted(paths[number], self.schema):
                    paths[number] = self._converted(number, file)
        return list(zip(self._files, paths, strict=True))

    def _converted(self, number: int, file: LandedFile) -> str:
        def one(name: str, array: Any) -> Any:
            kind = self.schema.field(name).type
            try:
                return array if array.type == kind else converted(array, kind)
            except pyarrow().ArrowInvalid as error:
                raise misfit(file, name, self.words[name], _row(error)) from None

        return self._copies.converted(number, self.schema, one)

    @property
    def has_rows(self) -> bool:
        """Whether there is any event in the files."""
        return bool(self._files)

    def close(self) -> None:
        """Remove the copies; the dataset can't be read any more."""
        self._copies.close()

    def of(self, partition_key: str | None = None) -> Part:
        """The events of one partition, with the columns and types of the whole; unless told which, of all.

        Raises ConfigurationError if a cell of a Parquet file is not of its column's type.
        """
        return Part(self, [p for p in self._placed if partition_key is None or p[0].request.partition_key == partition_key])

    def _types(self) -> dict[str, Any]:
        """Arrow's type of each column. `numbers` tells afterwards what holds for all cells of those that are Keen's numbers."""
        self.numbers = self._looked_at([name for name, word in self.words.items() if word == KEENS_NUMBER])
        unclear = [name for name, found in self.numbers.items() if not found.whole and not found.exact]
        decimals = [name for name, word in self.words.items() if word == "decimal"]
        counted = self._looked_at([*unclear, *decimals], digits=True)
        types = {name: found.arrow_type for name, found in {**self.numbers, **counted}.items()}
        types |= {name: counted[name].decimal_type for name in decimals}
        return {name: types[name] if name in types else arrow_type(word) for name, word in self.words.items()}

    def _looked_at(self, names: Sequence[str], *, digits: bool = False) -> dict[str, Numbers]:
        """The numbers of some columns over all files. Raises ConfigurationError for a cell that is none."""
        found = dict.fromkeys(names, Numbers())
        for file, path in zip(self._files, self._copies.paths, strict=True):
            there = set(file.landing.columns)
            present = [name for name in names if name in there]
            for arrays in _stored(file, path, present):
                for name, cells in zip(present, arrays, strict=True):
                    try:
                        found[name] |= numbers_of(cells, digits=digits)
                    except NotANumberError:
                        raise misfit(file, name, self.words[name], "no number") from None
        return found

    def explained(self, error: Exception) -> ConfigurationError:
        """Which partition and column it was, found by reading them one by one: only an error pays for that."""
        for file, path in self._placed:
            with readable(file):
                alone = _dataset([(file, path)], self.schema)
                for name, word in self.words.items():
                    reason = _misfit(alone, name)
                    if reason is not None:
                        return misfit(file, name, word, reason)
        return ConfigurationError(f"landed files can't be read: {str(error)[:MOST_CHARACTERS]}")


class Part:
    """Some of a scan's files."""

    def __init__(self, scan: Scan, placed: Sequence[Placed]) -> None:
        self.scan = scan
        self.schema: Any = scan.schema
        self.dataset: Any = _dataset(placed, scan.schema)

    def table(self) -> Any:
        """Everything as a pyarrow Table. Raises ConfigurationError naming the partition and the column of a misfit."""
        try:
            return self.dataset.to_table()
        except (pyarrow().ArrowInvalid, OSError) as error:
            raise self.scan.explained(error) from None

    def batches(self, columns: Sequence[str] | None = None) -> Iterator[Any]:
        """Record batches in the order of the files; memory is bounded by a few of them. Raises as `table` does."""
        wanted = None if columns is None else list(columns)
        ahead = {"batch_readahead": BATCHES_AHEAD, "fragment_readahead": FILES_AHEAD}
        try:
            yield from self.dataset.scanner(columns=wanted, batch_size=BATCH_RECORDS, **ahead).to_batches()
        except (pyarrow().ArrowInvalid, OSError) as error:
            raise self.scan.explained(error) from None


def _stored(file: LandedFile, path: str, names: Sequence[str]) -> Iterator[list[Any]]:
    """Arrays of some columns as they are stored, a CSV's as text."""
    if not names:
        return
    pa = pyarrow()
    schema = None if file.request.encoding is Encoding.PARQUET else pa.schema([(name, pa.string()) for name in names])
    with readable(file):
        for batch in _dataset([(file, path)], schema).scanner(columns=list(names)).to_batches():
            yield list(batch.columns)


def converted(array: Any, kind: Any) -> Any:
    """An array of a Parquet file as one of another type, with the values that a CSV of the same events has in it.

    Raises ArrowInvalid for a value that is none of the type.
    """
    pa = pyarrow()
    from pyarrow import compute

    if _family(array.type) == _family(kind) == "number":
        if pa.types.is_floating(array.type) and pa.types.is_decimal(kind):
            return array.cast(pa.string()).cast(kind)  # by its shortest text, which is the number that Keen had
        return array.cast(kind, safe=not pa.types.is_floating(kind))  # a number beyond 2^53 is refused, also if a double holds it
    if pa.types.is_timestamp(array.type):
        texts = compute.strftime(array.cast(pa.timestamp("ms", "UTC"), safe=False), format="%Y-%m-%dT%H:%M:%SZ")
    else:
        texts = compute.replace_substring_regex(array.cast(pa.string()), "^-0$", "-0.0")
    return texts if pa.types.is_string(kind) else _parsed(texts, kind)


def _parsed(texts: Any, kind: Any) -> Any:
    """Texts as the cells of a CSV: what isn't one there isn't one in Parquet either."""
    pa = pyarrow()
    from pyarrow import csv

    options, table = _csv_options(), pa.BufferOutputStream()
    csv.write_csv(pa.table({"cell": texts}), table)
    options["convert_options"].column_types = {"cell": kind}
    return csv.read_csv(pa.BufferReader(table.getvalue()), **options).column("cell").combine_chunks()


def _family(kind: Any) -> str:
    types = pyarrow().types
    if types.is_integer(kind) or types.is_floating(kind) or types.is_decimal(kind):
        return "number"
    return "instant" if types.is_timestamp(kind) else "bool" if types.is_boolean(kind) else "text"


def misfit(file: LandedFile, name: str, word: str, reason: str) -> ConfigurationError:
    """A cell that its column's type can't hold."""
    word = "num" if word == KEENS_NUMBER else word
    return ConfigurationError(
        f"{file.request}: a cell of {name} is not of the column's type {word}{f' ({reason})' if reason else ''}; "
        f"read it as it stands: types={{{name!r}: {'bytes' if word == 'string' else 'string'!r}}}"
    )


def _row(error: Exception) -> str:
    """Where it was, if Arrow says so; the rest of its words would show an event."""
    found = re.search(r"Row #\d+", str(error))
    return found[0].lower() if found else ""


def _must_be_converted(path: str, schema: Any) -> bool:
    """Whether Arrow's own way from a Parquet file's types to those of the schema would change a value, or take a wrong one."""
    from pyarrow import parquet

    types, stored = pyarrow().types, parquet.read_schema(path)
    wanted = dict(zip(schema.names, schema.types, strict=True))
    columns = [(have, wanted[name]) for name, have in zip(stored.names, stored.types, strict=True) if name in wanted]
    # Numbers and instants Arrow reads from texts as from a CSV, and when they are asked for.
    return any(
        (_family(have) != _family(want) and (_family(have) != "text" or types.is_boolean(want)))
        or (types.is_floating(have) and types.is_decimal(want))
        or (types.is_integer(have) and types.is_floating(want))
        for have, want in columns
    )


def _check_header(file: LandedFile) -> None:
    twice = sorted(name for name, times in Counter(file.landing.columns).items() if times > 1)
    if twice:
        raise InvalidInputError(f"{file.request}: two columns are called {twice[0]}; read the file by its URI", field="columns")


def _misfit(dataset: Any, column: str) -> str | None:
    try:
        for _ in dataset.scanner(columns=[column]).to_batches():
            pass
    except pyarrow().ArrowInvalid as error:
        if "straddling" in str(error):  # a record longer than two blocks, which no other type helps
            raise
        return _row(error)
    return None


def _dataset(placed: Iterable[Placed], schema: Any) -> Any:
    """`schema`: None for the one of the files, which is then only one."""
    from pyarrow import dataset, fs

    # Neighbours of one format in one dataset, so that the order of the partitions stays.
    parts = []
    for form, group in groupby(placed, key=lambda one: _format(one[0])):
        paths = [path for _, path in group]
        local = fs.LocalFileSystem()
        if schema is None:
            parts.append(dataset.dataset(paths, format=form, filesystem=local))
        else:
            parts.append(dataset.FileSystemDataset.from_paths(paths, schema=schema, format=form, filesystem=local))
    if not parts:
        return dataset.dataset(schema.empty_table())
    return parts[0] if len(parts) == 1 else dataset.dataset(parts)


def _format(file: LandedFile) -> Any:
    from pyarrow import dataset

    if file.request.encoding is Encoding.PARQUET:
        return dataset.ParquetFileFormat()
    # Bytes of a header that no name can hold show in it as `\\xff`: by that name Arrow would not find the column.
    options = _csv_options(file.landing.columns if any("\\x" in name for name in file.landing.columns) else ())
    # The suffix of a path says its compression to Arrow too.
    return dataset.CsvFileFormat(
        parse_options=options.pop("parse_options"), default_fragment_scan_options=dataset.CsvFragmentScanOptions(**options)
    )


def _csv_options(names: Sequence[str] = ()) -> dict[str, Any]:
    """`names`: of the columns, if not those that the header gives them."""
    from pyarrow import csv

    # In lines: `skip_rows_after_names` skips events too if there is a NUL in it.
    header = len(re.findall(r"\r\n?|\n", ",".join(names))) + 1 if names else 0
    return {
        "parse_options": csv.ParseOptions(newlines_in_values=True, ignore_empty_lines=False),
        "read_options": csv.ReadOptions(block_size=BLOCK_BYTES, column_names=names, skip_rows=header),
        "convert_options": csv.ConvertOptions(
            null_values=["", "null"],
            strings_can_be_null=True,
            quoted_strings_can_be_null=False,
            true_values=["true"],
            false_values=["false"],
        ),
    }
