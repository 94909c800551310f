"""DuckDB inside the service: one in-memory database whose cursors read the events, bounded in memory and in time.

The macros read the texts of values (see `values`): what kind of value one is, its number, its string, its list, its CSV field,
and for finding unique values one text for 1 and 1.0.
"""

from __future__ import annotations

import errno
import os
import re
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import duckdb

from keen_pipeline.errors import KeenPipelineError, RetryableError
from keen_pipeline.service.cancellation import RequestCancelledError, current
from keen_pipeline.service.config import MIB
from keen_pipeline.service.storage.places import StorageError

_MACROS = """
CREATE MACRO is_number(v) AS (v >= '-' AND v < '.') OR (v >= '0' AND v < ':');
CREATE MACRO is_integer(v) AS NOT contains(v, '.') AND NOT contains(v, 'e');
CREATE MACRO value_number(v) AS CASE WHEN is_number(v) THEN TRY_CAST(v AS DOUBLE) END;
CREATE MACRO value_string(v) AS CASE WHEN starts_with(v, '"') THEN
    CASE WHEN contains(v, '\\') THEN json_extract_string(v, '$') ELSE substring(v, 2, length(v) - 2) END END;
CREATE MACRO value_list(v) AS CASE WHEN starts_with(v, '[') THEN v END;
CREATE MACRO value_kind(v) AS CASE
    WHEN v IS NULL THEN NULL WHEN starts_with(v, '"') THEN 'string' WHEN is_number(v) THEN 'num'
    WHEN v IN ('true', 'false') THEN 'bool' WHEN v = 'null' THEN 'null' WHEN starts_with(v, '[') THEN 'array' ELSE 'object' END;
CREATE MACRO is_csv_field(v) AS NOT contains(v, '\\')
    AND (v < '[' OR starts_with(v, '"') OR (NOT contains(v, ',') AND NOT contains(v, '"')));
CREATE MACRO csv_field(v) AS CASE WHEN is_csv_field(v) THEN v
    WHEN starts_with(v, '"') THEN '"' || replace(json_extract_string(v, '$'), '"', '""') || '"'
    WHEN contains(v, ',') OR contains(v, '"') THEN '"' || replace(v, '"', '""') || '"' ELSE v END;
CREATE MACRO unique_text(v) AS CASE
    WHEN NOT is_number(v) OR is_integer(v) THEN v WHEN ends_with(v, '.0') THEN CASE WHEN v = '-0.0' THEN '0' ELSE v[:-3] END
    WHEN contains(v, 'e+') THEN coalesce(TRY_CAST(TRY_CAST(v AS DOUBLE) AS BIGNUM)::VARCHAR, v) ELSE v END;
"""


RESERVE_SECONDS = 20.0
CLOSE_SECONDS = 5.0
_AGAIN_SECONDS = 0.05
_SHARE = 0.8  # of the memory; the rest is for those who need little and ask nobody
_THREAD_MIB = 128
_DISK_TROUBLE = (errno.EROFS, errno.EIO, errno.EACCES, errno.EPERM, errno.ESTALE)
RETRY_SECONDS = 30.0
"""After a shortage."""


class QueryTimeoutError(RetryableError):
    """A query ran longer than the service allows; a shorter timeframe may fit."""


class MemoryShortageError(RetryableError):
    """A query needs more memory than the service has, or than the others leave it now."""


class DiskFullError(KeenPipelineError):
    """There is no room on the disk for what was to be written; what is stored can be read. HTTP 507."""


def is_disk_full(error: BaseException) -> bool:
    """Whether an error of the system or of DuckDB says that the disk, or a quota or a limit of it, is full."""
    if isinstance(error, OSError):
        return error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
    return isinstance(error, duckdb.IOException) and any(
        words in str(error) for words in ("No space left", "File too large", "quota")
    )


def _missing(error: OSError | duckdb.IOException) -> str | None:
    """The file that an error of the system or of DuckDB says is not there."""
    if isinstance(error, FileNotFoundError):
        return str(error.filename2 or error.filename)
    found = re.search(r'No files found that match the pattern "(.*)"', str(error))
    return found[1] if found else None


def _trouble(error: OSError | duckdb.IOException) -> str | None:
    """What the system says of a disk that is there and can't be used, None if it is something else."""
    number, words = getattr(error, "errno", None), {one: os.strerror(one) for one in _DISK_TROUBLE}
    return words.get(number) if number is not None else next((text for text in words.values() if text in str(error)), None)


@contextmanager
def own_errors(what: str) -> Iterator[None]:
    """Turn shortages of memory and of disk, and losses, into errors of ours. `what`: begins their message, such as `the query`.

    Raises MemoryShortageError, DiskFullError, and StorageError for a file that was removed and for a disk that can't be used.
    """
    try:
        yield
    except duckdb.OutOfMemoryException as error:
        raise MemoryShortageError(
            f"{what} needs more memory than is free; ask again later or for a shorter timeframe, or give the service more"
            " (--memory-mib)",
            retry_after=RETRY_SECONDS,
        ) from error
    except (OSError, duckdb.IOException) as error:
        if (missing := _missing(error)) is not None:
            name = "/".join(Path(missing).parts[-3:])
            raise StorageError(f"{what} needs {name}, which was removed; put it back, then start the service again") from error
        if (trouble := _trouble(error)) is not None:
            raise StorageError(f"{what} fails, as the disk of the data folder can't be used ({trouble}); check it") from error
        if not is_disk_full(error):
            raise
        raise DiskFullError(f"{what} finds no room on the disk of the data folder; free some, then ask again") from error


class MemoryBudget:
    """Lets those begin who need much memory at once, in order of arrival, as far as there is so much. `mib`: of DuckDB."""

    def __init__(self, mib: float) -> None:
        self._mib = mib * _SHARE
        self._used = 0.0
        self._condition = threading.Condition()
        self._waiting: deque[object] = deque()

    @contextmanager
    def reserved(self, mib: float) -> Iterator[None]:
        """Have so much while the block runs; who needs more than there is has all. Raises MemoryShortageError after a while."""
        amount, ticket = min(mib, self._mib), object()
        with self._condition:
            self._waiting.append(ticket)
            try:
                free = self._condition.wait_for(
                    lambda: self._waiting[0] is ticket and self._used + amount <= self._mib, RESERVE_SECONDS
                )
            finally:
                self._waiting.remove(ticket)
                self._condition.notify_all()
            if not free:
                raise MemoryShortageError("other queries have the memory; ask again later", retry_after=RETRY_SECONDS)
            self._used += amount
        try:
            yield
        finally:
            with self._condition:
                self._used -= amount
                self._condition.notify_all()


class Engine:
    """The shared DuckDB database. `memory_mib`: its memory limit; `query_seconds`: after which a query is cancelled."""

    def __init__(self, folder: Path, memory_mib: int, query_seconds: float) -> None:
        spill = folder / "spill"
        for left in spill.glob("duckdb_temp_*"):
            left.unlink()
        self._query_seconds = query_seconds
        self._condition = threading.Condition()
        self._cursors: dict[duckdb.DuckDBPyConnection, Callable[[], Exception | None]] = {}  # and why each has to stop
        self._closed = False
        self.memory = MemoryBudget(memory_mib)
        self._root = duckdb.connect(":memory:")
        settings = {
            "memory_limit": f"{memory_mib * MIB // 1000}kB",
            "threads": str(_threads(self._root, memory_mib)),
            "temp_directory": str(spill),
            "preserve_insertion_order": "true",
            "autoinstall_known_extensions": "false",
            "autoload_known_extensions": "false",
            "enable_progress_bar": "false",
            "TimeZone": "UTC",
        }
        for name, value in settings.items():
            self._root.execute(f"SET {name} = '{value.replace(chr(39), chr(39) * 2)}'")
        self._root.execute(_MACROS)
        threading.Thread(target=self._watch, name="time limits", daemon=True).start()

    def _watch(self) -> None:
        """Interrupt what has to stop, again and again, as an interrupt that comes between two statements is lost."""
        with self._condition:
            while self._cursors or not self._closed:
                for cursor, problem in self._cursors.items():
                    if problem() is not None:
                        cursor.interrupt()
                self._condition.wait(_AGAIN_SECONDS)

    @contextmanager
    def cursor(self, *, seconds: float | None = None) -> Iterator[duckdb.DuckDBPyConnection]:
        """A connection for one thread, closed afterwards; cancelled after `seconds` (None: never), or when the client leaves.

        Raises QueryTimeoutError, RequestCancelledError.
        """
        began, left = time.monotonic(), current.get()

        def problem() -> Exception | None:
            if left is not None and left.is_set():
                return RequestCancelledError("the client left")
            if seconds is not None and time.monotonic() - began > seconds:
                return QueryTimeoutError(f"the query took longer than {seconds:g} s; ask for a shorter timeframe")
            return RetryableError("the service is shutting down") if self._closed else None

        with self._condition:
            if (found := problem()) is not None:
                raise found
            cursor = self._root.cursor()
            self._cursors[cursor] = problem
        try:
            yield cursor
        except duckdb.InterruptException:
            raise problem() or RetryableError("the query was interrupted") from None
        finally:
            with self._condition:
                del self._cursors[cursor]
                if self._closed:
                    self._condition.notify_all()
            cursor.close()

    @contextmanager
    def query(self) -> Iterator[duckdb.DuckDBPyConnection]:
        """A cursor bounded by the configured query time. Raises QueryTimeoutError, MemoryShortageError, DiskFullError."""
        with self.cursor(seconds=self._query_seconds) as cursor, own_errors("the query"):
            yield cursor

    def close(self) -> None:
        """Cancel what runs, and what begins to run on a cursor given out before; waits some seconds until all are back."""
        with self._condition:
            self._closed = True
            self._condition.wait_for(lambda: not self._cursors, CLOSE_SECONDS)


def one_row(cursor: duckdb.DuckDBPyConnection, sql: str, parameters: Sequence[object] = ()) -> tuple[Any, ...]:
    """The row of a query that has exactly one."""
    row: tuple[Any, ...] | None = cursor.execute(sql, parameters).fetchone()
    assert row is not None
    return row


def _threads(root: duckdb.DuckDBPyConnection, memory_mib: int) -> int:
    """As many as there are processors, or fewer: each holds a row group, and what it makes of that, whatever the memory is."""
    (processors,) = one_row(root, "SELECT current_setting('threads')")
    return min(int(processors), max(1, memory_mib // _THREAD_MIB))


def sql_text(text: str) -> str:
    """A text as an SQL literal, for the few places where DuckDB takes no bound parameter (names of our own files)."""
    return "'" + text.replace("'", "''") + "'"
