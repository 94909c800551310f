"""Dagster's private names: each place that uses one is known, and is named when a release takes it away."""

from __future__ import annotations

import ast
import importlib
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path

import dagster as dg
import pytest
from dagster.components.component.component import Component
from packaging.requirements import Requirement

import keen_pipeline

ROOT = Path(keen_pipeline.__file__).parent
KNOWN = {
    # A custom launcher's own interface, which Dagster exports nowhere else.
    ("defs/celery_launcher.py", "dagster._core.launcher", "CheckRunHealthResult"),
    ("defs/celery_launcher.py", "dagster._core.launcher", "WorkerStatus"),
    # The materialization that a check's result is about.
    (
        "defs/reports/checks.py",
        "dagster._core.definitions.asset_checks.asset_check_evaluation",
        "AssetCheckEvaluationTargetMaterializationData",
    ),
    # That an output's partitions aren't materialized a second time; which backfill a run belongs to.
    ("defs/assets/one_by_one.py", "dagster._core.definitions.source_asset", "SYSTEM_METADATA_KEY_SOURCE_ASSET_OBSERVATION"),
    ("defs/assets/run.py", "dagster._core.storage.tags", "BACKFILL_ID_TAG"),
}


def private_names() -> Iterator[tuple[str, int, str, str]]:
    """File, line, module and name of each import of a private module of Dagster."""
    for path in sorted(ROOT.rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            modules = [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            modules += [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            for module in modules:
                if module.startswith("dagster") and any(part.startswith("_") for part in module.split(".")):
                    for alias in node.names:  # type: ignore[attr-defined]  # an import has names
                        yield path.relative_to(ROOT).as_posix(), node.lineno, module, alias.name


def test_each_place_is_known() -> None:
    found = {(file, module, name) for file, _, module, name in private_names()}
    assert found == KNOWN


@pytest.mark.parametrize(("file", "line", "module", "name"), list(private_names()))
def test_this_dagster_has_it(file: str, line: int, module: str, name: str) -> None:
    place = f"keen_pipeline/{file}:{line}: dagster {metadata.version('dagster')} has no"
    try:
        home = importlib.import_module(module)
    except ImportError:
        pytest.fail(f"{place} {module}")
    assert hasattr(home, name), f"{place} {module}.{name}"


def test_the_component_is_loaded_past_its_state() -> None:
    assert hasattr(Component.load, "__func__"), "keen_pipeline/defs/component.py: KeenExtractionComponent.load"
    assert issubclass(dg.StateBackedComponent, Component)


def test_dagster_is_bound_to_the_minor_release_that_was_tested() -> None:
    wanted = {one.name: one for one in map(Requirement, metadata.requires("keen_pipeline") or []) if one.marker is None}
    installed = metadata.version("dagster")
    major, minor, *_ = installed.split(".")
    for name in ("dagster", "dagster-webserver"):
        assert wanted[name].specifier.contains(installed)
        assert not wanted[name].specifier.contains(f"{major}.{int(minor) + 1}.0")
