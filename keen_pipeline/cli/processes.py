"""Child processes of the commands: each in a group of its own, so that a whole tree ends together."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

# From SIGTERM to SIGKILL. A Dagster daemon ends its code servers within seconds.
GRACE_SECONDS = 15.0


def environment(**values: str) -> dict[str, str]:
    """This process's environment without any setting of ours, then `values`."""
    kept = {k: v for k, v in os.environ.items() if not k.startswith(("KEEN_", "DAGSTER_"))}
    return {**kept, **values}


@contextmanager
def running(arguments: Sequence[str], *, env: Mapping[str, str], cwd: Path, log: Path | None) -> Iterator[subprocess.Popen[bytes]]:
    """`python -m arguments...` for the block's time, its output in `log` (None: ours); its whole group ends with the block."""
    out = log.open("ab") if log is not None else None
    try:
        child = subprocess.Popen(  # noqa: S603 - our own modules
            [sys.executable, "-m", *arguments],
            env=dict(env),
            cwd=cwd,
            stdin=subprocess.DEVNULL,
            stdout=out,
            stderr=subprocess.STDOUT if out is not None else None,
            start_new_session=True,
        )
        try:
            yield child
        finally:
            end_group(child)
    finally:
        if out is not None:
            out.close()


def end_group(child: subprocess.Popen[bytes]) -> None:
    """SIGTERM to the child, time to end its own children, then SIGKILL to whatever is left of its group."""
    if child.poll() is None:
        child.terminate()
        try:
            child.wait(GRACE_SECONDS)
        except subprocess.TimeoutExpired:
            child.kill()
            child.wait(GRACE_SECONDS)
    try:
        os.killpg(child.pid, signal.SIGKILL)
    except ProcessLookupError:
        return  # the usual end: the group is empty
