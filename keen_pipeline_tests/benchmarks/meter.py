"""What a tree of processes costs: CPU seconds, processes and memory at their peak. Linux only."""

from __future__ import annotations

import os
import threading
import time
from pathlib import Path
from types import TracebackType

MARK = "BENCHMARK_MARK"
_TICKS = os.sysconf("SC_CLK_TCK")
_LOOK_SECONDS = 0.1
_MEMORY_EVERY = 10


class Meter:
    """Watches every process whose environment holds `mark`, from the block's beginning to its end.

    `cpu_seconds`: of all of them, also of those that ended meanwhile (what a process uses in its last tenth of a second may be
    missed). `processes`, `memory_mib`: the most at one moment; memory is the proportional set size, so that what processes
    share counts once.
    """

    def __init__(self, mark: str) -> None:
        self._mark = f"{MARK}={mark}".encode()
        self._ours: dict[tuple[int, int], bool] = {}
        self._before: dict[tuple[int, int], float] = {}
        self._used: dict[tuple[int, int], float] = {}
        self._role: dict[tuple[int, int], str] = {}
        self._stop = threading.Event()
        self.processes = 0
        self.memory_mib = 0.0

    def __enter__(self) -> Meter:
        self._look(0)
        self._before = dict(self._used)
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None) -> None:
        self._stop.set()
        self._thread.join()
        self._look(0)

    @property
    def cpu_seconds(self) -> float:
        """Used since the block began."""
        return sum(used - self._before.get(key, 0.0) for key, used in self._used.items())

    @property
    def cpu_seconds_by_role(self) -> dict[str, float]:
        """The same, for each kind of Dagster's processes."""
        found: dict[str, float] = {}
        for key, used in self._used.items():
            role = self._role[key]
            found[role] = round(found.get(role, 0.0) + used - self._before.get(key, 0.0), 2)
        return found

    def _watch(self) -> None:
        number = 0
        while not self._stop.wait(_LOOK_SECONDS):
            number += 1
            self._look(number)

    def _look(self, number: int) -> None:
        living = []
        for folder in Path("/proc").iterdir():
            if not folder.name.isdigit():
                continue
            try:
                fields = (folder / "stat").read_text().rpartition(") ")[2].split()
                key = (int(folder.name), int(fields[19]))
                if key not in self._ours:
                    self._ours[key] = self._mark in (folder / "environ").read_bytes()
            except OSError:
                continue  # it ended while we looked
            if self._ours[key] and fields[0] != "Z":
                living.append(folder)
                self._used[key] = (int(fields[11]) + int(fields[12])) / _TICKS
                self._role[key] = _role(folder)
        self.processes = max(self.processes, len(living))
        if number % _MEMORY_EVERY == 0:
            self.memory_mib = max(self.memory_mib, sum(_memory(folder) for folder in living))


def _role(folder: Path) -> str:
    try:
        line = (folder / "cmdline").read_bytes().replace(b"\0", b" ").decode()
    except OSError:
        return "other"
    known = {"dagster._daemon": "daemon", "api grpc": "code server", "spawn_main": "runs"}
    return next((role for part, role in known.items() if part in line), "other")


def _memory(folder: Path) -> float:
    try:
        lines = (folder / "smaps_rollup").read_text().splitlines()
    except OSError:
        return 0.0
    return next((int(line.split()[1]) / 1024 for line in lines if line.startswith("Pss:")), 0.0)


def await_end(mark: str, seconds: float) -> None:
    """Wait until no process with the mark is left, at most so long."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if not living(mark):
            return
        time.sleep(0.1)


def living(mark: str) -> list[int]:
    """Process ids with the mark."""
    found = []
    for folder in Path("/proc").iterdir():
        if folder.name.isdigit():
            try:
                if f"{MARK}={mark}".encode() in (folder / "environ").read_bytes():
                    found.append(int(folder.name))
            except OSError:
                continue  # it ended while we looked
    return found
