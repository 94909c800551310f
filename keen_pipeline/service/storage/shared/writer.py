"""Writes segments into the object store and puts them into the catalogue, in the place of appends or of other segments."""

from __future__ import annotations

import threading
import uuid
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field

from keen_pipeline.service.config import MIB
from keen_pipeline.service.storage.catalog import Segment
from keen_pipeline.service.storage.engine import Engine
from keen_pipeline.service.storage.segments import SegmentFiles, mergeable
from keen_pipeline.service.storage.shared.catalogue import LogRow, Moment, SharedCatalogue
from keen_pipeline.service.storage.shared.objects import ObjectStore
from keen_pipeline.service.storage.shared.segment_cache import SegmentCache, object_name
from keen_pipeline.service.storage.shared.tail import Tail

FOLD_BYTES = 64 * MIB
"""Of lines, in one new segment; one append may be larger."""


Without = Callable[[Segment, dict[str, str]], "Segment | None"]
"""Of a segment and the columns by path: the segment without some events, itself where it has none of them, None where all went."""


@dataclass
class SharedCollection:
    """What a process knows of a collection. `columns` and `segments` may be old, and are replaced, never changed."""

    id: int
    name: str
    tail: Tail
    columns: dict[str, str] = field(default_factory=dict)
    segments: dict[str, Segment] = field(default_factory=dict)
    tail_lock: threading.Lock = field(default_factory=threading.Lock)
    lock: threading.Lock = field(default_factory=threading.Lock)  # the other fields

    def look(self, moment: Moment) -> tuple[list[Segment], dict[str, str]]:
        """The segments of a moment in order of arrival, and its columns by path."""
        columns = moment.columns(self.id, self.columns)
        segments = moment.segments(self.id, self.segments)
        self.learn(columns)
        with self.lock:
            self.segments = {segment.file: segment for segment in segments}
        return segments, columns

    def learn(self, columns: dict[str, str]) -> None:
        """Remember the columns of some moment. They only ever become more, so the most are the newest."""
        with self.lock:
            if len(columns) > len(self.columns):
                self.columns = columns


class SegmentWriter:
    """Folds, merges and rewrites. The caller holds the collection's writer lease, so that nobody does the same work meanwhile."""

    def __init__(self, catalogue: SharedCatalogue, cache: SegmentCache, objects: ObjectStore, engine: Engine) -> None:
        self._catalogue, self._cache, self._objects = catalogue, cache, objects
        self.files = SegmentFiles(engine)

    def fold(self, collection: SharedCollection, upto: int | None = None) -> int:
        """Turn the oldest appends (of ids up to `upto`) into one segment; returns how many. Raises OvertakenError."""
        lines = self._cache.folder / f"{uuid.uuid4().hex}.tmp"
        try:
            with self._catalogue.moment() as moment:
                _, columns = collection.look(moment)
                rows = _first(moment.log(collection.id), upto)
                if not rows:
                    return 0
                moment.write_lines(rows, lines)
            segment = self.files.fold(self._cache.folder, [lines], list(columns.values()), position=rows[0].id)
            with self._published([segment]) as new:
                self._catalogue.replace(collection.id, rows=rows, new=new, name=object_name)
        finally:
            lines.unlink(missing_ok=True)
        return len(rows)

    def merge(self, collection: SharedCollection) -> None:
        """Turn small neighbours into one segment, where there are enough of them. Raises OvertakenError."""
        with self._catalogue.moment() as moment:
            old = mergeable(collection.look(moment)[0])
        if not old:
            return
        with self._here(old) as files, self._published([self.files.merge(self._cache.folder, old)]) as new:
            self._catalogue.replace(collection.id, old=files, new=new, name=object_name)
        self._cache.forget(files)

    def rewrite(self, collection: SharedCollection, without: Without, renew: Callable[[], object]) -> int:
        """Put the segments that `without` makes in the place of those it is given; returns how many events went.

        `renew` is called between them. Raises OvertakenError.
        """
        with self._catalogue.moment() as moment:
            segments, columns = collection.look(moment)
        old: list[Segment] = []
        made: list[Segment] = []
        try:
            for segment in segments:
                with self._here([segment]):
                    kept = without(segment, columns)
                if kept is not segment:
                    old.append(segment)
                    made += [kept] if kept is not None else []
                renew()
        except BaseException:
            for segment in made:
                (self._cache.folder / segment.file).unlink(missing_ok=True)
            raise
        if old:
            files = [segment.file for segment in old]
            with self._published(made) as new:
                self._catalogue.replace(collection.id, old=files, new=new, name=object_name)
            self._cache.forget(files)
        return sum(segment.events for segment in old) - sum(segment.events for segment in made)

    @contextmanager
    def _here(self, segments: Sequence[Segment]) -> Iterator[list[str]]:
        files = [segment.file for segment in segments]
        self._cache.hold(files)
        try:
            yield files
        finally:
            self._cache.release(files)

    @contextmanager
    def _published(self, segments: Sequence[Segment]) -> Iterator[Sequence[Segment]]:
        """New local segments, in the object store too while the block puts them into the catalogue; not kept where that fails."""
        files = [segment.file for segment in segments]
        for file in files:
            self._cache.adopt(file)
        try:
            for file in files:
                # Noted first, so that whatever a crash leaves is found, and removed once it is old.
                self._catalogue.note_loose(object_name(file))
                self._objects.put(object_name(file), self._cache.folder / file)
            yield segments
        except BaseException:
            self._cache.forget(files)
            raise
        finally:
            self._cache.release(files)


def _first(log: Sequence[LogRow], upto: int | None) -> list[LogRow]:
    chosen: list[LogRow] = []
    size = 0
    for row in log:
        size += row.bytes
        if (upto is not None and row.id > upto) or (chosen and size > FOLD_BYTES):
            break
        chosen.append(row)
    return chosen
