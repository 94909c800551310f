"""Files of the object store as files of this machine: fetched once, as they never change, and given up for newer ones."""

from __future__ import annotations

import shutil
import threading
import uuid
from collections import OrderedDict
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from weakref import WeakValueDictionary

from keen_pipeline.errors import RetryableError, ServiceUnavailableError
from keen_pipeline.service.storage.places import ObjectStore

_FETCHERS = 4
_MAGIC = b"PAR1"
_CHUNK_BYTES = 1024 * 1024


class FileGoneError(RetryableError):
    """The storage has no such object: its file was replaced long ago, and the events are in others now, or it is lost."""

    def __init__(self, name: str) -> None:
        super().__init__("the events were rewritten while they were read; ask again", retry_after=1)
        self.name = name


class FileCache:
    """The files in `folder`, by the names of their objects, together at most `max_bytes`, and more only while they are held.

    `folder` outlives the process.
    """

    def __init__(self, folder: Path, objects: ObjectStore, max_bytes: int) -> None:
        self._folder = folder
        self._objects = objects
        self._max_bytes = max_bytes
        self._lock = threading.Lock()
        self._sizes: OrderedDict[str, int] = OrderedDict()  # by file, the least recently held first
        self._holds: dict[str, int] = {}
        self._fetching: WeakValueDictionary[str, threading.Lock] = WeakValueDictionary()
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        for path in folder.iterdir():
            if path.suffix == ".parquet" and _is_whole(path):
                self._sizes[path.name] = path.stat().st_size
            else:
                path.unlink()  # half a file, or one that a machine without power left
        self._pool = ThreadPoolExecutor(_FETCHERS, thread_name_prefix="fetch")
        with self._lock:
            self._make_room()

    def path(self, name: str) -> Path:
        """Where an object is while it is held."""
        return self._folder / _file(name)

    def hold(self, names: Iterable[str]) -> None:
        """Have objects here until they are released. Raises FileGoneError, ServiceUnavailableError; then none is held."""
        wanted = list(names)
        with self._lock:
            for file in map(_file, wanted):
                self._holds[file] = self._holds.get(file, 0) + 1
                if file in self._sizes:
                    self._sizes.move_to_end(file)
            missing = [name for name in wanted if not self._has(_file(name))]
        try:
            for _ in self._pool.map(self._fetch, missing):
                pass
        except BaseException:
            self.release(wanted)
            raise

    def _has(self, file: str) -> bool:
        return file in self._sizes and (self._folder / file).is_file()

    def release(self, names: Iterable[str]) -> None:
        """Objects are no longer needed by one who held them."""
        with self._lock:
            for file in map(_file, names):
                self._holds[file] -= 1
                if not self._holds[file]:
                    del self._holds[file]
            self._make_room()

    def adopt(self, name: str, made: Path) -> None:
        """Take in a file that was made here and is an object by now."""
        size = made.stat().st_size
        self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        made.rename(self.path(name))
        with self._lock:
            self._sizes[_file(name)] = size
            self._make_room()

    def close(self) -> None:
        self._pool.shutdown(cancel_futures=True)

    def _fetch(self, name: str) -> None:
        file = _file(name)
        with self._lock:
            turn = self._fetching.setdefault(file, threading.Lock())
        with turn:
            with self._lock:
                if self._has(file):
                    return
            self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)  # whoever tidies the machine may have removed it
            part = self._folder / f"{uuid.uuid4().hex}.part"
            try:
                with self._objects.open(name) as source, part.open("xb") as copy:
                    part.chmod(0o600)
                    shutil.copyfileobj(source, copy, _CHUNK_BYTES)
                if not _is_whole(part):
                    raise ServiceUnavailableError("the storage gave an incomplete file of events; ask again")
                size = part.stat().st_size
                part.rename(self._folder / file)
            except FileNotFoundError:
                raise FileGoneError(name) from None
            finally:
                part.unlink(missing_ok=True)
            with self._lock:
                self._sizes[file] = size

    def _make_room(self) -> None:
        total = sum(self._sizes.values())
        for file in list(self._sizes):
            if total <= self._max_bytes:
                return
            if file not in self._holds:
                total -= self._sizes.pop(file)
                (self._folder / file).unlink(missing_ok=True)


def _file(name: str) -> str:
    return name.replace("/", ".")


def _is_whole(path: Path) -> bool:
    """A Parquet file begins and ends with its mark, so one that was cut off is not used."""
    with path.open("rb") as file:
        begin = file.read(len(_MAGIC))
        file.seek(-len(begin), 2)
        return begin == _MAGIC == file.read()
