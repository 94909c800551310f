"""DuckDB inside the service: one in-memory database whose cursors read the segments, bounded in memory and in time.

The macros read cells (see `cells`): what kind of value a cell holds, its number, its string, its list.
"""

from __future__ import annotations

import shutil
import threading
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path

import duckdb

from keen_pipeline.errors import RetryableError
from keen_pipeline.service import cancellation
from keen_pipeline.service.config import MIB

_MACROS = """
CREATE MACRO cell_text(c) AS CASE WHEN starts_with(c, '"') THEN replace(substring(c, 2, length(c) - 2), '""', '"') ELSE c END;
CREATE MACRO is_number(c) AS (c >= '-' AND c < '.') OR (c >= '0' AND c < ':');
CREATE MACRO cell_number(c) AS CASE WHEN is_number(c) THEN TRY_CAST(c AS DOUBLE) END;
CREATE MACRO text_is_json(x) AS (starts_with(x, '[') OR starts_with(x, '{') OR starts_with(x, '"')) AND json_valid(x);
CREATE MACRO cell_list(c) AS CASE WHEN starts_with(cell_text(c), '[') AND json_valid(cell_text(c)) THEN cell_text(c) END;
CREATE MACRO cell_string(c) AS CASE
    WHEN is_number(c) OR c IN ('null', 'true', 'false') THEN NULL
    WHEN text_is_json(cell_text(c)) THEN CASE WHEN starts_with(cell_text(c), '"') THEN json_extract_string(cell_text(c), '$') END
    ELSE cell_text(c) END;
CREATE MACRO cell_kind(c) AS CASE
    WHEN c IS NULL THEN NULL WHEN is_number(c) THEN 'num' WHEN c IN ('true', 'false') THEN 'bool' WHEN c = 'null' THEN 'null'
    WHEN c > '.' AND c < '[' THEN 'string' WHEN c > '^' AND c < '{' THEN 'string'
    WHEN text_is_json(cell_text(c)) THEN
        CASE WHEN starts_with(cell_text(c), '[') THEN 'array' WHEN starts_with(cell_text(c), '{') THEN 'object' ELSE 'string' END
    ELSE 'string' END;
"""


class QueryTimeoutError(RetryableError):
    """A query ran longer than the service allows; a shorter timeframe may fit."""


class MemoryShortageError(RetryableError):
    """A query needs more memory than the service has, or than the others leave it now."""


class Engine:
    """The shared DuckDB database. `memory_mib`: its memory limit; `query_seconds`: after which a query is cancelled."""

    def __init__(self, folder: Path, memory_mib: int, query_seconds: float) -> None:
        self._spill = folder / "spill"
        shutil.rmtree(self._spill, ignore_errors=True)
        self._query_seconds = query_seconds
        self._lock = threading.Lock()
        self._cursors: set[duckdb.DuckDBPyConnection] = set()
        self._closed = False
        self._root = duckdb.connect(":memory:")
        settings = {
            "memory_limit": f"{memory_mib * MIB // 1000}kB",
            "temp_directory": str(self._spill),
            "preserve_insertion_order": "true",
            "autoinstall_known_extensions": "false",
            "autoload_known_extensions": "false",
            "enable_progress_bar": "false",
            "TimeZone": "UTC",
        }
        for name, value in settings.items():
            self._root.execute(f"SET {name} = '{value.replace(chr(39), chr(39) * 2)}'")
        self._root.execute(_MACROS)

    @contextmanager
    def cursor(self, *, seconds: float | None = None) -> Iterator[duckdb.DuckDBPyConnection]:
        """A connection for one thread, closed afterwards; cancelled after `seconds` (None: never).

        Raises QueryTimeoutError.
        """
        with self._lock:
            if self._closed:
                raise RetryableError("the service is shutting down")
            cursor = self._root.cursor()
            self._cursors.add(cursor)
        expired = threading.Event()

        def cancel() -> None:
            expired.set()
            cursor.interrupt()

        timer = threading.Timer(seconds, cancel) if seconds is not None else None
        if timer is not None:
            timer.daemon = True
            timer.start()
        request = cancellation.current()
        try:
            with request.watching(cursor) if request is not None else nullcontext():
                yield cursor
        except duckdb.InterruptException:
            if request is not None and request.cancelled:
                raise cancellation.RequestCancelledError("the client left") from None
            if expired.is_set():
                raise QueryTimeoutError(f"the query took longer than {seconds:g} s; ask for a shorter timeframe") from None
            raise RetryableError("the service is shutting down") from None
        finally:
            if timer is not None:
                timer.cancel()
            with self._lock:
                self._cursors.discard(cursor)
            cursor.close()

    @contextmanager
    def query(self) -> Iterator[duckdb.DuckDBPyConnection]:
        """A cursor bounded by the configured query time. Raises QueryTimeoutError, MemoryShortageError."""
        with self.cursor(seconds=self._query_seconds) as cursor:
            try:
                yield cursor
            except duckdb.OutOfMemoryException as error:
                raise MemoryShortageError(
                    "the query needs more memory than is free; ask again later or for a shorter timeframe, or give the service more"
                    " (--memory-mib)"
                ) from error

    def close(self) -> None:
        """Cancel what runs and close the database."""
        with self._lock:
            self._closed = True
            for cursor in self._cursors:
                cursor.interrupt()


def sql_text(text: str) -> str:
    """A text as an SQL literal, for the few places where DuckDB takes no bound parameter (names of our own files)."""
    return "'" + text.replace("'", "''") + "'"
