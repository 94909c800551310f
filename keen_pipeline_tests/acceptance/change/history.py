"""One history of `change`: what there is, its steps, and what has to hold at its end."""

from __future__ import annotations

import gzip
import hashlib
import json
import multiprocessing
import os
import signal
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta, timezone
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import sqlalchemy as sa
import urllib3

from keen_pipeline.client import KeenClient
from keen_pipeline.collection import Collection, CountPolicy, Encoding, Layout, MaskMethod
from keen_pipeline.errors import LedgerUnavailableError
from keen_pipeline.extraction import ExtractionRequest
from keen_pipeline.filters import Filter
from keen_pipeline.landing import FileDestination
from keen_pipeline.landing.csv.stored import zstandard
from keen_pipeline.ledger.database.tables import entries
from keen_pipeline.pipeline import requests_of_a_night
from keen_pipeline.pipeline.extractions.explain import explain_all
from keen_pipeline_tests.acceptance.change.process import LIMITS, Setting, open_ledger, opened, run
from keen_pipeline_tests.acceptance.change.site import Site

UTC = timezone.utc
START = datetime(2026, 1, 8, 1, tzinfo=UTC)
NAMES = ("a", "b", "c")
FILTERED = (Filter("body:n", "gt", 2),)
CHOICES: dict[str, tuple[Any, ...]] = {
    "filters": ((), FILTERED),
    "encoding": (Encoding.CSV, Encoding.CSV_GZ, Encoding.CSV_ZST),
    "layout": (Layout.PLAIN, Layout.HIVE),
    "timezone": ("UTC", "Asia/Kathmandu"),
    "mask": ({}, {"body:who": MaskMethod.HASH}, {"body:who": MaskMethod.DROP}),
    "count_check": (CountPolicy.FAIL, CountPolicy.WARN, CountPolicy.OFF),
}
Step = dict[str, Any]
CONTEXT = multiprocessing.get_context("forkserver")
# What every child needs, loaded once.
PRELOAD = [
    "keen_pipeline_tests.acceptance.change.process",
    "keen_pipeline.landing.transfer.download",
    "keen_pipeline.landing.csv.masking",
    "keen_pipeline.landing.csv.joined",
    "keen_pipeline.landing.storages.local",
    "alembic.command",
]


@dataclass
class Process:
    """A child, and whether it is paused."""

    child: Any
    doing: str
    is_paused: bool = False

    def send(self, number: int) -> None:
        with suppress(ProcessLookupError):
            os.kill(self.child.pid, number)


@dataclass
class History:
    """One round: what there is now, and what has to hold at its end."""

    site: Site
    folder: Path
    prefix: str
    as_of: datetime = START
    settings: dict[str, Setting] = field(default_factory=dict)
    gone: dict[str, set[str]] = field(default_factory=lambda: {"one": set(), "two": set()})
    processes: list[Process] = field(default_factory=list)
    left: dict[str, set[str]] = field(default_factory=dict)
    wrong: list[str] = field(default_factory=list)
    serial: int = 0
    nights: int = 0

    def begin(self) -> None:
        """Two definitions on one ledger, a week of events, somebody else's file."""
        self.folder.mkdir(parents=True, exist_ok=True)
        (self.folder / "ahead").write_text("0")
        for name in ("one", "two"):
            destination = str(self.folder / f"landing-{name}")
            collections = tuple(Collection(f"{self.prefix}{letter}", "2026-01-01") for letter in NAMES)
            self.settings[name] = Setting(self.folder, self.site.service(0), destination, collections, self.as_of, name)
            Path(destination, "theirs").mkdir(parents=True)
            Path(destination, "theirs", "2026-01-01.csv").write_text("somebody else's")
        for day in range(1, 8):
            self.events(day, 2 + day % 3)

    def events(self, day: int, number: int, letters: str = "abc") -> None:
        """Events of a day of both projects, which differ."""
        for project, end in enumerate(self.site.endpoints):
            batch: dict[str, list[dict[str, Any]]] = {}
            for letter in letters:
                for _ in range(number):
                    self.serial += 1
                    moment = datetime(2026, 1, 1, tzinfo=UTC) + timedelta(days=day - 1, seconds=(self.serial * 7919) % 86400)
                    event = {"keen": {"timestamp": moment.isoformat()}, "n": self.serial % 7, "who": f"p{project}-{self.serial}"}
                    batch.setdefault(f"{self.prefix}{letter}", []).append(event)
            with KeenClient(end.base_url, end.project_id, read_key=end.read_key, write_key=end.write_key) as client:
                client.add_events(batch)

    # -- steps --------------------------------------------------------------------------------------------------------

    def take(self, step: Step) -> None:
        """One step of the history."""
        doing = dict(step)
        getattr(self, f"do_{doing.pop('do')}")(**doing)
        time.sleep(0.15)

    def _now(self, name: str, **options: Any) -> Setting:
        setting = self.settings[name]
        there = tuple(c for c in setting.collections if c.name.removeprefix(self.prefix) not in self.gone[name])
        return replace(setting, collections=there, as_of=self.as_of, **options)

    def _start(self, doing: str, setting: Setting) -> Process:
        child = CONTEXT.Process(target=run, args=(doing, setting, self.folder / "log.txt"))
        child.start()
        process = Process(child, doing)
        self.processes.append(process)
        return process

    def do_day(self) -> None:
        self.events((self.as_of - datetime(2026, 1, 1, tzinfo=UTC)).days + 1, 3)
        self.as_of += timedelta(days=1)

    def do_asleep(self, days: int) -> None:
        for _ in range(days):
            self.do_day()

    def do_late(self, ago: int, letter: str, number: int) -> None:
        self.events(max(1, (self.as_of - datetime(2026, 1, 1, tzinfo=UTC)).days - ago), number, letter)

    def do_night(self, name: str) -> None:
        self.nights += 1
        self._start("night", self._now(name))

    def do_daemon(self, name: str, ticks: int) -> None:
        self._start("daemon", self._now(name, options={"ticks": ticks}))

    def do_backfill(self, name: str, first: int, days: int, resumable: bool) -> None:
        options = {"resumable": resumable}
        self._start("backfill", self._now(name, days=(first, first + days), options=options))

    def do_rest(self, seconds: float) -> None:
        time.sleep(seconds)

    def do_signal(self, which: int, how: str) -> None:
        living = [process for process in self.processes if process.child.is_alive()]
        if not living:
            return
        process = living[which % len(living)]
        process.is_paused = {"STOP": True, "CONT": False}.get(how, process.is_paused)
        process.send(getattr(signal, f"SIG{how}"))

    def do_change(self, name: str, what: str, choice: int, letter: str) -> None:
        """A setting of a collection; no process but those started later knows it."""
        setting, values = self.settings[name], CHOICES[what]
        changed = tuple(
            replace(c, **{what: values[choice % len(values)]}) if c.name.endswith(letter) else c for c in setting.collections
        )
        self.settings[name] = replace(setting, collections=changed)

    def do_key(self, name: str, choice: int) -> None:
        self.settings[name] = replace(self.settings[name], mask_key=f"k{choice % 3}".encode())

    def do_move(self, name: str, what: str, choice: int) -> None:
        """Another project or destination, once nobody works under the old one."""
        self._end_all()
        old = self.settings[name]
        if what == "project":
            self.settings[name] = replace(old, service=self.site.service(choice % 2))
        else:
            self.settings[name] = replace(old, destination=str(self.folder / f"landing-{name}-{choice % 2}"))
        new = self.settings[name]
        if new.scope != old.scope:
            self.left[str(old.scope)] = self._state_of(old)
            self.left.pop(str(new.scope), None)

    def do_collection(self, name: str, letter: str, there: bool) -> None:
        (self.gone[name].discard if there else self.gone[name].add)(letter)

    def do_refuse(self, project: int, letter: str, how: str) -> None:
        self.site.proxies[project % 2].refused[f"{self.prefix}{letter}"] = how

    def do_allow(self) -> None:
        for proxy in self.site.proxies:
            proxy.refused.clear()

    def do_clock(self, hours: float) -> None:
        (self.folder / "ahead").write_text(str(hours * 3600))

    # -- the end ------------------------------------------------------------------------------------------------------

    def _end_all(self) -> None:
        for process in self.processes:
            process.send(signal.SIGKILL)
        for process in self.processes:
            process.child.join(20)
        self.processes.clear()

    def _wait_all(self, seconds: float = 60) -> None:
        deadline = time.monotonic() + seconds
        for process in self.processes:
            if process.is_paused:
                process.send(signal.SIGCONT)
        for process in self.processes:
            process.child.join(max(0.1, deadline - time.monotonic()))
            if process.child.is_alive():
                self.wrong.append(f"{process.doing} does not end: {self._reasons()}")
        self._end_all()

    def _reasons(self) -> list[str]:
        found = []
        for name in self.settings:
            ledger = open_ledger(self._now(name))
            open_ = ledger.open_entries()
            found += [f"{entry}: {why}" for entry, why in zip(open_, explain_all(ledger, open_, LIMITS).values(), strict=True)]
            ledger.engine.dispose()
        return found

    def settle(self) -> None:
        """Faults end, what was paused goes on, two nights land; then everything has to hold."""
        self._check_reasons()
        self.site.misbehave(False)
        self._wait_all()
        for _ in range(2):
            for name in self.settings:
                self._start("night", self._now(name)).child.join(60)
                self._start("daemon", self._now(name, options={"settle": True}))
            self._wait_all(90)
        for name in self.settings:
            self._check(name, self._now(name))
        self._check_told()
        for scope, before in self.left.items():
            for old in self._once():
                if str(old.scope) == scope and (changed := self._state_of(old) ^ before):
                    self.wrong.append(f"{scope} was touched after everybody had left it: {sorted(changed)[:10]}")
        for theirs in self.folder.glob("landing-*/theirs/*"):
            if theirs.read_text() != "somebody else's":
                self.wrong.append(f"{theirs} was touched")
        if "Traceback" in (
            log := (self.folder / "log.txt").read_text(errors="replace") if (self.folder / "log.txt").exists() else ""
        ):
            self.wrong.append(f"a process ended with a traceback: {log[log.index('Traceback') :][:3000]}")

    def _check_reasons(self) -> None:
        """What a refused collection waits for is told, once somebody has looked."""
        try:
            told = self._reasons()
        except LedgerUnavailableError:
            # A process that was paused in the middle of a transaction holds SQLite's lock, which is what the error says.
            if not any(process.is_paused for process in self.processes):
                raise
            return
        self.wrong += [f"it waits without a reason: {line}" for line in told if ": " not in line or "(since" not in line]

    def _once(self) -> Iterator[Setting]:
        """The settings of every scope there has been."""
        for name, setting in self.settings.items():
            for project in (0, 1):
                for destination in (f"landing-{name}", f"landing-{name}-0", f"landing-{name}-1"):
                    yield replace(setting, service=self.site.service(project), destination=str(self.folder / destination))

    def _state_of(self, setting: Setting) -> set[str]:
        """Each value of each entry of a scope, but for what anybody takes from a process that is gone.

        Nor whether its file is unproven: another project's files at the same destination may have taken its place.
        """
        ledger = open_ledger(setting)
        with ledger.engine.connect() as connection:
            columns = [column for column in entries.c if column.name not in ("claimed_by", "publisher", "unproven")]
            rows = connection.execute(sa.select(*columns).where(entries.c.scope_id == ledger.scope_id)).mappings().all()
        ledger.engine.dispose()
        return {f"{row['id']}: {name} {value}" for row in rows for name, value in row.items()}

    def _check(self, name: str, setting: Setting) -> None:
        """Every file that today's configuration wants, the ledger's word of every other, and that nothing is left to do."""
        with opened(setting) as pipeline:
            ledger = pipeline.ledger
            for entry in ledger.open_entries():
                self.wrong.append(f"{name}: {entry} is still {entry.status.value}: {entry.error}")
            wanted: dict[str, ExtractionRequest] = {}
            for collection in setting.collections:
                requests = requests_of_a_night(pipeline, collection, self.as_of)
                wanted.update({pipeline.destination.uri_of(request.path): request for request in requests})
            for target, request in wanted.items():
                self._check_file(name, setting, request, Path(target))
            for collection in setting.collections:
                for entry in ledger.landed_entries(collection.name):
                    landing = entry.landing
                    assert landing is not None
                    path = Path(landing.uri)
                    if not path.exists() or path.stat().st_size != landing.stored_bytes:
                        self.wrong.append(f"{name}: {entry} says {landing.stored_bytes} bytes at {path}")
                    elif not entry.request.mask and hashlib.sha256(_plain(path)).hexdigest() != landing.sha256:
                        self.wrong.append(f"{name}: {entry} says another sha256 than lies at {path}")
            known = {e.landing.uri for c in setting.collections for e in ledger.landed_entries(c.name) if e.landing is not None}
            if not self.gone[name] and not any(scope.startswith(f"{name}:") for scope in self.left):
                self._check_files(name, setting, known)
        engine = ledger.engine
        engine.dispose()

    def _check_files(self, name: str, setting: Setting, known: set[str]) -> None:
        for path in Path(setting.destination).rglob("*"):
            ours = path.is_file() and path.parts[-2] != "theirs" and "_quarantine" not in path.parts
            if "_manifests" in path.parts:  # beside its file, by the file's path
                path = Path(str(path).replace("/_manifests/", "/").removesuffix(".json"))
            if ours and str(path) not in known and not path.name.startswith("."):
                self.wrong.append(f"{name}: {path} is nobody's file")

    def _check_file(self, name: str, setting: Setting, request: ExtractionRequest, path: Path) -> None:
        direct = self._direct(setting, request)
        if not path.exists():
            self.wrong.append(f"{name}: {request} has no file {path}")
        elif request.count_check is not CountPolicy.OFF and _events(_plain(path)) != _events(direct):
            self.wrong.append(f"{name}: {request} holds other than a direct extraction: {_plain(path)!r} and not {direct!r}")

    def _direct(self, setting: Setting, request: ExtractionRequest) -> bytes:
        """The CSV that a direct extraction gives, by plain HTTP; a mask is laid over it by the destination alone."""
        end = next(end for end in self.site.endpoints if end.project_id == setting.service.project)
        url = f"{end.base_url}/2.0/projects/{end.project_id}/{request.collection}"
        asked = {"timeframe": request.timeframe.to_wire(), "filters": [one.to_wire() for one in request.filters]}
        with KeenClient(end.base_url, end.project_id, read_key=end.read_key) as client:
            made = client.submit(request)
            deadline = time.monotonic() + 30
            while True:
                remote = client.get_extraction(request.collection, made.extraction_id)
                if remote.results_url is not None:
                    break
                assert time.monotonic() < deadline, f"{url} {asked}"
                time.sleep(0.05)
            plain = urllib3.request("GET", remote.results_url.reveal(), timeout=30).data
            if not request.mask:
                return plain
            with TemporaryDirectory(prefix="keen-change-") as folder:
                place = FileDestination(folder)
                target = place.uri_of("masked.csv")
                source = client.results_of(request, made.extraction_id)
                place.land(source, target, extraction_id="x", mask=request.mask, mask_key=setting.mask_key)
                return Path(target).read_bytes()

    def _check_told(self) -> None:
        """Each landing of a partition was told once, and no other."""
        file = self.folder / "told.jsonl"
        told = Counter(json.loads(line)["token"] for line in file.read_text().splitlines()) if file.exists() else Counter[str]()
        self.wrong += [f"{token} was told {number} times" for token, number in told.items() if number != 1]
        ledger = open_ledger(self._now("one"))
        with ledger.engine.connect() as connection:
            c = entries.c
            landed = sa.select(c.token, c.collection, c.partition_key, c.scope_id, c.status, c.reported_at)
            rows = connection.execute(landed.where(c.landed_at.is_not(None), c.kind == "partition")).all()
        ledger.engine.dispose()
        live = {open_ledger(self._now(name)).scope_id for name in self.settings}
        for row in rows:
            # A landing that was superseded before anybody told of it is nobody's news.
            if row.status == "landed" and row.scope_id in live and row.token not in told:
                self.wrong.append(f"{row.collection}[{row.partition_key}] landed and was not told ({row.status})")


def _plain(path: Path) -> bytes:
    data = path.read_bytes()
    if path.name.endswith(".gz"):
        return gzip.decompress(data)
    if path.name.endswith(".zst"):
        return bytes(zstandard().decompress(data))
    return data


def _events(data: bytes) -> list[bytes]:
    """The header and the events; what was put together of slices has them in another order."""
    lines = data.split(b"\n")
    return [lines[0], *sorted(lines[1:])]
