"""The events: appended to a durable log, folded into Parquet segments, read as snapshots of segments.

An append returns when its events are on disk. A snapshot first folds what is in the log, so it holds every event acknowledged
before it, and keeps its files until it is left. Events stand in order of arrival.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from keen_pipeline.errors import NotFoundError
from keen_pipeline.service.config import MIB
from keen_pipeline.service.events.incoming import Columns
from keen_pipeline.service.events.query import Where
from keen_pipeline.service.names import check_event_collection
from keen_pipeline.service.storage.catalog import Catalog, Segment
from keen_pipeline.service.storage.engine import Engine
from keen_pipeline.service.storage.event_log import EventLog, log_numbers, log_path, repair_log, sync_folder
from keen_pipeline.service.storage.segments import SegmentFiles, mergeable

SEAL_BYTES = 16 * MIB

_log = logging.getLogger(__name__)


@dataclass
class _Collection:
    id: int
    name: str
    folder: Path
    columns: dict[str, str]
    next_log: int
    lock: threading.Lock = field(default_factory=threading.Lock)  # appends, and the fields of this object
    fold_lock: threading.Lock = field(default_factory=threading.Lock)  # one fold, merge or delete at a time; taken before `lock`
    log: EventLog | None = None
    sealed: list[int] = field(default_factory=list)


def _are_here(segments: Sequence[Segment]) -> None:
    """All segments of a data folder lie in it."""


@dataclass(frozen=True)
class Snapshot:
    """A collection at one moment. `columns`: names by path of every property that some event of it has.

    The files of segments lie in `folder` once `fetch` was called with them, until the snapshot is left.
    """

    collection: str
    folder: Path
    segments: tuple[Segment, ...]
    columns: dict[str, str]
    fetch: Callable[[Sequence[Segment]], None] = _are_here

    @property
    def events(self) -> int:
        """How many events there are."""
        return sum(segment.events for segment in self.segments)

    def overlapping(self, first: int | None, end: int | None) -> tuple[Segment, ...]:
        """The segments that may hold events in `[first, end)`, microseconds since 1970."""
        return tuple(s for s in self.segments if (first is None or s.last >= first) and (end is None or s.first < end))


class Events(Protocol):
    """All collections of the project. Every method may be called from any thread."""

    def names(self) -> list[str]:
        """The names of the collections, sorted."""
        ...

    def append(self, name: str, encode: Callable[[Columns], Sequence[str]]) -> int:
        """Store the lines that `encode` makes, which may be called again, and return their number; they are durable then.

        The collection is made with its first event. Raises InvalidInputError, and then nothing is changed.
        """
        ...

    def snapshot(self, name: str) -> AbstractContextManager[Snapshot]:
        """Every event acknowledged so far. Raises NotFoundError where there is no such collection."""
        ...

    def delete(self, name: str, where: Callable[[Snapshot], Where]) -> int:
        """Delete the events that pass; returns how many. Events that arrive meanwhile stay. Raises NotFoundError."""
        ...

    def unfolded_bytes(self) -> int:
        """Of the events that are in no segment yet, as lines."""
        ...

    def close(self) -> None:
        """Stop what runs beside the requests."""
        ...


class EventStore:
    """The events of one data folder. `max_properties`: of one collection."""

    def __init__(self, folder: Path, catalog: Catalog, engine: Engine, max_properties: int) -> None:
        self._folder = folder
        self._max_properties = max_properties
        self._catalog = catalog
        self._files = SegmentFiles(engine)
        self._lock = threading.Lock()  # the dictionary of collections, and the pins
        self._pins: dict[Path, int] = {}
        self._doomed: set[Path] = set()
        self._wake = threading.Event()
        self._stopping = False
        folder.mkdir(parents=True, exist_ok=True)
        self._collections = {name: self._open(name, number) for name, number in catalog.collections().items()}
        self._thread = threading.Thread(target=self._maintain, name="fold", daemon=True)
        self._thread.start()

    def _open(self, name: str, number: int) -> _Collection:
        """Take up a collection as a crash or a shutdown left it."""
        folder = self._folder / str(number)
        folder.mkdir(exist_ok=True)
        segments = self._catalog.segments(number)
        known = {segment.file for segment in segments}
        for path in folder.iterdir():
            if path.suffix != ".ndjson" and path.name not in known:
                path.unlink()
        folded = self._catalog.folded_logs(number)
        logs = []
        for log in log_numbers(folder):
            if log in folded or repair_log(log_path(folder, log)) == 0:
                log_path(folder, log).unlink()
            else:
                logs.append(log)
        sync_folder(folder)
        self._catalog.forget_folded(number, sorted(folded))
        highest = max([0, *folded, *logs, *(s.position for s in segments)])
        return _Collection(number, name, folder, self._catalog.columns(number), highest + 1, sealed=logs)

    def names(self) -> list[str]:
        """The names of the collections, sorted."""
        with self._lock:
            return sorted(self._collections)

    def _find(self, name: str) -> _Collection:
        with self._lock:
            collection = self._collections.get(name)
        if collection is None:
            raise NotFoundError(f"there is no event collection {name!r}")
        return collection

    def append(self, name: str, encode: Callable[[Columns], Sequence[str]]) -> int:
        """Store the lines that `encode` makes and return their number; they are on disk then.

        The collection is made with its first event. Raises InvalidInputError, and then nothing is changed.
        """
        check_event_collection(name)
        with self._lock:
            collection = self._collections.get(name)
        if collection is None:
            return self._append_first(name, encode)
        with collection.lock:
            return self._append(collection, encode)

    def _append_first(self, name: str, encode: Callable[[Columns], Sequence[str]]) -> int:
        with self._lock:
            if name not in self._collections:
                columns = Columns({}, 0, self._max_properties)
                if not encode(columns):
                    return 0
                number = self._catalog.add_collection(name, {})
                folder = self._folder / str(number)
                folder.mkdir()
                sync_folder(self._folder)
                self._collections[name] = _Collection(number, name, folder, {}, 1)
            collection = self._collections[name]
        with collection.lock:
            return self._append(collection, encode)

    def _append(self, collection: _Collection, encode: Callable[[Columns], Sequence[str]]) -> int:
        numbers = [int(column[1:]) for column in collection.columns.values()]
        columns = Columns(collection.columns, max(numbers, default=-1) + 1, self._max_properties)
        lines = encode(columns)
        if not lines:
            return 0
        if columns.new:
            self._catalog.add_columns(collection.id, columns.new)
            collection.columns.update(columns.new)
        if collection.log is None:
            collection.log = EventLog(collection.folder, collection.next_log)
            collection.next_log += 1
        collection.log.append(lines)
        if collection.log.bytes >= SEAL_BYTES:
            self._seal(collection)
            self._wake.set()
        return len(lines)

    @staticmethod
    def _seal(collection: _Collection) -> None:
        if collection.log is not None:
            collection.log.close()
            collection.sealed.append(collection.log.number)
            collection.log = None

    def _fold(self, collection: _Collection, *, seal: bool) -> None:
        """Turn the sealed logs into one segment; the caller holds the fold lock."""
        with collection.lock:
            if seal:
                self._seal(collection)
            numbers, columns = list(collection.sealed), sorted(collection.columns.values(), key=lambda c: int(c[1:]))
        if not numbers:
            return
        paths = [log_path(collection.folder, number) for number in numbers]
        segment = self._files.fold(collection.folder, paths, columns, position=numbers[0])
        self._catalog.replace_segments(collection.id, old=(), new=(segment,), folded=numbers)
        with collection.lock:
            del collection.sealed[: len(numbers)]
        for path in paths:
            path.unlink()
        sync_folder(collection.folder)
        self._catalog.forget_folded(collection.id, numbers)
        self._merge(collection)

    def _merge(self, collection: _Collection) -> None:
        old = mergeable(self._catalog.segments(collection.id))
        if old:
            merged = self._files.merge(collection.folder, old)
            self._catalog.replace_segments(collection.id, old=old, new=(merged,))
            self._retire(collection.folder / segment.file for segment in old)

    def _retire(self, paths: Iterable[Path]) -> None:
        """Remove files that the catalog no longer names, once no snapshot reads them."""
        with self._lock:
            for path in paths:
                if self._pins.get(path):
                    self._doomed.add(path)
                else:
                    path.unlink()

    @contextmanager
    def snapshot(self, name: str) -> Iterator[Snapshot]:
        """Every event acknowledged so far. Raises NotFoundError where there is no such collection."""
        collection = self._find(name)
        with collection.fold_lock:
            self._fold(collection, seal=True)
            segments = tuple(self._catalog.segments(collection.id))
            files = [collection.folder / segment.file for segment in segments]
            with self._lock:
                for file in files:
                    self._pins[file] = self._pins.get(file, 0) + 1
        try:
            yield self._present(collection, segments)
        finally:
            with self._lock:
                for file in files:
                    self._pins[file] -= 1
                    if not self._pins[file]:
                        del self._pins[file]
                        if file in self._doomed:
                            self._doomed.discard(file)
                            file.unlink()

    @staticmethod
    def _present(collection: _Collection, segments: tuple[Segment, ...]) -> Snapshot:
        """A snapshot of some segments with the properties that they hold."""
        with collection.lock:
            present = {column for segment in segments for column in segment.kinds}
            columns = {path: column for path, column in collection.columns.items() if column in present}
        return Snapshot(collection.name, collection.folder, segments, columns)

    def delete(self, name: str, where: Callable[[Snapshot], Where]) -> int:
        """Delete the events that pass; returns how many. Events that arrive meanwhile stay. Raises NotFoundError."""
        collection = self._find(name)
        with collection.fold_lock:
            self._fold(collection, seal=True)
            segments = tuple(self._catalog.segments(collection.id))
            old, new = [], []
            for segment in segments:
                condition = where(self._present(collection, (segment,)))
                kept = self._files.without(collection.folder, segment, condition)
                if kept is not segment:
                    old.append(segment)
                    new += [kept] if kept is not None else []
            if old:
                self._catalog.replace_segments(collection.id, old=old, new=new)
                self._retire(collection.folder / segment.file for segment in old)
        return sum(segment.events for segment in old) - sum(segment.events for segment in new)

    def unfolded_bytes(self) -> int:
        """Of the events that are in no segment yet, as lines."""
        with self._lock:
            collections = list(self._collections.values())
        total = 0
        for collection in collections:
            with collection.lock:
                numbers = [*collection.sealed, *([collection.log.number] if collection.log is not None else [])]
            for number in numbers:
                with suppress(FileNotFoundError):  # folded meanwhile
                    total += log_path(collection.folder, number).stat().st_size
        return total

    def _maintain(self) -> None:
        """Fold sealed logs beside the requests, so that a reader finds little to fold."""
        while not self._stopping:
            self._wake.wait()
            self._wake.clear()
            with self._lock:
                collections = list(self._collections.values())
            for collection in collections:
                if collection.sealed and not self._stopping:
                    try:
                        with collection.fold_lock:
                            self._fold(collection, seal=False)
                    except Exception:  # noqa: BLE001 - the logs stay, the next reader folds them and gets the error itself
                        _log.exception("folding failed", extra={"collection": collection.name})

    def close(self) -> None:
        """Stop folding and close the logs; what is in them is folded after the next start."""
        self._stopping = True
        self._wake.set()
        self._thread.join()
        for collection in self._collections.values():
            with collection.lock:
                self._seal(collection)
