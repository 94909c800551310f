"""Landed partitions in the form that the caller's code works with."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from enum import Enum
from pathlib import Path
from typing import Any, TypeVar, get_args, get_origin, overload

from keen_pipeline.errors import InvalidInputError
from keen_pipeline.landing import FileDestination as Destination
from keen_pipeline.ledger import SqlLedger as Ledger
from keen_pipeline.ports import ExtractionApi
from keen_pipeline.readers.files import LandedFile, landed_files, require
from keen_pipeline.readers.frames import KINDS, converter_of
from keen_pipeline.readers.scan import Scan
from keen_pipeline.readers.types import check_types, union_of

Kind = TypeVar("Kind")


class Missing(str, Enum):
    """What happens where a wanted partition is not landed: an error, or it counts as one without events."""

    ERROR = "error"
    EMPTY = "empty"


class LandedReader:
    """Reads what has landed at `destination` by the `ledger`. `api` is called where a column's type must be asked for."""

    def __init__(self, ledger: Ledger, destination: Destination, api: Callable[[], ExtractionApi]) -> None:
        self._ledger = ledger
        self._destination = destination
        self._api = api

    def uris(self, collection: str, partition_keys: Sequence[str], *, missing: Missing | str = Missing.ERROR) -> dict[str, str]:
        """The URI of each landed partition, in the order of `partition_keys`.

        Raises ConfigurationError where one is not landed and `missing` is `error`.
        """
        return {key: file.uri for key, file in self.files(collection, partition_keys, missing=missing).items()}

    def files(
        self, collection: str, partition_keys: Sequence[str], *, missing: Missing | str = Missing.ERROR
    ) -> dict[str, LandedFile]:
        """The landed files by partition, in the order of `partition_keys`. Raises as `uris` does."""
        landed = landed_files(self._ledger, self._destination.uri, collection)
        if _missing(missing) is Missing.ERROR:
            require(collection, partition_keys, landed, self._destination.uri)
        return {key: landed[key] for key in partition_keys if key in landed}

    @overload
    def load(
        self,
        collection: str,
        partition_keys: str | Sequence[str],
        kind: type[Kind],
        *,
        columns: Sequence[str] | None = ...,
        types: Mapping[str, str] | None = ...,
        missing: Missing | str = ...,
    ) -> Kind: ...
    @overload
    def load(
        self,
        collection: str,
        partition_keys: str | Sequence[str],
        kind: Any = ...,
        *,
        columns: Sequence[str] | None = ...,
        types: Mapping[str, str] | None = ...,
        missing: Missing | str = ...,
    ) -> Any: ...
    def load(
        self,
        collection: str,
        partition_keys: str | Sequence[str],
        kind: Any = None,
        *,
        columns: Sequence[str] | None = None,
        types: Mapping[str, str] | None = None,
        missing: Missing | str = Missing.ERROR,
    ) -> Any:
        """The partitions as a value of `kind`.

        `kind`: `pandas.DataFrame`, `polars.DataFrame`, `polars.LazyFrame`, `pyarrow.Table`, `pyarrow.dataset.Dataset`,
        `duckdb.DuckDBPyRelation`: all partitions together, in their order; `str` or `Path`: the URI or path of the one partition;
        `list[str]`, `list[Path]`: of each; `dict[str, ...]` with any of these: by partition key; None: the URI of one partition, a
        dictionary of several. `columns`: only these, in this order, null where no event has them; else the union of the files'
        columns in the order of their appearance. `types`: of columns, one of TYPES; else Keen's types of the properties.

        Raises ConfigurationError where a partition is not landed (`missing`), a library is not installed, or a cell is not of its
        column's type; InvalidInputError for a kind, type or column that does not exist; RetryableError where the service
        can't be asked for the types now. LazyFrames, Datasets and relations raise what concerns cells when they are computed.
        """
        keys = [partition_keys] if isinstance(partition_keys, str) else list(partition_keys)
        files = self.files(collection, keys, missing=missing)
        if kind in (None, Any):
            kind = str if len(keys) == 1 else dict[str, str]
        return self._load(collection, files, keys, kind, columns, types or {})

    def scan(
        self,
        collection: str,
        files: Sequence[LandedFile],
        *,
        columns: Sequence[str] | None = None,
        types: Mapping[str, str] | None = None,
    ) -> Scan:
        """A dataset of landed files; `columns` and `types` as in `load`."""
        asked = dict(types or {})
        check_types(collection, asked)
        names = list(columns) if columns is not None else union_of(file.columns for file in files)
        return Scan(self._destination, files, self._types(collection, names, asked, files))

    def types(self, collection: str, names: Sequence[str], files: Sequence[LandedFile]) -> dict[str, str]:
        """The type of each column as `scan` reads it, where it isn't told another one; raises as `scan` does."""
        return self._types(collection, names, {}, files)

    def _load(
        self,
        collection: str,
        files: Mapping[str, LandedFile],
        keys: Sequence[str],
        kind: Any,
        columns: Sequence[str] | None,
        types: Mapping[str, str],
    ) -> Any:
        origin, arguments = get_origin(kind), get_args(kind)
        if origin is dict and len(arguments) == 2:
            each = arguments[1]
            known = files if converter_of(each) is None else dict.fromkeys(keys)
            return {
                key: self._load(collection, {key: files[key]} if key in files else {}, [key], each, columns, types) for key in known
            }
        if origin is list and arguments in ((str,), (Path,)):
            return [self._place(file, arguments[0]) for file in files.values()]
        if kind in (str, Path):
            if len(files) != 1:
                raise InvalidInputError(
                    f"{collection}: {len(files)} files of {len(keys)} partitions can't be one {kind.__name__}; "
                    f"use list[{kind.__name__}] or dict[str, {kind.__name__}]",
                    field="kind",
                )
            return self._place(next(iter(files.values())), kind)
        convert = converter_of(kind)
        if convert is None:
            raise InvalidInputError(
                f"{collection}: can't be loaded as {kind!r}; use one of {KINDS}, str, pathlib.Path, a list of these two, or "
                "dict[str, ...] with any of them",
                field="kind",
            )
        return convert(self.scan(collection, list(files.values()), columns=columns, types=types))

    def _place(self, file: LandedFile, kind: Any) -> Any:
        if kind is Path and "://" in file.uri:
            raise InvalidInputError(f"{file.collection}[{file.partition_key}]: {file.uri} is no path; use str", field="kind")
        return kind(file.uri)

    def _types(
        self, collection: str, names: Sequence[str], asked: Mapping[str, str], files: Sequence[LandedFile]
    ) -> dict[str, str]:
        """The type of each column. Raises InvalidInputError for a column that neither a file nor Keen knows."""
        if all(name in asked for name in names):
            return {name: asked[name] for name in names}
        known = {**self._api().property_types(collection), **{name: "string" for file in files for name in file.masked}}
        present = {name for file in files for name in file.columns}
        unknown = [name for name in names if name not in present and name not in known and name not in asked]
        if unknown:
            raise InvalidInputError(
                f"{collection}: neither a landed file nor Keen knows {', '.join(unknown)}; "
                f"known are {', '.join(sorted({*present, *known}))}",
                field="columns",
            )
        return {name: asked.get(name) or known.get(name, "string") for name in names}


def _missing(value: Missing | str) -> Missing:
    try:
        return Missing(value)
    except ValueError:
        raise InvalidInputError(f"missing: must be error or empty, not {value!r}", field="missing") from None
