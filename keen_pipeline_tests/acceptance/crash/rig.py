"""A pipeline as a supervisor keeps it: service and Dagster daemon as processes that are killed and started again."""

from __future__ import annotations

import contextlib
import ctypes
import os
import random
import signal
import socket
import subprocess
import sys
import time
import uuid
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import date, timedelta
from pathlib import Path
from types import TracebackType
from typing import Any

import dagster as dg
import yaml

from keen_pipeline.cli.local.processes import DAGSTER_YAML
from keen_pipeline.client import KeenClient
from keen_pipeline.collection import Collection
from keen_pipeline.collections_file import collection_to_wire
from keen_pipeline.defs.names import Names
from keen_pipeline.defs.partitions import partitions_definition
from keen_pipeline.landing.destination import LEFTOVER_AGE
from keen_pipeline.landing.storages.local import STAGE_SUFFIX
from keen_pipeline.ledger import SqlLedger
from keen_pipeline.service import embedded
from keen_pipeline.settings import Settings
from keen_pipeline.wiring import open_ledger, scope_of
from keen_pipeline_tests import backfills

COLLECTIONS = ("purchases", "logins", "pageviews")
START = date(2020, 1, 1)
"""Long ago: a thousand rounds take 1,751 days, and a day that is not over is no partition."""
# A claim outlives the start of a landing run on two busy cores, and a dead one is taken over within a round or two.
LEASE_SECONDS = 20
_DEFINITIONS = "keen_pipeline_tests.acceptance.crash.definitions"
_PR_SET_PDEATHSIG = 1
_START_SECONDS = 60.0
# Beyond what the commands write: a run whose worker never came up or whose code server died is ended and retried.
SUPERVISION: dict[str, Any] = {
    "run_retries": {"enabled": True, "max_retries": 3, "retry_on_asset_or_op_failure": False},
    "run_monitoring": {"enabled": True, "start_timeout_seconds": 40, "poll_interval_seconds": 5, "max_runtime_seconds": 180},
}


@dataclass
class Rig:
    """Everything below `folder`; what it starts carries a mark in its environment and ends with the `with` block.

    `days` of events are loaded, for the collections of `plan`. `service_options` are the service's, `settings` more of the
    pipeline's environment; a function that is given as `way` answers the address under which the pipeline reaches the service, of
    the service's own.
    """

    folder: Path
    days: int
    rng: random.Random
    plan: Sequence[Collection] = tuple(Collection(name, START, lookback_days=1) for name in COLLECTIONS)
    service_options: Sequence[str] = ("--extraction-delay", "1")
    settings: Mapping[str, str] = field(default_factory=dict)
    way: Callable[[str], str] = str
    supervision: Mapping[str, Any] = field(default_factory=lambda: SUPERVISION)
    secrets: tuple[str, ...] = ()

    def __enter__(self) -> Rig:
        self._mark = f"keen-crash-{uuid.uuid4().hex}"
        self.keys = {name: f"{name}-{uuid.uuid4().hex}" for name in ("read", "write", "master")}
        self.project = uuid.uuid4().hex[:24]
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = free.getsockname()[1]
        self.home, self.landing, self.logs = self.folder / "dagster", self.folder / "landing", self.folder / "logs"
        self.service_data = self.folder / "keen"
        for folder in (self.home, self.landing, self.logs, self.service_data):
            folder.mkdir(parents=True)
        self.collections = list(self.plan)
        self._write_configuration()
        self._children: dict[str, subprocess.Popen[bytes]] = {}
        self._instance = dg.DagsterInstance.from_config(str(self.home))
        self._instance.get_runs(limit=1)  # makes the databases before two processes that start together both do
        settings = Settings.from_environment(self.environment())
        self.ledger: SqlLedger = open_ledger(settings.ledger_url, scope_of(settings))
        try:
            self.start("service")
            with self.client() as client:
                load_events(client, [c.name for c in self.collections], self.days)
            self.start("daemon")
        except BaseException:
            self.__exit__(None, None, None)
            raise
        return self

    def __exit__(self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None) -> None:
        for child in self._children.values():
            child.kill()
        end_all(self._mark)
        for child in self._children.values():
            child.wait()
        self._instance.dispose()
        self.ledger.engine.dispose()

    @property
    def instance(self) -> dg.DagsterInstance:
        """Dagster's instance of the rig."""
        return self._instance

    def _write_configuration(self) -> None:
        (self.home / "dagster.yaml").write_text(yaml.safe_dump({**yaml.safe_load(DAGSTER_YAML), **self.supervision}))
        wanted = [collection_to_wire(c) for c in self.collections]
        (self.folder / "collections.yaml").write_text(yaml.safe_dump({"collections": wanted}))
        self.begin_nights(0)

    def begin_nights(self, number: int) -> None:
        """So many nights have begun."""
        target = self.folder / "nights"
        staged = target.with_suffix(".new")
        staged.write_text(str(number))
        staged.rename(target)

    def age_staged_files(self) -> int:
        """Make what killed landings left look old enough to be removed; how many there are."""
        staged = [path for path in self.landing.rglob(f".*{STAGE_SUFFIX}") if path.is_file()]
        for path in staged:
            os.utime(path, times=(0, time.time() - 2 * LEFTOVER_AGE.total_seconds()))
        return len(staged)

    def environment(self) -> dict[str, str]:
        kept = {k: v for k, v in os.environ.items() if not k.startswith(("KEEN_", "DAGSTER_", "SMTP_"))}
        return {
            **kept,
            "ACCEPTANCE_MARK": self._mark,
            "DAGSTER_HOME": str(self.home),
            "DAGSTER_DISABLE_TELEMETRY": "yes",
            "KEEN_BASE_URL": self.way(f"http://127.0.0.1:{self.port}"),
            "KEEN_PROJECT_ID": self.project,
            "KEEN_READ_KEY": self.keys["read"],
            "KEEN_WRITE_KEY": self.keys["write"],
            "KEEN_MASTER_KEY": self.keys["master"],
            "KEEN_PIPELINE_DESTINATION": str(self.landing),
            "KEEN_PIPELINE_LEDGER_URL": f"sqlite:///{self.folder / 'ledger.db'}",
            "KEEN_PIPELINE_COLLECTIONS": str(self.folder / "collections.yaml"),
            "KEEN_PIPELINE_POLL_SECONDS": "1",
            "KEEN_PIPELINE_RETRY_SECONDS": "1",
            "KEEN_PIPELINE_LEASE_SECONDS": str(LEASE_SECONDS),
            "KEEN_PIPELINE_REQUESTS_PER_MINUTE": "5000",
            "CRASH_NIGHTS": str(self.folder / "nights"),
            **self.settings,
        }

    def start(self, name: str) -> None:
        """Start the service or the daemon, as a supervisor would; the service is waited for."""
        serve = ["keen_pipeline", "serve", "--data", str(self.service_data), "--port", str(self.port), *self.service_options]
        arguments = serve if name == "service" else ["dagster._daemon", "run", "-m", _DEFINITIONS]
        with (self.logs / f"{name}.log").open("ab") as log:
            self._children[name] = subprocess.Popen(
                [sys.executable, "-m", *arguments],
                env=self.environment(),
                cwd=self.folder,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                preexec_fn=die_with_parent,
            )
        if name == "service":
            deadline = time.monotonic() + _START_SECONDS
            while embedded.find(self.service_data) is None:
                assert time.monotonic() < deadline, (self.logs / "service.log").read_text()[-3000:]
                time.sleep(0.1)

    def kill(self, name: str) -> None:
        """SIGKILL to the service or the daemon alone."""
        self._children[name].kill()
        self._children[name].wait()

    def kill_run(self) -> bool:
        """SIGKILL to one run worker; false where there is none."""
        workers = self.run_workers()
        if not workers:
            return False
        try:
            os.kill(self.rng.choice(workers), signal.SIGKILL)
        except ProcessLookupError:
            return False  # it ended in this moment
        return True

    def check(self) -> None:
        """Whatever is not killed by us must live."""
        for name, child in self._children.items():
            assert child.poll() is None, f"{name} ended: {(self.logs / f'{name}.log').read_text()[-3000:]}"

    def processes(self) -> list[tuple[int, str]]:
        """Process id and command line of everything that descends from this rig."""
        return marked(self._mark)

    def run_workers(self) -> list[int]:
        """Process ids of Dagster's run workers, which its code server spawns."""
        return [pid for pid, line in self.processes() if "spawn_main" in line]

    def files(self) -> dict[str, bytes]:
        """Everything at the destination, by its path below it."""
        return {str(path.relative_to(self.landing)): path.read_bytes() for path in self.landing.rglob("*") if path.is_file()}

    def client(self) -> KeenClient:
        """A client of the service beside the pipeline's."""
        return KeenClient(f"http://127.0.0.1:{self.port}", self.project, read_key=self.keys["read"], write_key=self.keys["write"])


def marked(mark: str) -> list[tuple[int, str]]:
    """Process id and command line of every living process whose environment holds the mark."""
    found = []
    for folder in Path("/proc").iterdir():
        if folder.name.isdigit():
            try:
                if mark.encode() in (folder / "environ").read_bytes():
                    found.append((int(folder.name), (folder / "cmdline").read_bytes().replace(b"\0", b" ").decode()))
            except OSError:
                continue  # it ended while we looked
    return [(pid, line) for pid, line in found if line]


def end_all(mark: str) -> None:
    """SIGKILL until nothing with the mark lives."""
    while pids := marked(mark):
        for pid, _ in pids:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        time.sleep(0.1)


def add_backfill(instance: dg.DagsterInstance, collections: Sequence[Collection], keys: Sequence[str]) -> str:
    """One asset backfill of the partitions for all collections, which have the same ones, as the UI makes it; its id."""
    return backfills.add_backfill(
        instance, [Names().asset_key(c.name) for c in collections], partitions_definition(collections[0]), keys
    )


def load_events(client: KeenClient, names: Sequence[str], days: int) -> None:
    """The first days from START on, of each collection."""
    for number in range(days):
        day = (START + timedelta(days=number)).isoformat()
        refused = client.add_events({name: _events(name, day, number) for name in names})
        assert not any(reason for reasons in refused.values() for reason in reasons)


def _events(name: str, day: str, number: int) -> list[dict[str, Any]]:
    """Those of one day, the same in every run: commas, quotes, line ends, a property that appears late."""
    events = []
    for n in range(40 + number * 7 % 60):
        stamp = f"{day}T{n % 24:02d}:{n * 7 % 60:02d}:{n % 60:02d}.{n:03d}Z"
        event: dict[str, Any] = {
            "keen": {"timestamp": stamp},
            "n": n,
            "text": f'{name}, "{day}"\nStraße {n}',
            "user": {"id": n % 9},
        }
        if n > 30:
            event["late"] = n * 0.5
        events.append(event)
    return events


def die_with_parent() -> None:
    """Also where the rounds themselves are killed, the children end."""
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
