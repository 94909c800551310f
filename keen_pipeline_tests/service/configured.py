"""A service process with settings that the command line does not have, so that a test need not wait for the usual limits."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from keen_pipeline.service import embedded
from keen_pipeline_tests.service.environment import clean_environment

_PROGRAM = """
import json, sys
from keen_pipeline.service import ServiceConfig, serve
serve(ServiceConfig(port=0, stop_with_stdin=True, **json.loads(sys.argv[1])))
"""


@contextmanager
def configured(data: Path, **settings: Any) -> Iterator[embedded.EmbeddedService]:
    """A service on `data` with these fields of its configuration."""
    with tempfile.TemporaryFile() as log:
        process = subprocess.Popen(
            [sys.executable, "-c", _PROGRAM, json.dumps({"data": str(data), **settings})],
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=log,
            env=clean_environment(),
        )
        try:
            deadline = time.monotonic() + 30
            while (endpoint := embedded.find(data)) is None:
                assert process.poll() is None, embedded._words(log)
                assert time.monotonic() < deadline, "the service did not answer"
                time.sleep(0.05)
            yield embedded.EmbeddedService(process, endpoint, log)
        finally:
            embedded._end(process)


def log_lines(service: embedded.EmbeddedService) -> list[dict[str, Any]]:
    """What the service has logged so far; read without moving the place where it writes."""
    log = os.pread(service._log.fileno(), 1 << 24, 0).decode()
    return [json.loads(line) for line in log.splitlines() if line.startswith("{")]
