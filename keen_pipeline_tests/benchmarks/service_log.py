"""An embedded service whose access log can be read."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from typing import Any

from keen_pipeline.service import embedded
from keen_pipeline.service.embedded import Endpoint

START_SECONDS = 60.0


@contextmanager
def logged_service(folder: Path, options: Sequence[str] = ()) -> Iterator[Endpoint]:
    """A service with its data in `folder`/keen and its log in `folder`/service.log, for the block's time."""
    command = [sys.executable, "-m", "keen_pipeline", "serve", "--port", "0", "--data", str(folder / "keen"), *options]
    with (folder / "service.log").open("wb") as log:
        child = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=log)
    try:
        deadline = time.monotonic() + START_SECONDS
        while (endpoint := embedded.find(folder / "keen")) is None:
            assert child.poll() is None, (folder / "service.log").read_text()
            assert time.monotonic() < deadline, (folder / "service.log").read_text()
            time.sleep(0.1)
        yield endpoint
    finally:
        child.terminate()
        child.wait(30)


def requests_of(log: Path) -> Iterator[dict[str, Any]]:
    """The API requests in a log: method, path, status, and `came`, seconds since 1970."""
    for text in log.read_text().splitlines():
        line = json.loads(text)
        if line["message"] == "request" and line["path"].startswith(("/2.0/", "/3.0/")):
            line["came"] = datetime.fromisoformat(line["time"]).timestamp() - line["seconds"]
            yield line
