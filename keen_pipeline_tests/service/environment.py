"""The environment of the services that tests start, and their end."""

from __future__ import annotations

import os
import time
from pathlib import Path


def clean_environment(**extra: str) -> dict[str, str]:
    """This process's environment without settings of Keen or of mail."""
    return {k: v for k, v in os.environ.items() if not k.startswith(("KEEN_", "SMTP_"))} | extra


def gone(pid: int, seconds: float = 20) -> bool:
    """Whether a process ends within so many seconds."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        try:
            os.kill(pid, 0)
            if Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] == "Z":
                return True
        except (ProcessLookupError, FileNotFoundError):
            return True
        time.sleep(0.05)
    return False
