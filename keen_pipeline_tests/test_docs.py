"""The README and the pages are true: their commands and blocks run or load, their messages and settings are ours."""

from __future__ import annotations

import doctest
import importlib
import importlib.util
import pkgutil
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import click
import pytest
import yaml

import keen_pipeline
from keen_pipeline.cli import _COMMANDS, cli
from keen_pipeline.cli.docs import PAGES, pages
from keen_pipeline.client import KeenClient
from keen_pipeline.collections_file import read_collections_file
from keen_pipeline.settings import Settings
from keen_pipeline_tests.acceptance.processes import Shell
from keen_pipeline_tests.settings_table import PAGE, table, table_of

README = Path(__file__).resolve().parent.parent / "README.md"
TEXTS = {"README": README.read_text(encoding="utf-8")} | {name: page.read_text(encoding="utf-8") for name, page in pages().items()}
PLACES = {
    "KEEN_BASE_URL": "http://127.0.0.1:9",
    "KEEN_PROJECT_ID": "p",
    "KEEN_READ_KEY": "r",
    "SHOP_PROJECT_ID": "p1",
    "SHOP_READ_KEY": "r1",
    "APP_PROJECT_ID": "p2",
    "APP_READ_KEY": "r2",
    "WAREHOUSE_URL": "sqlite:///warehouse.db",
}


def blocks(name: str, language: str) -> list[str]:
    found: list[str] = re.findall(rf"```{language}\n(.*?)```", TEXTS[name], re.S)
    return found


def all_blocks(language: str) -> Iterator[tuple[str, str]]:
    for name in TEXTS:
        for block in blocks(name, language):
            yield name, block


def run(folder: Path, *words: str, **variables: str) -> subprocess.CompletedProcess[str]:
    shell = Shell(folder)
    environment = shell.environment() | PLACES | {"DAGSTER_HOME": str(folder), "DAGSTER_DISABLE_TELEMETRY": "yes"} | variables
    return subprocess.run(words, cwd=folder, env=environment, capture_output=True, text=True, timeout=240, stdin=subprocess.DEVNULL)


def test_the_readme_is_one_page_that_opens_with_the_two_commands(project_root: Path) -> None:
    assert TEXTS["README"].count("\n") <= 200
    first, second = blocks("README", "bash")[:2]
    assert first.strip().endswith("keen-pipeline demo")
    assert second.strip() == (
        "python3 -m venv .venv && .venv/bin/pip install --quiet -e '.[test]' && .venv/bin/python -m pytest -n 3"
    )
    assert first.strip().count("\n") == 0
    before = TEXTS["README"].partition("```bash")[0].splitlines()
    assert len([line for line in before if line]) <= 5
    assert "README.md" in (project_root / ".ci" / "run").read_text()


def test_links_work_outside_of_a_checkout_and_pictures_are_of_the_package() -> None:
    found = [(name, mark, to) for name, text in TEXTS.items() for mark, to in re.findall(r"(!?)\[[^]]*\]\(([^)]*)\)", text)]
    assert [(name, to) for name, mark, to in found if not mark and not to.startswith("https://")] == []
    pictures = [(README.parent if name == "README" else PAGES) / to for name, mark, to in found if mark]
    assert pictures
    assert [picture for picture in pictures if PAGES not in picture.parents or picture.stat().st_size > 200_000] == []


def test_every_page_is_named_in_the_readme_and_every_name_is_a_page() -> None:
    named = {name: set(re.findall(r"keen-pipeline docs ([a-z][a-z-]+)", text)) for name, text in TEXTS.items()}
    assert named["README"] == set(pages()) == {page.stem for page in PAGES.glob("*.md")}
    assert set().union(*named.values()) <= set(pages())


def test_the_readmes_python_is_a_code_location(tmp_path: Path) -> None:
    (tmp_path / "dagster.yaml").touch()
    [block] = blocks("README", "python")
    (tmp_path / "readme.py").write_text(block)
    validate = [sys.executable, "-m", "dagster", "definitions", "validate"]
    for target in (["-f", "readme.py"], ["-m", "readme"]):
        done = run(tmp_path, *validate, *target, PYTHONPATH=str(tmp_path))
        assert done.returncode == 0, done.stdout + done.stderr


def test_the_python_blocks_load_as_code_locations_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import dagster as dg

    monkeypatch.chdir(tmp_path)
    for name, value in PLACES.items():
        monkeypatch.setenv(name, value)
    loaded = 0
    for number, (page, block) in enumerate(all_blocks("python")):
        if "defs = " not in block:
            continue
        file = tmp_path / f"block_{number}.py"
        file.write_text(block)
        spec = importlib.util.spec_from_file_location(file.stem, file)
        assert spec is not None
        assert spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        found = [value for value in vars(module).values() if isinstance(value, dg.Definitions)]
        assert len(found) == 1, f"{page}: Dagster wants one Definitions at module scope, not {len(found)}"
        dg.Definitions.validate_loadable(found[0])
        loaded += 1
    assert loaded == 8


def test_the_readmes_yaml_loads_in_a_dg_project(tmp_path: Path) -> None:
    [block] = blocks("README", "yaml")
    project = (
        '[project]\nname = "ours"\nversion = "0"\n[tool.dg]\ndirectory_type = "project"\n[tool.dg.project]\nroot_module = "ours"\n'
    )
    (tmp_path / "pyproject.toml").write_text(project)
    (tmp_path / "dagster.yaml").touch()
    defs = tmp_path / "src" / "ours" / "defs" / "events"
    defs.mkdir(parents=True)
    (defs / "defs.yaml").write_text(block)
    for folder in (defs.parent, defs.parent.parent):
        (folder / "__init__.py").touch()
    (defs.parent.parent / "definitions.py").write_text(
        "from pathlib import Path\nimport dagster as dg\n\n\n"
        "@dg.definitions\ndef defs():\n    return dg.load_from_defs_folder(path_within_project=Path(__file__).parent)\n"
    )
    dg = str(Path(sys.executable).parent / "dg")
    done = run(tmp_path, dg, "check", "defs", "--use-active-venv", PYTHONPATH=str(tmp_path / "src"))
    assert done.returncode == 0, done.stdout + done.stderr
    (defs / "defs.yaml").write_text(block.replace("start_date", "start_day"))
    done = run(tmp_path, dg, "check", "defs", "--use-active-venv", PYTHONPATH=str(tmp_path / "src"))
    assert done.returncode == 1


def test_the_yaml_of_collections_is_a_collections_file(tmp_path: Path) -> None:
    names = []
    for number, (_, block) in enumerate(all_blocks("yaml")):
        if block.startswith("collections:"):
            file = tmp_path / f"{number}.yaml"
            file.write_text(block)
            names += [c.name for c in read_collections_file(file)]
    assert names == ["purchases", "logins", "signups"]


def test_the_yaml_of_a_dg_project_is_a_component(monkeypatch: pytest.MonkeyPatch) -> None:
    from dagster._core.definitions.definitions_load_context import DefinitionsLoadContext
    from dagster.components.testing.utils import create_defs_folder_sandbox

    from keen_pipeline import KeenExtractionComponent
    from keen_pipeline.testing import live_service

    # A run that another test executed in this process leaves its own behind, in which nothing is asked for.
    monkeypatch.setattr(DefinitionsLoadContext, "_instance", None)
    [block] = blocks("dagster", "yaml")
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


def test_the_unit_test_of_the_page_passes(tmp_path: Path) -> None:
    python = blocks("dagster", "python")
    [conftest] = [block for block in python if block.startswith("pytest_plugins")]
    [test] = [block for block in python if block.startswith("def test_")]
    package = tmp_path / "your_project"
    package.mkdir()
    (package / "__init__.py").touch()
    (package / "assets.py").write_text(python[0])
    (tmp_path / "conftest.py").write_text(conftest)
    (tmp_path / "test_assets.py").write_text(test)
    done = run(tmp_path, sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-W", "ignore")
    assert "1 passed" in done.stdout, done.stdout + done.stderr


def test_every_exported_variable_is_one_we_read() -> None:
    exported = {n: v for _, block in all_blocks("bash") for n, v in re.findall(r"^export (\w+)=(\S+)$", block, re.M)}
    settings = Settings.from_environment(exported)
    assert settings != Settings()
    assert settings.unknown == ()
    assert len(exported) == 10
    mentioned = {name for text in TEXTS.values() for name in re.findall(r"`(KEEN_\w+|SMTP_\w+)(?:=[^`]*)?`", text)}
    source = (Path(keen_pipeline.__file__).parent / "settings.py").read_text()
    ours = set(re.findall(r'"((?:KEEN|SMTP)_\w+)"', source)) - {"KEEN_PIPELINE_"}
    assert mentioned - {"SMTP_"} <= ours
    assert ours == set(re.findall(r"`((?:KEEN|SMTP)_\w+)`", TEXTS["settings"]))


def test_the_table_of_settings_is_that_of_the_code() -> None:
    assert table_of(PAGE.read_text(encoding="utf-8")) == table(), "run python -m keen_pipeline_tests.settings_table"


@pytest.mark.timeout(120)
def test_the_command_block_runs(tmp_path: Path) -> None:
    [block] = [b for b in blocks("command-line", "bash") if "keen-pipeline load" in b]
    shell = Shell(tmp_path)
    done = subprocess.run(["bash", "-euc", block], cwd=tmp_path, env=shell.environment(), capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    [file] = (tmp_path / "files" / "purchases").iterdir()
    header, record = file.read_text().splitlines()
    day = record[:10]
    assert (header, record) == ("header:timestamp,body:amount", f"{day}T10:00:00.000Z,12.5")
    assert (tmp_path / "data" / "landing" / "purchases" / f"{day}.csv").read_text() == file.read_text()
    assert shell.await_nothing_left() == []


def test_the_messages_of_the_page_are_ours() -> None:
    rows = re.findall(r"^\| `([^`]+)`", TEXTS["troubleshooting"], re.M)
    assert len(rows) == 24
    sources = " ".join(path.read_text() for path in Path(keen_pipeline.__file__).parent.rglob("*.py"))
    assert [row for row in rows if row not in sources] == []


def test_every_command_is_documented() -> None:
    for name in _COMMANDS:
        assert f"`keen-pipeline {name}`" in TEXTS["command-line"]


def options_of(words: list[str]) -> set[str] | None:
    """The options of the command that `words` begin with, None if there is no such command."""
    with click.Context(cli) as context:
        command: click.Command | None = cli
        for word in words:
            if not isinstance(command, click.Group):
                break
            command = command.get_command(context, word)
    if command is None:
        return None
    return {option for parameter in command.params for option in parameter.opts if option.startswith("--")} | {"--help"}


def test_every_command_and_option_in_the_texts_exists() -> None:
    wrong = []
    for name, text in TEXTS.items():
        for line in re.findall(r"\bkeen-pipeline ([a-z][^`|\n#)]*)", text):
            words = line.split()
            known = options_of(words)
            if words[0] not in _COMMANDS:
                wrong.append(f"{name}: keen-pipeline {words[0]}")
            elif known is not None:
                wrong += [f"{name}: keen-pipeline {line}: {o}" for o in re.findall(r"(?<!\S)--[a-z-]+", line) if o not in known]
    assert wrong == []


def test_docs_lists_and_shows_the_pages(tmp_path: Path) -> None:
    done = run(tmp_path, sys.executable, "-m", "keen_pipeline", "docs")
    assert [line.split()[0] for line in done.stdout.splitlines()] == list(pages())
    assert "settings         Settings\n" in done.stdout
    done = run(tmp_path, sys.executable, "-m", "keen_pipeline", "docs", "checks")
    assert done.stdout == TEXTS["checks"]
    done = run(tmp_path, sys.executable, "-m", "keen_pipeline", "docs", "cheks")
    assert done.returncode == 2
    assert "'cheks' is not one of 'first-hour', 'dagster'" in done.stderr


def test_the_examples_of_the_docstrings_run() -> None:
    names = [module.name for module in pkgutil.walk_packages(keen_pipeline.__path__, "keen_pipeline.")]
    results = {
        name: doctest.testmod(importlib.import_module(name))
        for name in names
        if ".migrations." not in name and not name.endswith("__main__")
    }
    assert {name: result.failed for name, result in results.items() if result.failed} == {}
    assert sum(result.attempted for result in results.values()) >= 25
