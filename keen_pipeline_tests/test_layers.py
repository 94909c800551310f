"""The layers of pyproject.toml hold, checked by import-linter where it is installed with the extra `dev` or `test`."""

from __future__ import annotations

import os
from pathlib import Path

from importlinter.cli import lint_imports


def test_imports_point_down(project_root: Path) -> None:
    before = Path.cwd()
    os.chdir(project_root)
    try:
        assert lint_imports(no_cache=True) == 0
    finally:
        os.chdir(before)


def test_no_module_is_longer_than_it_should_be(project_root: Path) -> None:
    long = {
        str(p.relative_to(project_root)): n
        for p in (project_root / "keen_pipeline").rglob("*.py")
        if (n := p.read_text().count("\n")) > 400
    }
    assert long == {}
