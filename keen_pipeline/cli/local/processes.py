"""Child processes of the commands, each in a group of its own so that a whole tree ends together, and a DAGSTER_HOME for them."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from threading import Thread

import keen_pipeline
from keen_pipeline.cli.local.child import GRACE_SECONDS, SIGNALS
from keen_pipeline.errors import KeenPipelineError

# The deployment profile of one machine.
DAGSTER_YAML = (Path(keen_pipeline.__file__).parent / "deployment" / "one_machine" / "dagster.yaml").read_text(encoding="utf-8")
LAUNCH_SECONDS = 180.0
_LOOK_SECONDS = 0.1


def environment(**values: str) -> dict[str, str]:
    """This process's environment without any setting of ours, then `values`."""
    kept = {k: v for k, v in os.environ.items() if not k.startswith(("KEEN_", "DAGSTER_"))}
    return {**kept, **values}


@contextmanager
def running(
    arguments: Sequence[str],
    *,
    env: Mapping[str, str],
    cwd: Path,
    log: Path | None = None,
    shown: Callable[[bytes], bool] = lambda _: True,
) -> Iterator[subprocess.Popen[bytes]]:
    """`python -m arguments...` for the block's time; its whole group ends with the block, and with this process if that is killed.

    Its output goes to `log`; without one, the lines that are `shown` go to our standard error.
    """
    out = log.open("ab") if log is not None else None
    try:
        child = subprocess.Popen(  # noqa: S603 - our own modules
            [sys.executable, "-m", "keen_pipeline.cli.local.child", *arguments],
            env=dict(env),
            cwd=cwd,
            stdin=subprocess.PIPE,
            stdout=out or subprocess.PIPE,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        if out is None:
            Thread(target=_show, args=(child, shown), name="keen-output", daemon=True).start()
        try:
            yield child
        finally:
            end_group(child)
    finally:
        if out is not None:
            out.close()


def _show(child: subprocess.Popen[bytes], shown: Callable[[bytes], bool]) -> None:
    assert child.stdout is not None
    for line in child.stdout:
        if shown(line):
            with suppress(OSError, ValueError):  # nobody reads it any more: the child must not wait for that
                sys.stderr.buffer.write(line)
                sys.stderr.buffer.flush()


def end_group(child: subprocess.Popen[bytes]) -> None:
    """What Ctrl-C does in a terminal, to the child's whole group; SIGKILL to whatever is left of it in the end.

    Dagster's runs are in it: told all at once they end as failed, while those whose parents end first stay "started" forever.
    """
    for number in SIGNALS:
        try:
            os.killpg(child.pid, number)
        except ProcessLookupError:
            break  # the group is empty
        if _ends(child, GRACE_SECONDS):
            break
    child.wait(GRACE_SECONDS)


def _ends(child: subprocess.Popen[bytes], seconds: float) -> bool:
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        child.poll()
        if not _lives(child.pid):
            return True
        time.sleep(_LOOK_SECONDS)
    return False


def _lives(group: int) -> bool:
    """Whether any process of a group runs; one that has ended and that nobody waits for doesn't."""
    try:
        os.killpg(group, 0)
    except ProcessLookupError:
        return False
    stats = list(Path("/proc").glob("[0-9]*/stat"))
    if not stats:  # a system without it: what is there runs
        return True
    for stat in stats:
        with suppress(OSError):
            # The name, in brackets, may hold blanks and brackets.
            state, _, number = stat.read_text(encoding="utf-8", errors="replace").rpartition(")")[2].split()[:3]
            if int(number) == group and state not in "ZX":
                return True
    return False


def launch_nightly_job(name: str, env: Mapping[str, str], cwd: Path, log: Path) -> str:
    """Launch the nightly job of `keen_pipeline.definitions`, which are called `name`; answers the job's name.

    Raises KeenPipelineError, with the log's name, if that fails.
    """
    job = f"{name}_submit_extractions"
    arguments = ["dagster", "job", "launch", "-m", "keen_pipeline.definitions", "-j", job]
    with running(arguments, env=env, cwd=cwd, log=log) as child, suppress(subprocess.TimeoutExpired):
        if child.wait(LAUNCH_SECONDS) == 0:
            return job
    raise KeenPipelineError(f"the nightly job {job} could not be launched, see {log}")


def make_dagster_home(folder: Path) -> Path:
    """The absolute folder with a dagster.yaml in it; one that is there is left as it is."""
    folder = folder.resolve()
    folder.mkdir(parents=True, exist_ok=True)
    if not (folder / "dagster.yaml").exists():
        (folder / "dagster.yaml").write_text(DAGSTER_YAML)
    return folder
