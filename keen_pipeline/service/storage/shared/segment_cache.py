"""Segments of the object store as files of this machine: fetched once, as they never change, and given up for newer ones."""

from __future__ import annotations

import shutil
import threading
import uuid
from collections import OrderedDict
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from keen_pipeline.errors import RetryableError, ServiceUnavailableError
from keen_pipeline.service.storage.shared.objects import ObjectStore

TAILS = "tails"
"""The folder of files that are this process's alone."""

_FETCHERS = 4
_FOLDER = "events"
_MAGIC = b"PAR1"
_CHUNK_BYTES = 1024 * 1024


class SegmentGoneError(RetryableError):
    """A segment was replaced long ago; the events are in others now."""


def object_name(file: str) -> str:
    """What a segment's file is called in the object store."""
    return f"{_FOLDER}/{file}"


class SegmentCache:
    """The files in `folder`, together at most `max_bytes`, and more only while they are held. `folder` outlives the process."""

    def __init__(self, folder: Path, objects: ObjectStore, max_bytes: int) -> None:
        self.folder = folder
        self._objects = objects
        self._max_bytes = max_bytes
        self._lock = threading.Lock()
        self._sizes: OrderedDict[str, int] = OrderedDict()  # the least recently held first
        self._holds: dict[str, int] = {}
        self._doomed: set[str] = set()
        self._fetching: dict[str, threading.Lock] = {}
        shutil.rmtree(folder / TAILS, ignore_errors=True)
        (folder / TAILS).mkdir(parents=True)
        for path in folder.iterdir():
            if path.suffix == ".parquet":
                self._sizes[path.name] = path.stat().st_size
            elif path.name != TAILS:
                path.unlink()
        self._pool = ThreadPoolExecutor(_FETCHERS, thread_name_prefix="fetch")
        with self._lock:
            self._make_room()

    @property
    def bytes(self) -> int:
        """Of all files."""
        with self._lock:
            return sum(self._sizes.values())

    def hold(self, files: Iterable[str]) -> None:
        """Have files here until they are released. Raises SegmentGoneError, ServiceUnavailableError; then none is held."""
        wanted = list(files)
        with self._lock:
            for file in wanted:
                self._holds[file] = self._holds.get(file, 0) + 1
                if file in self._sizes:
                    self._sizes.move_to_end(file)
            missing = [file for file in wanted if file not in self._sizes]
        try:
            for _ in self._pool.map(self._fetch, missing):
                pass
        except BaseException:
            self.release(wanted)
            raise

    def release(self, files: Iterable[str]) -> None:
        """Files are no longer needed by one who held them."""
        with self._lock:
            for file in files:
                self._holds[file] -= 1
                if not self._holds[file]:
                    del self._holds[file]
                    if file in self._doomed:
                        self._doomed.discard(file)
                        self._remove(file)
            self._make_room()

    def adopt(self, file: str) -> None:
        """Take in, and hold, a file that was made in the folder."""
        size = (self.folder / file).stat().st_size
        with self._lock:
            self._sizes[file] = size
            self._holds[file] = self._holds.get(file, 0) + 1

    def forget(self, files: Iterable[str]) -> None:
        """Remove files that nobody will ask for again, once nobody holds them."""
        with self._lock:
            for file in files:
                if self._holds.get(file):
                    self._doomed.add(file)
                elif file in self._sizes:
                    self._remove(file)

    def close(self) -> None:
        """Fetch nothing any more."""
        self._pool.shutdown(cancel_futures=True)

    def _fetch(self, file: str) -> None:
        with self._lock:
            turn = self._fetching.setdefault(file, threading.Lock())
        with turn:
            with self._lock:
                if file in self._sizes:
                    return
            part = self.folder / f"{file}.{uuid.uuid4().hex}.tmp"
            try:
                with self._objects.open(object_name(file)) as source, part.open("xb") as copy:
                    shutil.copyfileobj(source, copy, _CHUNK_BYTES)
                _check_whole(part)
                size = part.stat().st_size
                part.rename(self.folder / file)
            except FileNotFoundError:
                raise SegmentGoneError("the events were rewritten while they were read; ask again") from None
            finally:
                part.unlink(missing_ok=True)
                with self._lock:
                    self._fetching.pop(file, None)
            with self._lock:
                self._sizes[file] = size

    def _make_room(self) -> None:
        total = sum(self._sizes.values())
        for file in list(self._sizes):
            if total <= self._max_bytes:
                return
            if file not in self._holds:
                total -= self._sizes[file]
                self._remove(file)

    def _remove(self, file: str) -> None:
        self._sizes.pop(file, None)
        (self.folder / file).unlink(missing_ok=True)


def _check_whole(path: Path) -> None:
    """A Parquet file begins and ends with its mark, so one that was cut off is not used."""
    with path.open("rb") as file:
        begin = file.read(len(_MAGIC))
        file.seek(-min(len(_MAGIC), path.stat().st_size), 2)
        if begin != _MAGIC or file.read() != _MAGIC:
            raise ServiceUnavailableError("the storage gave an incomplete file of events; ask again")
