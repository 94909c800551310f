"""A process that ends a server when the tests that started it are gone, however they ended: also after kill -9."""

from __future__ import annotations

import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager

_CODE = """
import os, sys
sys.stdin.read()
try:
    os.kill(int(sys.argv[1]), int(sys.argv[2]))
except ProcessLookupError:
    pass
"""


@contextmanager
def guarded(pid: int, sent: signal.Signals = signal.SIGKILL) -> Iterator[None]:
    """While the block runs, `pid` gets the signal as soon as this process is no more: the pipe to the guard breaks then."""
    command = [sys.executable, "-S", "-E", "-c", _CODE, str(pid), str(int(sent))]
    guard = subprocess.Popen(command, stdin=subprocess.PIPE, start_new_session=True)  # Ctrl-C is for the tests alone
    try:
        yield
    finally:
        guard.kill()
        guard.communicate()
