"""The environment of the services that tests start."""

from __future__ import annotations

import os


def clean_environment(**extra: str) -> dict[str, str]:
    """This process's environment without settings of Keen or of mail."""
    return {k: v for k, v in os.environ.items() if not k.startswith(("KEEN_", "SMTP_"))} | extra
