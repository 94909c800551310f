"""The README is true: its commands and blocks run."""

from __future__ import annotations

import doctest
import importlib
import pkgutil
import re
import subprocess
from pathlib import Path

import pytest
import yaml

import keen_pipeline
from keen_pipeline.cli import _COMMANDS
from keen_pipeline.client import KeenClient
from keen_pipeline.collections_file import read_collections_file
from keen_pipeline.settings import Settings
from keen_pipeline_tests.acceptance.processes import Shell


@pytest.fixture(scope="module")
def readme() -> str:
    return (Path(__file__).resolve().parent.parent / "README.md").read_text()


def blocks(readme: str, language: str) -> list[str]:
    found: list[str] = re.findall(rf"```{language}\n(.*?)```", readme, re.S)
    return found


def test_it_opens_with_the_two_commands_of_one_line_each(readme: str, project_root: Path) -> None:
    first, second = blocks(readme, "bash")[:2]
    assert first.strip().endswith("keen-pipeline demo")
    assert second.strip().endswith("pytest -n 2")
    assert first.strip().count("\n") == second.strip().count("\n") == 0
    assert "README.md" in (project_root / ".ci" / "run").read_text()


def test_the_python_blocks_build_definitions(readme: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import dagster as dg

    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("KEEN_READ_KEY", "r")
    monkeypatch.setenv("WAREHOUSE_URL", "sqlite:///warehouse.db")
    namespace: dict[str, object] = {"__name__": "readme"}
    for block in blocks(readme, "python"):
        exec(compile(block, "README.md", "exec", dont_inherit=True), namespace)
    defs = namespace["defs"]
    assert isinstance(defs, dg.Definitions)
    dg.Definitions.validate_loadable(defs)
    keys = {key.to_user_string() for key in defs.resolve_asset_graph().get_all_asset_keys()}
    ours = {"keen/purchases", "keen/logins", "keen_tables/purchases", "keen/purchases/unique/body:currency"}
    assert keys == {*ours, "big_spenders"}


def test_the_yaml_block_is_a_collections_file(readme: str, tmp_path: Path) -> None:
    file = tmp_path / "collections.yaml"
    file.write_text(blocks(readme, "yaml")[0])
    assert [c.name for c in read_collections_file(file)] == ["purchases", "logins"]


def test_the_yaml_of_a_dg_project_is_a_component(readme: str, monkeypatch: pytest.MonkeyPatch) -> None:
    from dagster.components.testing.utils import create_defs_folder_sandbox

    from keen_pipeline import KeenExtractionComponent
    from keen_pipeline.testing import live_service

    [block] = [b for b in blocks(readme, "yaml") if b.startswith("type:")]
    with live_service() as endpoint, create_defs_folder_sandbox() as sandbox:
        with KeenClient(endpoint.base_url, endpoint.project_id, read_key=endpoint.read_key, write_key=endpoint.write_key) as client:
            client.add_events({name: [{"n": 1}] for name in ("logins", "pageviews")})
        monkeypatch.setenv("KEEN_BASE_URL", endpoint.base_url)
        monkeypatch.setenv("KEEN_PROJECT_ID", endpoint.project_id)
        monkeypatch.setenv("KEEN_READ_KEY", endpoint.read_key)
        monkeypatch.setenv("KEEN_PIPELINE_DESTINATION", "./landing")
        monkeypatch.setenv("DAGSTER_IS_DEV_CLI", "1")  # as in `dg dev`, where the project is asked at once
        path = sandbox.scaffold_component(component_cls=KeenExtractionComponent, defs_yaml_contents=yaml.safe_load(block))
        with sandbox.load_component_and_build_defs(defs_path=path) as (_, defs):
            specs = {spec.key.path[-1]: spec for spec in defs.resolve_all_asset_specs()}
    assert set(specs) == {"purchases", "logins"}
    assert specs["logins"].tags["source"] == "logins"


def test_every_exported_variable_is_one_we_read(readme: str) -> None:
    exported = {n: v for block in blocks(readme, "bash") for n, v in re.findall(r"^export (\w+)=(\S+)$", block, re.M)}
    settings = Settings.from_environment(exported)
    assert settings != Settings()
    assert len(exported) == 10
    table = set(re.findall(r"`((?:KEEN|SMTP)_\w+)`", readme))
    source = (Path(__file__).resolve().parent.parent / "keen_pipeline" / "settings.py").read_text()
    assert table == set(re.findall(r'"((?:KEEN|SMTP)_\w+)"', source))


@pytest.mark.timeout(120)
def test_the_command_block_runs(readme: str, tmp_path: Path) -> None:
    [block] = [b for b in blocks(readme, "bash") if "keen-pipeline load" in b]
    shell = Shell(tmp_path)
    done = subprocess.run(["bash", "-euc", block], cwd=tmp_path, env=shell.environment(), capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    [file] = (tmp_path / "files" / "purchases").iterdir()
    assert file.read_text().splitlines() == ["header:timestamp,body:amount", "2026-01-05T10:00:00.000Z,12.5"]
    assert (tmp_path / "data" / "landing" / "purchases" / "2026-01-05.csv").read_text() == file.read_text()
    assert shell.await_nothing_left() == []


def test_the_messages_of_the_readme_are_ours(readme: str, project_root: Path) -> None:
    rows = re.findall(r"^\| `([^`]+)`", readme.split("## When something is wrong")[1].split("\n## ")[0], re.M)
    assert len(rows) == 12
    sources = " ".join(path.read_text() for path in (project_root / "keen_pipeline").rglob("*.py"))
    assert [row for row in rows if row not in sources] == []


def test_every_command_is_documented(readme: str) -> None:
    for name in _COMMANDS:
        assert f"keen-pipeline {name}" in readme


def test_the_examples_of_the_docstrings_run() -> None:
    names = [module.name for module in pkgutil.walk_packages(keen_pipeline.__path__, "keen_pipeline.")]
    results = {
        name: doctest.testmod(importlib.import_module(name))
        for name in names
        if ".migrations." not in name and not name.endswith("__main__")
    }
    assert {name: result.failed for name, result in results.items() if result.failed} == {}
    assert sum(result.attempted for result in results.values()) >= 25
