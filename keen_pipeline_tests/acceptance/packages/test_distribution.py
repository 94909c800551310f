"""What is built and given away: the files of sdist and wheel, their metadata as an index checks it, and no conflict."""

from __future__ import annotations

import os
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest

import keen_pipeline

VERSION = keen_pipeline.__version__
LEFT_OUT = {".pyc", ".pyo"}


def files_below(root: Path, *names: str) -> set[str]:
    """Files of the tree, but for what Python and tools leave in it."""
    found = [path for name in names for path in ((root / name).rglob("*") if (root / name).is_dir() else [root / name])]
    return {
        path.relative_to(root).as_posix()
        for path in found
        if path.is_file() and path.suffix not in LEFT_OUT and not any(part.startswith(".") for part in path.relative_to(root).parts)
    }


def run(folder: Path, *words: str) -> str:
    environment = {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}
    done = subprocess.run([sys.executable, "-m", *words], cwd=folder, env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    return done.stdout


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_the_files_of_sdist_and_wheel(tmp_path: Path, project_root: Path) -> None:
    run(tmp_path, "build", "--outdir", str(tmp_path / "dist"), str(project_root))
    wheel, sdist = (
        tmp_path / "dist" / f"keen_pipeline-{VERSION}-py3-none-any.whl",
        tmp_path / "dist" / f"keen_pipeline-{VERSION}.tar.gz",
    )
    about = f"keen_pipeline-{VERSION}.dist-info"
    made = {"METADATA", "WHEEL", "RECORD", "entry_points.txt", "licenses/LICENSE"}
    package = files_below(project_root, "keen_pipeline")
    assert {"keen_pipeline/py.typed", "keen_pipeline/docs/first-hour.md", "keen_pipeline/deployment/README.md"} <= package
    assert set(zipfile.ZipFile(wheel).namelist()) == package | {f"{about}/{name}" for name in made}
    with tarfile.open(sdist) as archive:
        inside = {member.name.partition("/")[2] for member in archive.getmembers() if member.isfile()}
    given = ("README.md", "CHANGELOG.md", "LICENSE", "dagster.yaml", "workspace.yaml", "pyproject.toml")
    wanted = package | files_below(project_root, "keen_pipeline_tests", *given)
    assert inside - {"PKG-INFO", ".gitignore"} == wanted
    assert "PASSED" in run(tmp_path, "twine", "check", "--strict", str(wheel), str(sdist))


@pytest.mark.slow
@pytest.mark.timeout(120)
def test_what_is_installed_fits_together(tmp_path: Path) -> None:
    assert "No broken requirements" in run(tmp_path, "pip", "check")
