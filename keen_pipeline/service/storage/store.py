"""The events: appended to a durable log, folded into the Parquet files of a table, read as snapshots of files and logs.

An append returns when its events are durable. A snapshot holds every event acknowledged before it: the table's files and the logs
above its watermark. Reading writes nothing. Events stand in order of arrival.
"""

from __future__ import annotations

import itertools
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING
from weakref import WeakValueDictionary

from keen_pipeline.errors import NotFoundError, RetryableError, ServiceUnavailableError
from keen_pipeline.service.config import MIB
from keen_pipeline.service.events.incoming import Columns
from keen_pipeline.service.storage.engine import Engine, own_errors
from keen_pipeline.service.storage.files import EventFiles, Facts, event_source, mergeable, reading_mib, together
from keen_pipeline.service.storage.parts import Backlog, DataFile, LogPart, Part, column_order
from keen_pipeline.service.storage.places import Exclusive, Log, Logs, Tables
from keen_pipeline.service.storage.tables import OvertakenError, Table, TableState

if TYPE_CHECKING:
    from keen_pipeline.service.extractions.csv_export import Selection

FOLD_BYTES = 16 * MIB
"""Of the logs in one file, as far as one log is not larger."""

MAX_BACKLOG_BYTES = 256 * MIB
"""Of one collection's logs; past it appends are refused until they are folded."""

DELETE_TRIES = 20
WRITER_WAIT_SECONDS = 30.0
RETRY_SECONDS = 10.0


@dataclass
class Collection:
    """What the process knows of a collection. `folding`, `rewriting`: one fold, and one merge or delete, at a time."""

    name: str
    table: Table
    log: Log
    folding: threading.Lock = field(default_factory=threading.Lock)
    rewriting: threading.Lock = field(default_factory=threading.Lock)
    looking: threading.Lock = field(default_factory=threading.Lock)

    def look(self) -> tuple[TableState, list[LogPart]]:
        """The table, and the logs above its watermark."""
        with self.looking:
            state = self.table.state()
            return state, self.log.parts(state.watermark)

    def folded(self, watermark: int) -> None:
        """The logs up to a watermark are in the table. Whoever looks meanwhile, and saw the table before that, has them first."""
        with self.looking:
            self.log.folded(watermark)


class Snapshot:
    """A collection at one moment. `columns`: names by path of every property. `segments`: where its events are, in order.

    The files among them are on this machine once `fetch` was called with them, until the snapshot is left.
    """

    def __init__(
        self,
        collection: str,
        segments: Sequence[Part],
        columns: dict[str, str],
        files: EventFiles,
        tables: Tables,
        until_left: ExitStack,
    ) -> None:
        self.collection, self.segments, self.columns = collection, tuple(segments), columns
        self._files, self._tables, self._until_left = files, tables, until_left
        self.held: dict[DataFile, Path] = {}
        self._reserved = False

    def fetch(self, segments: Sequence[Part]) -> None:
        """Have the files among some segments here."""
        missing = [s for s in segments if isinstance(s, DataFile) and s not in self.held]
        if missing:
            self.held |= self._until_left.enter_context(self._tables.held(self.collection, missing))

    def facts(self, segments: Sequence[Part]) -> Facts:
        """What some segments hold, together."""
        self.fetch(segments)
        self._reserve([s for s in segments if isinstance(s, LogPart)])
        paths = {s: self.held[s] if isinstance(s, DataFile) else s.path for s in segments}
        return together(self._files.facts(paths).values())

    def source(self, segments: Sequence[Part]) -> str:
        """The SQL source of the events of some segments; every column of the snapshot may be named in it."""
        self.fetch(segments)
        paths = {s: self.held[s] for s in segments if isinstance(s, DataFile)}
        present = together(self._files.facts(paths).values()).kinds if paths else {}
        logs = [s for s in segments if isinstance(s, LogPart)]
        self._reserve(logs)
        return event_source(list(paths.values()), logs, column_order(self.columns.values()), present)

    def _reserve(self, logs: Sequence[LogPart]) -> None:
        """Have the memory to read logs, until the snapshot is left; once, as whoever asked twice would wait for himself."""
        if logs and not self._reserved:
            self._until_left.enter_context(self._files.engine.memory.reserved(reading_mib(logs)))
            self._reserved = True


class EventStore:
    """The events of a project. `tables`, `logs`: where they lie. `max_properties`: of one collection.

    `exclusive`: whether this process alone does what is named while a block runs, and how long to wait for others, in seconds; it
    saves double work, no more. Every method may be called from any thread.
    """

    def __init__(self, tables: Tables, logs: Logs, engine: Engine, max_properties: int, exclusive: Exclusive) -> None:
        self._tables, self._logs, self._files = tables, logs, EventFiles(engine, tables.work)
        self._max_properties, self.exclusive = max_properties, exclusive
        self._lock = threading.Lock()  # the dictionaries
        self._collections: dict[str, Collection] = {}
        self._opening: WeakValueDictionary[str, threading.Lock] = WeakValueDictionary()
        self._backlog: dict[str, int] = {}
        self._names = set(tables.names())

    def names(self) -> list[str]:
        return sorted({*self._names, *self._logs.names()})

    def _find(self, name: str) -> Collection:
        collection = self.known(name)
        if collection is None:
            raise NotFoundError(f"there is no event collection {name!r}")
        return collection

    def known(self, name: str) -> Collection | None:
        """A collection that is there; taken up as a crash or a shutdown left it, when it is first asked for."""
        return self._opened(name) or (self._open(name) if name in self._names or self._logs.has(name) else None)

    def _opened(self, name: str) -> Collection | None:
        with self._lock:
            collection = self._collections.get(name)
            return None if collection is None or collection.log.stale else collection

    def _open(self, name: str) -> Collection:
        with self._lock:
            turn = self._opening.setdefault(name, threading.Lock())
        with turn:
            if (found := self._opened(name)) is not None:
                return found
            with own_errors("opening a collection"):
                table = Table(self._tables.place(name), shared=self._tables.shared)
                state = table.state()
                made = Collection(name, table, self._logs.open(name, state.columns, state.watermark))
            with self._lock:
                self._names.add(name)
                self._collections[name] = made
            return made

    def append(self, name: str, encode: Callable[[Columns], Sequence[str]]) -> int:
        """Store the lines that `encode` makes, which may be called again, and return their number; they are durable then.

        The collection is made with its first event. Raises InvalidInputError, and then nothing is changed, DiskFullError, and
        ServiceUnavailableError while too many events wait to be folded.
        """
        collection = self.known(name)
        if collection is None:
            if not encode(Columns({}, 0, self._max_properties)):
                return 0
            collection = self._open(name)
        if self._backlog.get(name, 0) > MAX_BACKLOG_BYTES:
            raise ServiceUnavailableError(
                f"{name}: too many events wait to be written into files; ask again later", retry_after=RETRY_SECONDS
            )
        with own_errors("storing events"):
            return collection.log.append(encode)

    @contextmanager
    def snapshot(self, name: str) -> Iterator[Snapshot]:
        """Every event acknowledged so far. Raises NotFoundError if there is no such collection."""
        collection = self._find(name)
        with own_errors("reading events"):
            state, logs = collection.look()
        columns = {**state.columns, **collection.log.columns}
        with ExitStack() as until_left:
            made = Snapshot(name, [*state.files, *logs], columns, self._files, self._tables, until_left)
            with self._files.reading(made.held, partial(self._tables.damaged, name)):
                yield made

    def delete(self, name: str, select: Callable[[Snapshot], Selection]) -> int:
        """Delete the events of a selection; returns how many. Events that arrive meanwhile stay.

        Readers see all of them or none. Raises NotFoundError, ServiceUnavailableError or OvertakenError if other processes
        rewrite the same events, QueryTimeoutError.
        """
        collection = self._find(name)
        with collection.rewriting, self.exclusive(f"rewrite of {name}", WRITER_WAIT_SECONDS) as ours:
            if not ours:
                raise ServiceUnavailableError(f"another process rewrites {name}; ask again later", retry_after=RETRY_SECONDS)
            _, logs = collection.look()
            newest = logs[-1].last_number if logs else 0
            for attempt in itertools.count(1):
                try:
                    while collection.table.state().watermark < newest:
                        self.fold(collection)
                    return self._rewrite(collection, select)
                except OvertakenError:  # mostly by another process's upkeep, which folds the same
                    if attempt == DELETE_TRIES:
                        raise
        raise AssertionError("unreachable")

    def _rewrite(self, collection: Collection, select: Callable[[Snapshot], Selection]) -> int:
        name, state = collection.name, collection.table.state()
        columns = {**state.columns, **collection.log.columns}
        selection = select(Snapshot(name, state.files, columns, self._files, self._tables, ExitStack()))  # nothing is read of it
        covered, doubtful = map(set, selection.split())
        old = [file for file in state.files if file in covered]
        with self._making() as new:
            with self._files.engine.query() as cursor:
                for file in (file for file in state.files if file in doubtful):
                    with self._reading(name, [file]) as paths:
                        kept = self._files.without(cursor, file, paths[file], list(columns.values()), selection.where)
                    if kept is not file:
                        old.append(file)
                        new.extend([kept] if kept is not None else [])
            if old:
                self._tables.publish(name, new)
                collection.table.commit(add=new, remove=old)
        return sum(file.events for file in old) - sum(file.events for file in new)

    @contextmanager
    def _reading(self, name: str, files: Sequence[DataFile]) -> Iterator[dict[DataFile, Path]]:
        with self._tables.held(name, files) as paths, self._files.reading(paths, partial(self._tables.damaged, name)):
            yield paths

    @contextmanager
    def _making(self) -> Iterator[list[DataFile]]:
        """For the files that the block makes; what was not published of them goes."""
        made: list[DataFile] = []
        try:
            yield made
        finally:
            for file in made:
                (self._tables.work / file.name).unlink(missing_ok=True)

    def fold(self, collection: Collection) -> bool:
        """Turn the oldest logs into one file; whether there were any. Raises OvertakenError."""
        with collection.folding:
            state, logs = collection.look()
            chosen: list[LogPart] = []
            for log in logs:
                if chosen and sum(one.bytes for one in chosen) + log.bytes > FOLD_BYTES:
                    break
                chosen.append(log)
            if not chosen:
                collection.folded(state.watermark)
                return False
            newest = chosen[-1].last_number
            with self._making() as made:
                made.append(self._files.fold(chosen))
                self._tables.publish(collection.name, made)
                collection.table.commit(add=made, watermark=(state.watermark, newest), columns=collection.log.columns)
            collection.folded(newest)
            return True

    def merge(self, collection: Collection) -> bool:
        """Turn small neighbours into one file; whether there were enough of them. Raises OvertakenError."""
        if not collection.rewriting.acquire(blocking=False):
            return False
        try:
            old = mergeable(collection.table.state().files)
            if not old:
                return False
            with self._making() as made:
                with self._reading(collection.name, old) as paths:
                    made.append(self._files.merge(paths))
                self._tables.publish(collection.name, made)
                collection.table.commit(add=made, remove=old)
            return True
        finally:
            collection.rewriting.release()

    def backlogs(self) -> list[Backlog]:
        """What is in logs alone."""
        found = self._logs.backlogs()
        self._backlog = {backlog.name: backlog.bytes for backlog in found}
        return found

    def sweep(self, collection: Collection, seconds: float) -> None:
        """Remove files and logs that were replaced so many seconds ago."""
        collection.table.sweep(seconds)
        collection.log.sweep(collection.table.state().watermark, seconds)

    def unfolded_bytes(self) -> int:
        """Of the events that are in no file yet, as lines; a moment ago while the logs can't be asked."""
        with suppress(RetryableError):
            self.backlogs()
        return sum(self._backlog.values())

    def close(self) -> None:
        self._tables.close()
