"""What several commands share: the service for the command's time, parsing, tables, JSON."""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import sys
import time
from collections.abc import Generator, Iterator, Sequence
from contextlib import closing, contextmanager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from click.shell_completion import CompletionItem
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, ProgressColumn, SpinnerColumn, TextColumn, TimeElapsedColumn
from rich.table import Table

from keen_pipeline.collection import Collection
from keen_pipeline.collections_file import read_collections_file
from keen_pipeline.errors import ConfigurationError, InvalidInputError, KeenPipelineError
from keen_pipeline.lifecycle import Entry
from keen_pipeline.pipeline import Counted, Ended, Hindered, Landed, Retrying, Stopped, verdict
from keen_pipeline.pipeline import Progress as Waiting
from keen_pipeline.pipeline.extractions.wait import Event
from keen_pipeline.pipeline.sample import sample_collections
from keen_pipeline.pipeline.told import few
from keen_pipeline.service import embedded
from keen_pipeline.settings import Settings
from keen_pipeline.timeframe import format_instant

if TYPE_CHECKING:
    # The ledger brings SQLAlchemy, which not every command needs.
    from keen_pipeline.ledger import SqlLedger
    from keen_pipeline.ledger.scopes import ScopeSummary

# Names, errors of a service and of a storage stand as they are: a bracket in them isn't markup, `body:email:domain` has no emoji in
# it, and in a log a message is one line.
_PLAIN: dict[str, Any] = {"markup": False, "emoji": False, "highlight": False, "soft_wrap": True}
# Progress and remarks; stdout stays free for results.
console = Console(stderr=True, **_PLAIN)
QUIET_SECONDS = 5.0
"""Without a change for so long, it is said what is waited for."""
MOST_SHOWN = 50
"""Of what is wrong, a line each; `--json` lists all."""
# If stdout is a file or a pipe, a table is as wide as its URIs.
_WIDE = 200
# Columns from which a table of files has one for their URIs.
_ROOM_FOR_URIS = 130


def show(*tables: Table | str) -> None:
    """Results for a person, on stdout."""
    out = Console(**_PLAIN)
    if not out.is_terminal:
        out = Console(width=_WIDE, **_PLAIN)
    for table in tables:
        out.print(as_called(table) if isinstance(table, str) else table, soft_wrap=isinstance(table, str))


def program() -> str:
    """How the user's shell can call this program again: by its name, or as it was called if that isn't found."""
    if shutil.which("keen-pipeline"):
        return "keen-pipeline"
    return shlex.quote(sys.argv[0]) if Path(sys.argv[0]).suffix != ".py" else f"{shlex.quote(sys.executable)} -m keen_pipeline"


def as_called(text: str) -> str:
    """The text with its commands as the user's shell finds them: in mails and logs they are called by their name."""
    return re.sub(r"(?<![\w./-])keen-pipeline (?=[a-z])", lambda _: f"{program()} ", text)


@contextmanager
def service_for_command(settings: Settings) -> Iterator[None]:
    """Without a Keen account: the embedded service, started if none runs; it ends with the last command that uses it."""
    with embedded.shared(settings.service_data) if settings.is_embedded else nullcontext():
        yield


def configured_collections(settings: Settings) -> list[Collection]:
    """Of the collections file, or the sample's if nothing is configured."""
    if settings.collections_file is not None:
        return read_collections_file(settings.collections_file)
    return sample_collections() if settings.is_embedded else []


def configured(settings: Settings, names: Sequence[str]) -> list[Collection]:
    """The configured collections of those names, each once. Raises InvalidInputError with those that there are."""
    known = {c.name: c for c in configured_collections(settings)}
    unknown = [name for name in names if name not in known]
    if unknown:
        there, wrong = few(sorted(known), ", ") or "none", few([repr(name) for name in unknown], ", ")
        raise InvalidInputError(f"{wrong} is not configured (KEEN_PIPELINE_COLLECTIONS); configured are: {there}")
    return [known[name] for name in dict.fromkeys(names)]


def complete_collections(context: click.Context, parameter: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """The configured collections, for the shell's completion; none if the configuration can't be read."""
    try:
        names = [collection.name for collection in configured_collections(Settings.from_environment())]
    except KeenPipelineError:
        return []
    return [CompletionItem(name) for name in names if name.startswith(incomplete)]


def other_scopes(ledger: SqlLedger) -> list[ScopeSummary]:
    """What else a ledger holds, such as of an `extract` into another folder; what is open there comes first, then what is most."""
    others = [one for one in ledger.scopes() if one.scope != ledger.scope and (one.landed or one.open)]
    return sorted(others, key=lambda one: (one.open, one.landed), reverse=True)


@contextmanager
def as_usage(what: str = "") -> Iterator[None]:
    """An argument that does not have its form is bad usage, exit status 2."""
    try:
        yield
    except InvalidInputError as error:
        raise click.UsageError(f"{what}{error}") from None


def landing_json(entry: Entry) -> dict[str, Any]:
    """One object of a document's `landings`."""
    landing, request = entry.landing, entry.request
    assert landing is not None
    return {
        "collection": request.collection,
        "partition": request.partition_key,
        "timeframe": {"start": format_instant(request.timeframe.start), "end": format_instant(request.timeframe.end)},
        "uri": landing.uri,
        "bytes": landing.bytes,
        "events": landing.records,
        "sha256": landing.sha256,
        "extraction_id": entry.extraction_id,
        "seconds": round(landing.seconds, 3),
    }


def print_landings(landed: Sequence[Entry], failed: Sequence[tuple[Entry, str]], as_json: bool) -> None:
    """What landed, on stdout; as JSON also what failed and why."""
    if as_json:
        told = [{"collection": e.request.collection, "partition": e.request.partition_key, "error": why} for e, why in failed]
        print_json({"landings": [landing_json(e) for e in landed], "failed": told})
    elif landed:
        show(landings_table(landed, "Landed"))


def json_text(document: object, indent: int | None = None) -> str:
    """A document as JSON. What no terminal should see, and half a surrogate, which no file takes, is escaped.

    >>> json_text(["é", "\\x9b31m", "\\ud800"])
    '["é", "\\\\u009b31m", "\\\\ud800"]'
    """
    text = json.dumps(document, indent=indent, ensure_ascii=False)
    return re.sub(r"[^ -~\n]", lambda found: found[0] if found[0].isprintable() else json.dumps(found[0])[1:-1], text)


def shown(text: str) -> str:
    """A text of somebody else on one line: as it is, or as JSON if there is in it what no terminal should see."""
    return text if text.isprintable() else json_text(text)


def print_json(document: object) -> None:
    """One JSON document on stdout, with what its encoding lacks escaped as JSON does."""
    text = json_text(document, 2)
    try:
        text.encode(sys.stdout.encoding or "utf-8")
    except UnicodeEncodeError:
        text = json.dumps(document, indent=2)
    click.echo(text)


def copy_files(paths: Sequence[Path], folder: Path) -> None:
    """Copy files of this package into a folder, which is made if it is missing, and name the copies on stdout.

    Raises ConfigurationError, with nothing copied, if one is there with another content: somebody may have changed it.
    """
    copies = {folder / path.name: path for path in paths}
    for copy, path in copies.items():
        if copy.exists() and copy.read_bytes() != path.read_bytes():
            raise ConfigurationError(f"{copy} already exists; nothing was copied: name another folder, or move it away")
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for copy, path in copies.items():
            shutil.copyfile(path, copy)
            click.echo(copy)
    except OSError as error:
        raise ConfigurationError(f"{folder} can't be written: {error.strerror or error}") from None


def landings_table(entries: Sequence[Entry], title: str) -> Table:
    """What landed, for a person. On a narrow terminal one line a file: the folder is named once, below."""
    out = Console(**_PLAIN)
    rows = [landing_json(entry) for entry in entries]
    is_narrow = out.is_terminal and out.width < _ROOM_FOR_URIS
    common = os.path.commonprefix([row["uri"] for row in rows])  # noqa: RUF071 - URIs, and cut at a slash
    folder = common.rpartition("/")[0] if is_narrow else ""
    table = Table(title=title, title_justify="left", caption=f"in {folder}" if folder else None, caption_justify="left")
    for name in ("collection", "partition"):
        table.add_column(name, overflow="fold")
    for name in ("events", "bytes", "seconds"):
        table.add_column(name, justify="right", overflow="fold")
    if not is_narrow:
        table.add_column("URI", overflow="fold")
    for row in rows:
        numbers = (f"{row['events']:,}", f"{row['bytes']:,}", f"{row['seconds']:.2f}")
        table.add_row(row["collection"], row["partition"], *numbers, *([] if is_narrow else [row["uri"]]))
    return table


def progress_bar(counted: ProgressColumn | None = None) -> Progress:
    """A bar on a terminal, gone when it ends; off a terminal nothing. `counted`: how far it is, unless that is `3/7`."""
    columns = (SpinnerColumn(), TextColumn("{task.description}", markup=False), BarColumn(), counted or MofNCompleteColumn())
    return Progress(*columns, TimeElapsedColumn(), console=console, transient=True, disable=not console.is_terminal)


def follow(events: Generator[Event, None, None], total: int, what: str) -> tuple[list[Entry], list[tuple[Entry, str]]]:
    """Show a wait as a progress bar; answers what landed, and what was given up or is not whole, with the reason.

    What is waited for is said once nothing has changed for a while, on a terminal and off it.
    """
    view = _View(what)
    # Ctrl-C may come between two events: the wait then has to end with this block, not when its memory is freed.
    with progress_bar() as bar, closing(events):
        task = bar.add_task(what, total=total)
        for event in events:
            for text, style in view.told(event):
                bar.console.print(text, style=style)
            bar.update(task, completed=len(view.landed), description=f"{what}: {view.outlook}")
    return list(view.landed.values()), list(view.failed.values())


class _View:
    """What a wait has told so far."""

    def __init__(self, what: str) -> None:
        self.landed: dict[str, Entry] = {}
        self.failed: dict[str, tuple[Entry, str]] = {}
        self.outlook = what
        self._changed_at = time.monotonic()
        self._last: Waiting | None = None
        self._reasons: list[str] = []
        self._uncountable: set[str] = set()

    def told(self, event: Event) -> Iterator[tuple[str, str]]:
        """Lines for a person, with their style."""
        match event:
            case Landed(entry, _):
                self.landed[entry.request.path] = entry
            case Retrying(entry, follower, reason):
                yield f"{entry.request}: {reason}; attempt {follower.attempt} follows", "yellow"
            case Ended(entry):
                self.landed.pop(entry.request.path, None)
                self._fails(entry, entry.reason)
            case Stopped(entry, error):
                self._fails(entry, f"{error} (it stays open)" if entry.is_partition else str(error))
            case Hindered(collection, error):
                yield from self._uncounted(collection, error)
            case Counted(entry, problem=error) if error is not None:
                yield from self._uncounted(entry.request.collection, error)
            case Counted(entry) as counted:
                if entry.is_whole is not True:
                    yield verdict(counted), "yellow"
                if counted.is_final_failure:
                    self._fails(entry, verdict(counted))
            case Waiting() as progress:
                self.outlook = progress.outlook
                yield from self._waiting(progress)

    def _fails(self, entry: Entry, reason: str) -> None:
        # The last word counts: an ad hoc file that its count contradicts is then kept aside.
        self.failed[entry.request.path] = (entry, reason)

    def _uncounted(self, collection: str, error: KeenPipelineError) -> Iterator[tuple[str, str]]:
        told = f"{collection}: what has landed can't be held against the service's count now: {error}"
        if told not in self._uncountable:  # one reason for a hundred partitions
            self._uncountable.add(told)
            yield told, "yellow"

    def _waiting(self, progress: Waiting) -> Iterator[tuple[str, str]]:
        now = time.monotonic()
        if self._last is None or (progress.landed, progress.failed) != (self._last.landed, self._last.failed):
            self._changed_at, self._last = now, progress
        elif now - self._changed_at >= QUIET_SECONDS:
            reasons = progress.reasons()
            self._changed_at = now
            if reasons != self._reasons:
                self._reasons = reasons
                for reason in reasons:
                    yield f"waiting: {reason}", "dim"
