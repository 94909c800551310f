"""What lies where in a data folder, in which version, and how an older folder becomes a newer one.

`events/<collection>/`: one Delta table each. `log/<collection>/`: appends that are in no table yet, or were not long ago.
`work/`: files that are being written, worth nothing after a crash. `state.db`: records of extractions. `layout.json`: the version.
"""

from __future__ import annotations

import json
import logging
import shutil
import time
from dataclasses import dataclass
from pathlib import Path

from keen_pipeline.errors import ConfigurationError
from keen_pipeline.service.storage.engine import Engine
from keen_pipeline.service.storage.event_log import FileLogs, sync_file, sync_folder
from keen_pipeline.service.storage.folder import FolderTables
from keen_pipeline.service.storage.migration import migrate_segments

VERSION = 2
_FILE = "layout.json"
_DONE = "done"
_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Layout:
    """The folders for events."""

    events: Path
    logs: Path
    work: Path


def open_layout(data: Path, engine: Engine, max_properties: int) -> Layout:
    """The folders of a data folder, made where they are missing, brought up where they are older.

    Nothing that is there is deleted: what an older version wrote is set aside beside it, under a name that the log tells.
    Raises ConfigurationError for a folder of a newer version.
    """
    data.mkdir(mode=0o700, parents=True, exist_ok=True)
    layout = Layout(data / "events", data / "log", data / "work")
    found = _version(data)
    if found is not None and found != VERSION:
        raise ConfigurationError(f"service: {data} has layout {found}, this version reads {VERSION}; use the version that wrote it")
    shutil.rmtree(layout.work, ignore_errors=True)
    if found is None:
        _bring_up(data, layout, engine, max_properties)
        _note_version(data)
    for folder in (layout.events, layout.logs, layout.work):
        folder.mkdir(mode=0o700, exist_ok=True)
    return layout


def _version(data: Path) -> int | None:
    try:
        return int(json.loads((data / _FILE).read_text(encoding="utf-8"))["layout"])
    except FileNotFoundError:
        return None
    except (OSError, ValueError, KeyError, TypeError):
        raise ConfigurationError(f"service: {data / _FILE} can't be read; it holds the version of the folder's layout") from None


def _note_version(data: Path) -> None:
    part = data / f"{_FILE}.part"
    part.write_text(json.dumps({"layout": VERSION}) + "\n", encoding="utf-8")
    part.chmod(0o600)
    sync_file(part)
    part.rename(data / _FILE)
    sync_folder(data)


def _bring_up(data: Path, layout: Layout, engine: Engine, max_properties: int) -> None:
    """From the first layout, `events/<number>/` with its catalog in state.db; a crash leaves that, or a finished one."""
    new = data / "migration"
    if (new / _DONE).exists():
        _switch(data, new, layout)
        return
    shutil.rmtree(new, ignore_errors=True)
    old = data / "events"
    if layout.logs.is_dir() or not old.is_dir() or not any(old.iterdir()):
        return  # a copy that lacks layout.json alone, as an older layout has no such folder; or nothing at all
    if not (data / "state.db").exists():
        aside = _aside(old)
        _log.error("events of an older version without their catalog were set aside", extra={"folder": str(aside)})
        return
    for folder in (new, layout.work):
        folder.mkdir(mode=0o700)
    _log.info("events of an older version are being converted", extra={"folder": str(old)})
    tables = FolderTables(new / "events", new / "log", layout.work)
    events = migrate_segments(data / "state.db", old, tables, FileLogs(new / "log", max_properties), engine, max_properties)
    (new / _DONE).write_text(f"{events}\n")
    sync_file(new / _DONE)
    sync_folder(new)
    _switch(data, new, layout)


def _switch(data: Path, new: Path, layout: Layout) -> None:
    """Put what was converted into its place; every step may be the last one before a crash."""
    events = (new / _DONE).read_text().strip()
    if (new / "events").exists() and layout.events.exists():
        aside = _aside(layout.events)
        _log.warning("events were converted; the older files can be removed", extra={"events": events, "folder": str(aside)})
    for made, place in ((new / "events", layout.events), (new / "log", layout.logs)):
        if made.exists():
            made.rename(place)
    sync_folder(data)
    _note_version(data)
    shutil.rmtree(new)


def _aside(folder: Path) -> Path:
    aside = folder.with_name(f"{folder.name}.set-aside-{int(time.time())}")
    folder.rename(aside)
    return aside
