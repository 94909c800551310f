"""Where tables and logs lie: what the store of events asks of a folder, or of an object store and a database."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Protocol

from keen_pipeline.service.events.incoming import Columns
from keen_pipeline.service.storage.parts import Backlog, DataFile, LogPart
from keen_pipeline.service.storage.tables import TablePlace


class Log(Protocol):
    """The logs of one collection. Every method may be called from any thread."""

    columns: dict[str, str]

    def append(self, encode: Callable[[Columns], Sequence[str]]) -> int:
        """Store the lines that `encode` makes, which may be called again; they are durable then. Returns their number."""
        ...

    def parts(self, watermark: int) -> list[LogPart]:
        """Every append above a watermark that was acknowledged until now, in order."""
        ...

    def folded(self, watermark: int) -> None:
        """The logs up to a watermark are in the table."""
        ...

    def sweep(self, watermark: int, seconds: float) -> None:
        """Remove logs that have been in the table for so many seconds."""
        ...


class Logs(Protocol):
    """Where the logs lie."""

    def names(self) -> list[str]:
        """The collections that have logs."""
        ...

    def open(self, name: str, columns: Mapping[str, str], watermark: int) -> Log:
        """The logs of a collection, made where there are none. `columns`, `watermark`: what its table has."""
        ...

    def backlogs(self) -> list[Backlog]:
        """The collections of which some appends are in no table yet."""
        ...

    def exclusive(self, name: str, work: str, wait: float) -> AbstractContextManager[bool]:
        """Whether this process alone does some work on a collection while the block runs. `wait`: for others, in seconds."""
        ...


class Tables(Protocol):
    """Where the tables lie. `work`: the folder in which files are written. `shared`: whether other processes change them."""

    shared: bool
    work: Path

    def names(self) -> list[str]:
        """The collections that have a table, as far as the place can tell."""
        ...

    def place(self, name: str) -> TablePlace:
        """Where one lies."""
        ...

    def publish(self, name: str, files: Sequence[DataFile]) -> None:
        """Put files from the folder `work` where the table will look for them."""
        ...

    def hold(self, name: str, files: Iterable[DataFile]) -> dict[DataFile, Path]:
        """Have files on this machine until they are released."""
        ...

    def release(self, name: str, files: Iterable[DataFile]) -> None:
        """They are no longer needed by one who held them."""
        ...

    def close(self) -> None:
        """Nothing is held any more."""
        ...
