"""Commands as a user's shell runs them, and what they leave behind."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

COMMAND = [sys.executable, "-m", "keen_pipeline"]


@dataclass
class Shell:
    """Runs commands in a folder with a bare environment, marked so that all their descendants can be found."""

    folder: Path
    env: Mapping[str, str] = field(default_factory=dict)
    mark: str = field(default_factory=lambda: f"keen-test-{uuid.uuid4().hex}")

    def environment(self) -> dict[str, str]:
        path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
        bare = {
            "PATH": path,
            "HOME": str(self.folder),
            "LANG": "C.UTF-8",
            "ACCEPTANCE_MARK": self.mark,
            "KEEN_PIPELINE_POLL_SECONDS": "0.2",
        }
        # Where the tests run from a tree that isn't the installed one, so do the commands.
        tree = {"PYTHONPATH": os.environ["PYTHONPATH"]} if "PYTHONPATH" in os.environ else {}
        return {**bare, **tree, **self.env}

    def run(self, *arguments: str, stdin: str | None = None, timeout: float = 120) -> subprocess.CompletedProcess[str]:
        """`keen-pipeline arguments...` to its end."""
        return subprocess.run(
            [*COMMAND, *arguments],
            cwd=self.folder,
            env=self.environment(),
            input=stdin or "",
            capture_output=True,
            text=True,
            timeout=timeout,
        )

    def start(self, *arguments: str, log: Path) -> subprocess.Popen[bytes]:
        """`keen-pipeline arguments...` in the background, as a terminal would hold it."""
        with log.open("wb") as out:
            # Where the tests themselves run in a shell's background, Ctrl-C is switched off for all their children.
            return subprocess.Popen(
                [*COMMAND, *arguments],
                cwd=self.folder,
                env=self.environment(),
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=subprocess.STDOUT,
                preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
            )

    def left_running(self) -> list[str]:
        """Command lines of living processes that descend from this shell's commands."""
        found = []
        for folder in Path("/proc").iterdir():
            if not folder.name.isdigit():
                continue
            try:
                if self.mark.encode() in (folder / "environ").read_bytes():
                    found.append((folder / "cmdline").read_bytes().replace(b"\0", b" ").decode())
            except OSError:
                continue  # it ended while we looked
        return [line for line in found if line]

    def await_nothing_left(self, seconds: float = 20) -> list[str]:
        """What is still running after at most `seconds`."""
        deadline = time.monotonic() + seconds
        while (left := self.left_running()) and time.monotonic() < deadline:
            time.sleep(0.2)
        return left


def await_text(log: Path, text: str, process: subprocess.Popen[bytes], seconds: float) -> None:
    """Wait until `text` stands in the log of a living process."""
    deadline = time.monotonic() + seconds
    while text not in log.read_text(errors="replace"):
        assert process.poll() is None, log.read_text(errors="replace")[-3000:]
        assert time.monotonic() < deadline, log.read_text(errors="replace")[-3000:]
        time.sleep(0.2)


def await_ui(log: Path, port: int, process: subprocess.Popen[bytes], seconds: float) -> None:
    """Wait until the web server that `dev` has announced accepts connections."""
    await_text(log, "Dagster UI: http", process, seconds)
    deadline = time.monotonic() + seconds
    while True:
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)) == 0:
                return
        assert process.poll() is None, log.read_text(errors="replace")[-3000:]
        assert time.monotonic() < deadline, log.read_text(errors="replace")[-3000:]
        time.sleep(0.2)


def arguments_of(line: str) -> Sequence[str]:
    """The words of a shell line."""
    import shlex

    return shlex.split(line)
