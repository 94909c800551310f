"""The events of one collection that are in no segment yet, as files of this process, so that a query reads them like segments."""

from __future__ import annotations

import uuid
from collections.abc import Sequence
from dataclasses import dataclass, replace

from keen_pipeline.service.storage.catalog import Segment
from keen_pipeline.service.storage.segments import SegmentFiles
from keen_pipeline.service.storage.shared.catalogue import LogRow, Moment
from keen_pipeline.service.storage.shared.segment_cache import TAILS, SegmentCache

MAX_PARTS = 8


@dataclass(frozen=True)
class _Part:
    """A file, and the appends that it holds."""

    segment: Segment
    ids: frozenset[int]


class Tail:
    """Built part by part: what came since the last look becomes a further part. Not thread-safe: the collection's lock is held.

    First `fetch` at a moment, then `build`, which may take longer and needs no database.
    """

    def __init__(self, cache: SegmentCache, files: SegmentFiles) -> None:
        self._cache, self._files = cache, files
        self._folder = cache.folder / TAILS
        self._lines = self._folder / f"{uuid.uuid4().hex}.ndjson"
        self._parts: list[_Part] = []

    def fetch(self, moment: Moment, log: Sequence[LogRow]) -> list[LogRow]:
        """Bring the appends of a moment here; returns those that are new."""
        ids = {row.id for row in log}
        self._drop([part for part in self._parts if not part.ids <= ids])
        known = {row_id for part in self._parts for row_id in part.ids}
        new = [row for row in log if row.id not in known]
        if new:
            moment.write_lines(new, self._lines)
        return new

    def build(self, new: Sequence[LogRow], columns: Sequence[str]) -> list[Segment]:
        """The appends of the moment as segments, in order of arrival. `new`: those that were fetched."""
        if new:
            segment = self._files.fold(self._folder, [self._lines], columns, position=new[0].id)
            self._lines.unlink()
            self._take(_Part(segment, frozenset(row.id for row in new)))
        if len(self._parts) > MAX_PARTS:
            self._merge()
        return [replace(part.segment, file=f"{TAILS}/{part.segment.file}") for part in self._parts]

    def _merge(self) -> None:
        merged = self._files.merge(self._folder, [part.segment for part in self._parts])
        ids = frozenset(row_id for part in self._parts for row_id in part.ids)
        self._drop(list(self._parts))
        self._take(_Part(merged, ids))

    def _take(self, part: _Part) -> None:
        file = f"{TAILS}/{part.segment.file}"
        self._cache.adopt(file)  # held until it is dropped, so that it is never given up for room
        self._parts = sorted([*self._parts, part], key=lambda p: p.segment.position)

    def _drop(self, parts: Sequence[_Part]) -> None:
        files = [f"{TAILS}/{part.segment.file}" for part in parts]
        self._cache.forget(files)
        self._cache.release(files)
        self._parts = [part for part in self._parts if part not in parts]
