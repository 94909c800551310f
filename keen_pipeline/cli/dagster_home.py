"""A DAGSTER_HOME of ours, for commands that start Dagster where nobody has configured it."""

from __future__ import annotations

from pathlib import Path

# The deployment profile of one machine.
DAGSTER_YAML = (Path(__file__).parent.parent / "deployment" / "one_machine" / "dagster.yaml").read_text(encoding="utf-8")


def make_dagster_home(folder: Path) -> Path:
    """The absolute folder with a dagster.yaml in it; one that is there is left as it is."""
    folder = folder.resolve()
    folder.mkdir(parents=True, exist_ok=True)
    if not (folder / "dagster.yaml").exists():
        (folder / "dagster.yaml").write_text(DAGSTER_YAML)
    return folder
