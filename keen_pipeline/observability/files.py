"""The Grafana dashboard and the Prometheus rules of the package, and their way into a folder of yours."""

from __future__ import annotations

from importlib.resources import files
from pathlib import Path

from keen_pipeline.errors import ConfigurationError

DASHBOARD = "dashboard.json"
ALERTS = "alerts.yaml"


def read_file(name: str) -> str:
    """The text of DASHBOARD or ALERTS."""
    return files(__package__).joinpath(name).read_text(encoding="utf-8")


def write_files(folder: Path) -> list[Path]:
    """Write both into `folder`, which is made where it is missing; answers their paths.

    Raises ConfigurationError, with nothing written, where one of them is there with another content: somebody may have changed it.
    """
    wanted = {folder / name: read_file(name) for name in (DASHBOARD, ALERTS)}
    for path, text in wanted.items():
        if path.exists() and path.read_text(encoding="utf-8") != text:
            raise ConfigurationError(
                f"{path} is there and is not this version's; move it away, or name another folder. Nothing was written"
            )
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for path, text in wanted.items():
            path.write_text(text, encoding="utf-8")
    except OSError as error:
        raise ConfigurationError(f"{folder} can't be written: {error.strerror or error}") from None
    return list(wanted)
