"""`keen-pipeline dev`: one in a folder, quiet, and nothing of it left behind."""

from __future__ import annotations

import runpy
import signal
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from unittest import mock

import pytest

from keen_pipeline.cli.local import dev, processes
from keen_pipeline.cli.local.processes import running
from keen_pipeline.settings import Settings
from keen_pipeline_tests.acceptance.processes import Shell, await_text
from keen_pipeline_tests.servers.ports import free_port

_RECORD = b"\x1b[32m2026-11-28 23:18:32 +0000\x1b[0m - dagster - \x1b[34m%s\x1b[0m - a run\n"


@pytest.mark.parametrize(
    ("level", "dropped"),
    [
        ("debug", []),
        ("info", [b"DEBUG"]),
        ("warning", [b"DEBUG", b"INFO"]),
        ("critical", [b"DEBUG", b"INFO", b"WARNING", b"ERROR"]),
    ],
)
def test_records_of_lower_levels_are_not_shown_and_all_else_is(level: str, dropped: list[bytes]) -> None:
    shown = dev._at_least(level)
    levels = (b"DEBUG", b"INFO", b"WARNING", b"ERROR", b"CRITICAL")
    assert [name for name in levels if not shown(_RECORD % name)] == dropped
    assert [name for name in levels if not shown(_RECORD.replace(b"\x1b[34m", b"").replace(b"%s\x1b[0m", b"%s") % name)] == dropped
    assert shown(b"somebody's print: DEBUG\n")


def test_a_dagster_yaml_of_the_folder_makes_it_the_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("DAGSTER_HOME", raising=False)
    assert dev._environment("info")["DAGSTER_HOME"] == str(tmp_path / "data" / "dagster")
    (tmp_path / "dagster.yaml").write_text("telemetry: {enabled: false}")
    assert dev._environment("info")["DAGSTER_HOME"] == str(tmp_path)
    assert (tmp_path / "dagster.yaml").read_text() == "telemetry: {enabled: false}"


def test_the_first_night_is_that_of_a_shown_code_location(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert dev._shows_ours()
    (tmp_path / "workspace.yaml").write_text("load_from: [{python_module: keen_pipeline.definitions}]")  # as in the checkout
    assert dev._shows_ours()
    (tmp_path / "workspace.yaml").write_text("load_from: [{python_module: theirs}]")
    assert not dev._shows_ours()


def test_the_sample_is_called_as_the_commands_call_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Under another name `status` knew of nothing that had landed, and each start of `dev` launched a first night."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("KEEN_PIPELINE_NAME", "shop")
    sample = runpy.run_module("keen_pipeline.definitions")["defs"].get_repository_def()
    launched: list[str] = []

    @contextmanager
    def launching(arguments: Sequence[str], **_: object) -> Iterator[mock.Mock]:
        launched.extend(arguments)
        yield mock.Mock(wait=lambda _: 0)

    monkeypatch.setattr(processes, "running", launching)
    job = processes.launch_nightly_job(Settings.from_environment().name, {}, tmp_path, tmp_path / "log")
    assert (sample.has_job(job), launched[-1]) == (True, job)
    assert {key.path[0] for key in sample.asset_graph.get_all_asset_keys()} == {"shop", "daily_revenue"}


def test_a_project_without_collections_is_refused_before_anything_starts(tmp_path: Path) -> None:
    shell = Shell(tmp_path, {"KEEN_PROJECT_ID": "p1", "KEEN_READ_KEY": "k1"})
    done = shell.run("dev", "--port", str(free_port()))
    said = "keen-pipeline: https://api.keen.io is configured but KEEN_PIPELINE_COLLECTIONS is not: write the file with"
    assert (done.returncode, done.stderr.startswith(said)) == (1, True), done.stderr
    assert not (tmp_path / "data").exists()


def test_so_are_collections_of_which_no_definitions_can_be_made(tmp_path: Path) -> None:
    (tmp_path / "collections.yaml").write_text("collections: [{name: a b}, {name: a_b}]")
    done = Shell(tmp_path, {"KEEN_PIPELINE_COLLECTIONS": "collections.yaml"}).run("dev", "--port", str(free_port()))
    assert (done.returncode, "would be one asset, keen/a_b" in done.stderr, done.stderr.count("\n")) == (1, True, 1), done.stderr
    assert not (tmp_path / "data").exists()


def begun(folder: Path) -> tuple[Shell, Path, str, subprocess.Popen[bytes]]:
    """`dev` over a workspace without code, whose UI comes up soonest: its shell, log, port and process."""
    (folder / "workspace.yaml").write_text("load_from: []\n")
    shell, log, port = Shell(folder), folder / "log", str(free_port())
    return shell, log, port, shell.start("dev", "--port", port, log=log)


@pytest.mark.slow
@pytest.mark.timeout(180)
def test_a_second_one_is_refused_and_says_where_the_first_is(tmp_path: Path) -> None:
    shell, log, port, first = begun(tmp_path)
    try:
        await_text(log, f"Dagster UI: http://127.0.0.1:{port}", first, 120)
        second = shell.run("dev", "--port", str(free_port()))
        assert (second.returncode, f"http://127.0.0.1:{port} (process {first.pid})" in second.stderr) == (1, True)
        assert (second.stderr.count("\n"), len(second.stderr) < 200) == (1, True)
    finally:
        first.send_signal(signal.SIGINT)
        status = first.wait(60)
    assert (status, "stopping" in log.read_text(), "DEBUG" in log.read_text()) == (130, True, False)
    assert shell.await_nothing_left() == []


@pytest.mark.slow
@pytest.mark.timeout(180)
def test_one_that_is_killed_leaves_nothing_behind(tmp_path: Path) -> None:
    shell, log, _, killed = begun(tmp_path)
    try:
        await_text(log, "Dagster UI: http", killed, 120)
    finally:
        killed.kill()
        killed.wait(60)
    assert shell.await_nothing_left(60) == []


def test_the_whole_group_hears_ctrl_c_at_once(tmp_path: Path) -> None:
    # The child doesn't tell its own child anything; each leaves a file when it hears of it.
    waits = "import time, pathlib\ntry:\n print('up', flush=True)\n time.sleep(60)\nexcept KeyboardInterrupt:\n "
    (tmp_path / "inner.py").write_text(waits + "pathlib.Path('inner').touch()")
    begins = "import subprocess, sys\nchild = subprocess.Popen([sys.executable, 'inner.py'])\n"
    (tmp_path / "outer.py").write_text(begins + waits.replace("'up'", "''") + "pathlib.Path('outer').touch()")
    env = {"PATH": "/usr/bin:/bin", "PYTHONPATH": str(tmp_path)}
    lines: list[bytes] = []

    def shown(line: bytes) -> bool:
        lines.append(line)
        return False

    with running(["outer"], env=env, cwd=tmp_path, shown=shown) as child:
        while b"up\n" not in lines:
            assert child.poll() is None
    assert sorted(path.name for path in tmp_path.iterdir() if not path.suffix and path.is_file()) == ["inner", "outer"]


def test_the_command_line_needs_no_fcntl() -> None:
    # As on Windows: whoever asks for help there has no such module.
    code = (
        "import sys; sys.modules['fcntl'] = None\n"
        "import importlib\nfrom keen_pipeline.cli import _COMMANDS\n"
        "for module, _ in _COMMANDS.values(): importlib.import_module('keen_pipeline.cli.' + module.partition(':')[0])\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
