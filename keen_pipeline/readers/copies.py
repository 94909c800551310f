"""Landed files as files of this machine: those of a local destination themselves, of any other one copies.

Arrow reads with threads of its own, and a process ends badly if those call back into Python at its end. So a remote file is
copied before Arrow sees it, of a Parquet file only the columns that are asked for.
"""

from __future__ import annotations

import errno
import os
import shutil
import tempfile
import weakref
from collections.abc import Callable, Collection, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from keen_pipeline.collection import Encoding
from keen_pipeline.errors import ConfigurationError
from keen_pipeline.landing import FileDestination
from keen_pipeline.landing.storages.errors import of_temporary_folder
from keen_pipeline.readers.files import LandedFile
from keen_pipeline.readers.types import pyarrow

COPIES_AT_ONCE = 8
MOST_CHARACTERS = 200
"""Of Arrow's words, of which some show a whole record."""
# Arrow decompresses what it knows by a file's suffix, and reads everything else as it is.
_ARROWS_SUFFIX = {Encoding.CSV_ZST: "csv.zstd"}
_COPY_BYTES = 1024 * 1024
_COPY_RECORDS = 64 * 1024


class LocalCopies:
    """The paths of `files`, in their order; copies last as long as this object, `close()` or the process.

    Raises ConfigurationError if a file is gone, has another length than the one that landed, or can't be read.
    """

    def __init__(self, destination: FileDestination, files: Sequence[LandedFile], columns: Collection[str]) -> None:
        self._destination = destination
        self._columns = columns
        self._folder = Path(tempfile.mkdtemp(prefix="keen-read-"))
        self.close = weakref.finalize(self, shutil.rmtree, self._folder, ignore_errors=True)
        if "://" in destination.uri:
            with ThreadPoolExecutor(COPIES_AT_ONCE, thread_name_prefix="keen-read") as pool:
                self.paths = list(pool.map(self._copy, range(len(files)), files))
        else:
            self.paths = [self._itself(number, file) for number, file in enumerate(files)]

    def converted(self, number: int, schema: Any, converted: Callable[[str, Any], Any]) -> str:
        """The path of a Parquet file's copy in the types of `schema`, made array by array with `converted(column, array)`."""
        from pyarrow import parquet

        path = self._folder / f"{number}.converted.parquet"
        with parquet.ParquetFile(self.paths[number]) as file:
            wanted = set(schema.names)
            fields = [schema.field(name) for name in file.schema_arrow.names if name in wanted]
            _rewrite(file, path, fields, converted)
        return str(path)

    def _itself(self, number: int, file: LandedFile) -> str:
        if not Path(file.landing.uri).is_file():
            raise gone(file)
        _check_length(file, Path(file.landing.uri).stat().st_size)
        if file.request.encoding not in _ARROWS_SUFFIX:
            return file.landing.uri
        self._path(number, file).symlink_to(Path(file.landing.uri).absolute())
        return str(self._path(number, file))

    def _path(self, number: int, file: LandedFile) -> Path:
        return self._folder / f"{number}.{_ARROWS_SUFFIX.get(file.request.encoding, file.request.encoding.value)}"

    def _copy(self, number: int, file: LandedFile) -> str:
        path = self._path(number, file)
        with readable(file), self._destination.open(file.landing.uri) as source:
            _check_length(file, source.seek(0, os.SEEK_END))
            source.seek(0)
            if file.request.encoding is Encoding.PARQUET:
                from pyarrow import parquet

                # Without threads and read-ahead of Arrow's: nothing of it calls Python once this has returned.
                with parquet.ParquetFile(pyarrow().PythonFile(source, "r"), pre_buffer=False) as columns:
                    schema = columns.schema_arrow
                    # Without any column the events would be gone, of which each has its null in those that are wanted.
                    _rewrite(columns, path, [field for field in schema if field.name in self._columns] or [schema.field(0)])
            else:
                with path.open("wb") as target:
                    shutil.copyfileobj(source, target, _COPY_BYTES)
        return str(path)


def _rewrite(file: Any, path: Path, fields: Sequence[Any], made: Callable[[str, Any], Any] = lambda _, array: array) -> None:
    """Some columns of an open Parquet file as a file of their own, its arrays `made` of the old ones."""
    pa = pyarrow()
    from pyarrow import parquet

    kept = pa.schema(fields)
    with parquet.ParquetWriter(path, kept, compression="lz4") as writer:
        for batch in file.iter_batches(_COPY_RECORDS, columns=kept.names, use_threads=False):
            arrays = [made(name, batch.column(name)) for name in kept.names]
            writer.write_batch(pa.RecordBatch.from_arrays(arrays, schema=kept))


@contextmanager
def readable(file: LandedFile) -> Iterator[None]:
    """What Arrow and the system say of a landed file or its copy as ConfigurationErrors that name it."""
    with of_temporary_folder():
        try:
            yield
        except FileNotFoundError:
            raise gone(file) from None
        except (pyarrow().ArrowInvalid, OSError) as error:
            if getattr(error, "errno", None) in (errno.ENOSPC, errno.EDQUOT):  # of the copy
                raise
            raise ConfigurationError(f"{_name(file)} can't be read: {str(error)[:MOST_CHARACTERS]}") from None


def _check_length(file: LandedFile, length: int) -> None:
    if length != file.landing.stored_bytes:
        raise ConfigurationError(
            f"{_name(file)} has {length} bytes, {file.landing.stored_bytes} landed: it has just landed again, or was changed; "
            "read it again, or materialize the partition"
        )


def gone(file: LandedFile) -> ConfigurationError:
    """The ledger says that it landed, and it is not there."""
    return ConfigurationError(f"{_name(file)} is gone, though the ledger has it as landed; materialize the partition again")


def _name(file: LandedFile) -> str:
    return f"{file.request}: {file.landing.uri}"
