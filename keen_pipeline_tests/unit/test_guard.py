"""The servers of the tests end with the process that started them, however that ends."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

_STARTS = """
import os, sys, time
from pathlib import Path
from keen_pipeline_tests.servers.postgres import running_postgres
from keen_pipeline_tests.servers.s3 import running_s3
with running_postgres(), running_s3(Path(sys.argv[1]) / "s3"):
    print("up", flush=True)
    time.sleep(300)
"""


def servers(mark: str) -> set[int]:
    """The processes of postgres and weed with this in their environment."""
    found = set()
    for folder in Path("/proc").iterdir():
        try:
            is_one = any(name in (folder / "cmdline").read_bytes() for name in (b"postgres", b"weed"))
            if is_one and mark.encode() in (folder / "environ").read_bytes():
                found.add(int(folder.name))
        except (OSError, ValueError):  # no process, or one that has just ended
            continue
    return found


@pytest.mark.slow
def test_no_server_outlives_tests_that_were_killed(tmp_path: Path) -> None:
    environment = {**os.environ, "STARTED_FOR": str(tmp_path)}
    tests = subprocess.Popen([sys.executable, "-c", _STARTS, str(tmp_path)], stdout=subprocess.PIPE, env=environment)
    assert tests.stdout is not None
    assert tests.stdout.readline() == b"up\n"
    assert len(servers(str(tmp_path))) >= 2
    tests.send_signal(signal.SIGKILL)
    tests.wait(30)
    deadline = time.monotonic() + 60
    while left := servers(str(tmp_path)):
        assert time.monotonic() < deadline, left
        time.sleep(0.1)
