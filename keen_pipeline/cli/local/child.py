"""`python -m keen_pipeline.cli.local.child MODULE ARGUMENT...`: `python -m MODULE ARGUMENT...` whose group ends with its parent."""

import os
import runpy
import signal
import sys
import time
from threading import Thread

# From one signal to the next. A Dagster daemon ends its code servers, and a run itself, within seconds.
GRACE_SECONDS = 15.0
SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGKILL)


def _end_with_parent() -> None:
    """The parent holds the other end of our standard input and writes nothing there: it ends when the parent does, however."""
    os.read(0, 1)
    for number in SIGNALS:
        os.killpg(0, number)
        time.sleep(GRACE_SECONDS)


if __name__ == "__main__":
    Thread(target=_end_with_parent, name="keen-parent", daemon=True).start()
    del sys.argv[0]
    runpy.run_module(sys.argv[0], run_name="__main__", alter_sys=True)
