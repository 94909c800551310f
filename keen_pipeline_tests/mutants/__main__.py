"""Applies one mutation at a time to a copy of the repository and runs the tests that are to catch it.

python -m keen_pipeline_tests.mutants [GROUP...] [--processes 2] [--only N...]

First the tests are run as they are, since a test that fails anyway catches nothing. Ends with 1 if a list is wrong, if such a test
fails, or if fewer than nine of ten mutations of a group were caught.
"""

from __future__ import annotations

import argparse
import importlib
import os
import pkgutil
import queue
import shlex
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from keen_pipeline_tests import mutants
from keen_pipeline_tests.mutants import groups as lists

ROOT = Path(__file__).resolve().parents[2]
SECONDS = 300
WANTED = 0.9
# pytest: tests failed. Anything else but 0 says that the run itself went wrong.
_FAILED = 1


@dataclass(frozen=True)
class Mutant:
    """`old` in `file` becomes `new`; `targets`: pytest's arguments."""

    group: str
    number: int
    file: str
    old: str
    new: str
    targets: str

    def __str__(self) -> str:
        return f"{self.group} {self.number}: {self.file}: {_short(self.old)} ▶ {_short(self.new)}"

    def problem(self, root: Path) -> str | None:
        """What is wrong with it, None if it can be applied."""
        path = root / self.file
        if not path.is_file():
            return "there is no such file"
        number = path.read_text(encoding="utf-8").count(self.old)
        if number != 1:
            return f"its old text occurs {number} times"
        if self.old == self.new:
            return "it changes nothing"
        try:
            compile(path.read_text(encoding="utf-8").replace(self.old, self.new), self.file, "exec")
        except SyntaxError as error:
            return f"it isn't Python: {error}"
        for target in shlex.split(self.targets):
            tests, _, name = target.partition("::")
            if tests.endswith(".py") and not (root / tests).is_file():
                return f"{tests} isn't a file"
            if name and f"def {name.partition('[')[0]}(" not in (root / tests).read_text(encoding="utf-8"):
                return f"{tests} has no {name}"
        return None


def _short(text: str) -> str:
    line = " ".join(text.split())
    return line if len(line) <= 60 else line[:59] + "…"


def mutants_of(group: str) -> list[Mutant]:
    """The mutations of a group, numbered from 1."""
    module = importlib.import_module(_modules()[group])
    return [Mutant(group, number, *one) for number, one in enumerate(module.MUTANTS, start=1)]


def groups() -> list[str]:
    """All groups, by name."""
    return sorted(_modules())


def _modules() -> dict[str, str]:
    """Where the list of each group is."""
    found = pkgutil.walk_packages(lists.__path__, f"{lists.__name__}.")
    return {one.name.rpartition(".")[2]: one.name for one in found if not one.ispkg}


def copy_of(root: Path, folder: Path) -> Path:
    """The repository's files without their history, at a new place."""
    ignored = shutil.ignore_patterns(".git", ".venv", "__pycache__", ".*_cache", "data", "*.db")
    return Path(shutil.copytree(root, folder, ignore=ignored, symlinks=True))


def run(root: Path, targets: str, seconds: float = SECONDS) -> tuple[int | None, str]:
    """pytest's exit code in a copy, None if the time was over (which tells a mutant too), and the end of what it said."""
    command = [sys.executable, "-m", "pytest", "-x", "-q", "-p", "no:cacheprovider", "-n", "0", *shlex.split(targets)]
    # The copy's packages, wherever the installed one lies; bytecode of a mutant must not outlive it.
    environment = {**os.environ, "PYTHONPATH": str(root), "PYTHONDONTWRITEBYTECODE": "1"}
    with tempfile.TemporaryFile("w+") as out:
        child = subprocess.Popen(command, cwd=root, env=environment, stdout=out, stderr=out, start_new_session=True)
        try:
            code: int | None = child.wait(seconds)
        except subprocess.TimeoutExpired:
            code = None
        finally:
            with suppress(ProcessLookupError):
                os.killpg(child.pid, signal.SIGKILL)
            child.wait()
        out.seek(0)
        return code, out.read()[-2000:]


def is_caught(mutant: Mutant, root: Path, seconds: float = SECONDS) -> bool:
    """Whether its tests fail on a copy in which it is applied. The copy is as before afterwards."""
    path = root / mutant.file
    before = path.read_text(encoding="utf-8")
    path.write_text(before.replace(mutant.old, mutant.new), encoding="utf-8")
    try:
        code, said = run(root, mutant.targets, seconds)
    finally:
        path.write_text(before, encoding="utf-8")
    if code not in (0, _FAILED, None, 2):  # 2: it can't even be imported
        raise RuntimeError(f"{mutant}: pytest ended with {code}:\n{said}")
    return code != 0


def report(results: list[tuple[Mutant, bool]]) -> bool:
    """Print caught and survived of each group; whether each has caught enough."""
    enough = True
    for group in sorted({mutant.group for mutant, _ in results}):
        mine = [(mutant, caught) for mutant, caught in results if mutant.group == group]
        caught = sum(caught for _, caught in mine)
        print(f"{group}: {caught} of {len(mine)} caught")
        for mutant, was_caught in mine:
            if not was_caught:
                print(f"  survived: {mutant} [{mutant.targets}]")
        enough = enough and caught >= WANTED * len(mine)
    return enough


def main(arguments: list[str] | None = None, root: Path = ROOT) -> int:
    """The command; its exit code."""
    parser = argparse.ArgumentParser(prog="python -m keen_pipeline_tests.mutants", description=mutants.__doc__)
    parser.add_argument("groups", nargs="*", metavar="GROUP", help=f"of {', '.join(groups())}; all by default")
    parser.add_argument("--processes", type=int, default=2, help="mutations at once (default 2)")
    parser.add_argument("--only", type=int, nargs="*", help="numbers of mutations")
    options = parser.parse_args(arguments)
    unknown = set(options.groups) - set(groups())
    if unknown:
        parser.error(f"there is no group {', '.join(sorted(unknown))}")
    chosen = [m for group in options.groups or groups() for m in mutants_of(group)]
    chosen = [m for m in chosen if not options.only or m.number in options.only]
    wrong = [f"{mutant}: {problem}" for mutant in chosen if (problem := mutant.problem(root)) is not None]
    if wrong:
        print("\n".join(wrong), file=sys.stderr)
        return 1
    results = _run_all(chosen, root, options.processes)
    return 0 if results is not None and report(results) else 1


def _run_all(chosen: list[Mutant], root: Path, processes: int) -> list[tuple[Mutant, bool]] | None:
    """Which of them were caught, None if tests fail without them."""
    with tempfile.TemporaryDirectory(prefix="keen-mutants-") as folder, ThreadPoolExecutor(processes) as pool:
        copies: queue.SimpleQueue[Path] = queue.SimpleQueue()
        for number in range(processes):
            copies.put(copy_of(root, Path(folder) / str(number)))
        lock = threading.Lock()

        def one(mutant: Mutant) -> tuple[Mutant, bool]:
            copy, begun = copies.get(), time.monotonic()
            try:
                caught = is_caught(mutant, copy)
            finally:
                copies.put(copy)
            with lock:
                print(
                    f"{'caught' if caught else 'SURVIVED'} ({time.monotonic() - begun:.0f} s) {mutant}", file=sys.stderr, flush=True
                )
            return mutant, caught

        def is_sound(targets: str) -> bool:
            copy = copies.get()
            try:
                code, said = run(copy, targets)
            finally:
                copies.put(copy)
            if code != 0:
                print(f"these fail without a mutation ({code}): {targets}\n{said}", file=sys.stderr, flush=True)
            return code == 0

        if not all(list(pool.map(is_sound, sorted({mutant.targets for mutant in chosen})))):
            return None
        return list(pool.map(one, chosen))


if __name__ == "__main__":
    sys.exit(main())
