"""Events of the first layout: Parquet segments and logs of CSV fields, catalogued in state.db until its version 3."""

# ruff: noqa: S608 - only names of our own files are put together here
from __future__ import annotations

import json
import sqlite3
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing, nullcontext
from pathlib import Path
from typing import Any

from keen_pipeline.errors import ConfigurationError
from keen_pipeline.service.events.cells import decode_field
from keen_pipeline.service.events.incoming import Columns
from keen_pipeline.service.events.values import encode_value
from keen_pipeline.service.storage.engine import Engine, sql_text
from keen_pipeline.service.storage.folder.event_log import FileLogs, appends, log_numbers, log_path
from keen_pipeline.service.storage.folder.tables import FolderTables
from keen_pipeline.service.storage.store import FOLD_BYTES, EventStore

_BATCH = 256


def migrate_segments(database: Path, old: Path, new: FolderTables, logs: FileLogs, engine: Engine, max_properties: int) -> int:
    """Store every event of an older folder `old` again; returns how many. Nothing of the old one is changed.

    Raises ConfigurationError if the catalog names a file that is missing.
    """
    store = EventStore(new, logs, engine, max_properties, lambda name, wait: nullcontext(enter_result=True))
    total = 0
    with closing(sqlite3.connect(f"file:{database}?mode=ro", uri=True)) as connection:
        connection.row_factory = sqlite3.Row
        if connection.execute("PRAGMA user_version").fetchone()[0] not in (1, 2, 3):
            raise ConfigurationError(f"service: {database} does not catalogue the events in {old}; restore both from one copy")
        for collection in connection.execute("SELECT id, name FROM collections ORDER BY id").fetchall():
            paths = _paths(connection, collection["id"])
            for rows in _rows(connection, old / str(collection["id"]), collection["id"], engine):
                total += store.append(collection["name"], _encoder(rows, paths))
                stored = store.known(collection["name"])
                if stored is not None and any(backlog.bytes >= FOLD_BYTES for backlog in store.backlogs()):
                    store.fold(stored)
    return total


def _paths(connection: sqlite3.Connection, collection: int) -> dict[str, str]:
    rows = connection.execute("SELECT number, path FROM properties WHERE collection = ?", [collection]).fetchall()
    return {f"p{row['number']}": row["path"] for row in rows}


def _rows(connection: sqlite3.Connection, folder: Path, collection: int, engine: Engine) -> Iterator[list[dict[str, Any]]]:
    """The events in order of arrival, in batches: `t` and the cells by column."""
    for row in connection.execute("SELECT file FROM segments WHERE collection = ? ORDER BY position", [collection]).fetchall():
        path = folder / row["file"]
        if not path.is_file():
            raise ConfigurationError(f"service: {path} is missing, which the catalog names; restore it, then start again")
        with engine.cursor() as cursor:
            cursor.execute(f"SELECT * FROM read_parquet({sql_text(str(path))}, hive_partitioning = false)")
            names = [described[0] for described in cursor.description or []]
            while found := cursor.fetchmany(_BATCH):
                yield [{name: cell for name, cell in zip(names, one, strict=True) if cell is not None} for one in found]
    folded = {r["number"] for r in connection.execute("SELECT number FROM folded_logs WHERE collection = ?", [collection])}
    for number in log_numbers(folder) if folder.is_dir() else []:
        if number not in folded:
            for lines, _ in appends(_old_log(folder, number)):
                yield [json.loads(line) for line in lines]


def _old_log(folder: Path, number: int) -> Path:
    path = folder / f"{number:010d}.ndjson"
    return path if path.exists() else log_path(folder, number)


def _encoder(rows: Sequence[Mapping[str, Any]], paths: Mapping[str, str]) -> Callable[[Columns], list[str]]:
    def encode(columns: Columns) -> list[str]:
        lines = []
        for row in rows:
            values = {columns[paths[name]]: _text(cell) for name, cell in row.items() if name != "t"}
            lines.append(json.dumps({"t": row["t"], **values}, ensure_ascii=False, separators=(",", ":")))
        return lines

    return encode


def _text(cell: str) -> str:
    """The text of a value that was kept as a CSV field, in which a string that reads as JSON was written as the JSON of itself."""
    quoted = cell.startswith('"')
    field = cell[1:-1].replace('""', '"') if quoted else cell
    return encode_value(decode_field(field, quoted=quoted, nested='[{"'))
