"""The layers of pyproject.toml hold, checked by import-linter where it is installed with the extra `dev` or `test`."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path


def test_imports_point_down(project_root: Path) -> None:
    # In a process of its own: it configures logging so that no other logger says a word from then on.
    command = [sys.executable, "-c", "from importlinter.cli import lint_imports_command; lint_imports_command()", "--no-cache"]
    done = subprocess.run(command, cwd=project_root, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stdout + done.stderr


def test_no_module_is_longer_than_it_should_be(project_root: Path) -> None:
    long = {
        str(p.relative_to(project_root)): n
        for p in (project_root / "keen_pipeline").rglob("*.py")
        if (n := p.read_text().count("\n")) > 400
    }
    assert long == {}
