"""The catalogue: a Delta table per collection, whose commits say which files hold its events.

The schema is `t` and one text column per property, whose path stands in the column's metadata. The application transaction `log`
is the watermark: the newest log whose events are in the table. Every change is one commit, made from the snapshot that was read:
if another process changed the same first, it fails, and nothing is changed.
"""

from __future__ import annotations

import json
import logging
import math
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

from deltalake import DeltaTable, Field, Schema
from deltalake.exceptions import CommitFailedError, DeltaError, TableNotFoundError
from deltalake.schema import PrimitiveType
from deltalake.transaction import AddAction, CommitProperties, RemoveAction, Transaction, create_table_with_add_actions

from keen_pipeline.errors import RetryableError, ServiceUnavailableError
from keen_pipeline.service.storage.engine import RETRY_SECONDS, DiskFullError
from keen_pipeline.service.storage.parts import DataFile, column_order
from keen_pipeline.service.storage.places import StorageError, TablePlace

COMMIT_TRIES = 10
CHECKPOINT_COMMITS = 50
_APP = "log"
_PATH = "keen.path"
_TIME = Field("t", PrimitiveType("long"))
_SETTINGS: dict[str, str] = {
    "delta.dataSkippingStatsColumns": "t",  # statistics of other columns would be prefixes of JSON
    "delta.checkpointInterval": str(CHECKPOINT_COMMITS),
    "delta.logRetentionDuration": "interval 2 days",  # as for files that were replaced; a commit each 30 s makes 90,000 in a month
}
_log = logging.getLogger(__name__)


class OvertakenError(RetryableError):
    """Another process changed the same events first; nothing was changed."""


@dataclass(frozen=True)
class TableState:
    """A table at one version. `files`: in order of arrival. `columns`: names by path. `watermark`: the newest log in it."""

    version: int
    watermark: int
    files: tuple[DataFile, ...]
    columns: Mapping[str, str]


EMPTY = TableState(-1, 0, (), {})


class Table:
    """The table of one collection. `shared`: whether other processes change it too. Every method may be called from any thread.

    Raises ServiceUnavailableError while its storage is away, DiskFullError.
    """

    def __init__(self, place: TablePlace, *, shared: bool) -> None:
        self._place, self._shared = place, shared
        self._lock = threading.Lock()
        self._delta: DeltaTable | None = None
        self._state: TableState | None = None

    def state(self) -> TableState:
        """The newest version; EMPTY if there is no table yet."""
        state = self._state
        if state is not None and not self._shared:
            return state  # nobody else changes it, and a commit that is being made is not waited for
        with self._lock, _storage_errors():
            return self._refreshed()

    def _refreshed(self) -> TableState:
        delta = self._newest()
        if delta is None:
            self._state = EMPTY
        elif self._state is None or self._state.version != delta.version():
            self._state = read_state(delta)
        return self._state

    def _newest(self) -> DeltaTable | None:
        if self._delta is not None:
            self._delta.update_incremental()
            return self._delta
        try:
            delta = DeltaTable(self._place.uri, storage_options=self._place.options)
        except TableNotFoundError:
            if self._state is not None and self._state is not EMPTY:  # a new one would show none of the events there are
                name = self._place.uri.rsplit("/", 1)[-1]
                raise StorageError(f"the table of {name} was removed; put it back, then start the service again") from None
            return None
        if self._shared:
            self._delta = delta  # an own one is opened for each commit, so that thousands of them take no memory
        return delta

    def commit(
        self,
        *,
        add: Sequence[DataFile] = (),
        remove: Sequence[DataFile] = (),
        watermark: tuple[int, int] | None = None,
        columns: Mapping[str, str] | None = None,
    ) -> None:
        """Put files in the place of others. `watermark`: the one that was read, and the new one. `columns`: by path, of new files.

        Raises OvertakenError if the watermark or a file that goes is another by now.
        """
        with self._lock, _storage_errors():
            for _ in range(COMMIT_TRIES):
                delta = self._newest() or self._create(columns or {})
                state = self._state = read_state(delta)  # also when the end of a commit before this one could not be seen
                if watermark is not None and state.watermark != watermark[0]:
                    raise OvertakenError("another process took in the same events first; ask again")
                if not {file.name for file in remove} <= {file.name for file in state.files}:
                    raise OvertakenError("another process rewrote the same events first; ask again")
                new = {path: name for path, name in (columns or {}).items() if path not in state.columns}
                try:
                    if self._prepare(delta, new):
                        continue  # commits of their own, between which and the next one others may have made theirs: read again
                    self._commit(delta, add, remove, watermark[1] if watermark else None)
                except CommitFailedError:
                    continue
                self._state = read_state(delta)
                return
        raise OvertakenError("other processes change the same table all the time; ask again", retry_after=1)

    def _create(self, columns: Mapping[str, str]) -> DeltaTable:
        schema = Schema([_TIME, *_fields(columns)])
        create_table_with_add_actions(
            self._place.uri, schema, [], mode="ignore", configuration=_SETTINGS, storage_options=self._place.options
        )
        self._place.committed(0)
        delta = self._newest()
        assert delta is not None
        return delta

    def _prepare(self, delta: DeltaTable, new_columns: Mapping[str, str]) -> bool:
        """Add columns, and settings that a table of an older release lacks; whether there were any."""
        lacking = not _SETTINGS.items() <= delta.metadata().configuration.items()
        if new_columns:
            delta.alter.add_columns(_fields(new_columns))
            self._committed(delta)
        if lacking:
            delta.alter.set_table_properties(_SETTINGS)
            self._committed(delta)
        return lacking or bool(new_columns)

    def _commit(self, delta: DeltaTable, add: Sequence[DataFile], remove: Sequence[DataFile], watermark: int | None) -> None:
        now = int(time.time() * 1000)
        actions: list[AddAction | RemoveAction] = [
            *(AddAction(file.name, file.bytes, {}, now, data_change=True, stats=_statistics(file)) for file in add),
            *(RemoveAction(file.name, data_change=True, deletion_timestamp=now, size=file.bytes) for file in remove),
        ]
        transactions = [Transaction(_APP, watermark)] if watermark is not None else None
        delta.create_write_transaction(
            actions, "append", delta.schema(), commit_properties=CommitProperties(app_transactions=transactions)
        )
        self._committed(delta)

    def _committed(self, delta: DeltaTable) -> None:
        delta.update_incremental()
        self._place.committed(delta.version())

    def sweep(self, seconds: float) -> None:
        """Remove the files that left the table so long ago, rounded up to whole hours. What the table never named stays."""
        hours = math.ceil(seconds / 3600)
        with self._lock, _storage_errors():
            delta = self._newest()
            if delta is None or not delta.vacuum(hours, dry_run=True, enforce_retention_duration=False):
                return
            removed = delta.vacuum(hours, dry_run=False, enforce_retention_duration=False)
            self._committed(delta)
            _log.info("files removed that left their table", extra={"table": self._place.uri, "files": removed})


@contextmanager
def _storage_errors() -> Iterator[None]:
    """deltalake raises its own errors, and those of the system; their texts may hold addresses with signatures."""
    try:
        yield
    except (DeltaError, OSError) as error:
        text = str(error)
        if "No space left" in text or "os error 28" in text or "File too large" in text:
            raise DiskFullError("there is no room for the table of the events; free some") from error
        raise ServiceUnavailableError(
            f"the table of the events can't be used now ({type(error).__name__}); ask again later", retry_after=RETRY_SECONDS
        ) from error


def _fields(columns: Mapping[str, str]) -> list[Field]:
    by_name = {name: path for path, name in columns.items()}
    return [Field(name, PrimitiveType("string"), metadata={_PATH: by_name[name]}) for name in column_order(by_name)]


def _statistics(file: DataFile) -> str:
    bounds = {"minValues": {"t": file.first}, "maxValues": {"t": file.last}, "nullCount": {"t": 0}}
    return json.dumps({"numRecords": file.events, **bounds})


def read_state(delta: DeltaTable) -> TableState:
    actions = delta.get_add_actions(flatten=True)
    names = ("path", "num_records", "min.t", "max.t", "size_bytes")
    rows = zip(*(actions[name].to_pylist() for name in names), strict=True) if actions.num_rows else []
    files = sorted((DataFile(*row) for row in rows), key=lambda file: (file.number, file.name))
    columns = {str(f.metadata[_PATH]): f.name for f in delta.schema().fields if _PATH in f.metadata}
    return TableState(delta.version(), delta.transaction_version(_APP) or 0, tuple(files), columns)
