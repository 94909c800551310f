"""What lies where in a data folder, in which version, and how an older folder becomes a newer one.

`events/<collection>/`: one Delta table each. `log/<collection>/`: appends that are in no table yet, or were not long ago.
`work/`: files that are being written, worth nothing after a crash. `state.db`: records of extractions. `layout.json`: the version.
"""

from __future__ import annotations

import json
import logging
import shutil
import time
from pathlib import Path

from keen_pipeline.errors import ConfigurationError
from keen_pipeline.service.credentials import write_private
from keen_pipeline.service.storage.engine import Engine
from keen_pipeline.service.storage.folder.event_log import FileLogs
from keen_pipeline.service.storage.folder.migration import migrate_segments
from keen_pipeline.service.storage.folder.presence import sync
from keen_pipeline.service.storage.folder.tables import FolderTables

VERSION = 2
_FILE = "layout.json"
_DONE = "done"
_log = logging.getLogger(__name__)


def open_layout(data: Path, engine: Engine, max_properties: int) -> tuple[FolderTables, FileLogs]:
    """The tables and logs of a data folder, made if they are missing, upgraded if they are older.

    Nothing that is there is deleted: what an older version wrote is set aside beside it, under a name that the log tells.
    Raises ConfigurationError for a folder of a newer version, and for one whose events are in a shared storage.
    """
    data.mkdir(mode=0o700, parents=True, exist_ok=True)
    found = _version(data)
    if found is not None and found != VERSION:
        raise ConfigurationError(f"service: {data} has layout {found}, this version reads {VERSION}; use the version that wrote it")
    if found is None and (data / "shared").is_dir():
        raise ConfigurationError(
            f"service: the events of {data} are in a shared storage: give --catalogue and --storage as before, or another --data"
        )
    work = data / "work"
    if found is not None:
        shutil.rmtree(work, ignore_errors=True)
    work.mkdir(mode=0o700, exist_ok=True)
    if found is None:
        _bring_up(data, work, engine, max_properties)
        _note_version(data)
    return FolderTables(data / "events", data / "log", work), FileLogs(data / "log", max_properties)


def _version(data: Path) -> int | None:
    try:
        return int(json.loads((data / _FILE).read_text(encoding="utf-8"))["layout"])
    except FileNotFoundError:
        return None
    except (OSError, ValueError, KeyError, TypeError):
        raise ConfigurationError(
            f"service: {data / _FILE} can't be read; restore it, which holds {json.dumps({'layout': VERSION})}"
        ) from None


def _note_version(data: Path) -> None:
    write_private(data / _FILE, json.dumps({"layout": VERSION}) + "\n")
    sync(data)


def _bring_up(data: Path, work: Path, engine: Engine, max_properties: int) -> None:
    """From the first layout, `events/<number>/` with its catalog in state.db; a crash leaves that, or a finished one."""
    new, old = data / "migration", data / "events"
    if not (new / _DONE).exists():
        shutil.rmtree(new, ignore_errors=True)
        if (data / "log").is_dir() or any(old.glob("*/_delta_log")) or not old.is_dir() or not any(old.iterdir()):
            return  # a copy that lacks layout.json, as an older layout has no such folders; or nothing at all
        if not (data / "state.db").exists():
            _log.error("events of an older version without their catalog were set aside", extra={"folder": str(_aside(old))})
            return
        new.mkdir(mode=0o700)
        _log.info("events of an older version are being converted", extra={"folder": str(old)})
        tables, logs = FolderTables(new / "events", new / "log", work), FileLogs(new / "log", max_properties)
        events = migrate_segments(data / "state.db", old, tables, logs, engine, max_properties)
        write_private(new / _DONE, f"{events}\n")
        sync(new)
    _switch(data, new)


def _switch(data: Path, new: Path) -> None:
    """Put what was converted into its place; every step may be the last one before a crash."""
    if (new / "events").exists() and (data / "events").exists():
        events = (new / _DONE).read_text().strip()
        aside = str(_aside(data / "events"))
        _log.warning("events were converted; the older files can be removed", extra={"events": events, "folder": aside})
    for name in ("events", "log"):
        if (new / name).exists():
            (new / name).rename(data / name)
    sync(data)
    _note_version(data)
    shutil.rmtree(new)


def _aside(folder: Path) -> Path:
    aside = folder.with_name(f"{folder.name}.set-aside-{int(time.time())}")
    folder.rename(aside)
    return aside
