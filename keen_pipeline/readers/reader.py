"""Landed partitions in the form that the caller's code works with."""

from __future__ import annotations

import logging
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar, get_args, get_origin, overload

from keen_pipeline.errors import InvalidInputError
from keen_pipeline.landing import FileDestination
from keen_pipeline.readers.files import LandedFile, landed_files, listed, refuse_mixed, refuse_outdated, require
from keen_pipeline.readers.frames import KINDS, converter_of
from keen_pipeline.readers.scan import Scan
from keen_pipeline.readers.types import ALWAYS, check_types, known_words

if TYPE_CHECKING:
    # The ledger brings SQLAlchemy, which a code location needs once it opens one.
    from keen_pipeline.ledger import SqlLedger

Kind = TypeVar("Kind")
_log = logging.getLogger(__name__)


class Missing(str, Enum):
    """What happens if a wanted partition is not landed: an error, or it counts as one without events."""

    ERROR = "error"
    EMPTY = "empty"


Wanted = Callable[[str, str], str | None]
"""By collection and partition key the fingerprint of what today's configuration asks for; None if it asks for nothing."""


class LandedReader:
    """Reads what has landed at `destination` by the `ledger`; nothing is asked of Keen.

    `wanted`: what today's configuration asks for. A landing of another one is refused, and a partition that it asks nothing for,
    such as one before the start date, counts as one without events. Unless given, all proven landings are good, but
    in one call only those of one set of filters and one mask.
    """

    def __init__(self, ledger: SqlLedger, destination: FileDestination, wanted: Wanted | None = None) -> None:
        self._ledger = ledger
        self._destination = destination
        self._wanted = wanted

    def uris(self, collection: str, partition_keys: Sequence[str], *, missing: Missing | str = Missing.ERROR) -> dict[str, str]:
        """The URI of each landed partition, in the order of `partition_keys`.

        Raises ConfigurationError if one is not landed and `missing` is `error`.
        """
        return {key: file.landing.uri for key, file in self.files(collection, partition_keys, missing=missing).items()}

    def files(
        self, collection: str, partition_keys: Sequence[str], *, missing: Missing | str = Missing.ERROR
    ) -> dict[str, LandedFile]:
        """The landed files by partition, in the order of `partition_keys`. Raises as `uris` does."""
        return self._chosen(collection, _keys(collection, partition_keys), missing, self._landed(collection))

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
        dictionary of several. `columns`: only these, in this order, null if no event has them; else the union of the files'
        columns in the order of their appearance. `types`: of columns, one of TYPES; else Keen's types of the properties.

        Raises ConfigurationError if a partition is not landed (`missing`), a library is not installed, or a cell is not of its
        column's type; InvalidInputError for a kind, type or column that does not exist. LazyFrames, Datasets and relations raise
        what concerns cells when they are computed, except that columns of numbers are looked at here, and those that Parquet files
        have in another type than text or the one that is wanted.
        """
        keys = _keys(collection, partition_keys)
        landed = self._landed(collection)
        files = self._chosen(collection, keys, missing, landed)
        if kind in (None, Any):
            kind = str if len(keys) == 1 else dict[str, str]
        origin, arguments = get_origin(kind), get_args(kind)
        each = arguments[1] if origin is dict and len(arguments) == 2 else None
        if kind in (str, Path) or origin is list or each in (str, Path):
            return _places(collection, keys, files, kind)
        convert = converter_of(each or kind)
        if convert is None:
            raise InvalidInputError(
                f"{collection}: can't be loaded as {kind!r}; use one of {KINDS}, str, pathlib.Path, a list of these two, or "
                "dict[str, ...] with any of them",
                field="kind",
            )
        asked = types or {}
        check_types(collection, asked)
        # Before the first event nobody knows the columns, and any may be asked for.
        known = known_words(landed.values()) or ALWAYS
        if not any(file.landing.records for file in landed.values()):
            known = {**dict.fromkeys([*known, *(columns or ()), *asked], "string"), **known}
        words = _words(collection, columns, asked, known)
        scan = Scan(self._destination, list(files.values()), words)
        return convert(scan.of()) if each is None else {key: convert(scan.of(key)) for key in keys}

    def scan(self, collection: str, files: Sequence[LandedFile], *, types: Mapping[str, str] | None = None) -> Scan:
        """A dataset of landed files with the columns that they have; `types` as in `load`, or of columns to come."""
        asked = types or {}
        check_types(collection, asked)
        present = dict.fromkeys(name for file in files for name in file.landing.columns)
        known = known_words(self._landed(collection).values())
        if unmet := _unmet(asked, known):
            _log.warning("%s: types: no landed file has %s; known are %s", collection, listed(unmet), listed(sorted(known)))
        return Scan(self._destination, files, {name: asked.get(name) or known.get(name, "string") for name in present})

    def _landed(self, collection: str) -> Mapping[str, LandedFile]:
        return landed_files(self._ledger, collection)

    def _chosen(
        self, collection: str, keys: Sequence[str], missing: Missing | str, landed: Mapping[str, LandedFile]
    ) -> dict[str, LandedFile]:
        wanted = {key: self._wanted(collection, key) for key in keys} if self._wanted is not None else {}
        keys = [key for key in keys if wanted.get(key, "") is not None]
        chosen = {key: landed[key] for key in keys if key in landed}
        if self._wanted is None:
            refuse_mixed(collection, chosen, self._destination.uri)
            wrong = [key for key, file in chosen.items() if not file.fingerprint]
        else:
            wrong = [key for key, file in chosen.items() if file.fingerprint != wanted[key]]
        refuse_outdated(collection, wrong, keys, self._destination.uri)
        if _missing(missing) is Missing.ERROR:
            require(collection, keys, landed, self._destination.uri, self._ledger.landed_collections)
        return chosen


def _words(collection: str, columns: Sequence[str] | None, asked: Mapping[str, str], known: Mapping[str, str]) -> dict[str, str]:
    """The word for each column's type.

    Raises InvalidInputError for a column that no landing has and no type was asked for, and for a type of no column.
    """
    names = list(known) if columns is None else list(columns)
    if isinstance(columns, str) or not all(isinstance(name, str) for name in names):
        raise InvalidInputError(f"{collection}: columns: must be a list of names, not {columns!r}", field="columns")
    wrong = {"columns": [name for name in names if name not in known and name not in asked], "types": _unmet(asked, known, names)}
    for field, unknown in wrong.items():
        if unknown:
            mend = "; name it in columns too if it comes later" if field == "types" else ""
            raise InvalidInputError(
                f"{collection}: {field}: no landed file has {listed(unknown)}; known are {listed(sorted(known)) or 'none'}{mend}",
                field=field,
            )
    return {name: asked.get(name) or known[name] for name in names}


def _keys(collection: str, asked: str | Sequence[str]) -> list[str]:
    """Raises InvalidInputError for what isn't text, such as a date."""
    keys = [asked] if isinstance(asked, str) else list(asked) if isinstance(asked, Iterable) else [asked]
    for key in keys:
        if not isinstance(key, str):
            raise InvalidInputError(
                f"{collection}: partition_keys: must be text such as '2026-01-01', not {key!r}", field="partition_keys"
            )
    return keys


def _unmet(asked: Mapping[str, str], known: Collection[str], wanted: Collection[str] = ()) -> list[str]:
    """What types were asked for, and nobody has."""
    return [str(name) for name in asked if name not in known and name not in wanted]


def _places(collection: str, keys: Sequence[str], files: Mapping[str, LandedFile], kind: Any) -> Any:
    origin, arguments = get_origin(kind), get_args(kind)
    if origin is dict:
        return {key: _place(file, arguments[1]) for key, file in files.items()}
    if origin is list and arguments in ((str,), (Path,)):
        return [_place(file, arguments[0]) for file in files.values()]
    if origin is list:
        raise InvalidInputError(
            f"{collection}: can't be loaded as {kind!r}; a list is list[str] or list[Path], else use one of {KINDS}", field="kind"
        )
    if len(files) != 1:
        raise InvalidInputError(
            f"{collection}: {len(files)} files of {len(keys)} partitions can't be one {kind.__name__}; "
            f"use list[{kind.__name__}] or dict[str, {kind.__name__}]",
            field="kind",
        )
    return _place(next(iter(files.values())), kind)


def _place(file: LandedFile, kind: Any) -> Any:
    if kind is Path and "://" in file.landing.uri:
        raise InvalidInputError(f"{file.request}: {file.landing.uri} isn't a path; use str", field="kind")
    return kind(file.landing.uri)


def _missing(value: Missing | str) -> Missing:
    try:
        return Missing(value)
    except ValueError:
        raise InvalidInputError(f"missing: must be error or empty, not {value!r}", field="missing") from None
