"""The events of all processes: appended to the catalogue, read with the segments of the object store.

An append returns when its events are committed. A snapshot holds every event committed before it, by whichever process.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

from keen_pipeline.errors import NotFoundError, ServiceUnavailableError
from keen_pipeline.service.events.incoming import Columns
from keen_pipeline.service.events.query import Where
from keen_pipeline.service.names import check_event_collection
from keen_pipeline.service.storage.catalog import Segment
from keen_pipeline.service.storage.engine import Engine
from keen_pipeline.service.storage.shared.catalogue import OvertakenError, SharedCatalogue, next_number
from keen_pipeline.service.storage.shared.leases import Leases
from keen_pipeline.service.storage.shared.objects import ObjectStore
from keen_pipeline.service.storage.shared.segment_cache import SegmentCache
from keen_pipeline.service.storage.shared.tail import Tail
from keen_pipeline.service.storage.shared.upkeep import Upkeep, UpkeepTimes, writer_lease
from keen_pipeline.service.storage.shared.writer import SegmentWriter, SharedCollection
from keen_pipeline.service.storage.store import Snapshot

WRITER_WAIT_SECONDS = 30.0
DELETE_TRIES = 5


@dataclass(frozen=True)
class StoreParts:
    """What a store of events works with."""

    catalogue: SharedCatalogue
    leases: Leases
    cache: SegmentCache
    objects: ObjectStore
    engine: Engine


class SharedEventStore:
    """The same collections in every process. Every method may be called from any thread. `max_properties`: of one collection."""

    def __init__(self, parts: StoreParts, max_properties: int, times: UpkeepTimes) -> None:
        self._catalogue, self._leases, self._cache = parts.catalogue, parts.leases, parts.cache
        self._max_properties = max_properties
        self._lease_seconds = times.lease
        self._writer = SegmentWriter(parts.catalogue, parts.cache, parts.objects, parts.engine)
        self._lock = threading.Lock()
        self._collections: dict[str, SharedCollection] = {}
        self._upkeep = Upkeep(parts.catalogue, parts.leases, parts.objects, self._writer, times, self._by_id)

    def names(self) -> list[str]:
        """The names of the collections, sorted."""
        return sorted(self._catalogue.collections())

    def _find(self, name: str) -> SharedCollection:
        collection = self._known(name)
        if collection is None:
            raise NotFoundError(f"there is no event collection {name!r}")
        return collection

    def _known(self, name: str) -> SharedCollection | None:
        with self._lock:
            if name in self._collections:
                return self._collections[name]
        number = self._catalogue.collection(name)
        return self._remember(name, number) if number is not None else None

    def _remember(self, name: str, number: int) -> SharedCollection:
        with self._lock:
            made = SharedCollection(number, name, Tail(self._cache, self._writer.files))
            return self._collections.setdefault(name, made)

    def _by_id(self, number: int) -> SharedCollection | None:
        """A collection of the catalogue, known here or not."""
        names = {known: name for name, known in self._catalogue.collections().items()}
        return self._remember(names[number], number) if number in names else None

    def append(self, name: str, encode: Callable[[Columns], Sequence[str]]) -> int:
        """Store the lines that `encode` makes, which may be called again, and return their number; they are durable then.

        The collection is made with its first event. Raises InvalidInputError, and then nothing is changed, and
        ServiceUnavailableError while the storage takes no segments and too many events wait for it.
        """
        check_event_collection(name)
        collection = self._known(name)
        if collection is None:
            if not encode(Columns({}, 0, self._max_properties)):
                return 0
            collection = self._remember(name, self._catalogue.add_collection(name))
        if collection.id in self._upkeep.overfull:
            raise ServiceUnavailableError(f"{name}: too many events wait for the storage; ask again later", retry_after=10)
        while True:
            known = collection.columns
            columns = Columns(known, next_number(known), self._max_properties)
            lines = encode(columns)
            if not lines:
                return 0
            if not columns.new:
                break
            if self._catalogue.add_columns(collection.id, known, columns.new):
                collection.learn({**known, **columns.new})
                break
            # Another process, or thread, has named properties meanwhile; each turn knows more, so there are not many.
            with self._catalogue.moment() as moment:
                collection.learn(moment.columns(collection.id, known))
        self._catalogue.append(collection.id, lines)
        return len(lines)

    @contextmanager
    def snapshot(self, name: str) -> Iterator[Snapshot]:
        """Every event acknowledged so far, by any process. Raises NotFoundError where there is no such collection."""
        collection = self._find(name)
        held: list[str] = []
        try:
            with collection.tail_lock:
                with self._catalogue.moment() as moment:
                    segments, columns = collection.look(moment)
                    new = collection.tail.fetch(moment, moment.log(collection.id))
                tail = collection.tail.build(new, list(columns.values()))
                self._cache.hold(segment.file for segment in tail)
                held += [segment.file for segment in tail]

            def fetch(wanted: Sequence[Segment]) -> None:
                missing = [segment.file for segment in wanted if segment.file not in held]
                self._cache.hold(missing)
                held.extend(missing)

            yield self._present(name, (*segments, *tail), columns, fetch)
        finally:
            self._cache.release(held)

    def _present(
        self, name: str, segments: tuple[Segment, ...], columns: dict[str, str], fetch: Callable[[Sequence[Segment]], None]
    ) -> Snapshot:
        present = {column for segment in segments for column in segment.kinds}
        return Snapshot(name, self._cache.folder, segments, {p: c for p, c in columns.items() if c in present}, fetch)

    def delete(self, name: str, where: Callable[[Snapshot], Where]) -> int:
        """Delete the events that pass; returns how many. Events that arrive meanwhile stay.

        Raises NotFoundError, and ServiceUnavailableError or OvertakenError where other processes rewrite the same events.
        """
        collection = self._find(name)

        def without(segment: Segment, columns: dict[str, str]) -> Segment | None:
            snapshot = self._present(name, (segment,), columns, lambda _: None)
            return self._writer.files.without(self._cache.folder, segment, where(snapshot))

        with self._leases.held(writer_lease(collection.id), self._lease_seconds, wait=WRITER_WAIT_SECONDS) as lease:
            with self._catalogue.moment() as moment:
                newest = max((row.id for row in moment.log(collection.id)), default=0)
            for attempt in range(DELETE_TRIES):
                try:
                    while self._writer.fold(collection, upto=newest):
                        lease.take()
                    return self._writer.rewrite(collection, without, lease.take)
                except OvertakenError:
                    if attempt + 1 == DELETE_TRIES:
                        raise
        raise AssertionError("unreachable")

    def unfolded_bytes(self) -> int:
        """Of the events of all processes that are in no segment yet, as lines, a moment ago."""
        return self._upkeep.backlog_bytes

    def close(self) -> None:
        """Stop what runs beside the requests; what is in no segment yet is any process's to fold."""
        self._upkeep.close()
        self._cache.close()
